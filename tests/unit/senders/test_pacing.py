"""Workdays, planning spans and the seconds at which slots leave."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.clock import local_day
from emberflow.policy.document import shipped
from emberflow.senders.pacing import first_opening, next_opening, open_windows, pace, planning_span
from emberflow.senders.policy import PacingPolicy
from tests.builders import MONDAY_NOON, a_sender, a_span, a_workday, frame

NOTHING_DRAWN: dict[str, Any] = dict.fromkeys(
    ("workday_start_spread_s", "workday_end_spread_s", "lunch_minimum_s", "lunch_maximum_s"), 0
)
EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)
STANDARD = PacingPolicy()
WHOLE = PacingPolicy(**NOTHING_DRAWN)
ALL_DAY = PacingPolicy(window_start=time(0), window_end=time(0), weekdays=EVERY_DAY, **NOTHING_DRAWN)
DEMONSTRATION = shipped("demo").pacing.model_copy(update={"spread_s": 60})
HOUR = timedelta(hours=1)

# Half-hour shifts, changes at midnight, an hour before midnight and across the date line; one without any.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Havana", "America/Nuuk", "Asia/Kolkata",
    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Pacific/Kiritimati",
)  # fmt: skip
POLICIES = (
    STANDARD,
    WHOLE,
    ALL_DAY,
    PacingPolicy(window_start=time(0), window_end=time(0), weekdays=EVERY_DAY),
    PacingPolicy(window_start=time(12, 5), window_end=time(12, 35), weekdays=(1,)),
    PacingPolicy(window_start=time(2, 30), window_end=time(3, 15), weekdays=EVERY_DAY),
    PacingPolicy(
        window_start=time(12, 15), window_end=time(0), weekdays=(0, 6), lunch_minimum_s=7200, lunch_maximum_s=7200
    ),
)
instants = st.datetimes(datetime(2012, 1, 2), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds


def workdays(zone: str, at: datetime, policy: PacingPolicy = STANDARD, seed: int = 1, senders: int = 1) -> pd.DataFrame:
    rows = [a_sender(sender, zone=zone) for sender in range(1, senders + 1)]
    return open_windows(frame(*rows), at, policy, seed)


def window(zone: str, at: datetime, policy: PacingPolicy = WHOLE) -> tuple[date, datetime, datetime]:
    row = workdays(zone, at, policy).iloc[0]
    return row["local_day"].date(), row["opens_at"], row["closes_at"]


def span(start: datetime, hour_end: datetime, policy: PacingPolicy = WHOLE, zone: str = "UTC") -> pd.Series[Any]:
    return planning_span(workdays(zone, start, policy), start, hour_end, policy).iloc[0]


def slots_of(*counts: int) -> pd.DataFrame:
    """Slots of senders 1, 2, ...: so many each."""
    return frame(
        *(
            {"sender_id": sender, "ordinal": ordinal}
            for sender, count in enumerate(counts, start=1)
            for ordinal in range(1, count + 1)
        )
    )


def is_open(row: pd.Series[Any], at: datetime) -> bool:
    return bool(row["opens_at"] <= at < row["closes_at"] and not row["lunch_at"] <= at < row["lunch_ends_at"])


# Windows


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
    row = workdays("UTC", datetime(2026, 6, 6, 12, tzinfo=UTC)).iloc[0]
    assert row["opens_at"] == row["lunch_at"] == row["lunch_ends_at"] == row["closes_at"]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/Santiago", date(2026, 9, 6), 23),  # clocks change at midnight: the day starts at 01:00
        ("America/Nuuk", date(2026, 3, 28), 23),  # an hour before midnight: the day ends at 23:00
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Asia/Kolkata", date(2026, 3, 29), 24),
    ],
)
def test_a_window_until_midnight_is_as_long_as_the_local_day(zone: str, day: date, hours: float) -> None:
    """Towards Q-F6."""
    noon = datetime.combine(day, time(12), tzinfo=UTC)
    of_day, opens_at, closes_at = window(zone, noon, ALL_DAY)
    assert of_day == day
    assert closes_at - opens_at == timedelta(hours=hours)


def test_a_window_that_a_clock_change_turns_around_stays_shut_that_day() -> None:
    policy = PacingPolicy(window_start=time(2, 30), window_end=time(3, 15), weekdays=(6,))
    _, opens_at, closes_at = window("Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC), policy)
    assert opens_at == closes_at


def test_windows_keep_the_rows_and_types_of_the_senders() -> None:
    zones = frame(a_sender(1, zone="UTC"), a_sender(2, zone="Asia/Tokyo"), a_sender(3, zone="UTC"))
    windows = open_windows(zones.set_index(pd.Index([7, 8, 9])), MONDAY_NOON, STANDARD, 1)
    assert windows.index.tolist() == [7, 8, 9]
    assert windows.dtypes.astype(str).to_dict() == {"sender_id": "int64", "local_day": "datetime64[s]"} | dict.fromkeys(
        ("opens_at", "lunch_at", "lunch_ends_at", "closes_at"), "datetime64[us, UTC]"
    )
    assert open_windows(zones.iloc[:0], MONDAY_NOON, STANDARD, 1).empty


# Workdays


@settings(deadline=None)
@given(
    zone=st.sampled_from(ZONES), at=instants, policy=st.sampled_from(POLICIES), seed=st.integers(0, 2**40),
    hours=st.integers(-30, 30),
)  # fmt: skip
def test_a_workday_lies_in_its_window_and_is_the_same_at_any_hour_of_its_day(
    *, zone: str, at: datetime, policy: PacingPolicy, seed: int, hours: int
) -> None:
    """S-F5."""
    drawn = workdays(zone, at, policy, seed, senders=5)
    _, opens_at, closes_at = window(zone, at, policy.model_copy(update=NOTHING_DRAWN))
    bounds = [drawn[name] for name in ("opens_at", "lunch_at", "lunch_ends_at", "closes_at")]
    assert (bounds[0] >= opens_at).all()
    assert (bounds[-1] <= closes_at).all()
    assert all((first <= second).all() for first, second in pairwise(bounds))
    assert all((bound == bound.dt.floor("s")).all() for bound in bounds)

    later = workdays(zone, at + timedelta(hours=hours), policy, seed, senders=5)
    is_same_day = later["local_day"] == drawn["local_day"]
    pd.testing.assert_frame_equal(later[is_same_day], drawn[is_same_day])


def test_workdays_use_the_whole_of_their_ranges() -> None:
    """S-F5: evenly, and each part by itself."""
    drawn = workdays("Europe/Berlin", MONDAY_NOON, senders=4000)
    wall = drawn.select_dtypes("datetimetz").apply(lambda column: column.dt.tz_convert("Europe/Berlin"))
    minutes = wall.apply(lambda column: column.dt.hour * 60 + column.dt.minute + column.dt.second / 60)
    minutes["lunch"] = minutes["lunch_ends_at"] - minutes["lunch_at"]
    low, high = minutes.min(), minutes.max()
    for name, first, last in (
        ("opens_at", 8.5 * 60, 9.25 * 60),
        ("closes_at", 16.75 * 60, 17.5 * 60),
        ("lunch", 30, 60),
    ):
        assert (low[name], high[name]) == (pytest.approx(first, abs=0.2), pytest.approx(last, abs=0.2))
        assert minutes[name].mean() == pytest.approx((first + last) / 2, abs=1)
    assert low["lunch_at"] == pytest.approx(11.5 * 60, abs=0.5)
    assert high["lunch_ends_at"] == pytest.approx(13.5 * 60, abs=0.5)
    related = minutes[["opens_at", "closes_at", "lunch"]].corr().to_numpy() - np.eye(3)
    assert abs(related).max() < 0.06


def test_another_day_sender_or_seed_draws_another_workday() -> None:
    two = workdays("UTC", MONDAY_NOON, senders=2)
    tomorrow = workdays("UTC", MONDAY_NOON + timedelta(days=1))
    elsewhere = workdays("UTC", MONDAY_NOON, seed=2)
    drawn = pd.concat([two, tomorrow, elsewhere])
    assert (drawn["opens_at"] - drawn["local_day"].dt.tz_localize("UTC")).nunique() == 4


def test_a_workday_of_six_hours_has_no_lunch_and_a_longer_one_has() -> None:
    for end, has_lunch in ((time(16), False), (time(16, 0, 1), True)):
        policy = PacingPolicy(window_start=time(10), window_end=end, workday_start_spread_s=0, workday_end_spread_s=0)
        row = workdays("UTC", MONDAY_NOON, policy).iloc[0]
        assert (row["lunch_ends_at"] > row["lunch_at"]) == has_lunch


def test_a_demonstration_has_neither_lunch_nor_shorter_days() -> None:
    drawn = workdays("UTC", MONDAY_NOON, DEMONSTRATION, senders=50)
    assert (drawn["closes_at"] - drawn["opens_at"] == timedelta(days=1)).all()
    assert (drawn["lunch_at"] == drawn["lunch_ends_at"]).all()


# The next opening


@settings(deadline=None)
@given(
    zone=st.sampled_from(ZONES), at=instants, policy=st.sampled_from(POLICIES), sender_id=st.integers(1, 2**40),
    share=st.floats(0, 1, exclude_max=True),
)  # fmt: skip
@example(  # Apia had no 30 December 2011
    zone="Pacific/Apia", at=datetime(2011, 12, 30, 6, tzinfo=UTC), policy=STANDARD, sender_id=1, share=0.9
)  # fmt: skip
def test_the_next_opening_is_the_first_instant_at_which_the_window_of_its_day_is_open(
    *, zone: str, at: datetime, policy: PacingPolicy, sender_id: int, share: float
) -> None:
    """S-F5: the guard and the planner agree to the microsecond, also about what lies between."""
    opening = next_opening(zone, at, policy, seed=3, sender_id=sender_id)
    sender = frame(a_sender(sender_id, zone=zone))

    def is_open_at(moment: datetime) -> bool:
        return is_open(open_windows(sender, moment, policy, 3).iloc[0], moment)

    assert is_open_at(opening)
    if opening > at:
        just_before = opening - timedelta(microseconds=1)
        assert not any(map(is_open_at, (at, min(at + (opening - at) * share, just_before), just_before)))


@given(
    after_s=st.lists(st.integers(0, 16 * 366 * 86_400), min_size=1, max_size=5),
    zones=st.lists(st.sampled_from(ZONES), min_size=5, max_size=5),
    weekdays=st.sets(st.integers(0, 6), min_size=1),
    together=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_first_opening_of_many_senders_is_the_least_of_their_next_openings(
    after_s: list[int], zones: list[str], weekdays: set[int], together: bool
) -> None:
    policy = STANDARD.model_copy(update={"weekdays": tuple(sorted(weekdays))})
    if together:
        after_s = [after_s[0]] * len(after_s)
    instants = [datetime(2011, 12, 20, tzinfo=UTC) + timedelta(seconds=after) for after in after_s]
    rows = [(number, zone, at) for number, (zone, at) in enumerate(zip(zones, instants, strict=False), start=1)]
    openings = [(next_opening(zone, at, policy, seed=3, sender_id=number), number) for number, zone, at in rows]
    senders = pd.DataFrame(rows, columns=["sender_id", "zone", "not_before"])
    senders = senders.astype({"not_before": "datetime64[us, UTC]"})

    assert first_opening(senders, policy, seed=3) == min(openings)
    assert first_opening(senders.head(0), policy, seed=3) is None


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
    assert next_opening("Europe/Berlin", at, WHOLE, seed=1, sender_id=1) == opens


def test_a_weekly_window_that_a_clock_change_swallows_opens_a_week_later() -> None:
    """In Berlin no clock shows 02:30 on 29 March."""
    policy = PacingPolicy(window_start=time(2, 30), window_end=time(3), weekdays=(6,))
    opens_at = next_opening("Europe/Berlin", datetime(2026, 3, 23, tzinfo=UTC), policy, seed=1, sender_id=1)
    assert local_day(opens_at, "Europe/Berlin") == date(2026, 4, 5)


# Spans


def test_a_span_is_the_part_of_the_hour_that_is_still_ahead_and_open() -> None:
    at = datetime(2026, 6, 1, 8, 10, tzinfo=UTC)
    row = span(at, datetime(2026, 6, 1, 9, tzinfo=UTC))
    assert row["span_start"] == datetime(2026, 6, 1, 8, 30, tzinfo=UTC)
    assert (row["open_s_now"], row["open_s_left"]) == (1800, 9 * 3600)


def test_the_last_span_of_a_window_is_all_that_is_left() -> None:
    row = span(datetime(2026, 6, 1, 17, 5, tzinfo=UTC), datetime(2026, 6, 1, 18, tzinfo=UTC))
    assert (row["open_s_now"], row["open_s_left"]) == (1500, 1500)


@pytest.mark.parametrize(
    ("start", "minutes", "now", "left"),
    [
        ("11:00", 60, 60, 360),  # lunch, 12:30-13:00, is still to come
        ("12:00", 60, 30, 300),
        ("12:40", 20, 0, 270),
        ("12:20", 100, 70, 280),  # on both sides
        ("13:00", 60, 60, 270),
    ],
)
def test_lunch_is_no_open_time(start: str, minutes: int, now: int, left: int) -> None:
    begins = datetime.combine(MONDAY_NOON.date(), time.fromisoformat(start), tzinfo=UTC)
    row = planning_span(frame(a_workday()), begins, begins + timedelta(minutes=minutes), STANDARD).iloc[0]
    assert (row["open_s_now"] / 60, row["open_s_left"] / 60) == (now, left)
    assert row["span_start"] <= row["lunch_at"] <= row["lunch_ends_at"] <= row["span_end"]


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


@settings(deadline=None, max_examples=50)
@given(zone=st.sampled_from(ZONES), day=st.dates(date(2012, 1, 2), date(2030, 1, 1)), policy=st.sampled_from(POLICIES))
@example(zone="Asia/Kolkata", day=date(2026, 6, 1), policy=STANDARD)
@example(zone="Europe/Berlin", day=date(2026, 10, 25), policy=POLICIES[3])
def test_the_spans_of_a_day_cover_its_workday_once(zone: str, day: date, policy: PacingPolicy) -> None:
    """S-F5, towards Q-F6: whatever the zone's offset and the day's length, an hour ends where the next starts."""
    start = datetime.combine(day, time(0), ZoneInfo(zone)).astimezone(UTC)
    workday = workdays(zone, start, policy)
    row = workday.iloc[0]
    left = (row["closes_at"] - row["opens_at"] - (row["lunch_ends_at"] - row["lunch_at"])).total_seconds()
    hour = start.replace(minute=0)
    while hour < row["closes_at"]:
        piece = planning_span(workday, max(hour, start), hour + HOUR, policy).iloc[0]
        hour += HOUR
        if piece["span_end"] > piece["span_start"]:
            assert piece["open_s_left"] == left
            left -= piece["open_s_now"]
    assert left == 0


# Pace


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**40),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seconds=st.integers(0, 7200),
    busy_for=st.none() | st.floats(-3600, 7200),
    lunch=st.tuples(st.integers(0, 7200), st.integers(0, 7200)),
    gap=st.integers(20, 1200),
    jitter=st.integers(0, 600),
)
def test_mails_of_one_sender_keep_their_gap_and_stay_in_the_span_and_out_of_lunch(
    *,
    seed: int,
    counts: list[int],
    seconds: int,
    busy_for: float | None,
    lunch: tuple[int, int],
    gap: int,
    jitter: int,
) -> None:
    """S-B6, S-F5, also towards the last mail of the hour before."""
    policy = PacingPolicy(gap_minimum_s=gap, gap_jitter_s=jitter)
    not_before = None if busy_for is None else MONDAY_NOON + timedelta(seconds=busy_for)
    begins, ends = (MONDAY_NOON + timedelta(seconds=min(bound, seconds)) for bound in sorted(lunch))
    spans = [
        a_span(n, seconds, not_before=not_before, lunch_at=begins, lunch_ends_at=ends)
        for n, _ in enumerate(counts, start=1)
    ]
    paced = pace(slots_of(*counts), frame(*spans), policy, seed, MONDAY_NOON)

    earliest = max(MONDAY_NOON, not_before or MONDAY_NOON)
    times = paced["target_time"]
    assert (times >= earliest).all()
    assert (times < MONDAY_NOON + timedelta(seconds=seconds)).all()
    assert not ((begins <= times) & (times < ends)).any()
    assert (times == times.dt.floor("s")).all()
    assert paced["gap_s"].between(gap, gap + jitter).all()
    for _, mails in paced.groupby("sender_id"):
        waited = mails["target_time"].diff().dt.total_seconds()
        assert (waited.iloc[1:].to_numpy() >= mails["gap_s"].iloc[:-1].to_numpy()).all()
        assert mails["ordinal"].tolist() == list(range(1, len(mails) + 1))

    whole_seconds = pd.Series(pd.date_range(MONDAY_NOON, periods=seconds, freq="s"), dtype="datetime64[us, UTC]")
    is_free = (whole_seconds >= earliest) & ~((begins <= whole_seconds) & (whole_seconds < ends))
    for sender, count in enumerate(counts, start=1):
        if (count - 1) * (gap + jitter) < is_free.sum():
            assert (paced["sender_id"] == sender).sum() == count


def test_slots_are_left_out_only_when_they_do_not_fit() -> None:
    """With gaps of exactly 600 s, seven mails need 3,600 s and a second to stand in, and lunch is none of these."""
    policy = PacingPolicy(gap_jitter_s=0)
    lunch = {"lunch_at": MONDAY_NOON + timedelta(seconds=500), "lunch_ends_at": MONDAY_NOON + timedelta(seconds=1500)}
    spans = frame(a_span(1, 3600), a_span(2, 3601), a_span(3, 0), a_span(4, 4600, **lunch), a_span(5, 4601, **lunch))
    paced = pace(slots_of(7, 7, 1, 7, 7), spans, policy, 1, MONDAY_NOON)
    assert paced.groupby("sender_id").size().to_dict() == {1: 6, 2: 7, 4: 6, 5: 7}


@pytest.mark.parametrize(
    ("busy_for", "seconds", "mails"), [(900, 3600, 4), (900, 3601, 5), (1300, 3700, 4), (1300, 3701, 5)]
)
def test_a_sender_that_is_busy_into_lunch_or_beyond_loses_that_time_once(
    busy_for: int, seconds: int, mails: int
) -> None:
    """Lunch lasts from second 600 to 1200; gaps are 600 s."""
    begins, ends, not_before = (MONDAY_NOON + timedelta(seconds=offset) for offset in (600, 1200, busy_for))
    spans = frame(a_span(1, seconds, lunch_at=begins, lunch_ends_at=ends, not_before=not_before))
    paced = pace(slots_of(9), spans, PacingPolicy(gap_jitter_s=0), 1, MONDAY_NOON)
    assert len(paced) == mails
    assert paced["target_time"].min() >= max(ends, not_before)


def test_mails_spread_over_the_whole_span() -> None:
    places = {"every_s": 1200.0, "open_s_left": 7200.0}
    spans = frame(*(a_span(n + 1, first_s=1200 * n / 4000, **places) for n in range(4000)))
    paced = pace(slots_of(*[3] * 4000), spans, STANDARD, 1, MONDAY_NOON)
    minute = (paced["target_time"] - MONDAY_NOON).dt.total_seconds() / 60
    assert minute.mean() == pytest.approx(30, abs=0.5)
    assert minute.min() < 0.2
    assert minute.max() > 59.8
    mails = np.histogram(minute, bins=20, range=(0, 60))[0]
    assert mails.min() > 500
    assert mails.max() < 700


def test_a_slot_may_be_moved_within_its_room_and_all_gaps_still_hold() -> None:
    """S-B6: whichever of them moves, and however far."""
    lunch = {"lunch_at": MONDAY_NOON + timedelta(minutes=20), "lunch_ends_at": MONDAY_NOON + timedelta(minutes=30)}
    paced = pace(slots_of(4, 3), frame(a_span(1, 3600), a_span(2, 4200, **lunch)), STANDARD, 1, MONDAY_NOON)
    assert (paced["earliest"] <= paced["target_time"]).all()
    assert (paced["target_time"] <= paced["latest"]).all()
    for _, mails in paced.groupby("sender_id"):
        least = mails["earliest"].iloc[1:].to_numpy() - mails["latest"].iloc[:-1].to_numpy()
        assert (least >= pd.to_timedelta(mails["gap_s"].iloc[:-1], unit="s").to_numpy()).all()
    of_second = paced[paced["sender_id"] == 2]
    for bound in ("earliest", "latest"):
        assert not of_second[bound].between(lunch["lunch_at"], lunch["lunch_ends_at"], inclusive="left").any()


def test_the_order_of_rows_changes_nothing() -> None:
    """Q-F1."""
    senders = frame(*(a_sender(n, zone=zone) for n, zone in ((1, "UTC"), (2, "Europe/Berlin"), (3, "UTC"))))
    slots = slots_of(3, 1, 4)

    def plan(senders: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
        windows = open_windows(senders, MONDAY_NOON, STANDARD, 1)
        spans = planning_span(windows, MONDAY_NOON, MONDAY_NOON + HOUR, STANDARD)
        spans = spans.assign(not_before=pd.DatetimeIndex([pd.NaT] * len(spans), tz="UTC"), first_s=100.0, every_s=800.0)
        return pace(slots, spans, STANDARD, 1, MONDAY_NOON).reset_index(drop=True)

    mixed = plan(senders.iloc[::-1].astype({"zone": "category"}), slots.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(plan(senders, slots), mixed)


def test_another_hour_or_seed_draws_other_times() -> None:
    plans = [
        pace(slots_of(5), frame(a_span()), STANDARD, seed, hour)["target_time"].tolist()
        for seed, hour in ((1, MONDAY_NOON), (2, MONDAY_NOON), (1, MONDAY_NOON + HOUR))
    ]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_slots_of_a_sender_without_a_span_are_an_error() -> None:
    with pytest.raises(ValueError, match="sender 2 has slots but no span"):
        pace(slots_of(1, 1), frame(a_span(1)), STANDARD, 1, MONDAY_NOON)


@pytest.mark.parametrize(("slots", "seconds"), [(0, 3600), (3, 0)])
def test_pacing_nothing_is_an_empty_plan(slots: int, seconds: int) -> None:
    paced = pace(slots_of(3).iloc[:slots], frame(a_span(1, seconds)), STANDARD, 1, MONDAY_NOON)
    assert paced.empty
    assert paced.dtypes.astype(str).to_dict() == {
        "sender_id": "int64", "ordinal": "int64", "target_time": "datetime64[us, UTC]", "gap_s": "int64",
        "earliest": "datetime64[us, UTC]", "latest": "datetime64[us, UTC]",
    }  # fmt: skip


# The policy


@pytest.mark.parametrize(
    "values",
    [
        {"window_start": time(18), "window_end": time(9)},
        {"weekdays": ()},
        {"weekdays": (7,)},
        {"gap_minimum_s": 5},
        {"gap_jitter_s": -1},
        {"lunch_minimum_s": 3601},  # above the longest
        {"lunch_from": time(13)},  # no room for the longest
        {"workday_start_spread_s": -1},
    ],
)
def test_a_pacing_policy_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PacingPolicy(**values)
