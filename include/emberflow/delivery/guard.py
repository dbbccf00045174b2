"""The rule of the pre-send check: may this mail leave now, and if not, what forbids it and until when?

Pure: what the database said under lock comes in, a refusal or nothing goes out. ``queue_manager.pre_send`` reads and
writes. Mails of one transaction are judged one after the other, and each is counted before the next is judged.

Anything unknown forbids (Q-B6): a day without a quota row, a mailbox that was never checked, a bot that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Protocol

import numpy as np

from emberflow.bots.limits import cap_today, next_waking
from emberflow.bots.policy import BotPolicy
from emberflow.clock import clock_of, known_zones, local_day, require_utc
from emberflow.delivery.caps import Cap, CapPolicy, CounterKey, Counters
from emberflow.delivery.retries import RetryPolicy
from emberflow.delivery.routes import Route
from emberflow.domain.mail_kind import MailKind, Scope, SenderDayPart
from emberflow.domain.slot import ANSWERED_BY_HAND, Slot
from emberflow.errors import UnknownProfileError
from emberflow.senders.pacing import next_opening
from emberflow.senders.policy import PacingPolicy, QuotaPolicy
from emberflow.senders.quota import beside_outside_mail, reserved_for_warmup

_OPENINGS_TRIED = 60  # a day has one or two, and a weekend must pass


class FreshnessPolicy(Protocol):
    """What is read of the policy in force (`policy.queue.InboxPolicy`)."""

    @property
    def fresh_s(self) -> int: ...


class Numbers(Protocol):
    """What the guard reads of the numbers of one mailbox."""

    @property
    def pacing(self) -> PacingPolicy: ...
    @property
    def quota(self) -> QuotaPolicy: ...
    @property
    def bots(self) -> BotPolicy: ...


class GuardPolicy(Protocol):
    """What the guard reads of the policy in force."""

    @property
    def caps(self) -> CapPolicy: ...
    @property
    def dispatch(self) -> RetryPolicy: ...
    @property
    def inbox(self) -> FreshnessPolicy: ...
    def profile(self, name: str | None) -> Numbers: ...


@dataclass(frozen=True)
class Rules:
    """The numbers that bind one mail: of the sender's profile its hours and quotas, of the bot's its limits."""

    pacing: PacingPolicy
    quota: QuotaPolicy
    bots: BotPolicy


def rules_of(policy: GuardPolicy, sender_profile: str | None, bot_profile: str | None) -> Rules:
    """Return the numbers of a sender and a bot by the names of their profiles; None: the policy's own.

    Raises:
        UnknownProfileError: the policy has no such profile.
    """
    sender = policy.profile(sender_profile)
    return Rules(sender.pacing, sender.quota, policy.profile(bot_profile).bots)


@dataclass(frozen=True)
class Refusal:
    """Why a slot may not be sent now. ``retry_at`` None means: not at all. ``binding_cap`` names the cap (Q-F7)."""

    reason: str
    retry_at: datetime | None = None
    binding_cap: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of one slot at this moment. ``bot_*`` are None for cold mail.

    ``read_at`` is when the last whole reading of the mailbox that sends began; None: never. ``is_answered``: a person
    has written in its conversation from the mailbox that sends.
    """

    slot: Slot
    route: Route
    from_zone: str
    to_zone: str | None
    is_checked: bool
    read_at: datetime | None
    sender_state: str
    sender_profile: str | None
    bot_status: str | None
    bot_profile: str | None
    bot_born_at: datetime | None
    bot_limit: int | None
    egress_state: str | None
    egress_sends_per_hour: int | None
    suppressed: str | None
    blocked_until: datetime | None
    is_answered: bool = False


@dataclass
class SenderDay:
    """A sender's local day: its quotas, and what is used of them. No quota for cold mail is known: none may leave.

    ``outside_sent`` is what a person sent from the mailbox.
    """

    warmup_quota: int
    total_quota: int
    warmup_sent: int
    reply_sent: int
    cold_sent: int
    cold_quota: int = 0
    outside_sent: int = 0

    @property
    def sent(self) -> int:
        """Mail of all kinds, whoever sent it."""
        return self.warmup_sent + self.reply_sent + self.cold_sent + self.outside_sent

    def used(self, part: SenderDayPart) -> int:
        """What left in one part of the day."""
        return {"warmup": self.warmup_sent, "reply": self.reply_sent, "cold": self.cold_sent}[part]

    def quota(self, part: SenderDayPart) -> int:
        """What may leave in one part of the day; replies have all of it."""
        if part == "warmup":
            return int(beside_outside_mail(np.array(self.warmup_quota), np.array(self.outside_sent)))
        return self.total_quota if part == "reply" else self.cold_quota

    def count(self, part: SenderDayPart) -> None:
        """Count one mail."""
        self.warmup_sent += part == "warmup"
        self.reply_sent += part == "reply"
        self.cold_sent += part == "cold"

    def unused_reserve(self, policy: QuotaPolicy) -> int:
        """What is left of the mails that only warm-up mail may use (Q-B2)."""
        quotas = (np.array([quota]) for quota in (self.warmup_quota, self.total_quota))
        unused = int(reserved_for_warmup(policy, *quotas)[0]) - self.warmup_sent
        return max(min(unused, self.quota("warmup") - self.warmup_sent), 0)


@dataclass
class BotDay:
    """A bot's local day."""

    inbound_sent: int = 0
    reply_sent: int = 0


@dataclass
class Usage:
    """Usage: everything that a mail is counted in, as read under lock; ``judge`` changes it."""

    sender_days: dict[tuple[int, date], SenderDay]
    bot_days: dict[tuple[int, date], BotDay]
    counters: Counters
    next_send_at: dict[int, datetime | None]
    bot_free_at: dict[int, datetime | None]
    changed_sender_days: set[tuple[int, date]] = field(default_factory=set)
    changed_bot_days: set[tuple[int, date]] = field(default_factory=set)


def judge(
    facts: Facts, usage: Usage, *, now: datetime, is_stopped: bool, policy: GuardPolicy, seed: int
) -> Refusal | None:
    """Return why the mail may not leave at ``now``; None means that it may, and that it is counted (Q-B5)."""
    slot = facts.slot
    if is_stopped:
        return Refusal("stop_sending_is_on", now + timedelta(seconds=policy.dispatch.retry_s))
    refusal = too_late(slot, now) or _state(facts, now) or staleness(slot.kind, facts.read_at, now=now, policy=policy)
    if refusal is not None:
        return refusal
    try:
        rules = rules_of(policy, facts.sender_profile, facts.bot_profile)
    except UnknownProfileError:
        # The policy changed under a worker that began before; its next run knows the profile.
        return unknown_profile(slot, now + timedelta(seconds=policy.dispatch.retry_s))
    refusal = _moment(facts, usage, now, rules, seed)
    if refusal is not None:
        return refusal
    caps = caps_of(slot, facts.route, policy.caps, facts.egress_sends_per_hour)
    refusal = _day_caps(facts, usage, now, rules) or _rolling_caps(slot, caps, usage.counters)
    if refusal is None:
        _count(facts, usage, caps, now, rules)
    return refusal


def too_late(slot: Slot, now: datetime) -> Refusal | None:
    """Return why a mail is not worth sending any more."""
    return Refusal("too_late") if slot.is_too_late(now) else None


def unknown_profile(slot: Slot, retry_at: datetime) -> Refusal:
    """Return the refusal of a mail of which no numbers are known; the next plan makes up for a warm-up mail."""
    return Refusal("profile_unknown", None if slot.kind.is_given_up else retry_at)


def unknown_zone(from_zone: str, to_zone: str | None, slot: Slot, now: datetime) -> Refusal | None:
    """Return why two mailboxes have no day and no hours that could be kept to; None if they have.

    The next plan makes up for a warm-up mail; another one waits until an operator has corrected the zone.
    """
    for zone in (from_zone, to_zone):
        if zone is not None and zone not in known_zones():
            return Refusal(f"zone_unknown: {zone}", None if slot.kind.is_given_up else now + timedelta(hours=1))
    return None


def fitness(kind: MailKind, *, is_checked: bool, sender_state: str, bot_status: str | None) -> Refusal | None:
    """Return why two mailboxes are not fit to exchange such mail at all; None if they are."""
    if not is_checked:
        return Refusal("mailbox_not_checked")
    if sender_state != "active":
        return Refusal(f"sender_{sender_state}")
    return Refusal(f"bot_{bot_status}") if kind.has_bot and bot_status != "active" else None


def staleness(kind: MailKind, read_at: datetime | None, *, now: datetime, policy: GuardPolicy) -> Refusal | None:
    """Return why nothing that goes on with a conversation leaves from a mailbox that was not read of late (D-F6).

    What has arrived there since, an answer or a bounce, may forbid it.
    """
    if kind.conversation != "continues":
        return None
    if read_at is not None and now - read_at <= timedelta(seconds=policy.inbox.fresh_s):
        return None
    return Refusal(
        "mailbox_not_read_lately", now + timedelta(seconds=min(policy.inbox.fresh_s, policy.dispatch.retry_s))
    )


def login_rest(next_try_at: datetime | None, now: datetime) -> Refusal | None:
    """Return until when nobody logs in to a mailbox whose last login was refused."""
    return Refusal("login_refused", next_try_at) if next_try_at is not None and next_try_at > now else None


def bot_rest(
    slot: Slot,
    zones: tuple[str, str | None],
    free_at: datetime | None,
    *,
    now: datetime,
    rules: Rules,
    seed: int,
) -> Refusal | None:
    """Return until when the bot that the mail goes to rests from the one before; ``zones``: of sender and recipient.

    The mail waits for the end of the pause, a reply also for the next moment at which its sender works and the bot is
    awake. A warm-up mail that would be too late for the present window is given up: the next plan makes up for it.
    """
    if not slot.kind.goes_to_bot or free_at is None or free_at <= now:
        return None
    retry_at = _opening(slot, zones, free_at, rules, seed)
    return Refusal("bot_cooldown", None if slot.kind.is_given_up and retry_at != free_at else retry_at)


def sender_day_of(slot: Slot, from_zone: str, now: datetime) -> tuple[int, date] | None:
    """Return the key of the sender's day that the mail counts in; None: in none, as a bot's reply."""
    return None if slot.kind.sender_day is None else (slot.sender_id, local_day(now, from_zone))


def bot_day_of(slot: Slot, from_zone: str, to_zone: str | None, now: datetime) -> tuple[int, date] | None:
    """Return the key of the bot's day that the mail counts in; None: in none, as cold mail."""
    zone = to_zone if slot.kind.goes_to_bot else from_zone
    return None if slot.kind.bot_day is None or zone is None else (slot.known_bot_id, local_day(now, zone))


def counters_of(slot: Slot, route: Route) -> list[CounterKey]:
    """Return every counter that this mail counts in, capped or not."""
    keys: Mapping[Scope, str | None] = {
        "recipient_domain": route.recipient_domain,
        "provider": route.recipient_provider,
        "all": "",
        "sender": str(slot.from_mailbox_id),
        "cold": str(slot.from_mailbox_id),
        "egress_ip": route.egress_address,
    }
    named = ((scope, keys[scope]) for scope in slot.kind.counters)
    return [CounterKey(scope, key) for scope, key in named if key is not None]


def caps_of(slot: Slot, route: Route, policy: CapPolicy, egress_sends_per_hour: int | None) -> list[Cap]:
    """Return the caps on rolling and hourly counters that bind this mail, in the order in which they are asked."""
    limits: Mapping[Scope, int | None] = {
        "sender": policy.sender_24h_by_provider.get(route.sender_provider, policy.sender_24h),
        "cold": policy.cold_24h,
        "recipient_domain": policy.recipient_domain_24h,
        "provider": policy.provider_24h,
        "egress_ip": egress_sends_per_hour,
        "all": policy.all_24h,
    }
    keys = {key.scope: key for key in counters_of(slot, route)}
    return [
        Cap(keys[scope], limit, "hour" if scope == "egress_ip" else "24h")
        for scope, limit in limits.items()
        if limit is not None and scope in keys
    ]


def _state(facts: Facts, now: datetime) -> Refusal | None:
    if facts.suppressed is not None:
        return Refusal(f"suppressed: {facts.suppressed}")
    if facts.is_answered:
        return Refusal(ANSWERED_BY_HAND)
    unfit = fitness(
        facts.slot.kind, is_checked=facts.is_checked, sender_state=facts.sender_state, bot_status=facts.bot_status
    )
    if unfit is not None:
        return unfit
    if facts.egress_state not in (None, "active"):
        # A listed address holds its queue and is never routed around: only the operator decides that.
        return Refusal("egress_address_held", now + timedelta(hours=1))
    if facts.blocked_until is not None and facts.blocked_until > now:
        return Refusal("circuit_breaker", facts.blocked_until)
    return None


def _moment(facts: Facts, usage: Usage, now: datetime, rules: Rules, seed: int) -> Refusal | None:
    slot, zones = facts.slot, (facts.from_zone, facts.to_zone)
    opening = _opening(slot, zones, now, rules, seed)
    if opening != now:
        sleeps = slot.kind.goes_to_bot and _own_opening(slot, facts.from_zone, now, rules, seed) == now
        return Refusal("bot_asleep" if sleeps else "outside_window", None if slot.kind.is_given_up else opening)
    next_send_at = usage.next_send_at[slot.from_mailbox_id]
    if next_send_at is not None and next_send_at > now:
        return Refusal("gap", next_send_at)
    free_at = usage.bot_free_at.get(slot.known_bot_id) if slot.kind.goes_to_bot else None
    return bot_rest(slot, zones, free_at, now=now, rules=rules, seed=seed)


def _opening(slot: Slot, zones: tuple[str, str | None], at: datetime, rules: Rules, seed: int) -> datetime | None:
    """Return the first instant from ``at`` on at which its mailbox may send the mail, and a bot is awake to receive it.

    None: the window of the one and the waking hours of the other do not meet within weeks.
    """
    from_zone, to_zone = zones
    for _ in range(_OPENINGS_TRIED):
        opening = _own_opening(slot, from_zone, at, rules, seed)
        if not slot.kind.goes_to_bot or to_zone is None:
            return opening
        at = next_waking(to_zone, opening, rules.bots)
        if at == opening:
            return opening
    return None


def _own_opening(slot: Slot, zone: str, at: datetime, rules: Rules, seed: int) -> datetime:
    if slot.kind.is_from_sender:
        return next_opening(zone, at, rules.pacing, seed=seed, sender_id=slot.sender_id)
    return next_waking(zone, at, rules.bots)


def _day_caps(facts: Facts, usage: Usage, now: datetime, rules: Rules) -> Refusal | None:
    slot, kind = facts.slot, facts.slot.kind

    def capped(reason: str, zone: str, cap: str) -> Refusal:
        return Refusal(reason, None if slot.kind.is_given_up else _next_day(now, zone, rules.pacing), cap)

    def of_sender(cap: str, outside: int) -> Refusal:
        named = f"{cap}, {outside} sent outside" if outside else cap
        return capped("sender_daily_quota", facts.from_zone, f"sender_day:{slot.sender_id}{named}")

    sender_key = sender_day_of(slot, facts.from_zone, now)
    if sender_key is not None and kind.sender_day is not None:
        day = usage.sender_days.get(sender_key)
        if day is None:
            return of_sender(" no quota row", 0)
        if day.sent >= day.total_quota:
            return of_sender(f" {day.sent}/{day.total_quota}", day.outside_sent)
        reserve = day.unused_reserve(rules.quota)
        if kind.sender_day != "warmup" and day.sent + reserve >= day.total_quota:
            return of_sender(f" {day.sent}/{day.total_quota}, {reserve} kept for warm-up", day.outside_sent)
        used, quota = day.used(kind.sender_day), day.quota(kind.sender_day)
        if used >= quota:
            outside = day.outside_sent if kind.sender_day == "warmup" else 0
            return of_sender(f":{kind.sender_day} {used}/{quota}", outside)
    bot_key = bot_day_of(slot, facts.from_zone, facts.to_zone, now)
    if bot_key is None:
        return None
    bot_day = usage.bot_days[bot_key]
    if kind.bot_day == "reply":
        used, cap = bot_day.reply_sent, rules.bots.daily_reply_cap
        name, zone = "bot_daily_reply_cap", facts.from_zone
    else:
        if facts.bot_born_at is None or facts.to_zone is None:
            return Refusal("bot_unknown")
        used, cap = bot_day.inbound_sent, cap_today(rules.bots, facts.bot_born_at, facts.bot_limit, now)
        name, zone = "bot_daily_inbound_cap", facts.to_zone
    return None if used < cap else capped(name, zone, f"bot_day:{slot.bot_id} {used}/{cap}")


def _rolling_caps(slot: Slot, caps: list[Cap], counters: Counters) -> Refusal | None:
    for cap in caps:
        used = counters.used(cap)
        if used >= cap.limit:
            name = f"{cap.counter.scope}_{cap.window}:{cap.counter.key} {used}/{cap.limit}"
            retry_at = None if slot.kind.is_given_up else counters.loosens_at(cap)
            return Refusal(f"{cap.counter.scope}_cap", retry_at, name)
    return None


def _count(facts: Facts, usage: Usage, caps: list[Cap], now: datetime, rules: Rules) -> None:
    slot = facts.slot
    sender_key = sender_day_of(slot, facts.from_zone, now)
    if sender_key is not None and slot.kind.sender_day is not None:
        usage.sender_days[sender_key].count(slot.kind.sender_day)
        usage.changed_sender_days.add(sender_key)
    bot_key = bot_day_of(slot, facts.from_zone, facts.to_zone, now)
    if bot_key is not None:
        bot_day = usage.bot_days[bot_key]
        bot_day.inbound_sent += slot.kind.bot_day == "inbound"
        bot_day.reply_sent += slot.kind.bot_day == "reply"
        usage.changed_bot_days.add(bot_key)
    usage.counters.add(counters_of(slot, facts.route))
    usage.next_send_at[slot.from_mailbox_id] = now + timedelta(seconds=slot.gap_s)
    if slot.kind.goes_to_bot:
        usage.bot_free_at[slot.known_bot_id] = now + timedelta(seconds=rules.bots.cooldown_s)


def _next_day(now: datetime, zone: str, pacing: PacingPolicy) -> datetime:
    """Return when sending hours start on the next local day of ``zone``."""
    tomorrow = local_day(now, zone) + timedelta(days=1)
    return require_utc(datetime.combine(tomorrow, pacing.window_start, clock_of(zone)))
