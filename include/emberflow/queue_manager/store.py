"""The slot store: who holds which slot, decided by one row at a time.

States (drawn in docs/guarantees.md)::

    planned -> leased -> submitting -> sent | failed | uncertain
    planned <- leased                  lease given back, lapsed, or the attempt failed before DATA
    planned <- submitting              4xx after DATA: the server said that it did not take the mail
    planned -> cancelled | expired     refused for good, or too late
    planned -> parked                  several workers died with it; a person decides

A worker *claims* due slots of its lane (``FOR UPDATE SKIP LOCKED``), which gives each a lease token, and *renews* the
lease while it lives. Just before DATA ``submission.submit`` checks everything that forbids sending and moves the slot
to ``submitting``. Afterwards ``finish`` records the end. Every write names the token: once a lease has lapsed and
somebody else holds the slot, a late worker's write matches no row and changes nothing.

Leases live by the database's ``clock_timestamp()``; what is due is decided by the caller's clock. Every function takes
as many slots as it is given, in one statement: cost is linear in slots, and independent of how many have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, text

from emberflow.database.bulk import rows_as_json
from emberflow.queue_manager.slots import COLUMNS, Priority, Slot


class QueuePolicy(BaseModel):
    """Who goes first, what is too late, and what becomes of a slot that kills its workers.

    ``warmup_share``
        The share of every claim that warm-up gets at least, if it has so much due (Q-B2): 0.2, our rule.
    ``aging_s``
        A cold mail that has waited so long moves up one class, and again after as long (Q-F9): a day, so that a
        first touch stands beside replies after two.
    ``overdue_s``
        After so long a warm-up mail is given up, because the next plan makes up for it, and other mail gets a new
        target time, because mail that waited together must not leave together (Q-B8).
    ``spread_s``
        The new target times of overdue mail lie within so many seconds, further apart than the mailbox's gaps.
    ``maximum_lapses``
        A slot whose lease ran out so often before DATA is parked: it may be what kills its workers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_share: float = Field(default=0.2, ge=0, le=1)
    aging_s: int = Field(default=86_400, ge=60)
    overdue_s: int = Field(default=3600, ge=60)
    spread_s: int = Field(default=1800, ge=1)
    maximum_lapses: int = Field(default=3, ge=1, le=20)


EndStatus = Literal["sent", "failed", "uncertain", "cancelled", "planned"]


@dataclass(frozen=True)
class End:
    """What became of a slot that a worker holds. ``planned`` gives it back, to be tried at ``retry_at``.

    ``counts_as_attempt`` counts a failure that happened before the guarded step could count it.
    """

    slot: Slot
    status: EndStatus
    reason: str | None = None
    sent_at: datetime | None = None
    retry_at: datetime | None = None
    binding_cap: str | None = None
    counts_as_attempt: bool = False


# One index scan per class and lane, so that a long queue of one class costs the others nothing. A class is asked for
# as many as the whole claim wants; of those, the most urgent are taken, and warm-up's share is set aside first.
_CLAIM = text(f"""
    with due as (
        select candidates.*
        from unnest(array[{", ".join(str(int(level)) for level in Priority)}]) as classes (level)
        cross join lateral (
            select
                id,
                target_time,
                priority_level = {int(Priority.WARMUP)} as is_warmup,
                case
                    when priority_level in ({int(Priority.COLD_FOLLOW_UP)}, {int(Priority.COLD_FIRST_TOUCH)})
                        then greatest(
                            {int(Priority.REPLY)},
                            priority_level - 10 * floor(
                                extract(epoch from cast(:now as timestamptz) - coalesce(due_since, target_time))
                                / :aging_s
                            )
                        )
                    else priority_level
                end as urgency
            from ops.scheduled_tasks
            where status = 'planned'
                and priority_level = classes.level
                and target_time <= :now
                and from_mailbox_id % :lanes = :lane
                and not exists (select from ops.switches where name = 'stop_sending' and is_on)
            order by target_time, id
            limit :limit
            for update skip locked
        ) as candidates
    ),

    ranked as (
        select
            id,
            is_warmup
                and row_number() over (partition by is_warmup order by target_time, id) <= :reserved as is_reserved,
            urgency,
            target_time
        from due
    ),

    chosen as (
        select id, urgency
        from ranked
        order by is_reserved desc, urgency, target_time, id
        limit :limit
    )

    update ops.scheduled_tasks as slots
    set status = 'leased',
        lease_token = :token,
        lease_until = clock_timestamp() + make_interval(secs => :lease_s),
        reason = null
    from chosen
    where slots.id = chosen.id
    returning chosen.urgency, {", ".join(f"slots.{column}" for column in COLUMNS)}
""")  # noqa: S608 - made of this module's own constants

_LANES_DUE = text("""
    select distinct from_mailbox_id % :lanes as lane
    from ops.scheduled_tasks
    where status = 'planned' and target_time <= :until
    order by lane
""")

_NEXT_DUE = text("""
    select min(target_time)
    from ops.scheduled_tasks
    where status = 'planned' and from_mailbox_id % :lanes = :lane
""")

# Renewing and tidying wait for nobody (SKIP LOCKED): a row that somebody is writing to is in good hands, and a
# statement that never waits cannot be part of a deadlock.
_RENEW = text("""
    update ops.scheduled_tasks
    set lease_until = clock_timestamp() + make_interval(secs => :lease_s)
    where id in (
        select slots.id
        from jsonb_to_recordset(cast(:held as jsonb)) as held (id bigint, token uuid)
        inner join ops.scheduled_tasks as slots on slots.id = held.id and slots.lease_token = held.token
        where slots.status = 'leased' and slots.lease_until > clock_timestamp()
        for update of slots skip locked
    )
    returning id
""")

_LAPSED_BEFORE_DATA = text("""
    update ops.scheduled_tasks
    set status = case when lapses + 1 >= :maximum_lapses then 'parked' else 'planned' end,
        lapses = lapses + 1,
        lease_token = null,
        lease_until = null,
        reason = case
            when lapses + 1 >= :maximum_lapses then 'its lease lapsed ' || lapses + 1 || ' times before DATA'
            else 'lease lapsed before DATA'
        end
    where id in (
        select id
        from ops.scheduled_tasks
        where status = 'leased' and lease_until < clock_timestamp()
        for update skip locked
    )
    returning id, status, idempotency_key, from_mailbox_id, sender_id, bot_id, message_id, lapses
""")

_LAPSED_AFTER_DATA = text("""
    update ops.scheduled_tasks
    set status = 'uncertain', lease_token = null, lease_until = null, reason = 'lease lapsed after DATA began'
    where id in (
        select id
        from ops.scheduled_tasks
        where status = 'submitting' and lease_until < clock_timestamp()
        for update skip locked
    )
""")

_EXPIRE = text("""
    update ops.scheduled_tasks
    set status = 'expired', reason = 'overdue'
    where id in (
        select id
        from ops.scheduled_tasks
        where status = 'planned' and task_type = 'warmup' and target_time < :too_late
        for update skip locked
    )
""")

# Overdue mail of one mailbox stands its own gaps apart and begins at a place that its key names, so that the same
# backlog is always spread in the same way.
_REPLAN = text("""
    with overdue as (
        select
            id,
            sum(gap_s) over (partition by from_mailbox_id order by priority_level, target_time, id)
                - gap_s as after_s,
            abs(hashtextextended(idempotency_key, 0) % :spread_s) as offset_s
        from ops.scheduled_tasks
        where status = 'planned' and task_type <> 'warmup' and target_time < :too_late
    )

    update ops.scheduled_tasks as slots
    set due_since = coalesce(slots.due_since, slots.target_time),
        target_time = cast(:now as timestamptz) + make_interval(secs => overdue.after_s + overdue.offset_s),
        local_day = (
            (cast(:now as timestamptz) + make_interval(secs => overdue.after_s + overdue.offset_s))
            at time zone (select zone from ops.mailboxes where mailboxes.id = slots.from_mailbox_id)
        )::date,
        reason = 'overdue: planned again'
    from overdue
    where slots.id = overdue.id
""")

_FINISH = text("""
    update ops.scheduled_tasks as slots
    set status = ended.status,
        reason = ended.reason,
        binding_cap = coalesce(ended.binding_cap, slots.binding_cap),
        sent_at = ended.sent_at,
        due_since = case when ended.retry_at is null then slots.due_since
            else coalesce(slots.due_since, slots.target_time) end,
        target_time = coalesce(ended.retry_at, slots.target_time),
        local_day = case when ended.retry_at is null then slots.local_day
            else (ended.retry_at at time zone
                (select zone from ops.mailboxes where mailboxes.id = slots.from_mailbox_id))::date end,
        attempts = slots.attempts + ended.counted,
        lease_token = null,
        lease_until = null
    from jsonb_to_recordset(cast(:ends as jsonb)) as ended (
        id bigint, token uuid, status text, reason text, binding_cap text,
        sent_at timestamptz, retry_at timestamptz, counted integer
    )
    where slots.id = ended.id
        and slots.lease_token = ended.token
        and (
            slots.status = 'submitting'
            or (slots.status = 'leased' and ended.status in ('planned', 'cancelled', 'failed'))
        )
    returning slots.id
""")


def lanes_due(connection: Connection, lanes: int, until: datetime) -> list[int]:
    """Return the lanes that have a slot planned for ``until`` or earlier."""
    return list(connection.execute(_LANES_DUE, {"lanes": lanes, "until": until}).scalars())


def next_due(connection: Connection, lane: int, lanes: int) -> datetime | None:
    """Return the earliest target time that is still planned in the lane."""
    moment: datetime | None = connection.execute(_NEXT_DUE, {"lane": lane, "lanes": lanes}).scalar_one()
    return moment


def claim(
    connection: Connection,
    *,
    lane: int,
    lanes: int,
    now: datetime,
    limit: int,
    lease_s: float,
    policy: QueuePolicy,
) -> list[Slot]:
    """Lease up to ``limit`` due slots of the lane and return them, the most urgent first (Q-B1, Q-B4).

    Urgency is the class, raised by waiting (Q-F9), then the target time. Of ``limit``, warm-up gets its reserved
    share (Q-B2). Rows that another worker has locked are skipped, so that no slot is claimed twice.
    """
    rows = connection.execute(
        _CLAIM,
        {
            "token": str(uuid4()),
            "lane": lane,
            "lanes": lanes,
            "now": now,
            "limit": limit,
            "lease_s": lease_s,
            "aging_s": policy.aging_s,
            "reserved": int(limit * policy.warmup_share),
        },
    ).mappings()
    return [Slot.of(row) for row in sorted(rows, key=lambda row: (row["urgency"], row["target_time"], row["id"]))]


def renew(connection: Connection, slots: Sequence[Slot], lease_s: float) -> set[int]:
    """Extend the leases of slots that are not submitted yet; return the ids of those that are still held."""
    if not slots:
        return set()
    held = rows_as_json({"id": slot.id, "token": slot.lease_token} for slot in slots)
    return set(connection.execute(_RENEW, {"held": held, "lease_s": lease_s}).scalars())


def finish(connection: Connection, ends: Sequence[End]) -> set[int]:
    """Record the ends of slots that the caller holds, each once; return the ids of those that were really changed.

    For the others the token is stale: somebody else decides about them, nothing was changed, and the caller counts
    fenced acks. Only a submitted slot can be ``sent`` or ``uncertain``.
    """
    if not ends:
        return set()
    rows = rows_as_json(
        {
            "id": end.slot.id,
            "token": end.slot.lease_token,
            "status": end.status,
            "reason": end.reason,
            "binding_cap": end.binding_cap,
            "sent_at": end.sent_at,
            "retry_at": end.retry_at,
            "counted": int(end.counts_as_attempt),
        }
        for end in ends
    )
    return set(connection.execute(_FINISH, {"ends": rows}).scalars())


@dataclass(frozen=True)
class Tidied:
    """What :func:`tidy` did. ``parked`` are rows: id, idempotency_key, from_mailbox_id and so on."""

    released: int
    uncertain: int
    expired: int
    planned_again: int
    parked: list[dict[str, object]]

    @property
    def is_anything(self) -> bool:
        """Whether there was something to tidy."""
        return bool(self.released or self.uncertain or self.expired or self.planned_again or self.parked)


def tidy(connection: Connection, *, now: datetime, policy: QueuePolicy) -> Tidied:
    """Free lapsed leases, give up overdue warm-up slots, and spread other overdue mail (Q-B8).

    A lease that lapsed before DATA is simply planned again, until it has lapsed too often. One that lapsed after DATA
    began may have been sent: it becomes ``uncertain`` and is never sent again blindly.
    """
    lapsed = connection.execute(_LAPSED_BEFORE_DATA, {"maximum_lapses": policy.maximum_lapses}).mappings().all()
    parked = [dict(row) for row in lapsed if row["status"] == "parked"]
    too_late = now - timedelta(seconds=policy.overdue_s)
    return Tidied(
        released=len(lapsed) - len(parked),
        uncertain=connection.execute(_LAPSED_AFTER_DATA).rowcount,
        expired=connection.execute(_EXPIRE, {"too_late": too_late}).rowcount,
        planned_again=connection.execute(
            _REPLAN, {"now": now, "too_late": too_late, "spread_s": policy.spread_s}
        ).rowcount,
        parked=parked,
    )
