"""Seats of bots: age, caps, cooldown and waking hours."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.bots.limits import available_seats, cap_today, inbound_cap, next_waking, waking_span
from emberflow.bots.policy import BotPolicy
from tests.builders import MONDAY_NOON, a_bot, frame

STANDARD = BotPolicy(cooldown_s=0)
HOUR = timedelta(hours=1)


def seats_of(policy: BotPolicy = STANDARD, at: datetime = MONDAY_NOON, **bot: Any) -> tuple[int, str | None]:
    row = available_seats(frame(a_bot(**bot)), at, at + HOUR, policy).iloc[0]
    return int(row["seats"]), None if pd.isna(row["reason"]) else row["reason"]


def test_a_new_bot_takes_5_a_day_and_2_more_with_each_day_of_age() -> None:
    """B-B2."""
    caps = inbound_cap(STANDARD, pd.Series([0, 1, 2, 17, 18, 400, -1]))
    assert caps.tolist() == [5, 7, 9, 39, 40, 40, 5]


@pytest.mark.parametrize(("age", "seats"), [(timedelta(hours=23), 5), (timedelta(days=1), 7), (-timedelta(1), 5)])
def test_age_is_counted_in_whole_days_since_birth(age: timedelta, seats: int) -> None:
    """B-B2."""
    assert seats_of(born_at=MONDAY_NOON - age) == (seats, None)


def test_a_grown_bot_takes_its_daily_cap_and_no_more() -> None:
    """B-B3."""
    assert seats_of() == (40, None)
    assert seats_of(inbound_used=39) == (1, None)
    assert seats_of(inbound_used=40) == seats_of(inbound_used=41) == (0, "at_cap")


def test_the_operator_may_cap_a_bot_lower_but_not_higher() -> None:
    assert seats_of(interaction_limits=3) == (3, None)
    assert seats_of(interaction_limits=99) == (40, None)
    assert seats_of(interaction_limits=0) == (0, "at_cap")


def test_a_bot_that_rests_has_seats_from_when_it_has_rested() -> None:
    policy = BotPolicy(cooldown_s=900)
    until = MONDAY_NOON + HOUR
    for rested, seats in (
        (MONDAY_NOON, 4),
        (MONDAY_NOON + timedelta(minutes=31), 2),
        (until - timedelta(seconds=1), 1),
    ):
        row = available_seats(frame(a_bot(cooldown_until=rested)), MONDAY_NOON, until, policy).iloc[0]
        assert (row["seats"], row["free_from"], row["free_until"]) == (seats, rested.timestamp(), until.timestamp())
    assert seats_of(policy, cooldown_until=until) == (0, "cooldown")


def test_a_bot_has_seats_while_it_is_awake_within_the_hour() -> None:
    """Kathmandu is a quarter of an hour off, so its bots wake and sleep within an hour."""
    for hour, (wakes, sleeps) in {1: (15, 60), 16: (0, 15)}.items():
        at = datetime(2026, 6, 1, hour, tzinfo=UTC)
        row = available_seats(frame(a_bot(zone="Asia/Kathmandu")), at, at + HOUR, STANDARD).iloc[0]
        bounds = [(at + timedelta(minutes=minute)).timestamp() for minute in (wakes, sleeps)]
        assert [row["free_from"], row["free_until"]] == bounds


def test_nullable_columns_may_be_null_for_everybody() -> None:
    bots = frame(a_bot(), a_bot(2)).assign(interaction_limits=float("nan"))
    assert available_seats(bots, MONDAY_NOON, MONDAY_NOON + HOUR, STANDARD)["seats"].tolist() == [40, 40]


@pytest.mark.parametrize(("cooldown_s", "seats"), [(900, 4), (1800, 2), (3600, 1), (3601, 1), (1, 40), (0, 40)])
def test_an_hour_has_no_more_seats_than_its_pauses_leave_room_for(cooldown_s: int, seats: int) -> None:
    assert seats_of(BotPolicy(cooldown_s=cooldown_s)) == (seats, None)


@pytest.mark.parametrize(
    ("zone", "hour", "awake"),
    [
        ("UTC", 7, True),
        ("UTC", 6, False),
        ("UTC", 21, True),
        ("UTC", 22, False),
        ("Asia/Tokyo", 12, True),  # 21:00 there
        ("Asia/Tokyo", 13, False),  # 22:00 there
        ("America/Los_Angeles", 13, False),  # 06:00 there
        ("America/Los_Angeles", 14, True),
    ],
)
def test_a_bot_sleeps_by_its_own_wall_clock(zone: str, hour: int, awake: bool) -> None:
    at = datetime(2026, 6, 1, hour, tzinfo=UTC)
    assert seats_of(at=at, zone=zone) == ((40, None) if awake else (0, "asleep"))


def test_waking_hours_that_end_at_midnight_last_until_the_day_ends() -> None:
    policy = BotPolicy(wake_start=time(0), wake_end=time(0), cooldown_s=0)
    for hour in range(24):
        assert seats_of(policy, at=datetime(2026, 6, 1, hour, 59, tzinfo=UTC), zone="Asia/Kolkata")[0] == 40


@settings(deadline=None)
@given(
    age=st.integers(-2, 60),
    limit=st.none() | st.integers(0, 80),
    used=st.integers(0, 60),
)
def test_seats_and_what_is_used_never_exceed_the_age_cap(age: int, limit: int | None, used: int) -> None:
    """B-B2 and B-B3, and a bot without seats says why."""
    born_at = MONDAY_NOON - timedelta(days=age)
    seats, reason = seats_of(born_at=born_at, interaction_limits=limit, inbound_used=used)
    assert (seats == 0) == (reason is not None)
    if seats:
        assert seats + used <= min(5 + 2 * max(age, 0), 40, 40 if limit is None else limit)


def test_rows_and_types_are_kept_even_for_no_bots_at_all() -> None:
    bots = frame(a_bot(3), a_bot(4, inbound_used=99)).set_index(pd.Index([30, 40]))
    seats = available_seats(bots, MONDAY_NOON, MONDAY_NOON + HOUR, STANDARD)
    assert seats.index.tolist() == [30, 40]
    assert {name: str(kind) for name, kind in seats.dtypes.items()} == {
        "bot_id": "int64",
        "age_days": "int64",
        "inbound_cap": "int64",
        "free_from": "int64",
        "free_until": "int64",
        "pause_s": "int64",
        "seats": "int64",
        "reason": "category",
    }
    assert available_seats(bots.iloc[:0], MONDAY_NOON, MONDAY_NOON + HOUR, STANDARD).empty


@pytest.mark.parametrize(
    "values",
    [{"wake_start": time(22), "wake_end": time(7)}, {"daily_inbound_cap": 0}, {"cap_step_per_day": -1}],
)
def test_a_bot_policy_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BotPolicy(**values)


@pytest.mark.parametrize(
    ("at", "wakes"),
    [
        (datetime(2025, 6, 2, 12, tzinfo=UTC), datetime(2025, 6, 2, 12, tzinfo=UTC)),
        (datetime(2025, 6, 1, 20, tzinfo=UTC), datetime(2025, 6, 1, 22, tzinfo=UTC)),  # 05:00 in Tokyo
        (datetime(2025, 6, 2, 13, tzinfo=UTC), datetime(2025, 6, 2, 22, tzinfo=UTC)),  # 22:00 in Tokyo
    ],
)
def test_the_next_waking_of_a_bot_is_in_its_own_morning(at: datetime, wakes: datetime) -> None:
    """B-B7"""
    assert next_waking("Asia/Tokyo", at, BotPolicy()) == wakes


def test_todays_cap_follows_age_and_the_operators_own_limit() -> None:
    """B-B2, B-B3"""
    born = datetime(2025, 6, 1, tzinfo=UTC)
    ages = [cap_today(BotPolicy(), born, None, born + timedelta(days=days)) for days in (0, 3, 100)]
    assert ages == [5, 11, 40]
    assert cap_today(BotPolicy(), born, 7, born + timedelta(days=100)) == 7


def clock_changes(zone: str) -> list[datetime]:
    """The hours of 2026 and 2027 within which the zone's clock changes."""
    clock = ZoneInfo(zone)
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(730)]
    offsets = [day.astimezone(clock).utcoffset() for day in days]
    changed = [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]
    hours = [day + n * HOUR for day in changed for n in range(24)]
    return [at for at in hours if at.astimezone(clock).utcoffset() != (at + HOUR).astimezone(clock).utcoffset()]


@pytest.mark.parametrize(
    ("wakes", "sleeps"),
    [(time(7), time(22)), (time(0), time(0)), (time(2, 10), time(23, 50)), (time(0, 30), time(2, 30))],
)
def test_beside_every_clock_change_of_every_zone_a_bot_is_awake_in_all_of_its_span(wakes: time, sleeps: time) -> None:
    """B-B7: by the wall clock, second by second at the ends, and `next_waking` agrees."""
    policy = BotPolicy(wake_start=wakes, wake_end=sleeps)

    def is_awake(second: int, clock: ZoneInfo) -> bool:
        wall = datetime.fromtimestamp(second, UTC).astimezone(clock).time()
        return wakes <= wall and (wall < sleeps or sleeps == time(0))

    seen = 0
    for zone in sorted(available_timezones() - {"localtime"}):
        clock = ZoneInfo(zone)
        for change in clock_changes(zone):
            for hours in range(-2, 3):
                at = int((change + hours * HOUR).timestamp())
                first, until = waking_span(zone, at, at + 3600, policy)
                assert at <= first <= until <= at + 3600
                inside = [*range(first, until, 300), until - 1] if until > first else []
                assert all(is_awake(second, clock) for second in inside), (zone, change, hours)
                if not inside:
                    assert not any(is_awake(second, clock) for second in range(at, at + 3600, 60)), (zone, change)
                opening = next_waking(zone, datetime.fromtimestamp(at, UTC), policy)
                assert is_awake(int(opening.timestamp()), clock), (zone, change, hours)
                assert (opening.timestamp() == at) == is_awake(at, clock)
                seen += 1
    assert seen > 1000
