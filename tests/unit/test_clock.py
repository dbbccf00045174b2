"""Injected time: aware instants, whole hours, and days that belong to a zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.clock import HOUR, ManualClock, SystemClock, end_of_gap, floor_hour, local_day, require_utc

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "Pacific/Apia")
instants = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([ZoneInfo(z) for z in ZONES]),
)


def test_a_manual_clock_moves_only_when_asked_to() -> None:
    clock = ManualClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.sleep(1.5)
    clock.sleep(-3)
    clock.advance(HOUR)
    assert clock.now() == NOON + HOUR + timedelta(seconds=1.5)


def test_the_systems_clock_is_aware_and_does_not_sleep_backwards() -> None:
    """D-B2"""
    before = datetime.now(UTC)
    clock = SystemClock()
    clock.sleep(-1000)
    clock.sleep(0)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().utcoffset() == timedelta(0)


def test_a_naive_datetime_is_stopped_at_the_door() -> None:
    """D-B2"""
    for use in (require_utc, floor_hour, ManualClock, lambda moment: local_day(moment, "UTC")):
        with pytest.raises(ValueError, match="a naive datetime reached the core"):
            use(datetime(2026, 6, 1, 12))  # noqa: DTZ001


@given(instants)
def test_an_instant_stays_the_same_instant_in_utc(moment: datetime) -> None:
    """D-B2"""
    assert require_utc(moment).tzinfo is UTC
    assert require_utc(moment).timestamp() == moment.timestamp()


@given(instants)
def test_the_hour_of_an_instant_holds_it(moment: datetime) -> None:
    hour = floor_hour(moment)
    assert hour <= require_utc(moment) < hour + HOUR
    assert floor_hour(hour) == hour
    assert (hour.minute, hour.second, hour.microsecond) == (0, 0, 0)


def test_an_hour_is_one_of_utc_also_in_zones_that_are_half_an_hour_off() -> None:
    kolkata = datetime(2026, 6, 1, 12, 10, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert floor_hour(kolkata) == datetime(2026, 6, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "day"),
    [("UTC", 1), ("Asia/Tokyo", 2), ("America/Los_Angeles", 1), ("Pacific/Auckland", 2), ("Pacific/Honolulu", 1)],
)
def test_a_day_is_that_of_the_zone(zone: str, day: int) -> None:
    """D-B2"""
    assert local_day(datetime(2026, 6, 1, 20, tzinfo=UTC), zone) == date(2026, 6, day)


@pytest.mark.parametrize(
    ("wall", "zone", "change"),
    [
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00"),
        ("2026-03-08T02:00", "America/New_York", "2026-03-08T07:00"),
        ("2026-03-29T01:00", "Antarctica/Troll", "2026-03-29T01:00"),
        ("2026-03-29T02:59:59", "Antarctica/Troll", "2026-03-29T01:00"),
        ("2011-12-30T12:00", "Pacific/Apia", "2011-12-30T10:00"),
    ],
)
def test_a_time_that_never_comes_is_skipped_at_one_instant(wall: str, zone: str, change: str) -> None:
    """An hour, two hours, and a whole day."""
    assert end_of_gap(datetime.fromisoformat(wall), zone) == datetime.fromisoformat(change).replace(tzinfo=UTC)
