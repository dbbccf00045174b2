from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from emberflow.clock import HOUR, floor_hour, local_day
from emberflow.local_stack.demo import daytime_zones

MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - aware by timezones


@given(MOMENTS)
def test_a_demonstration_begun_at_any_moment_sees_no_new_local_day_in_the_hours_that_it_plans(start: datetime) -> None:
    zones = daytime_zones(start)
    assert len(zones) >= 4, "enough zones to show that days are local"
    ended = start + timedelta(minutes=10)
    end_of_planned_hours = floor_hour(ended) + 2 * HOUR - timedelta(seconds=1)
    for zone in zones:
        assert local_day(end_of_planned_hours, zone) == local_day(start, zone)
