"""Windows, planning spans and the seconds at which slots leave."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.senders.pacing import PacingPolicy, common_windows, next_opening, open_windows, pace, planning_span
from tests.builders import MONDAY_NOON, a_sender, a_span, frame

WHOLE = {"workday_start_spread_s": 0, "workday_end_spread_s": 0, "lunch_minimum_s": 0, "lunch_maximum_s": 0}
STANDARD = PacingPolicy(**WHOLE)
DRAWN = PacingPolicy()
SEED = 1
ALL_DAY = PacingPolicy(window_start=time(0), window_end=time(0), weekdays=(0, 1, 2, 3, 4, 5, 6), **WHOLE)
DEMONSTRATION = PacingPolicy(
    window_start=time(0), window_end=time(0), gap_minimum_s=2, gap_jitter_s=1, spread_s=60, **WHOLE
)


def window(zone: str, at: datetime, policy: PacingPolicy = STANDARD) -> tuple[date, datetime, datetime]:
    row = open_windows(frame(a_sender(zone=zone)), at, policy, SEED).iloc[0]
    return row["local_day"].date(), row["opens_at"], row["closes_at"]


def span(start: datetime, hour_end: datetime, policy: PacingPolicy = STANDARD, zone: str = "UTC") -> pd.Series:
    windows = open_windows(frame(a_sender(zone=zone)), start, policy, SEED)
    return planning_span(windows, start, hour_end, policy).iloc[0]


def slots_of(*counts: int) -> pd.DataFrame:
    """Slots of senders 1, 2, ...: so many each."""
    return frame(
        *(
            {"sender_id": sender, "ordinal": ordinal}
            for sender, count in enumerate(counts, start=1)
            for ordinal in range(1, count + 1)
        )
    )


def test_a_window_is_a_piece_of_the_senders_own_day() -> None:
    """23:00 UTC is already tomorrow in Tokyo and still today in New York."""
    at = datetime(2026, 6, 1, 23, tzinfo=UTC)
    assert window("Asia/Tokyo", at) == (
        date(2026, 6, 2),
        datetime(2026, 6, 1, 23, 30, tzinfo=UTC),
        datetime(2026, 6, 2, 8, 30, tzinfo=UTC),
    )
    assert window("America/New_York", at)[1] == datetime(2026, 6, 1, 12, 30, tzinfo=UTC)


def test_a_closed_weekday_has_an_empty_window() -> None:
    _, opens_at, closes_at = window("UTC", datetime(2026, 6, 6, 12, tzinfo=UTC))
    assert opens_at == closes_at


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/Santiago", date(2026, 9, 6), 23),  # clocks change at midnight: the day starts at 01:00
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Asia/Kolkata", date(2026, 3, 29), 24),
    ],
)
def test_a_window_until_midnight_is_as_long_as_the_local_day(zone: str, day: date, hours: float) -> None:
    noon = datetime.combine(day, time(12), tzinfo=UTC)
    local_day, opens_at, closes_at = window(zone, noon, ALL_DAY)
    assert local_day == day
    assert closes_at - opens_at == timedelta(hours=hours)


def test_a_window_that_a_clock_change_turns_around_stays_shut_that_day() -> None:
    policy = PacingPolicy(window_start=time(2, 30), window_end=time(3, 15), weekdays=(6,), **WHOLE)
    _, opens_at, closes_at = window("Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC), policy)
    assert opens_at == closes_at


def test_windows_keep_the_rows_and_types_of_the_senders() -> None:
    zones = frame(a_sender(1, zone="UTC"), a_sender(2, zone="Asia/Tokyo"), a_sender(3, zone="UTC"))
    windows = open_windows(zones.set_index(pd.Index([7, 8, 9])), MONDAY_NOON, STANDARD, SEED)
    assert windows.index.tolist() == [7, 8, 9]
    assert str(windows["opens_at"].dtype) == str(windows["closes_at"].dtype) == "datetime64[us, UTC]"
    assert open_windows(zones.iloc[:0], MONDAY_NOON, STANDARD, SEED).empty


def test_a_span_is_the_part_of_the_hour_that_is_still_ahead_and_open() -> None:
    at = datetime(2026, 6, 1, 8, 10, tzinfo=UTC)
    row = span(at, datetime(2026, 6, 1, 9, tzinfo=UTC))
    assert row["span_start"] == datetime(2026, 6, 1, 8, 30, tzinfo=UTC)
    assert (row["open_s_now"], row["open_s_left"]) == (1800, 9 * 3600)


def test_the_last_span_of_a_window_is_all_that_is_left() -> None:
    row = span(datetime(2026, 6, 1, 17, 5, tzinfo=UTC), datetime(2026, 6, 1, 18, tzinfo=UTC))
    assert (row["open_s_now"], row["open_s_left"]) == (1500, 1500)


@pytest.mark.parametrize("hour", [3, 17, 20])
def test_a_run_outside_the_window_has_an_empty_span(hour: int) -> None:
    start = datetime(2026, 6, 1, hour, 40, tzinfo=UTC)
    row = span(start, start + timedelta(minutes=20))
    assert (row["open_s_now"], row["open_s_left"]) == (0, 0)
    assert row["span_start"] == row["span_end"]


def test_a_demonstration_plans_all_that_is_left_today_over_its_own_seconds() -> None:
    start = datetime(2026, 6, 1, 12, 59, 50, tzinfo=UTC)
    row = span(start, datetime(2026, 6, 1, 13, tzinfo=UTC), DEMONSTRATION)
    assert row["span_end"] == start + timedelta(seconds=60)
    assert row["open_s_now"] == row["open_s_left"] == 60


def test_the_spans_of_a_day_cover_its_window_once() -> None:
    """Also where the zone is half an hour off and the day has 25 hours."""
    for zone, day in (("Asia/Kolkata", date(2026, 6, 1)), ("Europe/Berlin", date(2026, 10, 26))):
        _, opens_at, closes_at = window(zone, datetime.combine(day, time(9), tzinfo=UTC))
        first = datetime.combine(day, time(0), tzinfo=UTC)
        hours = [first + timedelta(hours=n) for n in range(24)]
        planned = sum(span(hour, hour + timedelta(hours=1), zone=zone)["open_s_now"] for hour in hours)
        assert planned == (closes_at - opens_at).total_seconds()


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**40),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seconds=st.integers(0, 7200),
    busy_for=st.none() | st.floats(-3600, 7200),
    gap=st.integers(20, 1200),
    jitter=st.integers(0, 600),
)
def test_mails_of_one_sender_keep_their_gap_and_stay_in_the_span(
    *, seed: int, counts: list[int], seconds: int, busy_for: float | None, gap: int, jitter: int
) -> None:
    """S-B6, also towards the last mail of the hour before."""
    policy = PacingPolicy(gap_minimum_s=gap, gap_jitter_s=jitter)
    not_before = None if busy_for is None else MONDAY_NOON + timedelta(seconds=busy_for)
    spans = [a_span(n, seconds, not_before=not_before) for n, _ in enumerate(counts, start=1)]
    paced = pace(slots_of(*counts), frame(*spans), policy, seed, MONDAY_NOON)

    earliest = max(MONDAY_NOON, not_before or MONDAY_NOON)
    assert (paced["target_time"] >= earliest).all()
    assert (paced["target_time"] < MONDAY_NOON + timedelta(seconds=seconds)).all()
    assert paced["gap_s"].between(gap, gap + jitter).all()
    assert (paced["target_time"] == paced["target_time"].dt.floor("s")).all()
    for _, mails in paced.groupby("sender_id"):
        waited = mails["target_time"].diff().dt.total_seconds()
        assert (waited.iloc[1:].to_numpy() >= mails["gap_s"].iloc[:-1].to_numpy()).all()
        assert mails["ordinal"].tolist() == list(range(1, len(mails) + 1))


def test_slots_are_left_out_only_when_they_do_not_fit() -> None:
    """With gaps of exactly 600 s, seven mails need 3,600 s and a second to stand in."""
    policy = PacingPolicy(gap_jitter_s=0)
    spans = frame(a_span(1, 3600), a_span(2, 3601), a_span(3, 0))
    paced = pace(slots_of(7, 7, 1), spans, policy, 1, MONDAY_NOON)
    assert paced.groupby("sender_id").size().to_dict() == {1: 6, 2: 7}


def test_mails_spread_over_the_whole_span() -> None:
    paced = pace(slots_of(*[3] * 4000), frame(*(a_span(n + 1) for n in range(4000))), STANDARD, 1, MONDAY_NOON)
    minute = (paced["target_time"] - MONDAY_NOON).dt.total_seconds() / 60
    assert minute.mean() == pytest.approx(30, abs=0.5)
    assert minute.min() < 0.2
    assert minute.max() > 59.8


def test_the_order_of_slots_and_spans_changes_nothing() -> None:
    """Q-F1."""
    slots, spans = slots_of(3, 1, 4), frame(a_span(1), a_span(2), a_span(3))
    straight = pace(slots, spans, STANDARD, 1, MONDAY_NOON)
    mixed = pace(slots.sample(frac=1, random_state=3), spans.iloc[::-1], STANDARD, 1, MONDAY_NOON)
    pd.testing.assert_frame_equal(straight, mixed)


def test_another_hour_or_seed_draws_other_times() -> None:
    plans = [
        pace(slots_of(5), frame(a_span()), STANDARD, seed, hour)["target_time"].tolist()
        for seed, hour in ((1, MONDAY_NOON), (2, MONDAY_NOON), (1, MONDAY_NOON + timedelta(hours=1)))
    ]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_not_before_may_be_null_for_everybody() -> None:
    assert len(pace(slots_of(2), frame(a_span()), STANDARD, 1, MONDAY_NOON)) == 2


def test_pacing_nothing_is_an_empty_plan() -> None:
    paced = pace(slots_of(1).iloc[:0], frame(a_span()), STANDARD, 1, MONDAY_NOON)
    assert paced.empty
    assert list(paced.columns) == ["sender_id", "ordinal", "target_time", "gap_s"]


@pytest.mark.parametrize(
    "values",
    [
        {"window_start": time(18), "window_end": time(9)},
        {"weekdays": ()},
        {"weekdays": (7,)},
        {"gap_minimum_s": 5},
        {"gap_jitter_s": -1},
    ],
)
def test_a_pacing_policy_out_of_range_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PacingPolicy(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        (datetime(2025, 6, 2, 12, tzinfo=UTC), datetime(2025, 6, 2, 12, tzinfo=UTC)),  # Monday noon: open
        (datetime(2025, 6, 2, 5, tzinfo=UTC), datetime(2025, 6, 2, 6, 30, tzinfo=UTC)),  # before 08:30 in Berlin
        (datetime(2025, 6, 2, 15, 30, tzinfo=UTC), datetime(2025, 6, 3, 6, 30, tzinfo=UTC)),  # at its end
        (datetime(2025, 6, 7, 12, tzinfo=UTC), datetime(2025, 6, 9, 6, 30, tzinfo=UTC)),  # Saturday
        (datetime(2025, 3, 28, 20, tzinfo=UTC), datetime(2025, 3, 31, 6, 30, tzinfo=UTC)),  # over a clock change
    ],
)
def test_the_next_opening_of_a_window_is_found_over_nights_weekends_and_clock_changes(
    at: datetime, opens: datetime
) -> None:
    assert next_opening("Europe/Berlin", at, STANDARD, seed=SEED, sender_id=1) == opens


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
seconds_of_a_year = st.integers(0, 365 * 86_400)
instants = seconds_of_a_year.map(lambda second: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second))


@settings(deadline=None)
@given(zone=zones, at=instants, seed=st.integers(0, 2**40), sender_id=st.integers(1, 10**6))
def test_a_workday_lies_in_its_window_and_its_lunch_in_its_hours(
    zone: str, at: datetime, seed: int, sender_id: int
) -> None:
    """S-F5"""
    day = open_windows(frame(a_sender(sender_id, zone=zone)), at, DRAWN, seed).iloc[0]
    whole = open_windows(frame(a_sender(sender_id, zone=zone)), at, STANDARD, seed).iloc[0]
    if whole["opens_at"] == whole["closes_at"]:
        assert day["opens_at"] == day["closes_at"] == day["lunch_at"] == day["lunch_ends_at"]
        return
    assert whole["opens_at"] <= day["opens_at"] <= whole["opens_at"] + timedelta(minutes=45)
    assert whole["closes_at"] - timedelta(minutes=45) <= day["closes_at"] <= whole["closes_at"]
    lunch = day["lunch_at"].tz_convert(zone), day["lunch_ends_at"].tz_convert(zone)
    assert time(11, 30) <= lunch[0].time() < lunch[1].time() <= time(13, 30)
    assert timedelta(minutes=30) <= lunch[1] - lunch[0] <= timedelta(hours=1)


@settings(deadline=None, max_examples=40)
@given(zone=zones, at=instants, sender_id=st.integers(1, 10**6))
def test_a_workday_is_the_same_at_every_hour_of_its_day(zone: str, at: datetime, sender_id: int) -> None:
    """S-F5"""
    senders = frame(a_sender(sender_id, zone=zone))
    first = open_windows(senders, at, DRAWN, SEED).iloc[0]
    for hours in range(24):
        again = open_windows(senders, at + timedelta(hours=hours), DRAWN, SEED).iloc[0]
        assert (again["local_day"] == first["local_day"]) == again.equals(first)


@settings(deadline=None)
@given(zone=zones, at=instants, sender_id=st.integers(1, 10**6))
def test_the_next_opening_agrees_with_the_workdays_that_are_planned(zone: str, at: datetime, sender_id: int) -> None:
    """S-F5: what the plan allows is what the guard allows."""
    day = open_windows(frame(a_sender(sender_id, zone=zone)), at, DRAWN, SEED).iloc[0]
    opening = next_opening(zone, at, DRAWN, seed=SEED, sender_id=sender_id)
    at_work = day["opens_at"] <= at < day["closes_at"] and not day["lunch_at"] <= at < day["lunch_ends_at"]
    assert (opening == at) == at_work
    if at < day["opens_at"] < day["closes_at"]:
        assert opening == day["opens_at"]
    if day["lunch_at"] <= at < day["lunch_ends_at"]:
        assert opening == day["lunch_ends_at"]


@settings(deadline=None)
@given(seed=st.integers(0, 2**40), count=st.integers(1, 9), lunch=st.tuples(st.integers(0, 7000), st.integers(0, 3600)))
def test_nothing_leaves_over_lunch_and_gaps_hold_across_it(seed: int, count: int, lunch: tuple[int, int]) -> None:
    """S-F5, S-B6"""
    begins = MONDAY_NOON + timedelta(seconds=lunch[0])
    ends = min(begins + timedelta(seconds=lunch[1]), MONDAY_NOON + timedelta(hours=2))
    span = a_span(1, 7200, lunch_at=begins, lunch_ends_at=ends)
    paced = pace(slots_of(count), frame(span), STANDARD, seed, MONDAY_NOON)
    assert not ((paced["target_time"] >= begins) & (paced["target_time"] < ends)).any()
    assert (paced["target_time"] < MONDAY_NOON + timedelta(hours=2)).all()
    waited = paced["target_time"].diff().dt.total_seconds().iloc[1:].to_numpy()
    assert (waited >= paced["gap_s"].iloc[:-1].to_numpy()).all()


def test_common_windows_are_open_where_both_are() -> None:
    """S-F5: the sender's zone and the campaign's."""
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    rows = [
        open_windows(frame(*(a_sender(n, zone=z) for n, z in enumerate(names))), at, STANDARD, SEED)
        for names in (["Europe/Berlin", "Europe/Berlin", "UTC"], ["America/New_York", "UTC", "Asia/Tokyo"])
    ]
    both = common_windows(*rows)
    open_s = (both["closes_at"] - both["opens_at"]).dt.total_seconds()
    assert open_s.tolist() == [3 * 3600, 7 * 3600, 0]
