"""The pre-send check: one transaction that moves slots to ``submitting``, immediately before DATA (Q-B5).

It locks what the decision rests on in one fixed order (slots, sending mailboxes, bots, sender days, bot days, counters,
each by key), reads everything that can forbid a mail, asks ``guard.judge`` slot by slot, and writes back what was
counted. Two workers can therefore neither overshoot a cap together nor deadlock. However many slots come, the
statements are the same eight, so that many workers may share one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from emberflow.accounts import suppression_hashes
from emberflow.accounts.suppression_hashes import KEY_IN_USE, BlindError, Hasher, Keys
from emberflow.accounts.suppressions import suppressed
from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery import guard
from emberflow.delivery.caps import CounterKey, Counters
from emberflow.delivery.guard import BotDay, Facts, Refusal, SenderDay, Usage
from emberflow.delivery.routes import Route, server_of
from emberflow.domain.mail_kind import BOT_DAY_PARTS, SENDER_DAY_PARTS
from emberflow.domain.slot import Slot
from emberflow.errors import UnknownProfileError
from emberflow.policy.document import Policy
from emberflow.queue_manager import counters, host_breakers, slot_store

_FACTS = text("""
    select
        slots.id,
        from_mailbox.zone as from_zone,
        from_mailbox.next_send_at,
        from_mailbox.smtp_host,
        from_mailbox.smtp_port,
        from_mailbox.provider as sender_provider,
        split_part(from_mailbox.address, '@', 2) as sender_domain,
        from_mailbox.check_passed and coalesce(to_mailbox.check_passed, slots.to_mailbox_id is null) as is_checked,
        to_mailbox.zone as to_zone,
        coalesce(to_mailbox.address, slots.to_address) as recipient_address,
        coalesce(to_mailbox.provider, split_part(slots.to_address, '@', 2)) as recipient_provider,
        senders.state as sender_state,
        senders.profile as sender_profile,
        bots.status as bot_status,
        bots.profile as bot_profile,
        bots.born_at as bot_born_at,
        bots.interaction_limits as bot_limit,
        egress_ips.address as egress_address,
        egress_ips.state as egress_state,
        egress_ips.sends_per_hour as egress_sends_per_hour,
        readings.read_at,
        exists (
            select from ops.outside_mails as outside
            where outside.conversation_id = slots.conversation_id and outside.mailbox_id = slots.from_mailbox_id
        ) as is_answered
    from jsonb_to_recordset(cast(:held as jsonb)) as held (id bigint, token uuid)
    inner join ops.slot_states as states on states.slot_id = held.id and states.lease_token = held.token
    inner join ops.scheduled_tasks as slots on slots.id = held.id
    inner join ops.mailboxes as from_mailbox on from_mailbox.id = slots.from_mailbox_id
    inner join ops.senders on senders.id = slots.sender_id
    left join ops.mailboxes as to_mailbox on to_mailbox.id = slots.to_mailbox_id
    left join ops.bots on bots.id = slots.bot_id
    left join ops.egress_ips on egress_ips.id = from_mailbox.egress_ip_id
    left join ops.mailbox_readings as readings on readings.mailbox_id = from_mailbox.id
    where states.status = 'leased' and states.lease_until > clock_timestamp()
    order by from_mailbox.id, slots.id
    for update of states, from_mailbox
""")

_BOTS = text("""
    select id, cooldown_until
    from ops.bots
    where id = any(:ids)
    order by id
    for no key update
""")

_UNFIT = text("""
    select
        slots.id,
        from_mailbox.zone as from_zone,
        to_mailbox.zone as to_zone,
        bots.cooldown_until,
        from_mailbox.check_passed and coalesce(to_mailbox.check_passed, slots.to_mailbox_id is null) as is_checked,
        senders.state as sender_state,
        senders.profile as sender_profile,
        bots.profile as bot_profile,
        bots.status as bot_status,
        refusals.next_try_at as next_login_at,
        readings.read_at
    from ops.scheduled_tasks as slots
    inner join ops.mailboxes as from_mailbox on from_mailbox.id = slots.from_mailbox_id
    inner join ops.senders on senders.id = slots.sender_id
    left join ops.mailboxes as to_mailbox on to_mailbox.id = slots.to_mailbox_id
    left join ops.bots on bots.id = slots.bot_id
    left join ops.login_refusals as refusals
        on refusals.mailbox_id = slots.from_mailbox_id and refusals.protocol = 'smtp'
    left join ops.mailbox_readings as readings on readings.mailbox_id = slots.from_mailbox_id
    where slots.id = any(:ids)
""")

_CIRCUMSTANCES = text(f"""
    select
        {KEY_IN_USE} as hash_key,
        exists (select from ops.switches where name = 'stop_sending' and is_on)
            or exists (select from ops.restores where settled_at is null) as is_stopped,
        array(select key from ops.host_breakers where open_until > :now order by key) as open_breakers,
        array(select open_until from ops.host_breakers where open_until > :now order by key) as open_until
""")  # noqa: S608 - a constant

_SENDER_DAYS = text("""
    select
        sender_id, local_day, warmup_quota, cold_quota, total_quota, warmup_sent, reply_sent, cold_sent,
        (
            select coalesce(sum(outside.recipients), 0)
            from ops.senders
            inner join ops.outside_mails as outside on outside.mailbox_id = senders.mailbox_id
            where senders.id = sender_days.sender_id and outside.local_day = sender_days.local_day
        ) as outside_sent
    from ops.sender_days
    inner join jsonb_to_recordset(cast(:days as jsonb)) as wanted (sender_id bigint, local_day date)
        using (sender_id, local_day)
    order by sender_id, local_day
    for update of sender_days
""")

_OPEN_BOT_DAYS = text("""
    insert into ops.bot_days (bot_id, local_day)
    select bot_id, local_day
    from jsonb_to_recordset(cast(:days as jsonb)) as wanted (bot_id bigint, local_day date)
    order by bot_id, local_day
    on conflict do nothing
""")

_BOT_DAYS = text("""
    select bot_id, local_day, inbound_sent, reply_sent
    from ops.bot_days
    inner join jsonb_to_recordset(cast(:days as jsonb)) as wanted (bot_id bigint, local_day date)
        using (bot_id, local_day)
    order by bot_id, local_day
    for update of bot_days
""")

_SUBMIT = text(f"""
    with sender_days_counted as (
        update ops.sender_days
        set warmup_sent = counted.warmup_sent, reply_sent = counted.reply_sent, cold_sent = counted.cold_sent
        from jsonb_to_recordset(cast(:sender_days as jsonb)) as counted (
            sender_id bigint, local_day date, warmup_sent integer, reply_sent integer, cold_sent integer
        )
        where sender_days.sender_id = counted.sender_id and sender_days.local_day = counted.local_day
    ),

    bot_days_counted as (
        update ops.bot_days
        set inbound_sent = counted.inbound_sent, reply_sent = counted.reply_sent
        from jsonb_to_recordset(cast(:bot_days as jsonb)) as counted (
            bot_id bigint, local_day date, inbound_sent integer, reply_sent integer
        )
        where bot_days.bot_id = counted.bot_id and bot_days.local_day = counted.local_day
    ),

    paused as (
        update ops.mailboxes
        set next_send_at = pauses.until
        from jsonb_to_recordset(cast(:pauses as jsonb)) as pauses (id bigint, until timestamptz)
        where mailboxes.id = pauses.id
    ),

    rested as (
        update ops.bots
        set cooldown_until = greatest(cooldown_until, rests.until)
        from jsonb_to_recordset(cast(:rests as jsonb)) as rests (id bigint, until timestamptz)
        where bots.id = rests.id
    )
{slot_store.SUBMIT}""")  # noqa: S608 - made of constants

_ROUTE = text("""
    select
        from_mailbox.zone as from_zone,
        to_mailbox.zone as to_zone,
        from_mailbox.smtp_host,
        from_mailbox.smtp_port,
        from_mailbox.provider as sender_provider,
        split_part(from_mailbox.address, '@', 2) as sender_domain,
        coalesce(to_mailbox.address, :to_address) as recipient_address,
        coalesce(to_mailbox.provider, split_part(:to_address, '@', 2)) as recipient_provider,
        egress_ips.address as egress_address
    from ops.mailboxes as from_mailbox
    left join ops.mailboxes as to_mailbox on to_mailbox.id = :to_mailbox_id
    left join ops.egress_ips on egress_ips.id = from_mailbox.egress_ip_id
    where from_mailbox.id = :from_mailbox_id
""")

_UNCOUNT_SENDER_DAY = text("""
    update ops.sender_days
    set warmup_sent = warmup_sent - :warmup, reply_sent = reply_sent - :reply, cold_sent = cold_sent - :cold
    where sender_id = :sender_id and local_day = :local_day
""")

_UNCOUNT_BOT_DAY = text("""
    update ops.bot_days
    set inbound_sent = inbound_sent - :inbound, reply_sent = reply_sent - :reply
    where bot_id = :bot_id and local_day = :local_day
""")

# What has left has left: the day's limits give way to it, and leave no room for more.
_COUNT_SENDER_DAY = text("""
    insert into ops.sender_days as today
        (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, daily_factor, warmup_quota, total_quota,
        warmup_sent, reply_sent, cold_sent)
    values (:sender_id, :local_day, 1, :warmup, 1, 1, 0, 1, :warmup, :reply, :cold)
    on conflict (sender_id, local_day) do update
    set warmup_sent = today.warmup_sent + :warmup,
        reply_sent = today.reply_sent + :reply,
        cold_sent = today.cold_sent + :cold,
        ramp_volume = greatest(today.ramp_volume, today.warmup_sent + :warmup),
        total_quota = greatest(today.total_quota, today.warmup_sent + today.reply_sent + today.cold_sent + 1)
""")

_COUNT_BOT_DAY = text("""
    insert into ops.bot_days as today (bot_id, local_day, inbound_sent, reply_sent)
    values (:bot_id, :local_day, :inbound, :reply)
    on conflict (bot_id, local_day) do update
    set inbound_sent = today.inbound_sent + :inbound, reply_sent = today.reply_sent + :reply
""")


LOST = Refusal("lease_lost")


@dataclass(frozen=True)
class Submission:
    """What the pre-send check said: a refusal, or None and the way that the mail goes."""

    refusal: Refusal | None
    route: Route | None = None


def submit(
    connection: Connection, slots: Sequence[Slot], *, now: datetime, policy: Policy, seed: int, keys: Keys | None = None
) -> dict[int, Submission]:
    """Move the slots that nothing forbids to ``submitting`` and return what was said of each, by slot id.

    Call it immediately before DATA; commit, and only then write DATA. The lease is extended to what the SMTP
    time-outs from here on need. A slot that this worker does not hold any more is refused as ``lease_lost``. ``keys``
    are the secret keys of this machine; where they do not open the one of suppressed hashes, mail to addresses that are
    not ours is put off.
    """
    said = {slot.id: Submission(LOST) for slot in slots}
    facts, lost_in_time, usage, is_stopped = _look(connection, slots, now, keys or {}, policy)
    said |= {slot_id: Submission(refusal) for slot_id, refusal in lost_in_time.items()}
    allowed: list[Slot] = []
    for fact in facts:
        refusal = guard.judge(fact, usage, now=now, is_stopped=is_stopped, policy=policy, seed=seed)
        said[fact.slot.id] = Submission(refusal, fact.route)
        if refusal is None:
            allowed.append(fact.slot)
    if allowed:
        _store(connection, allowed, usage, now=now, lease_s=policy.dispatch.submitting_lease_s)
    return said


def unfit(
    connection: Connection, slots: Sequence[Slot], *, now: datetime, policy: Policy, seed: int
) -> dict[int, Refusal]:
    """Return the slots whose mailboxes are not fit to exchange mail, whose bot rests, or whose login waits.

    Without locks, so that nobody logs in for them.
    """
    by_id = {slot.id: slot for slot in slots}
    judged = {}
    for row in connection.execute(_UNFIT, {"ids": list(by_id)}):
        slot, zones = by_id[row.id], (row.from_zone, row.to_zone)
        judged[row.id] = (
            guard.fitness(
                slot.kind,
                is_checked=bool(row.is_checked),
                sender_state=row.sender_state,
                bot_status=row.bot_status,
            )
            or guard.too_late(slot, now)
            or guard.unknown_zone(*zones, slot, now)
            or guard.login_rest(row.next_login_at, now)
            or guard.staleness(slot.kind, row.read_at, now=now, policy=policy)
        )
        if judged[row.id] is not None:
            continue
        try:
            rules = guard.rules_of(policy, row.sender_profile, row.bot_profile)
        except UnknownProfileError:
            judged[row.id] = guard.unknown_profile(slot, now + timedelta(seconds=policy.dispatch.retry_s))
        else:
            judged[row.id] = guard.bot_rest(slot, zones, row.cooldown_until, now=now, rules=rules, seed=seed)
    return {slot_id: refusal for slot_id, refusal in judged.items() if refusal is not None}


def take_back(connection: Connection, slot: Slot, *, submitted_at: datetime, now: datetime) -> None:
    """Uncount a mail that :func:`submit` counted and that provably did not leave.

    If a zone has become unknown since, there is no telling in which day it was counted: it stays counted in it.
    """
    _recount(connection, slot, submitted_at, now, (_UNCOUNT_SENDER_DAY, _UNCOUNT_BOT_DAY), Counters.take_back)


def count_late(connection: Connection, slot: Slot, *, submitted_at: datetime, now: datetime) -> None:
    """Count a mail that left, or may have left, without being counted: the database was restored since."""
    _recount(connection, slot, submitted_at, now, (_COUNT_SENDER_DAY, _COUNT_BOT_DAY), Counters.add_late)


def _recount(
    connection: Connection,
    slot: Slot,
    submitted_at: datetime,
    now: datetime,
    days: tuple[TextClause, TextClause],
    change: Callable[[Counters, Iterable[CounterKey], datetime], None],
) -> None:
    row = connection.execute(
        _ROUTE,
        {
            "from_mailbox_id": slot.from_mailbox_id,
            "to_mailbox_id": slot.to_mailbox_id,
            "to_address": slot.to_address,
        },
    ).one()
    has_days = guard.unknown_zone(row.from_zone, row.to_zone, slot, now) is None
    sender_day = guard.sender_day_of(slot, row.from_zone, submitted_at) if has_days else None
    if sender_day is not None:
        parts = {str(part): int(part == slot.kind.sender_day) for part in SENDER_DAY_PARTS}
        connection.execute(days[0], _day("sender_id", sender_day) | parts)
    bot_day = guard.bot_day_of(slot, row.from_zone, row.to_zone, submitted_at) if has_days else None
    if bot_day is not None:
        parts = {str(part): int(part == slot.kind.bot_day) for part in BOT_DAY_PARTS}
        connection.execute(days[1], _day("bot_id", bot_day) | parts)
    keys = guard.counters_of(slot, _route(row))
    counted = counters.lock(connection, keys, now)
    change(counted, keys, submitted_at)
    counters.store(connection, counted)


def _look(
    connection: Connection, slots: Sequence[Slot], now: datetime, keys: Keys, policy: Policy
) -> tuple[list[Facts], dict[int, Refusal], Usage, bool]:
    """Lock and read what the decision rests on; slots that are not held any more are left out.

    A slot between mailboxes of which one has no day is refused here, because no counters can be locked for it.
    """
    held = rows_as_json({"id": slot.id, "token": slot.lease_token} for slot in slots)
    rows = {row.id: row for row in prepared.rows_of(connection, "read_facts", _FACTS, {"held": held})}
    held_slots = [slot for slot in slots if slot.id in rows]
    zones = {slot.id: (rows[slot.id].from_zone, rows[slot.id].to_zone) for slot in held_slots}
    judged = {slot.id: guard.unknown_zone(*zones[slot.id], slot, now) for slot in held_slots}
    refused = {slot_id: refusal for slot_id, refusal in judged.items() if refusal is not None}
    [around] = prepared.rows_of(connection, "read_circumstances", _CIRCUMSTANCES, {"now": now})
    hasher: Hasher | None = None
    try:
        hasher = suppression_hashes.opened(connection, keys, around.hash_key)
    except BlindError as error:
        later = Refusal(str(error), retry_at=now + timedelta(seconds=policy.dispatch.retry_s))
        refused |= {slot.id: later for slot in held_slots if slot.to_mailbox_id is None and slot.id not in refused}
    mine = [slot for slot in held_slots if slot.id not in refused]
    routes = {slot.id: _route(rows[slot.id]) for slot in mine}
    blocked = dict(zip(around.open_breakers, around.open_until, strict=True))
    forbidden = suppressed(connection, sorted({route.recipient_address for route in routes.values()}), hasher)
    facts = [_facts(slot, rows[slot.id], routes[slot.id], forbidden, blocked) for slot in mine]
    pauses = {slot.from_mailbox_id: rows[slot.id].next_send_at for slot in mine}
    bots = sorted({slot.known_bot_id for slot in mine if slot.kind.goes_to_bot})
    rests = {row.id: row.cooldown_until for row in prepared.rows_of(connection, "lock_bots", _BOTS, {"ids": bots})}
    return facts, refused, _lock(connection, facts, pauses, rests, now), around.is_stopped


def _facts(
    slot: Slot, row: Row[Any], route: Route, forbidden: Mapping[str, str], blocked: Mapping[str, datetime]
) -> Facts:
    keys = host_breakers.keys_of(slot, route) if blocked else ()
    return Facts(
        slot=slot,
        route=route,
        from_zone=row.from_zone,
        to_zone=row.to_zone,
        is_checked=bool(row.is_checked),
        read_at=row.read_at,
        is_answered=row.is_answered,
        sender_state=row.sender_state,
        sender_profile=row.sender_profile,
        bot_status=row.bot_status,
        bot_profile=row.bot_profile,
        bot_born_at=row.bot_born_at,
        bot_limit=row.bot_limit,
        egress_state=row.egress_state,
        egress_sends_per_hour=row.egress_sends_per_hour,
        suppressed=forbidden.get(route.recipient_address),
        blocked_until=max((blocked[key] for key in keys if key in blocked), default=None),
    )


def _lock(
    connection: Connection,
    facts: Sequence[Facts],
    pauses: dict[int, datetime | None],
    rests: dict[int, datetime | None],
    now: datetime,
) -> Usage:
    sender_keys = {guard.sender_day_of(fact.slot, fact.from_zone, now) for fact in facts} - {None}
    bot_keys = {guard.bot_day_of(fact.slot, fact.from_zone, fact.to_zone, now) for fact in facts} - {None}
    sender_days = {
        (row.sender_id, row.local_day): SenderDay(
            row.warmup_quota,
            row.total_quota,
            row.warmup_sent,
            row.reply_sent,
            row.cold_sent,
            row.cold_quota,
            int(row.outside_sent),
        )
        for row in prepared.rows_of(
            connection, "lock_sender_days", _SENDER_DAYS, {"days": _days("sender_id", sender_keys)}
        )
    }
    bot_days = _bot_days(connection, bot_keys)
    if len(bot_days) < len(bot_keys):
        connection.execute(_OPEN_BOT_DAYS, {"days": _days("bot_id", bot_keys)})
        bot_days = _bot_days(connection, bot_keys)
    keys = (key for fact in facts for key in guard.counters_of(fact.slot, fact.route))
    return Usage(sender_days, bot_days, counters.lock(connection, keys, now), pauses, rests)


def _bot_days(connection: Connection, keys: Iterable[Any]) -> dict[tuple[int, date], BotDay]:
    return {
        (row.bot_id, row.local_day): BotDay(row.inbound_sent, row.reply_sent)
        for row in prepared.rows_of(connection, "lock_bot_days", _BOT_DAYS, {"days": _days("bot_id", keys)})
    }


def _store(connection: Connection, allowed: Sequence[Slot], usage: Usage, *, now: datetime, lease_s: float) -> None:
    sender_days = [
        _day("sender_id", key) | {f"{part}_sent": usage.sender_days[key].used(part) for part in SENDER_DAY_PARTS}
        for key in sorted(usage.changed_sender_days)
    ]
    bot_days = [_day("bot_id", key) | vars(usage.bot_days[key]) for key in sorted(usage.changed_bot_days)]
    sending = sorted({slot.from_mailbox_id for slot in allowed})
    receiving = sorted({slot.known_bot_id for slot in allowed if slot.kind.goes_to_bot})
    counters.store(connection, usage.counters)
    prepared.rows_of(
        connection,
        "submit_slots",
        _SUBMIT,
        {
            "sender_days": rows_as_json(sender_days),
            "bot_days": rows_as_json(bot_days),
            "pauses": rows_as_json({"id": mailbox, "until": usage.next_send_at[mailbox]} for mailbox in sending),
            "rests": rows_as_json({"id": bot, "until": usage.bot_free_at[bot]} for bot in receiving),
            "ids": [slot.id for slot in allowed],
            "now": now,
            "lease_s": lease_s,
        },
    )


def _day(column: str, key: tuple[int, date]) -> dict[str, Any]:
    return {column: key[0], "local_day": key[1]}


def _days(column: str, keys: Iterable[Any]) -> str:
    return rows_as_json(_day(column, key) for key in sorted(keys))


def _route(row: Row[Any]) -> Route:
    return Route(
        smtp_host=server_of(row.smtp_host, row.smtp_port),
        sender_provider=row.sender_provider,
        sender_domain=row.sender_domain,
        recipient_address=row.recipient_address,
        recipient_provider=row.recipient_provider,
        egress_address=row.egress_address,
    )
