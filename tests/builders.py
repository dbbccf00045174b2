"""Tiny builders: one valid row each, so that a test names only what it is about.

Every ``a_...`` function returns a dict whose keys are the columns of one input of the functional core;
keyword arguments replace single values. ``frame`` stacks rows into a DataFrame with the core's dtypes.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pandas as pd

MONDAY_NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
Row = dict[str, Any]

_INSTANTS = [
    "opens_at",
    "lunch_at",
    "lunch_ends_at",
    "closes_at",
    "lunch_at",
    "lunch_ends_at",
    "span_start",
    "span_end",
    "not_before",
    "born_at",
    "cooldown_until",
    "planned_until",
    "last_contact",
    "received_at",
]


_DTYPES = dict.fromkeys(_INSTANTS, "datetime64[us, UTC]") | {
    "local_day": "datetime64[s]",
    "score": "float64",
    "last_volume": "float64",
    "last_multiplier": "float64",
    "domain_age_days": "float64",
    "inbox_rate": "float64",
    "interaction_limits": "float64",
}


def frame(*rows: Row) -> pd.DataFrame:
    """Stack rows into a frame; columns that may be null, and those of days and instants, get the core's dtype."""
    table = pd.DataFrame(list(rows))
    return table.astype({name: dtype for name, dtype in _DTYPES.items() if name in table.columns})


def records(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame; the reverse of ``frame``."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def a_sender(sender_id: int = 1, **changes: Any) -> Row:
    """A sender on its first sending day, without a score: input of ``daily_quota`` and ``open_windows``."""
    row = {
        "sender_id": sender_id,
        "zone": "UTC",
        "local_day": date(2026, 6, 1),
        "sending_days": 0,
        "last_row": 0,
        "last_volume": None,
        "last_multiplier": None,
        "idle_days": 0,
        "score": None,
        "in_campaign": False,
        "domain_age_days": None,
        "inbox_rate": None,
        "placements": 0,
        "cold_peak": 0,
    }
    return row | changes


def a_grown_sender(sender_id: int = 1, **changes: Any) -> Row:
    """A healthy sender on the plateau of the standard ramp that may send cold mail: input of ``daily_quota``."""
    row = {
        "sending_days": 30,
        "last_row": 14,
        "last_volume": 30,
        "score": 95,
        "in_campaign": True,
        "domain_age_days": 400,
        "inbox_rate": 0.95,
        "placements": 100,
        "cold_peak": 30,
    }
    return a_sender(sender_id) | row | changes


def a_sender_day(sender_id: int = 1, **changes: Any) -> Row:
    """A sender's day before its first mail, planned in one span: input of ``slots_for_hour``."""
    row = {
        "sender_id": sender_id,
        "warmup_quota": 10,
        "warmup_used": 0,
        "cold_quota": 0,
        "cold_used": 0,
        "total_quota": 50,
        "total_used": 0,
        "outside_sent": 0,
        "open_s_now": 3600.0,
        "open_s_left": 3600.0,
        "open_s": 3600.0,
        "local_day": MONDAY_NOON.date(),
    }
    return row | changes


def a_workday(sender_id: int = 1, **changes: Any) -> Row:
    """The whole standard window of Monday in UTC, with lunch at half past twelve: input of ``planning_span``."""
    row = {
        "sender_id": sender_id,
        "local_day": MONDAY_NOON.date(),
        "opens_at": MONDAY_NOON.replace(hour=8, minute=30),
        "lunch_at": MONDAY_NOON.replace(minute=30),
        "lunch_ends_at": MONDAY_NOON.replace(hour=13),
        "closes_at": MONDAY_NOON.replace(hour=17, minute=30),
    }
    return row | changes


def a_span(sender_id: int = 1, seconds: float = 3600, **changes: Any) -> Row:
    """A planning span without lunch that starts on Monday at noon, with nothing sent before: input of ``pace``."""
    row = {
        "sender_id": sender_id,
        "span_start": MONDAY_NOON,
        "span_end": MONDAY_NOON + timedelta(seconds=seconds),
        "lunch_at": MONDAY_NOON,
        "lunch_ends_at": MONDAY_NOON,
        "not_before": None,
        "open_s_now": float(seconds),
        "open_s_left": float(seconds),
        "first_s": 300.0,
        "every_s": 600.0,
    }
    return row | changes


def a_bot(bot_id: int = 1, **changes: Any) -> Row:
    """A grown, idle bot: input of ``available_seats`` and ``select_bots``."""
    row = {
        "bot_id": bot_id,
        "domain": 9_000,
        "owner": -1,
        "ip_group": -1,
        "cell": 1,
        "born_at": MONDAY_NOON - timedelta(days=100),
        "zone": "UTC",
        "interaction_limits": None,
        "cooldown_until": None,
        "planned_until": None,
        "inbound_used": 0,
        "seats": 5,
        "free_from": int(MONDAY_NOON.timestamp()),
        "free_until": int(MONDAY_NOON.timestamp()) + 3600,
        "pause_s": 0,
        "capacity": 1.0,
        "rest": 1.0,
    }
    return row | changes


def a_slot(sender_id: int = 1, ordinal: int = 1, **changes: Any) -> Row:
    """A warm-up slot that asks for a bot: demand of ``select_bots``."""
    row = {
        "sender_id": sender_id,
        "ordinal": ordinal,
        "ramp_day": 1,
        "nth": ordinal - 1,
        "idle_days": 0,
        "target_time": MONDAY_NOON + timedelta(minutes=30),
        "earliest": MONDAY_NOON,
        "latest": MONDAY_NOON + timedelta(seconds=3599),
        "domain": 1_000,
        "owner": -1,
        "ip_group": -1,
    }
    return row | changes


def a_pair(sender_id: int = 1, bot_id: int = 1, **changes: Any) -> Row:
    """A pair whose last contact was a week and a bit ago: history of ``select_bots``."""
    row = {
        "sender_id": sender_id,
        "bot_id": bot_id,
        "sent_7d": 0,
        "last_contact": MONDAY_NOON - timedelta(days=8),
    }
    return row | changes


def a_found_mail(slot_id: int = 1, **changes: Any) -> Row:
    """A warm-up mail in the inbox of a bot that does not answer it: input of ``decide_actions``."""
    return {"slot_id": slot_id, "in_junk": False, "is_answered": False} | changes


def a_received_mail(slot_id: int = 1, **changes: Any) -> Row:
    """A first warm-up mail in the mailbox of a bot that is awake: input of ``decide_replies``."""
    row = {
        "slot_id": slot_id,
        "turn": 1,
        "received_at": MONDAY_NOON,
        "responder_id": 1,
        "zone": "UTC",
        "wake_start": time(7),
        "wake_end": time(22),
        "replies_left": 1_000_000,
    }
    return row | changes
