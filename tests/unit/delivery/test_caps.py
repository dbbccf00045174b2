"""Counters of 25 UTC hours, and the caps that are judged by them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from emberflow.delivery.caps import HOURS_KEPT, Cap, CounterKey, Counters

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY, OTHER = CounterKey("sender", "1"), CounterKey("sender", "2")


def ago(hours: float) -> datetime:
    return NOON - timedelta(hours=hours)


def some_counters(*per_hour: int) -> Counters:
    """A counter whose last hours are these, the last one beginning at noon; before them nothing was sent."""
    return Counters(NOON, {KEY: [0] * (HOURS_KEPT - len(per_hour)) + list(per_hour)})


def a_cap(limit: int) -> Cap:
    return Cap(KEY, limit, "24h")


def test_a_cap_of_24_hours_counts_all_hours_and_one_of_an_hour_only_the_present() -> None:
    counters = some_counters(2, 3, 4)
    assert counters.used(a_cap(9)) == 9
    assert counters.used(Cap(KEY, 9, "hour")) == 4


def test_a_cap_loosens_with_the_hour_in_which_one_mail_more_fits() -> None:
    """The two mails of an hour ago leave the 25 hours in 24, those of this hour in 25."""
    counters = some_counters(2, 1)
    assert counters.loosens_at(a_cap(3)) == NOON + timedelta(hours=24)
    assert counters.loosens_at(a_cap(1)) == NOON + timedelta(hours=25)
    assert counters.loosens_at(Cap(KEY, 1, "hour")) == NOON + timedelta(hours=1)


def test_a_cap_of_nothing_is_looked_at_again_a_day_later() -> None:
    assert some_counters(1).loosens_at(a_cap(0)) == NOON + timedelta(hours=HOURS_KEPT)


def test_stored_counters_move_on_to_the_present_hour() -> None:
    counters = Counters.as_of(NOON + timedelta(minutes=59), {KEY: (ago(2), [7] * 23 + [5, 6])})
    assert counters.hour == NOON
    assert counters.used(a_cap(1)) == 21 * 7 + 5 + 6
    assert counters.used(Cap(KEY, 1, "hour")) == 0


def test_what_is_older_than_all_that_is_kept_counts_no_more() -> None:
    counters = Counters.as_of(NOON, {KEY: (ago(500), [9] * HOURS_KEPT)})
    assert counters.used(a_cap(1)) == 0
    counters.add([KEY])
    assert counters.changed == {KEY: [0] * (HOURS_KEPT - 1) + [1]}


def test_a_clock_that_is_behind_counts_into_the_newest_hour_that_is_known() -> None:
    """Never too little for a cap: two counters of one transaction are of the same hour."""
    counters = Counters.as_of(ago(3), {KEY: (NOON, [0] * 24 + [4]), OTHER: (ago(1), [0] * 24 + [5])})
    assert counters.hour == NOON
    assert counters.used(Cap(KEY, 1, "hour")) == 4
    assert counters.used(Cap(OTHER, 1, "hour")) == 0
    assert counters.used(Cap(OTHER, 1, "24h")) == 5


def test_only_what_was_counted_is_written_in_the_order_of_the_keys() -> None:
    third = CounterKey("all", "")
    counters = Counters(NOON, {key: [0] * HOURS_KEPT for key in (KEY, OTHER, third)})
    counters.add([OTHER, third])
    counters.add([OTHER])
    assert [(key, per_hour[-1]) for key, per_hour in counters.changed.items()] == [(third, 1), (OTHER, 2)]


def test_a_mail_is_taken_back_from_the_hour_that_it_was_counted_in() -> None:
    counters = some_counters(2, 0)
    counters.take_back([KEY], ago(0.5))
    assert counters.changed == {KEY: [0] * 23 + [1, 0]}


def test_nothing_is_taken_back_below_zero_or_from_an_hour_that_is_forgotten() -> None:
    counters = some_counters(0, 1)
    counters.take_back([KEY], ago(1))
    counters.take_back([KEY], ago(HOURS_KEPT))
    counters.add_late([KEY], ago(HOURS_KEPT))
    assert counters.used(a_cap(1)) == 1


@given(st.lists(st.floats(0, 24, exclude_max=True), max_size=40), st.integers(1, 10))
def test_no_24_hours_ever_hold_more_than_the_cap(waits_h: list[float], limit: int) -> None:
    """Towards Q-F6. Invariant: whoever sends only while the counter is below the cap never exceeds it."""
    now, stored, sent = NOON, (NOON, [0] * HOURS_KEPT), list[datetime]()
    for wait_h in waits_h:
        now += timedelta(hours=wait_h)
        counters = Counters.as_of(now, {KEY: stored})
        if counters.used(a_cap(limit)) < limit:
            counters.add([KEY])
            sent.append(now)
            stored = (counters.hour, counters.changed[KEY])
    assert all(sum(moment - timedelta(hours=24) < one <= moment for one in sent) <= limit for moment in sent)
