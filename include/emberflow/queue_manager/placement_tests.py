"""A placement test is begun: its row, and its probes as slots of the queue (E-F5).

Probes are mail like any other: claimed, checked before DATA, counted, sent at most once, found by the inbox. What is
decided here is only whom they go to and when, or that the test cannot be made now. The rules are `bots.placement_test`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from emberflow.accounts.suppressions import SUPPRESSED_BOTS
from emberflow.bots.limits import cap_today, next_waking
from emberflow.bots.placement_test import Candidate, Choice, choose, probe_times
from emberflow.clock import known_zones, local_day
from emberflow.delivery.guard import SenderDay
from emberflow.domain.mail_kind import PLACEMENT_PROBE
from emberflow.email_ops.addresses import domain_of, normalise
from emberflow.email_ops.message import message_id_for, require_one_line
from emberflow.errors import EmberflowError, UnknownProfileError
from emberflow.policy.document import Policy
from emberflow.policy.versions import PolicyInForce
from emberflow.queue_manager import slot_store
from emberflow.senders.pacing import next_opening
from emberflow.settings import Settings

_LONGEST_SUBJECT: Final = 200
LONGEST_TEXT: Final = 65_536
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

_SENDER = text("""
    select
        senders.id, senders.state, senders.profile,
        mailboxes.id as mailbox_id, mailboxes.address, mailboxes.zone, mailboxes.owner, mailboxes.egress_ip_id,
        mailboxes.check_passed, mailboxes.next_send_at
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where mailboxes.address = :address and mailboxes.removed_at is null
    for no key update of mailboxes
""")

_DAY = text("""
    select
        warmup_quota, total_quota, warmup_sent, reply_sent, cold_sent,
        (
            select coalesce(sum(outside.recipients), 0)
            from ops.outside_mails as outside
            where outside.mailbox_id = :mailbox_id and outside.local_day = sender_days.local_day
        ) as outside_sent
    from ops.sender_days
    where sender_id = :sender_id and local_day = :local_day
""")

_OPEN = text("""
    select states.target_time, tasks.gap_s, tasks.task_type, states.local_day
    from ops.slot_states as states
    inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
    where states.status in ('planned', 'leased') and states.from_mailbox_id = :mailbox_id
""")

_CANDIDATES = text(f"""
    select
        bots.id, bots.status, bots.profile, bots.born_at, bots.interaction_limits, bots.cooldown_until,
        mailboxes.provider, mailboxes.zone, mailboxes.check_passed, readings.read_at,
        split_part(mailboxes.address, '@', 2) = :domain
            or coalesce(mailboxes.owner = :owner, false)
            or coalesce(mailboxes.egress_ip_id = :egress_ip_id, false) as is_akin,
        mailboxes.id in ({SUPPRESSED_BOTS}) as is_suppressed,
        exists (
            select from ops.recipient_refusals as refusals
            where refusals.from_mailbox_id = :mailbox_id and refusals.to_mailbox_id = mailboxes.id
        ) as is_refused,
        coalesce(days.inbound_sent, 0) as inbound_sent
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    left join ops.mailbox_readings as readings on readings.mailbox_id = mailboxes.id
    left join ops.bot_days as days
        on days.bot_id = bots.id and days.local_day = ops.local_day(:now, mailboxes.zone)
    where mailboxes.removed_at is null and bots.status <> 'retired'
    order by bots.id
""")  # noqa: S608 - a query of its module

_MAILBOXES = text("select id, mailbox_id from ops.bots where id = any(:ids)")

_BEGIN = text("""
    insert into ops.placement_tests
        (sender_id, per_provider, subject, is_own_text, left_out, started_by, reason, started_at, ends_at)
    values (:sender_id, :per_provider, :subject, :is_own_text, '{}', :started_by, :reason, :started_at, :ends_at)
    returning id
""")
_LEAVE_OUT = text("update ops.placement_tests set left_out = cast(:left_out as jsonb) where id = :id")


@dataclass(frozen=True)
class ProbeText:
    """What a test's probes say.

    Raises:
        EmberflowError: it cannot be sent as plain text.
    """

    subject: str = "Placement test"
    body: str = (
        "This is a placement test between mailboxes of one operator. It shows in which folder mail from this mailbox "
        "arrives. It was sent by a program, and needs no answer.\n"
    )

    def __post_init__(self) -> None:
        require_one_line("subject", self.subject)
        if not self.subject.strip() or len(self.subject) > _LONGEST_SUBJECT:
            raise EmberflowError(f"the subject of a probe has 1 to {_LONGEST_SUBJECT} characters")
        if not self.body.strip() or len(self.body) > LONGEST_TEXT:
            raise EmberflowError(f"the text of a probe has 1 to {LONGEST_TEXT} characters")
        if (found := _NO_TEXT.search(self.body)) is not None:
            line = self.body.count("\n", 0, found.start()) + 1
            raise EmberflowError(f"the text of a probe is plain text; its line {line} holds {found.group()!r}")


@dataclass(frozen=True)
class Begun:
    """A test that has begun: how many probes leave, the first and the last of them when, and who gets none and why."""

    id: int
    probes: int
    first_at: datetime
    last_at: datetime
    ends_at: datetime
    left_out: Mapping[str, Mapping[str, int]]


def begin(
    connection: Connection,
    sender_address: str,
    *,
    per_provider: int,
    what: ProbeText,
    by: str,
    reason: str,
    now: datetime,
    force: PolicyInForce,
    settings: Settings,
) -> Begun:
    """Write a test of a sender and its probes, all of them or none.

    Raises:
        EmberflowError: the test cannot be made now, and why; nothing was written.
    """
    policy, numbers = force.policy, force.policy.placement_tests
    sender = _fit_sender(connection, sender_address, now, force)
    ends_at = now + timedelta(seconds=numbers.within_s)
    worth_until = ends_at - timedelta(seconds=numbers.arrival_s)
    last = worth_until - timedelta(seconds=numbers.gap_s)  # one that leaves a little later than planned is not too late
    test_id: int = connection.execute(
        _BEGIN,
        {
            "sender_id": sender.id,
            "per_provider": per_provider,
            "subject": what.subject,
            "is_own_text": what != ProbeText(),
            "started_by": by,
            "reason": reason,
            "started_at": now,
            "ends_at": ends_at,
        },
    ).scalar_one()
    candidates = list(_candidates(connection, sender, now, last, policy))
    choice = choose(candidates, per_provider=per_provider, seed=force.seed, test_id=test_id)
    if not choice.bot_ids:
        raise EmberflowError(
            f"no mailbox can get a probe now: {_said(choice) or 'there are no bots'}; "
            "`emberflow bots list` shows them, and the DAG `inbox` reads them every few minutes"
        )
    times = _times(connection, sender, len(choice.bot_ids), now, last, force)
    connection.execute(_LEAVE_OUT, {"id": test_id, "left_out": json.dumps(choice.left_out)})
    _write(
        connection, sender, test_id, dict(zip(choice.bot_ids, times, strict=True)), what, worth_until, force, settings
    )
    return Begun(test_id, len(times), times[0], times[-1], ends_at, choice.left_out)


def _fit_sender(connection: Connection, address: str, now: datetime, force: PolicyInForce) -> Row[Any]:
    """Return the sender, its mailbox locked, so that two tests of it begin one after the other."""
    sender = connection.execute(_SENDER, {"address": normalise(address)}).one_or_none()
    if sender is None:
        raise EmberflowError(f"{address} is not a sender; see `emberflow senders list`")
    if not sender.check_passed:
        raise EmberflowError(f"{sender.address} has not passed its check: run `emberflow senders check {address}`")
    if sender.state != "active":
        raise EmberflowError(f"{sender.address} is {sender.state} and sends nothing; see `emberflow senders list`")
    if sender.zone not in known_zones():
        raise EmberflowError(f"{sender.address} is in no known time zone: correct it with `emberflow senders set`")
    pacing = force.policy.profile(sender.profile).pacing
    opening = next_opening(sender.zone, now, pacing, seed=force.seed, sender_id=sender.id)
    if opening != now:
        raise EmberflowError(f"{sender.address} sends nothing now; its window opens at {opening:%Y-%m-%d %H:%M} UTC")
    return sender


def _times(
    connection: Connection, sender: Row[Any], number: int, now: datetime, last: datetime, force: PolicyInForce
) -> Sequence[datetime]:
    """Return when the probes leave.

    Raises:
        EmberflowError: the day's quota, or the time, is too short for all of them.
    """
    today = local_day(now, sender.zone)
    asked = {"sender_id": sender.id, "mailbox_id": sender.mailbox_id, "local_day": today}
    row = connection.execute(_DAY, asked).one_or_none()
    if row is None:
        raise EmberflowError(f"{sender.address} has no quota for {today} yet: it gets one when an hour is planned")
    day = SenderDay(
        row.warmup_quota,
        row.total_quota,
        row.warmup_sent,
        row.reply_sent,
        row.cold_sent,
        outside_sent=int(row.outside_sent),
    )
    quota = day.quota("warmup")
    waiting = connection.execute(_OPEN, {"mailbox_id": sender.mailbox_id}).all()
    probes = sum(one.task_type == PLACEMENT_PROBE.task_type and one.local_day == today for one in waiting)
    left = max(min(quota - day.warmup_sent, day.total_quota - day.sent) - probes, 0)
    if number > left:
        raise EmberflowError(
            f"{number} probes do not fit into what is left of the quota of {sender.address} for {today}: {left} "
            f"(warm-up {day.warmup_sent}/{quota}, all mail {day.sent}/{day.total_quota}, probes that wait "
            f"{probes}); ask for fewer with --per-provider, or tomorrow"
        )
    pacing = force.policy.profile(sender.profile).pacing
    first = max(now, sender.next_send_at or now)
    gap_s = force.policy.placement_tests.gap_s
    busy = ((one.target_time, one.gap_s) for one in waiting)
    times = [
        at
        for at in probe_times(first, last, gap_s=gap_s, number=number, busy=busy)
        if local_day(at, sender.zone) == today
        and next_opening(sender.zone, at, pacing, seed=force.seed, sender_id=sender.id) == at
    ]
    if len(times) < number:
        raise EmberflowError(
            f"only {len(times)} of {number} probes can leave {sender.address} until {last:%H:%M} UTC, between its "
            f"other mail and within its window; ask for fewer with --per-provider, or later"
        )
    return times


def _candidates(
    connection: Connection, sender: Row[Any], now: datetime, last: datetime, policy: Policy
) -> Iterator[Candidate]:
    rows = connection.execute(
        _CANDIDATES,
        {
            "now": now,
            "domain": domain_of(sender.address),
            "owner": sender.owner,
            "egress_ip_id": sender.egress_ip_id,
            "mailbox_id": sender.mailbox_id,
        },
    )
    for row in rows:
        yield Candidate(row.id, row.provider, _unusable(row, now, last, policy))


def _unusable(bot: Row[Any], now: datetime, last: datetime, policy: Policy) -> str | None:
    """Return why a bot gets no probe from ``now`` until ``last``; None: it can get one."""
    fresh_since = now - timedelta(seconds=policy.inbox.fresh_s)
    checks = (
        ("of the sender's own domain, owner or address", bot.is_akin),
        (bot.status, bot.status != "active"),
        ("not checked", not bot.check_passed),
        ("suppressed", bot.is_suppressed),
        ("refused mail of this sender", bot.is_refused),
        ("not read lately", bot.read_at is None or bot.read_at < fresh_since),
        ("in no known time zone", bot.zone not in known_zones()),
    )
    for why, applies in checks:
        if applies:
            return why
    try:
        limits = policy.profile(bot.profile).bots
    except UnknownProfileError:
        return "of an unknown profile"
    if any(next_waking(bot.zone, at, limits) != at for at in (now, last)):
        return "asleep"
    if bot.cooldown_until is not None and bot.cooldown_until > now:
        return "resting"
    cap = cap_today(limits, bot.born_at, bot.interaction_limits, now)
    return "at its cap" if bot.inbound_sent >= cap else None


def _write(
    connection: Connection,
    sender: Row[Any],
    test_id: int,
    times: Mapping[int, datetime],
    what: ProbeText,
    worth_until: datetime,
    force: PolicyInForce,
    settings: Settings,
) -> None:
    signing_key = settings.require_token_keys()[0].get_secret_value().encode()
    mailbox_of: dict[int, int] = {
        row.id: row.mailbox_id for row in connection.execute(_MAILBOXES, {"ids": list(times)})
    }
    payload = {"test": test_id, "subject": what.subject, "body": what.body, "worth_until": worth_until.isoformat()}
    rows = []
    for bot_id, at in times.items():
        key = f"probe:{test_id}:{bot_id}"
        rows.append(
            {
                "priority_level": int(PLACEMENT_PROBE.priority),
                "task_type": PLACEMENT_PROBE.task_type,
                "target_time": at,
                "payload": payload,
                "idempotency_key": key,
                "from_mailbox_id": sender.mailbox_id,
                "to_mailbox_id": mailbox_of[bot_id],
                "sender_id": sender.id,
                "bot_id": bot_id,
                "turn": 0,
                "local_day": local_day(at, sender.zone),
                "gap_s": force.policy.placement_tests.gap_s,
                "message_id": message_id_for(key, domain_of(sender.address), signing_key),
                "policy_id": force.policy_id,
            }
        )
    slot_store.add(connection, rows)


def _said(choice: Choice) -> str:
    total: dict[str, int] = {}
    for reasons in choice.left_out.values():
        for why, number in reasons.items():
            total[why] = total.get(why, 0) + number
    return ", ".join(f"{number} {why}" for why, number in sorted(total.items()))
