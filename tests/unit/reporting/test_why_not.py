"""One answer why a sender has no slot, or fewer than expected, and the numbers behind it."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from emberflow.reporting.why_not import reason, steps_of


def facts(**changes: Any) -> dict[str, Any]:
    """A sender that asked for two mails and got both; see `reason` for the columns."""
    row = {
        "ramp_volume": 10, "ramp_day": 4, "health_multiplier": 1.0, "daily_factor": 0.95, "warmup_quota": 10,
        "warmup_used": 0, "total_quota": 50, "total_used": 0, "local_day": pd.Timestamp("2026-06-01"),
        "opens_at": pd.Timestamp("2026-06-01T06:30Z"), "closes_at": pd.Timestamp("2026-06-01T15:30Z"),
        "open_s_now": 3600.0, "open_s_left": 18_000.0, "expected": 2.0, "wanted": 2, "by_health": 0,
        "by_daily_factor": 0, "used": 0, "outside": 0, "outside_sent": 0, "by_total_cap": 0, "window_over": 0,
        "later": 8, "few_bots": 0, "no_bot": 0,
        "no_room": 0, "slots": 2,
    }  # fmt: skip
    return row | changes


NOTHING = {"slots": 0, "wanted": 0}


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, "2 mails, 2.00 expected: nothing is missing"),
        ({"slots": 1, "no_bot": 1}, "1 mail, 2.00 expected; 1 found no bot (1 no_seat)"),
        ({"slots": 0, "no_bot": 2}, "no mail: 2 found no bot (1 no_seat)"),
        ({"slots": 0, "no_room": 2}, "no mail: 2 did not fit between the gap and the end of the window"),
        (NOTHING | {"few_bots": 2}, "no mail: 2 held back because too few bots are eligible"),
        (NOTHING | {"total_used": 50}, "no mail: the day's cap of 50 over mail of all kinds is used up"),
        (NOTHING | {"warmup_used": 10}, "no mail: the day's warm-up quota of 10 is used up"),
        (
            NOTHING | {"total_used": 43, "outside_sent": 7},
            "no mail: the day's cap of 50 over mail of all kinds is used up, with 7 mails sent outside",
        ),
        (
            NOTHING | {"warmup_used": 9, "outside_sent": 1, "outside": 1},
            "no mail: the day's warm-up quota of 10 is used up, with 1 mail sent outside",
        ),
        (
            NOTHING | {"expected": 0.4},
            "no mail: the hour's share of what is left is 0.40, and its seeded rounding came to 0; "
            "later hours make up for it",
        ),
    ],
)
def test_the_answer_names_what_decided(changes: dict[str, Any], answer: str) -> None:
    """Towards S-F7"""
    assert reason(facts(**changes), "found no bot (1 no_seat)") == answer


def test_several_losses_are_named_together() -> None:
    answer = reason(facts(slots=1, no_bot=1, no_room=1), "found no bot (1 no_seat)")

    assert answer == (
        "1 mail, 2.00 expected; 1 found no bot (1 no_seat) and 1 did not fit between the gap and the end of the window"
    )


def test_the_steps_lead_from_the_ramp_to_the_slot_in_the_senders_own_time() -> None:
    steps = {step.name: step for step in steps_of(facts(by_health=2, used=3, later=3), ZoneInfo("Europe/Berlin"))}

    assert next(iter(steps)) == "ramp volume"
    assert list(steps)[-1] == "slots"
    assert steps["health"].value == -2
    assert steps["left today"].value == 5
    assert steps["left today"].remark == "window 08:30-17:30"
    assert steps["quota"].remark == "warm-up mails of 2026-06-01, Europe/Berlin"


def test_mail_that_a_person_sent_has_a_step_of_its_own() -> None:
    """Towards S-F7"""
    planned = facts(total_used=3, used=3, outside_sent=4, outside=4, later=1)
    steps = {step.name: step for step in steps_of(planned, ZoneInfo("UTC"))}

    assert (steps["sent outside"].value, steps["left today"].value) == (-4, 3)
    assert steps["sent outside"].remark == "4 mails of a person, found under Sent"
    assert steps["total cap"].remark == "7 of 50 over all kinds"


def test_a_window_until_midnight_ends_at_24_00() -> None:
    midnight = facts(opens_at=pd.Timestamp("2026-06-01T00:00Z"), closes_at=pd.Timestamp("2026-06-02T00:00Z"))
    steps = {step.name: step for step in steps_of(midnight, ZoneInfo("UTC"))}

    assert steps["left today"].remark == "window 00:00-24:00"
