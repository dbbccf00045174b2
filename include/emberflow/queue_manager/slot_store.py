"""The slot store: who holds which slot, decided by one row at a time.

States (drawn in docs/guarantees.md)::

    planned -> leased -> submitting -> sent | failed | uncertain
    planned <- leased                  lease given back, lapsed, or the attempt failed before DATA
    planned <- submitting              4xx after DATA: the server said that it did not take the mail
    planned -> cancelled | expired     refused for good or taken back, or too late
    planned -> parked                  several workers died with it; a person decides
    uncertain -> sent | failed | ...   see ``receiving.reconcile``; not found is never a reason to send again

A worker *claims* due slots of its shard (``FOR UPDATE SKIP LOCKED``), which gives each a lease token, and *renews* the
lease while it lives. Just before DATA ``pre_send.submit`` checks everything that forbids sending and moves the slot
to ``submitting``. Afterwards ``finish`` records the end. Every write names the token: once a lease has lapsed and
somebody else holds the slot, a late worker's write matches no row and changes nothing.

Leases live by the database's ``clock_timestamp()``; what is due is decided by the caller's clock, which in a run of a
worker is the database's too. The plan of a slot
(``scheduled_tasks``) never changes; everything here is written to its narrow row in ``slot_states``. Every function
takes as many slots as it is given, in one statement: cost is linear in slots and, once these are vacuumed, independent
of how many have ended. A claim also reads past what is due in other shards and stands before its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.database.tables import scheduled_tasks
from emberflow.domain.slot import COLUMNS, Priority, Slot


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


_FROM_STATE = {
    "id": "leased.slot_id",
    "target_time": "leased.target_time",
    "attempts": "leased.attempts",
    "lease_token": "cast(leased.lease_token as text)",
}

# One ordered index scan per class, so that a long queue of one class costs the others nothing. A class is asked for as
# many as the whole claim wants; of those, the most urgent are taken, and warm-up's share is set aside first.
_CLAIM = text(f"""
    with due as (
        select candidates.*
        from unnest(array[{", ".join(str(int(level)) for level in Priority)}]) as classes (level)
        cross join lateral (
            select
                slot_id,
                target_time,
                priority_level = {int(Priority.WARMUP)} as is_warmup,
                case
                    when priority_level in ({int(Priority.COLD_FOLLOW_UP)}, {int(Priority.COLD_FIRST_TOUCH)})
                        then greatest(
                            {int(Priority.REPLY)},
                            priority_level - 10 * floor(
                                extract(epoch from cast(:now as timestamptz) - due_since) / :aging_s
                            )
                        )
                    else priority_level
                end as urgency
            from ops.slot_states
            where status = 'planned'
                and priority_level = classes.level
                and target_time <= :now
                and from_mailbox_id % :shards = :shard
                and slot_id <> all(:held)
                and not exists (select from ops.switches where name = 'stop_sending' and is_on)
                and not exists (select from ops.restores where settled_at is null)
            order by target_time, slot_id
            limit :limit
            for update skip locked
        ) as candidates
    ),

    ranked as (
        select
            slot_id,
            is_warmup
                and row_number() over (partition by is_warmup order by target_time, slot_id) <= :reserved
                as is_reserved,
            urgency,
            target_time
        from due
    ),

    chosen as materialized (
        select slot_id, urgency
        from ranked
        order by is_reserved desc, urgency, target_time, slot_id
        limit :limit
    ),

    leased as (
        update ops.slot_states
        set status = 'leased',
            lease_token = :token,
            lease_until = clock_timestamp() + make_interval(secs => :lease_s),
            reason = null
        where slot_id = any(array(select slot_id from chosen))
        returning slot_id, target_time, attempts, lease_token
    )

    select {", ".join(_FROM_STATE.get(column, f"tasks.{column}") for column in COLUMNS)}
    from leased
    inner join chosen on chosen.slot_id = leased.slot_id
    inner join ops.scheduled_tasks as tasks on tasks.id = leased.slot_id
    order by chosen.urgency, leased.target_time, leased.slot_id
""")  # noqa: S608 - made of this module's own constants

# Nothing tells PostgreSQL how many rows a shard has, and from its guess it would sort all that is due.
_IN_ORDER = text("select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")

_SHARDS_DUE = text("""
    select distinct from_mailbox_id % :shards as shard
    from ops.slot_states
    where status = 'planned' and target_time <= :until
    order by shard
""")

_NEXT_DUE = text("""
    select min(target_time)
    from ops.slot_states
    where status = 'planned' and from_mailbox_id % :shards = :shard
""")

# Renewing and tidying wait for nobody (SKIP LOCKED): a row that somebody is writing to is in good hands, and a
# statement that never waits cannot be part of a deadlock.
_RENEW = text("""
    update ops.slot_states
    set lease_until = clock_timestamp() + make_interval(secs => :lease_s)
    where slot_id in (
        select states.slot_id
        from jsonb_to_recordset(cast(:held as jsonb)) as held (id bigint, token uuid)
        inner join ops.slot_states as states on states.slot_id = held.id and states.lease_token = held.token
        where states.status = 'leased' and states.lease_until > clock_timestamp()
        for update of states skip locked
    )
    returning slot_id
""")

_LAPSED_BEFORE_DATA = text("""
    with lapsed as (
        update ops.slot_states
        set status = case when lapses + 1 >= :maximum_lapses then 'parked' else 'planned' end,
            lapses = lapses + 1,
            lease_token = null,
            lease_until = null,
            reason = case
                when lapses + 1 >= :maximum_lapses then 'its lease lapsed ' || lapses + 1 || ' times before DATA'
                else 'lease lapsed before DATA'
            end
        where slot_id in (
            select slot_id
            from ops.slot_states
            where status = 'leased' and lease_until < clock_timestamp()
            for update skip locked
        )
        returning slot_id, status, lapses
    )

    select
        tasks.id, lapsed.status, tasks.idempotency_key, tasks.from_mailbox_id, tasks.sender_id, tasks.bot_id,
        tasks.message_id, lapsed.lapses
    from lapsed
    inner join ops.scheduled_tasks as tasks on tasks.id = lapsed.slot_id
""")

_LAPSED_AFTER_DATA = text("""
    update ops.slot_states
    set status = 'uncertain', lease_token = null, lease_until = null, reason = 'lease lapsed after DATA began'
    where slot_id in (
        select slot_id
        from ops.slot_states
        where status = 'submitting' and lease_until < clock_timestamp()
        for update skip locked
    )
""")

_EXPIRE = text("""
    update ops.slot_states
    set status = 'expired', reason = 'overdue'
    where slot_id in (
        select slot_id
        from ops.slot_states
        where status = 'planned' and priority_level = :warmup and target_time < :too_late
        for update skip locked
    )
""")

# Overdue mail of one mailbox stands its own gaps apart and begins at a place that its key names, so that the same
# backlog is always spread in the same way.
_REPLAN = text("""
    with overdue as (
        select
            tasks.id,
            tasks.from_mailbox_id,
            cast(:now as timestamptz) + make_interval(
                secs => sum(tasks.gap_s) over (
                    partition by tasks.from_mailbox_id
                    order by tasks.priority_level, states.target_time, tasks.id
                ) - tasks.gap_s + abs(hashtextextended(tasks.idempotency_key, 0) % :spread_s)
            ) as new_time
        from ops.slot_states as states
        inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
        where states.status = 'planned'
            and states.priority_level < :warmup
            and states.target_time < :too_late
    )

    update ops.slot_states as states
    set target_time = overdue.new_time,
        local_day = coalesce(ops.local_day(overdue.new_time, mailboxes.zone), states.local_day),
        reason = 'overdue: planned again'
    from overdue
    inner join ops.mailboxes on mailboxes.id = overdue.from_mailbox_id
    where states.slot_id = overdue.id and states.status = 'planned'
""")

_FINISH = text("""
    update ops.slot_states as states
    set status = ended.status,
        reason = ended.reason,
        binding_cap = coalesce(ended.binding_cap, states.binding_cap),
        sent_at = ended.sent_at,
        target_time = coalesce(ended.retry_at, states.target_time),
        local_day = case when ended.retry_at is null then states.local_day
            else coalesce(
                ops.local_day(
                    ended.retry_at, (select zone from ops.mailboxes where mailboxes.id = states.from_mailbox_id)
                ),
                states.local_day
            ) end,
        attempts = states.attempts + ended.counted,
        lease_token = null,
        lease_until = null
    from jsonb_to_recordset(cast(:ends as jsonb)) as ended (
        id bigint, token uuid, status text, reason text, binding_cap text,
        sent_at timestamptz, retry_at timestamptz, counted integer
    )
    where states.slot_id = ended.id
        and states.lease_token = ended.token
        and (
            states.status = 'submitting'
            or (states.status = 'leased' and ended.status in ('planned', 'cancelled', 'failed'))
        )
    returning states.slot_id
""")


_OPEN = text("""
    insert into ops.slot_states (slot_id, from_mailbox_id, target_time, due_since, local_day, priority_level)
    select id, from_mailbox_id, target_time, target_time, local_day, priority_level
    from ops.scheduled_tasks
    where id = any(:ids)
    order by id
""")
_CANCEL = """
    with planned as (
        select states.slot_id
        from ops.slot_states as states
        inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
        where states.status = 'planned' and {which}
        order by states.slot_id
        for update of states
    ),

    cancelled as (
        update ops.slot_states as states
        set status = 'cancelled', reason = :reason
        from planned
        where states.slot_id = planned.slot_id
        returning states.slot_id
    )

    select slots.* from cancelled inner join ops.slots on slots.id = cancelled.slot_id
"""
_CANCEL_OF_MAILBOX = text(_CANCEL.format(which=":mailbox_id in (tasks.from_mailbox_id, tasks.to_mailbox_id)"))
_CANCEL_OF_PLAN = text(_CANCEL.format(which="tasks.plan_run_id = :plan_run_id"))
_LOCK = text("select from ops.slot_states where slot_id = :id for update")
_READ = text("select * from ops.slots where id = :id")


def lock(connection: Connection, slot_id: int) -> RowMapping | None:
    """Lock the state of a slot and return its row of the view ``slots``; None if there is no such slot."""
    # Two statements: the row that was waited for is seen only by a statement that begins after it was written.
    connection.execute(_LOCK, {"id": slot_id})
    return connection.execute(_READ, {"id": slot_id}).mappings().one_or_none()


def shards_due(connection: Connection, shards: int, until: datetime) -> list[int]:
    """Return the shards that have a slot planned for ``until`` or earlier."""
    return list(connection.execute(_SHARDS_DUE, {"shards": shards, "until": until}).scalars())


def next_due(connection: Connection, shard: int, shards: int) -> datetime | None:
    """Return the earliest target time that is still planned in the shard."""
    moment: datetime | None = connection.execute(_NEXT_DUE, {"shard": shard, "shards": shards}).scalar_one()
    return moment


def add(connection: Connection, slots: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write slots (columns of ``scheduled_tasks``), planned as they say, and return the ids of those that are new.

    A slot whose idempotency key, Message-ID or parent another one has already is there, and is left alone (Q-B3). The
    planner writes its hundreds of thousands by COPY instead.
    """
    written = insert(scheduled_tasks).on_conflict_do_nothing().returning(scheduled_tasks.c.id)
    ids: list[int] = list(connection.execute(written, slots).scalars())
    connection.execute(_OPEN, {"ids": ids})
    return ids


def cancel_planned(connection: Connection, mailbox_id: int, reason: str) -> list[Slot]:
    """Cancel all that is planned from or to a mailbox, and return it; what a worker holds is the worker's."""
    rows = connection.execute(_CANCEL_OF_MAILBOX, {"mailbox_id": mailbox_id, "reason": reason}).mappings()
    return [Slot.of(row) for row in rows]


def cancel_plan(connection: Connection, plan_run_id: int, reason: str) -> list[Slot]:
    """Cancel what is still planned of an hour's plan, and return it; what a worker holds is the worker's."""
    rows = connection.execute(_CANCEL_OF_PLAN, {"plan_run_id": plan_run_id, "reason": reason}).mappings()
    return [Slot.of(row) for row in rows]


def claim(
    connection: Connection,
    *,
    shard: int,
    shards: int,
    now: datetime,
    limit: int,
    lease_s: float,
    policy: QueuePolicy,
    held: Collection[int] = (),
) -> list[Slot]:
    """Lease up to ``limit`` due slots of the shard and return them, the most urgent first (Q-B1, Q-B4).

    Urgency is the class, raised by waiting (Q-F9), then the target time. Of ``limit``, warm-up gets its reserved
    share (Q-B2). Rows that another worker has locked are skipped, so that no slot is claimed twice. ``held`` are slots
    that the caller is not through with: one whose lease lapsed meanwhile is planned again, and waits until it is.
    """
    connection.execute(_IN_ORDER)
    rows: Iterable[Any] = connection.execute(
        _CLAIM,
        {
            "token": str(uuid4()),
            "shard": shard,
            "shards": shards,
            "now": now,
            "limit": limit,
            "lease_s": lease_s,
            "aging_s": policy.aging_s,
            "reserved": int(limit * policy.warmup_share),
            "held": list(held),
        },
    )
    return [Slot(*row) for row in rows]


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
    return {row.slot_id for row in prepared.rows_of(connection, _FINISH, {"ends": rows})}


@dataclass(frozen=True)
class Tidied:
    """What :func:`tidy` did. ``parked`` are rows: id, idempotency_key, from_mailbox_id and so on."""

    released: int
    uncertain: int
    parked: list[dict[str, object]]
    expired: int = 0
    planned_again: int = 0

    @property
    def is_anything(self) -> bool:
        """Whether there was something to tidy."""
        return bool(self.released or self.uncertain or self.expired or self.planned_again or self.parked)


def free_lapsed(connection: Connection, policy: QueuePolicy) -> Tidied:
    """Free lapsed leases.

    One that lapsed before DATA is simply planned again, until it has lapsed too often. One that lapsed after DATA
    began may have been sent: it becomes ``uncertain`` and is never sent again blindly.
    """
    lapsed = connection.execute(_LAPSED_BEFORE_DATA, {"maximum_lapses": policy.maximum_lapses}).mappings().all()
    parked = [dict(row) for row in lapsed if row["status"] == "parked"]
    uncertain = connection.execute(_LAPSED_AFTER_DATA).rowcount
    return Tidied(released=len(lapsed) - len(parked), uncertain=uncertain, parked=parked)


def tidy(connection: Connection, *, now: datetime, policy: QueuePolicy) -> Tidied:
    """Free lapsed leases, give up overdue warm-up slots, and spread other overdue mail (Q-B8)."""
    too_late = now - timedelta(seconds=policy.overdue_s)
    return replace(
        free_lapsed(connection, policy),
        expired=connection.execute(_EXPIRE, {"too_late": too_late, "warmup": int(Priority.WARMUP)}).rowcount,
        planned_again=connection.execute(
            _REPLAN,
            {"now": now, "too_late": too_late, "spread_s": policy.spread_s, "warmup": int(Priority.WARMUP)},
        ).rowcount,
    )
