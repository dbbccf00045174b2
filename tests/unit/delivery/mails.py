"""Builders of this folder: a mail as the guard sees it, on a day on which nothing forbids it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from typing import Any

from emberflow.delivery.caps import HOURS_KEPT, Counters
from emberflow.delivery.guard import (
    BotDay,
    Facts,
    Refusal,
    SenderDay,
    Usage,
    bot_day_of,
    counters_of,
    judge,
    sender_day_of,
)
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot
from emberflow.policy.document import Policy

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def a_policy(**sections: Any) -> Policy:
    """Open from eight to five on every day, without lunch or jitter; sections are replaced."""
    open_all_day = {
        "window_start": time(8), "window_end": time(17), "weekdays": range(7), "workday_start_spread_s": 0,
        "workday_end_spread_s": 0, "lunch_minimum_s": 0, "lunch_maximum_s": 0,
    }  # fmt: skip
    return Policy.model_validate({"name": "test", "label": "test", "pacing": open_all_day} | sections)


def a_mail(**changes: Any) -> Slot:
    """The first warm-up mail of sender 1 to bot 2."""
    fields: dict[str, Any] = {
        "id": 1, "task_type": "warmup", "target_time": NOON, "payload": {}, "idempotency_key": "warmup:1",
        "from_mailbox_id": 11, "to_mailbox_id": 22, "to_address": None, "sender_id": 1, "bot_id": 2,
        "conversation_id": None, "turn": 1, "gap_s": 600, "message_id": "<1@x>", "attempts": 0, "lease_token": "",
    }  # fmt: skip
    return Slot(**(fields | changes))


def an_answer(**changes: Any) -> Slot:
    """The sender's answer to a bot: it is owed, so nothing makes up for it."""
    return a_mail(**({"task_type": "reply", "idempotency_key": "reply:1", "turn": 3} | changes))


def a_bots_reply(**changes: Any) -> Slot:
    """What bot 2 writes back to sender 1."""
    return a_mail(
        **({"task_type": "reply", "turn": 2, "from_mailbox_id": 22, "to_mailbox_id": 11} | changes),
    )


def a_cold_mail(**changes: Any) -> Slot:
    """The first mail to a lead."""
    nobody_of_ours = {"to_mailbox_id": None, "to_address": "lead@leads.test", "bot_id": None}
    return a_mail(**({"task_type": "cold_first_touch", "idempotency_key": "cold:1:1"} | nobody_of_ours | changes))


def the_facts(slot: Slot, **changes: Any) -> Facts:
    """Nothing but the time of day forbids the mail."""
    fields: dict[str, Any] = {
        "slot": slot, "route": Route("smtp.a.test", "own", "senders.test", "bot@bots.test", "google", None),
        "from_zone": "UTC", "to_zone": "UTC", "is_checked": True,
        "read_at": datetime(2999, 1, 1, tzinfo=UTC), "sender_state": "active",
        "sender_profile": None, "bot_status": "active", "bot_profile": None,
        "bot_born_at": datetime(2020, 1, 1, tzinfo=UTC), "bot_limit": None, "egress_state": None,
        "egress_sends_per_hour": None, "suppressed": None, "blocked_until": None,
    }  # fmt: skip
    return Facts(**(fields | changes))


@dataclass
class Day:
    """What a mail is counted in, and a guard to ask on that day."""

    sender_day: SenderDay | None = field(default_factory=lambda: SenderDay(30, 50, 0, 0, 0, cold_quota=20))
    bot_day: BotDay = field(default_factory=BotDay)
    policy: Policy = field(default_factory=a_policy)
    now: datetime = NOON
    next_send_at: datetime | None = None
    bot_free_at: datetime | None = None
    is_stopped: bool = False
    sent_earlier: dict[str, int] = field(default_factory=dict)

    def usage(self, facts: Facts) -> Usage:
        """Return what is read under lock; ``sent_earlier`` (scope -> mails) was sent an hour ago."""
        slot = facts.slot
        sender_days: dict[tuple[int, date], SenderDay] = {}
        bot_days: dict[tuple[int, date], BotDay] = {}
        if (key := sender_day_of(slot, facts.from_zone, self.now)) is not None and self.sender_day is not None:
            sender_days[key] = replace(self.sender_day)
        if (key := bot_day_of(slot, facts.from_zone, facts.to_zone, self.now)) is not None:
            bot_days[key] = replace(self.bot_day)
        per_hour = {
            key: [0] * (HOURS_KEPT - 2) + [self.sent_earlier.get(key.scope, 0), 0]
            for key in counters_of(slot, facts.route)
        }
        return Usage(
            sender_days=sender_days,
            bot_days=bot_days,
            counters=Counters(self.now.replace(minute=0, second=0), per_hour),
            next_send_at={slot.from_mailbox_id: self.next_send_at},
            bot_free_at={} if slot.bot_id is None else {slot.bot_id: self.bot_free_at},
        )

    def ask(self, facts: Facts, usage: Usage | None = None) -> Refusal | None:
        """Return what the guard says of the mail."""
        return judge(
            facts, usage or self.usage(facts), now=self.now, is_stopped=self.is_stopped, policy=self.policy, seed=1
        )
