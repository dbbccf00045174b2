"""The slot store: who holds which slot, decided by one row at a time; the only writer of ``slot_states``.

Its states and what leads from one to another are ``domain.slot.TRANSITIONS``, from which the statements here take the
states that they may find a slot in.

A worker *claims* due slots of its shard (``FOR UPDATE SKIP LOCKED``), which gives each a lease token, and *renews* the
lease while it lives. Just before DATA ``pre_send.submit`` checks everything that forbids sending and moves the slot
to ``submitting`` (``SUBMIT``). Afterwards ``finish`` records the end. Every write names the token: once a lease has
lapsed and somebody else holds the slot, a late worker's write matches no row and changes nothing.

Leases live by the database's ``clock_timestamp()``; what is due is decided by the caller's clock, which in a run of a
worker is the database's too. The plan of a slot
(``scheduled_tasks``) never changes; everything here is written to its narrow row in ``slot_states``. Every function
takes as many slots as it is given, in one statement: cost is linear in slots and, once these are vacuumed, independent
of how many have ended. A claim also reads past what is due in other shards and stands before its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.database.tables import scheduled_tasks
from emberflow.domain.mail_kind import KINDS, Priority
from emberflow.domain.slot import COLUMNS, ENDS, Move, Slot, SlotStatus, changes, sources
from emberflow.policy.queue import QueuePolicy

if TYPE_CHECKING:
    import numpy.typing as npt


EndStatus = Literal["sent", "failed", "uncertain", "cancelled", "planned"]
SettledStatus = Literal["sent", "failed", "planned", "expired"]


@dataclass(frozen=True)
class End:
    """What became of a slot that a worker holds. ``planned`` gives it back, to be tried at ``retry_at``.

    ``counts_as_attempt`` counts a failure that happened before the pre-send check could count it.
    """

    slot: Slot
    status: EndStatus
    reason: str | None = None
    sent_at: datetime | None = None
    retry_at: datetime | None = None
    binding_cap: str | None = None
    counts_as_attempt: bool = False


def _is_one_of(statuses: Iterable[SlotStatus], column: str = "status") -> str:
    """Return SQL: the slot is in one of these states. For one of them alone it is what a partial index asks for."""
    one, *more = (f"'{status}'" for status in statuses)
    return f"{column} in ({', '.join((one, *more))})" if more else f"{column} = {one}"


_IS_PLANNED = _is_one_of(sources(Move.CLAIM))
_GIVEN_UP, _OWED = (
    ", ".join(sorted({str(int(kind.priority)) for kind in KINDS if kind.is_given_up is is_given_up}))
    for is_given_up in (True, False)
)

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
            where {_IS_PLANNED}
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

_SHARDS_DUE = text(f"""
    select distinct from_mailbox_id % :shards as shard
    from ops.slot_states
    where {_IS_PLANNED} and target_time <= :until
    order by shard
""")  # noqa: S608 - made of the domain's own constants

_NEXT_DUE = text(f"""
    select min(target_time)
    from ops.slot_states
    where {_IS_PLANNED} and from_mailbox_id % :shards = :shard
""")  # noqa: S608 - made of the domain's own constants

# The last part of ``pre_send``'s statement, which counts the same mails in the days of their senders and bots.
SUBMIT = f"""
    update ops.slot_states
    set status = 'submitting',
        attempts = attempts + 1,
        submitted_at = :now,
        binding_cap = null,
        lease_until = clock_timestamp() + make_interval(secs => :lease_s)
    where slot_id = any(:ids) and {_is_one_of(sources(Move.SUBMIT))}
"""  # noqa: S608 - made of the domain's own constants

# Renewing and recovering wait for nobody (SKIP LOCKED): a row that somebody is writing to is in good hands, and a
# statement that never waits cannot be part of a deadlock.
_RENEW = text(f"""
    update ops.slot_states
    set lease_until = clock_timestamp() + make_interval(secs => :lease_s)
    where slot_id in (
        select states.slot_id
        from jsonb_to_recordset(cast(:held as jsonb)) as held (id bigint, token uuid)
        inner join ops.slot_states as states on states.slot_id = held.id and states.lease_token = held.token
        where {_is_one_of(sources(Move.SUBMIT), "states.status")} and states.lease_until > clock_timestamp()
        for update of states skip locked
    )
    returning slot_id
""")  # noqa: S608 - made of the domain's own constants

_LAPSED_BEFORE_DATA = text(f"""
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
            where {_is_one_of(sources(Move.LAPSE, SlotStatus.PLANNED))} and lease_until < clock_timestamp()
            for update skip locked
        )
        returning slot_id, status, lapses
    )

    select
        tasks.id, lapsed.status, tasks.idempotency_key, tasks.from_mailbox_id, tasks.sender_id, tasks.bot_id,
        tasks.message_id, lapsed.lapses
    from lapsed
    inner join ops.scheduled_tasks as tasks on tasks.id = lapsed.slot_id
""")  # noqa: S608 - made of the domain's own constants

_LAPSED_AFTER_DATA = text(f"""
    update ops.slot_states
    set status = 'uncertain', lease_token = null, lease_until = null, reason = 'lease lapsed after DATA began'
    where slot_id in (
        select slot_id
        from ops.slot_states
        where {_is_one_of(sources(Move.LAPSE, SlotStatus.UNCERTAIN))} and lease_until < clock_timestamp()
        for update skip locked
    )
""")  # noqa: S608 - made of the domain's own constants

_EXPIRE = text(f"""
    update ops.slot_states
    set status = 'expired', reason = 'overdue'
    where slot_id in (
        select slot_id
        from ops.slot_states
        where {_is_one_of(sources(Move.EXPIRE))} and priority_level in ({_GIVEN_UP}) and target_time < :too_late
        for update skip locked
    )
""")  # noqa: S608 - made of the domain's own constants

# Overdue mail of one mailbox stands its own gaps apart and begins at a place that its key names, so that the same
# backlog is always spread in the same way.
_PLAN_AGAIN = text(f"""
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
        where {_is_one_of(sources(Move.PLAN_AGAIN), "states.status")}
            and states.priority_level in ({_OWED})
            and states.target_time < :too_late
    )

    update ops.slot_states as states
    set target_time = overdue.new_time,
        local_day = coalesce(ops.local_day(overdue.new_time, mailboxes.zone), states.local_day),
        reason = 'overdue: planned again'
    from overdue
    inner join ops.mailboxes on mailboxes.id = overdue.from_mailbox_id
    where states.slot_id = overdue.id and {_is_one_of(sources(Move.PLAN_AGAIN), "states.status")}
""")  # noqa: S608 - made of the domain's own constants

_FINISHES = ", ".join(f"('{before}', '{after}')" for before, after in changes(Move.FINISH))

_FINISH = text(f"""
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
        and (states.status, ended.status) in ({_FINISHES})
    returning states.slot_id
""")  # noqa: S608 - made of the domain's own constants

_OPEN = text("""
    insert into ops.slot_states (slot_id, from_mailbox_id, target_time, due_since, local_day, priority_level)
    select id, from_mailbox_id, target_time, target_time, local_day, priority_level
    from ops.scheduled_tasks
    where id = any(:ids)
    order by id
""")

_IS_CANCELLABLE = _is_one_of(sources(Move.CANCEL), "states.status")

_CANCEL = f"""
    with planned as (
        select states.slot_id
        from ops.slot_states as states
        inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
        where {_IS_CANCELLABLE} and {{which}}
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
"""  # noqa: S608 - made of the domain's own constants
_CANCEL_OF_MAILBOX = text(_CANCEL.format(which=":mailbox_id in (tasks.from_mailbox_id, tasks.to_mailbox_id)"))
_CANCEL_OF_CONVERSATIONS = text(
    _CANCEL.format(which="tasks.conversation_id = any(:conversation_ids) and tasks.from_mailbox_id = :mailbox_id")
)
_CANCEL_OF_PLAN = text(_CANCEL.format(which="tasks.plan_run_id = :plan_run_id"))

_SLOTS_TO = text("""
    select slots.id, states.status
    from ops.scheduled_tasks as slots
    inner join ops.slot_states as states on states.slot_id = slots.id
    where slots.to_address = :address
    order by slots.id
    for update of states
""")
_REDACT_REASONS = text("""
    update ops.slot_states
    set reason = ops.without_address(reason, :address, :pseudonym)
    where slot_id = any(:ids) and position(:address in lower(reason)) > 0
""")
_REDACT_SLOTS = text("""
    update ops.scheduled_tasks set to_address = :pseudonym where id = any(:ids) and to_address = :address
""")

_ADDRESSES_OF_PLANNED = text(f"""
    select distinct coalesce(mailboxes.address, slots.to_address)
    from ops.slot_states as states
    inner join ops.scheduled_tasks as slots on slots.id = states.slot_id
    left join ops.mailboxes on mailboxes.id = slots.to_mailbox_id
    where {_IS_CANCELLABLE}
""")  # noqa: S608 - made of the domain's own constants

# Every planned mail is looked at once, however many entries are new; its domains only if a new entry is a domain.
_CANCEL_OF_SUPPRESSED = text(f"""
    with new as (
        select kind, value, reason from ops.suppressions where id = any(:ids)
    ),

    planned as (
        select slots.id, coalesce(mailboxes.address, slots.to_address) as address
        from ops.slot_states as states
        inner join ops.scheduled_tasks as slots on slots.id = states.slot_id
        left join ops.mailboxes on mailboxes.id = slots.to_mailbox_id
        where {_IS_CANCELLABLE}
    ),

    forbidden as (
        select planned.id, new.reason, 0 as distance
        from planned
        inner join new on new.kind = 'address' and new.value = planned.address
        union all
        select planned.id, new.reason, 0
        from planned
        inner join unnest(cast(:addresses as text[]), cast(:hashes as text[])) as hashed (address, value)
            on hashed.address = planned.address
        inner join new on new.kind = 'hash' and new.value = hashed.value
        union all
        select planned.id, new.reason, place
        from planned
        cross join lateral string_to_array(split_part(planned.address, '@', 2), '.') as labels
        cross join lateral generate_subscripts(labels, 1) as place
        inner join new on new.kind = 'domain' and new.value = array_to_string(labels[place:], '.')
    ),

    nearest as (
        select distinct on (id) id, reason from forbidden order by id, distance
    ),

    locked as (
        select states.slot_id, nearest.reason
        from ops.slot_states as states
        inner join nearest on nearest.id = states.slot_id
        where {_IS_CANCELLABLE}
        order by states.slot_id
        for update of states
    ),

    cancelled as (
        update ops.slot_states as states
        set status = 'cancelled', reason = 'suppressed: ' || locked.reason
        from locked
        where states.slot_id = locked.slot_id
        returning states.slot_id
    )

    select slots.* from cancelled inner join ops.slots on slots.id = cancelled.slot_id
""")  # noqa: S608 - made of the domain's own constants

_RELEASE = text(f"""
    update ops.slot_states
    set status = 'planned',
        lapses = 0,
        target_time = greatest(target_time, :now),
        local_day = coalesce(
            ops.local_day(
                greatest(target_time, cast(:now as timestamptz)),
                (select zone from ops.mailboxes where mailboxes.id = from_mailbox_id)
            ),
            local_day
        ),
        reason = :reason
    where slot_id = :id and {_is_one_of(sources(Move.RELEASE))}
""")  # noqa: S608 - made of the domain's own constants

_SETTLE = text(f"""
    update ops.slot_states
    set status = :status,
        sent_at = case when :status = 'sent' then submitted_at end,
        reason = :reason,
        lease_token = null,
        lease_until = null,
        unresolved_at = null,
        look_again_at = null
    where slot_id = :id and {_is_one_of(sources(Move.SETTLE))}
""")  # noqa: S608 - made of the domain's own constants

_KEEP_IN_DOUBT = text(f"""
    update ops.slot_states
    set reason = :reason,
        look_again_at = :look_again_at,
        unresolved_at = case when :is_unresolved then coalesce(unresolved_at, :now) end
    where slot_id = :id and {_is_one_of(sources(Move.KEEP_IN_DOUBT))} and attempts = :attempts
""")  # noqa: S608 - made of the domain's own constants

_RESTORE = text(f"""
    update ops.slot_states
    set status = 'uncertain',
        attempts = attempts + :more_attempts,
        submitted_at = case when :more_attempts = 0 then submitted_at else :submitted_at end,
        lease_token = null,
        lease_until = null,
        reason = :reason,
        unresolved_at = :unresolved_at
    where slot_id = :id and {_is_one_of(sources(Move.RESTORE))}
""")  # noqa: S608 - made of the domain's own constants

_MOVE_DAYS = text(f"""
    update ops.slot_states as states
    set local_day = moved.local_day
    from (
        select slot_id, ops.local_day(target_time, mailboxes.zone) as local_day
        from ops.slot_states
        inner join ops.mailboxes on mailboxes.id = from_mailbox_id
        where from_mailbox_id = any(:mailbox_ids) and {_IS_PLANNED}
    ) as moved
    where states.slot_id = moved.slot_id
        and {_is_one_of(sources(Move.CLAIM), "states.status")}
        and states.local_day <> moved.local_day
""")  # noqa: S608 - made of the domain's own constants

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


def open_states(connection: Connection, slot_ids: Collection[int]) -> None:
    """Write the states of slots that have just been written: planned, as they say."""
    connection.execute(_OPEN, {"ids": list(slot_ids)})


def copy_states(connection: Connection, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the states of slots that have just been written, planned, by COPY: hundreds of thousands at once.

    ``columns``: ``slot_id``, ``from_mailbox_id``, ``target_time``, ``due_since``, ``local_day``, ``priority_level``.
    """
    from emberflow.database.bulk import copy_rows  # noqa: PLC0415 - NumPy is for planning alone

    copy_rows(connection, "ops.slot_states", [columns])


def add(connection: Connection, slots: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write slots (columns of ``scheduled_tasks``), planned as they say, and return the ids of those that are new.

    A slot whose idempotency key, Message-ID or parent another one has already is there, and is left alone (Q-B3). The
    planner writes its hundreds of thousands by COPY instead.
    """
    written = insert(scheduled_tasks).on_conflict_do_nothing().returning(scheduled_tasks.c.id)
    ids: list[int] = list(connection.execute(written, slots).scalars())
    open_states(connection, ids)
    return ids


def cancel_planned(connection: Connection, mailbox_id: int, reason: str) -> list[Slot]:
    """Cancel all that is planned from or to a mailbox, and return it; what a worker holds is the worker's."""
    rows = connection.execute(_CANCEL_OF_MAILBOX, {"mailbox_id": mailbox_id, "reason": reason}).mappings()
    return [Slot.of(row) for row in rows]


def cancel_in_conversations(
    connection: Connection, mailbox_id: int, conversation_ids: Collection[int], reason: str
) -> list[Slot]:
    """Cancel what a mailbox has planned in these conversations; what a worker holds is refused before DATA."""
    asked = {"mailbox_id": mailbox_id, "conversation_ids": list(conversation_ids), "reason": reason}
    return [Slot.of(row) for row in connection.execute(_CANCEL_OF_CONVERSATIONS, asked).mappings()]


def cancel_plan(connection: Connection, plan_run_id: int, reason: str) -> list[Slot]:
    """Cancel what is still planned of an hour's plan, and return it; what a worker holds is the worker's."""
    rows = connection.execute(_CANCEL_OF_PLAN, {"plan_run_id": plan_run_id, "reason": reason}).mappings()
    return [Slot.of(row) for row in rows]


def slots_to(connection: Connection, address: str) -> tuple[list[int], int]:
    """Return the slots of mail to an address that is not ours which have ended, and how many have not."""
    rows = connection.execute(_SLOTS_TO, {"address": address}).all()
    ended = [row.id for row in rows if row.status in ENDS]
    return ended, len(rows) - len(ended)


def forget_person(connection: Connection, address: str, slot_ids: Collection[int], pseudonym: str) -> None:
    """Put a pseudonym for the recipient's address into slots that have ended, and into why they ended.

    A slot's plan never changes; the database lets exactly this change pass (`ops.refuse_slot_change`).
    """
    parameters = {"ids": list(slot_ids), "address": address, "pseudonym": pseudonym}
    connection.execute(_REDACT_REASONS, parameters)
    connection.execute(_REDACT_SLOTS, parameters)


def addresses_of_planned(connection: Connection) -> list[str]:
    """Return every address for which mail is planned."""
    return list(connection.execute(_ADDRESSES_OF_PLANNED).scalars())


def cancel_suppressed(
    connection: Connection, suppression_ids: Collection[int], hashes: Mapping[str, str] | None = None
) -> list[Slot]:
    """Cancel all that is planned for whom these suppressions name; what a worker holds is refused before DATA.

    ``hashes`` are those of :func:`addresses_of_planned`, by address; only entries that are hashes need them.
    """
    hashes = hashes or {}
    parameters = {"ids": list(suppression_ids), "addresses": list(hashes), "hashes": list(hashes.values())}
    rows = connection.execute(_CANCEL_OF_SUPPRESSED, parameters).mappings()
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
    return {row.slot_id for row in prepared.rows_of(connection, "finish_slots", _FINISH, {"ends": rows})}


def free_before_data(connection: Connection, maximum_lapses: int) -> list[RowMapping]:
    """Plan the slots again whose lease lapsed before DATA, park those whose lease has lapsed too often.

    Return all of them: id, status, lapses, idempotency_key, message_id, from_mailbox_id, sender_id and bot_id.
    """
    return list(connection.execute(_LAPSED_BEFORE_DATA, {"maximum_lapses": maximum_lapses}).mappings())


def free_after_data(connection: Connection) -> int:
    """Make the slots ``uncertain`` whose lease lapsed after DATA began; return how many."""
    return connection.execute(_LAPSED_AFTER_DATA).rowcount


def expire(connection: Connection, *, too_late: datetime) -> int:
    """Give up the mails that are not owed any more and that were due before ``too_late``; return how many."""
    return connection.execute(_EXPIRE, {"too_late": too_late}).rowcount


def plan_again(connection: Connection, *, too_late: datetime, now: datetime, spread_s: int) -> int:
    """Give other mail that was due before ``too_late`` new target times from ``now`` on; return how many."""
    due = {"now": now, "too_late": too_late, "spread_s": spread_s}
    return connection.execute(_PLAN_AGAIN, due).rowcount


def release(connection: Connection, slot_id: int, *, reason: str, now: datetime) -> bool:
    """Plan a parked slot again, to be sent now, with its lapses forgotten; False if it is not parked."""
    return bool(connection.execute(_RELEASE, {"id": slot_id, "reason": reason, "now": now}).rowcount)


def settle(connection: Connection, slot_id: int, status: SettledStatus, reason: str) -> None:
    """End the doubt about an uncertain slot; one that is ``sent`` was sent when it was submitted."""
    connection.execute(_SETTLE, {"id": slot_id, "status": status, "reason": reason})


def keep_in_doubt(
    connection: Connection,
    slot: Slot,
    reason: str,
    *,
    look_again_at: datetime | None,
    is_unresolved: bool,
    now: datetime,
) -> None:
    """Say what is known of an uncertain slot, whether that makes it unresolved, and when it is looked for again.

    Another attempt of the slot than that of ``slot`` is another doubt: then nothing changes.
    """
    connection.execute(
        _KEEP_IN_DOUBT,
        {
            "id": slot.id,
            "attempts": slot.attempts,
            "reason": reason,
            "look_again_at": look_again_at,
            "is_unresolved": is_unresolved,
            "now": now,
        },
    )


def put_in_doubt(
    connection: Connection,
    slot_id: int,
    reason: str,
    *,
    submitted_at: datetime | None,
    unresolved_at: datetime | None,
) -> None:
    """Make a slot of a restored database ``uncertain``: it may have left since the backup.

    ``submitted_at`` adds an attempt, made then; without it the slot was submitted as its row says.
    """
    connection.execute(
        _RESTORE,
        {
            "id": slot_id,
            "more_attempts": 0 if submitted_at is None else 1,
            "submitted_at": submitted_at,
            "reason": reason,
            "unresolved_at": unresolved_at,
        },
    )


def move_days(connection: Connection, mailbox_ids: Collection[int]) -> None:
    """Say of what is planned from mailboxes whose zone has changed in which of their local days it is due."""
    if mailbox_ids:
        connection.execute(_MOVE_DAYS, {"mailbox_ids": list(mailbox_ids)})
