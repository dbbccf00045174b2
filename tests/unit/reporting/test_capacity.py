"""The account of an hour: every mail of a ramp volume gets a slot or has exactly one reason why not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.reporting.capacity import account
from tests.builders import MONDAY_NOON, Row, frame, records

LOSSES = {
    "by_health",
    "by_daily_factor",
    "used",
    "outside",
    "by_total_cap",
    "window_over",
    "later",
    "few_bots",
    "no_room",
    "no_bot",
}

OPENS, CLOSES = MONDAY_NOON - timedelta(hours=4), MONDAY_NOON + timedelta(hours=5)


def a_planned_day(sender_id: int = 1, **changes: Any) -> Row:
    """A healthy sender in the middle of its window that has sent nothing yet and asks for two mails."""
    row = {
        "sender_id": sender_id,
        "ramp_volume": 10,
        "health_multiplier": 1.0,
        "warmup_quota": 10,
        "warmup_used": 0,
        "total_quota": 50,
        "total_used": 0,
        "outside_sent": 0,
        "opens_at": OPENS,
        "closes_at": CLOSES,
        "span_start": MONDAY_NOON,
        "open_s_now": 3600.0,
        "open_s_left": 18_000.0,
        "wanted": 2,
    }
    return row | changes


def of_sender(day: Row, timed: int | None = None, planned: int | None = None) -> dict[str, int]:
    """The account of one sender, without its zeros; everything wanted is filled unless said otherwise."""
    timed = day["wanted"] if timed is None else timed
    planned = timed if planned is None else planned
    times, slots = (
        pd.DataFrame({"sender_id": [day["sender_id"]] * count}, dtype="int64") for count in (timed, planned)
    )
    (row,) = records(account(frame(day), times, slots))
    return {name: mails for name, mails in row.items() if mails and name not in ("sender_id", "ramp_volume")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"later": 8, "slots": 2}),
        ({"health_multiplier": 0.5, "warmup_quota": 5}, {"by_health": 5, "later": 3, "slots": 2}),
        ({"warmup_quota": 8}, {"by_daily_factor": 2, "later": 6, "slots": 2}),
        (
            {"health_multiplier": 0.75, "warmup_quota": 6},
            {"by_health": 3, "by_daily_factor": 1, "later": 4, "slots": 2},
        ),
        ({"warmup_used": 7}, {"used": 7, "later": 1, "slots": 2}),
        ({"warmup_used": 12, "wanted": 0}, {"used": 10}),
        ({"total_used": 47}, {"by_total_cap": 7, "later": 1, "slots": 2}),
        ({"total_used": 60, "wanted": 0}, {"by_total_cap": 10}),
        ({"outside_sent": 7}, {"outside": 7, "later": 1, "slots": 2}),
        ({"outside_sent": 12, "wanted": 1}, {"outside": 9, "slots": 1}),
        ({"outside_sent": 7, "total_used": 43, "wanted": 0}, {"outside": 7, "by_total_cap": 3}),
        ({"wanted": 0, "open_s_now": 1800.0}, {"few_bots": 1, "later": 9}),
    ],
)
def test_each_loss_has_its_column(changes: dict[str, Any], expected: dict[str, int]) -> None:
    """B-F6, S-F7"""
    assert of_sender(a_planned_day(**changes)) == expected


def test_a_window_that_is_over_is_distinguished_from_one_that_opens_later() -> None:
    """B-F6"""
    closed: dict[str, Any] = {"wanted": 0, "open_s_now": 0.0, "open_s_left": 0.0}
    over = a_planned_day(closes_at=MONDAY_NOON - timedelta(hours=1), **closed)
    to_come = a_planned_day(opens_at=CLOSES - timedelta(hours=1), span_start=CLOSES - timedelta(hours=1), **closed)
    weekend = a_planned_day(opens_at=OPENS, closes_at=OPENS, **closed)

    assert of_sender(over) == of_sender(weekend) == {"window_over": 10}
    assert of_sender(to_come) == {"later": 10}


def test_mails_without_a_bot_and_without_room_are_counted_apart() -> None:
    """B-F6"""
    assert of_sender(a_planned_day(wanted=5), timed=4, planned=3) == {
        "later": 5,
        "no_bot": 1,
        "no_room": 1,
        "slots": 3,
    }


@given(data=st.data())
def test_every_mail_of_a_ramp_volume_is_counted_exactly_once(data: st.DataObject) -> None:
    """B-F6: the columns add up to the ramp volume for every sender, and none is negative."""
    volume = data.draw(st.integers(0, 50))
    multiplier = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    quota = data.draw(st.integers(0, max(int(volume * multiplier), 1 if volume * multiplier else 0)))
    used, total_used = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 60))
    outside = data.draw(st.integers(0, 60))
    left = max(min(max(quota - outside, min(quota, 1)) - used, 50 - total_used - outside), 0)
    open_s_now = data.draw(st.floats(1, 3600))
    wanted = data.draw(st.integers(0, left))
    timed = data.draw(st.integers(0, wanted))
    day = a_planned_day(
        ramp_volume=volume, health_multiplier=multiplier, warmup_quota=quota, warmup_used=used, total_used=total_used,
        outside_sent=outside, open_s_now=open_s_now, wanted=wanted,
    )  # fmt: skip

    counted = of_sender(day, timed, data.draw(st.integers(0, timed)))

    assert sum(counted.values()) == volume
    assert all(mails > 0 for mails in counted.values())
    assert counted.keys() <= LOSSES | {"slots"}


def test_rows_of_the_account_follow_the_day_whatever_the_order_of_slots() -> None:
    """Q-F1"""
    day = frame(a_planned_day(2, wanted=1), a_planned_day(1), a_planned_day(3, wanted=0))
    slots = pd.DataFrame({"sender_id": [1, 2, 1]})

    counted = account(day, slots, slots.iloc[::-1])

    assert counted["sender_id"].tolist() == [2, 1, 3]
    assert counted["slots"].tolist() == [1, 2, 0]
