"""The slot store: who may send what, decided by one row at a time.

States (drawn in docs/guarantees.md)::

    planned -> leased -> submitting -> sent | failed | uncertain
    planned <- leased                  lease given back, lapsed, or the attempt failed before DATA
    planned -> cancelled | expired     refused for good, or too late

A worker *claims* due slots of its lane (``FOR UPDATE SKIP LOCKED``), which gives each a lease token. Just before
DATA it *submits* one: a single transaction checks everything that forbids sending and counts the mail against
every cap. Afterwards it records what happened, again with the token: once a lease has lapsed and somebody else
holds the slot, a late worker's write matches no row, changes nothing and reports so.

Leases live by the database's ``clock_timestamp()``; what is due is decided by the caller's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, text

from emberflow.bots.limits import cap_today, next_waking
from emberflow.clock import local_day, require_utc
from emberflow.queue_manager.policies import Policy
from emberflow.senders.pacing import next_opening


class Priority(IntEnum):
    """Values of ``priority_level``; the smaller goes first (Q-B1)."""

    REPLY = 10
    COLD_FOLLOW_UP = 20
    COLD_FIRST_TOUCH = 30
    WARMUP = 40


@dataclass(frozen=True)
class Slot:
    """A claimed slot: what one message needs, and the token that proves the claim."""

    id: int
    task_type: str
    target_time: datetime
    payload: Mapping[str, Any]
    idempotency_key: str
    from_mailbox_id: int
    to_mailbox_id: int
    sender_id: int
    bot_id: int
    conversation_id: int | None
    turn: int
    gap_s: int
    message_id: str
    attempts: int
    lease_token: str

    @classmethod
    def of(cls, row: Mapping[str, Any] | RowMapping) -> Slot:
        """Return the slot in a row of ``scheduled_tasks``, whatever else the row holds."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def goes_to_bot(self) -> bool:
        """Odd turns are the sender's mails, even turns the bot's replies."""
        return self.turn % 2 == 1


@dataclass(frozen=True)
class Refusal:
    """Why a slot may not be sent now. ``retry_at`` None means: not at all."""

    reason: str
    retry_at: datetime | None = None


_CLAIM = text("""
    update ops.scheduled_tasks as slots
    set status = 'leased',
        lease_token = :token,
        lease_until = clock_timestamp() + make_interval(secs => :lease_s),
        reason = null
    where slots.id in (
        select id
        from ops.scheduled_tasks
        where status = 'planned'
            and target_time <= :now
            and from_mailbox_id % :lanes = :lane
            and not exists (select from ops.switches where name = 'stop_sending' and is_on)
        order by priority_level, target_time, id
        limit :limit
        for update skip locked
    )
    returning slots.id, slots.task_type, slots.target_time, slots.payload, slots.idempotency_key,
        slots.from_mailbox_id, slots.to_mailbox_id, slots.sender_id, slots.bot_id, slots.conversation_id,
        slots.turn, slots.gap_s, slots.message_id, slots.attempts, slots.lease_token, slots.priority_level
""")

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

_LAPSED_BEFORE_DATA = text("""
    update ops.scheduled_tasks
    set status = 'planned', lease_token = null, lease_until = null, reason = 'lease lapsed before DATA'
    where status = 'leased' and lease_until < clock_timestamp()
""")

_LAPSED_AFTER_DATA = text("""
    update ops.scheduled_tasks
    set status = 'uncertain', lease_token = null, lease_until = null, reason = 'lease lapsed after DATA began'
    where status = 'submitting' and lease_until < clock_timestamp()
""")

_EXPIRE = text("""
    update ops.scheduled_tasks
    set status = 'expired', reason = 'overdue'
    where status = 'planned' and task_type = 'warmup' and target_time < :too_late
""")

_HOLD_LEASE = text("""
    select true
    from ops.scheduled_tasks
    where id = :id and status = 'leased' and lease_token = :token and lease_until > clock_timestamp()
    for update
""")

# Everything that can forbid this mail, locked in one fixed order (mailbox, then day rows), so that
# two workers can neither overshoot a cap together nor deadlock.
_CIRCUMSTANCES = text("""
    select
        from_mailbox.zone as from_zone,
        from_mailbox.next_send_at,
        from_mailbox.check_passed and to_mailbox.check_passed as checked,
        to_mailbox.zone as to_zone,
        senders.state as sender_state,
        bots.status as bot_status,
        bots.born_at as bot_born_at,
        bots.interaction_limits as bot_limit,
        exists (select from ops.switches where name = 'stop_sending' and is_on) as stopped
    from ops.mailboxes as from_mailbox,
        ops.mailboxes as to_mailbox,
        ops.senders,
        ops.bots
    where from_mailbox.id = :from_mailbox_id
        and to_mailbox.id = :to_mailbox_id
        and senders.id = :sender_id
        and bots.id = :bot_id
    for update of from_mailbox
""")

_COUNT_SENDER_WARMUP = text("""
    update ops.sender_days
    set warmup_sent = warmup_sent + 1
    where sender_id = :sender_id
        and local_day = :day
        and warmup_sent < warmup_quota
        and warmup_sent + reply_sent < total_quota
""")

_COUNT_SENDER_REPLY = text("""
    update ops.sender_days
    set reply_sent = reply_sent + 1
    where sender_id = :sender_id and local_day = :day and warmup_sent + reply_sent < total_quota
""")

_COUNT_BOT_INBOUND = text("""
    insert into ops.bot_days as days (bot_id, local_day, inbound_sent)
    select :bot_id, :day, 1 where 0 < :cap
    on conflict (bot_id, local_day) do update
    set inbound_sent = days.inbound_sent + 1
    where days.inbound_sent < :cap
""")

_COUNT_BOT_REPLY = text("""
    insert into ops.bot_days as days (bot_id, local_day, reply_sent)
    select :bot_id, :day, 1 where 0 < :cap
    on conflict (bot_id, local_day) do update
    set reply_sent = days.reply_sent + 1
    where days.reply_sent < :cap
""")

_SUBMIT = text("""
    update ops.scheduled_tasks
    set status = 'submitting',
        attempts = attempts + 1,
        submitted_at = :now,
        lease_until = clock_timestamp() + make_interval(secs => :lease_s)
    where id = :id
""")

_LEAVE = text("""
    update ops.scheduled_tasks
    set status = :status,
        reason = :reason,
        sent_at = cast(:sent_at as timestamptz),
        target_time = coalesce(cast(:target_time as timestamptz), target_time),
        local_day = (
            coalesce(cast(:target_time as timestamptz), target_time)
            at time zone (select zone from ops.mailboxes where mailboxes.id = from_mailbox_id)
        )::date,
        attempts = attempts + :counted,
        lease_token = null,
        lease_until = null
    where id = :id and lease_token = :token and status = any(:expected)
""")

_UNCOUNT_SENDER = text("""
    update ops.sender_days
    set warmup_sent = warmup_sent - :warmup, reply_sent = reply_sent - :reply
    where sender_id = :sender_id and local_day = :day
""")

_UNCOUNT_BOT = text("""
    update ops.bot_days
    set inbound_sent = inbound_sent - :inbound, reply_sent = reply_sent - :reply
    where bot_id = :bot_id and local_day = :day
""")


def lanes_due(connection: Connection, lanes: int, until: datetime) -> list[int]:
    """Return the lanes that have a slot planned for ``until`` or earlier."""
    return list(connection.execute(_LANES_DUE, {"lanes": lanes, "until": until}).scalars())


def next_due(connection: Connection, lane: int, lanes: int) -> datetime | None:
    """Return the earliest target time that is still planned in the lane."""
    moment: datetime | None = connection.execute(_NEXT_DUE, {"lane": lane, "lanes": lanes}).scalar_one()
    return moment


def claim(connection: Connection, *, lane: int, lanes: int, now: datetime, limit: int, lease_s: int) -> list[Slot]:
    """Lease up to ``limit`` due slots of the lane, in order of priority, then target time (Q-B1, Q-B4).

    Rows that another worker has locked are skipped, so that no slot is claimed twice.
    """
    rows = connection.execute(
        _CLAIM,
        {"token": str(uuid4()), "lane": lane, "lanes": lanes, "now": now, "limit": limit, "lease_s": lease_s},
    ).mappings()
    ordered = sorted(rows, key=lambda row: (row["priority_level"], row["target_time"], row["id"]))
    return [Slot.of(row) for row in ordered]


def submit(connection: Connection, slot: Slot, *, now: datetime, policy: Policy) -> Refusal | None:
    """Move a leased slot to ``submitting`` if nothing forbids it; call it immediately before DATA (Q-B5).

    Checks the lease, the kill switch, the mailboxes' checks, sender and bot states, the sending window or waking
    hours, the minimum gap and every daily cap, and counts the mail against the caps, all in the caller's
    transaction: after a refusal the caller rolls back. Anything unknown, such as a day without a quota row, refuses.
    """
    held = connection.execute(_HOLD_LEASE, {"id": slot.id, "token": slot.lease_token}).scalar_one_or_none()
    if held is None:
        return Refusal("lease_lost")
    facts = connection.execute(
        _CIRCUMSTANCES,
        {
            "from_mailbox_id": slot.from_mailbox_id,
            "to_mailbox_id": slot.to_mailbox_id,
            "sender_id": slot.sender_id,
            "bot_id": slot.bot_id,
        },
    ).one()
    if facts.stopped:
        return Refusal("stop_sending_is_on", now + timedelta(seconds=policy.dispatch.retry_s))
    if not facts.checked:
        return Refusal("mailbox_not_checked")
    if facts.sender_state != "active":
        return Refusal(f"sender_{facts.sender_state}")
    if facts.bot_status != "active":
        return Refusal(f"bot_{facts.bot_status}")
    opening = _opening(slot, facts.from_zone, now, policy)
    if opening > now:
        return Refusal("outside_window", opening if slot.task_type == "reply" else None)
    if facts.next_send_at is not None and facts.next_send_at > now:
        return Refusal("gap", facts.next_send_at)
    refusal = _count(connection, slot, facts, now, policy)
    if refusal is not None:
        return refusal
    connection.execute(
        text("update ops.mailboxes set next_send_at = :next where id = :id"),
        {"next": now + timedelta(seconds=slot.gap_s), "id": slot.from_mailbox_id},
    )
    connection.execute(_SUBMIT, {"id": slot.id, "now": now, "lease_s": policy.dispatch.lease_s})
    return None


def finish(
    connection: Connection,
    slot: Slot,
    status: str,
    *,
    reason: str | None = None,
    sent_at: datetime | None = None,
) -> bool:
    """Record the end of a submitted slot (``sent``, ``failed`` or ``uncertain``).

    Returns False when the token is stale: then nothing was changed and the caller counts a fenced ack.
    """
    return _leave(connection, slot, status, reason=reason, sent_at=sent_at, expected=["submitting"])


def give_back(
    connection: Connection, slot: Slot, *, reason: str, retry_at: datetime, counts_as_attempt: bool = False
) -> bool:
    """Return a slot that was not sent to the queue, to be tried at ``retry_at``; False when the token is stale.

    ``counts_as_attempt`` counts a failure that happened before :func:`submit` could count it.
    """
    return _leave(
        connection,
        slot,
        "planned",
        reason=reason,
        target_time=retry_at,
        counted=int(counts_as_attempt),
        expected=["leased", "submitting"],
    )


def give_up(connection: Connection, slot: Slot, status: str, *, reason: str, counts_as_attempt: bool = False) -> bool:
    """End a slot that was provably not sent (``cancelled`` or ``failed``); False when the token is stale.

    ``counts_as_attempt`` as in :func:`give_back`.
    """
    return _leave(
        connection,
        slot,
        status,
        reason=reason,
        counted=int(counts_as_attempt),
        expected=["leased", "submitting"],
    )


def uncount(connection: Connection, slot: Slot, *, submitted_at: datetime) -> None:
    """Take back what :func:`submit` counted, for a mail that provably did not leave."""
    zones = connection.execute(
        text(
            "select senders.zone as sender, bots.zone as bot from ops.mailboxes as senders, ops.mailboxes as bots "
            "where senders.id = :sender and bots.id = :bot"
        ),
        _mailboxes_of(slot),
    ).one()
    to_bot = slot.goes_to_bot
    if to_bot:
        connection.execute(
            _UNCOUNT_SENDER,
            {
                "warmup": int(slot.task_type == "warmup"),
                "reply": int(slot.task_type == "reply"),
                "sender_id": slot.sender_id,
                "day": local_day(submitted_at, zones.sender),
            },
        )
    connection.execute(
        _UNCOUNT_BOT,
        {
            "inbound": int(to_bot),
            "reply": int(not to_bot),
            "bot_id": slot.bot_id,
            "day": local_day(submitted_at, zones.bot),
        },
    )


def tidy(connection: Connection, *, now: datetime, overdue_s: int) -> dict[str, int]:
    """Free lapsed leases and give up overdue warm-up slots; return how many of each.

    The next plan makes up for a warm-up mail that is too late. A late reply is still owed: it stays, and the gaps
    and caps of :func:`submit` keep replies from leaving together.

    A lease that lapsed before DATA is simply planned again. One that lapsed after DATA began may have been
    sent: it becomes ``uncertain`` and is never sent again blindly.
    """
    return {
        "released": connection.execute(_LAPSED_BEFORE_DATA).rowcount,
        "uncertain": connection.execute(_LAPSED_AFTER_DATA).rowcount,
        "expired": connection.execute(_EXPIRE, {"too_late": now - timedelta(seconds=overdue_s)}).rowcount,
    }


def _count(connection: Connection, slot: Slot, facts: Any, now: datetime, policy: Policy) -> Refusal | None:
    """Count the mail against every daily cap; a capped reply waits for the next day, a capped warm-up is dropped."""

    def capped(reason: str, zone: str) -> Refusal:
        return Refusal(reason, _next_day(now, zone, policy) if slot.task_type == "reply" else None)

    if not slot.goes_to_bot:
        bot_day = {"bot_id": slot.bot_id, "day": local_day(now, facts.from_zone), "cap": policy.bots.daily_reply_cap}
        counted = connection.execute(_COUNT_BOT_REPLY, bot_day)
        return None if counted.rowcount else capped("bot_daily_reply_cap", facts.from_zone)
    sender_day = {"sender_id": slot.sender_id, "day": local_day(now, facts.from_zone)}
    statement = _COUNT_SENDER_WARMUP if slot.task_type == "warmup" else _COUNT_SENDER_REPLY
    if not connection.execute(statement, sender_day).rowcount:
        return capped("sender_daily_quota", facts.from_zone)
    bot_day = {
        "bot_id": slot.bot_id,
        "day": local_day(now, facts.to_zone),
        "cap": cap_today(policy.bots, facts.bot_born_at, facts.bot_limit, now),
    }
    if not connection.execute(_COUNT_BOT_INBOUND, bot_day).rowcount:
        return capped("bot_daily_inbound_cap", facts.to_zone)
    return None


def _opening(slot: Slot, zone: str, now: datetime, policy: Policy) -> datetime:
    """Return when the sending mailbox may send next: a bot when it is awake, a sender inside its window."""
    if slot.goes_to_bot:
        return next_opening(zone, now, policy.pacing)
    return next_waking(zone, now, policy.bots)


def _next_day(now: datetime, zone: str, policy: Policy) -> datetime:
    """Return when sending hours start on the next local day of ``zone``."""
    tomorrow = local_day(now, zone) + timedelta(days=1)
    return require_utc(datetime.combine(tomorrow, policy.pacing.window_start, ZoneInfo(zone)))


def _leave(
    connection: Connection,
    slot: Slot,
    status: str,
    *,
    reason: str | None,
    expected: list[str],
    sent_at: datetime | None = None,
    target_time: datetime | None = None,
    counted: int = 0,
) -> bool:
    changed = connection.execute(
        _LEAVE,
        {
            "id": slot.id,
            "token": slot.lease_token,
            "status": status,
            "reason": reason,
            "sent_at": sent_at,
            "target_time": target_time,
            "counted": counted,
            "expected": expected,
        },
    )
    return changed.rowcount == 1


def _mailboxes_of(slot: Slot) -> dict[str, int]:
    """Return the mailbox ids of the slot's sender and bot, whichever way the mail goes."""
    if slot.goes_to_bot:
        return {"sender": slot.from_mailbox_id, "bot": slot.to_mailbox_id}
    return {"sender": slot.to_mailbox_id, "bot": slot.from_mailbox_id}
