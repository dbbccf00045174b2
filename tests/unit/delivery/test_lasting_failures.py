"""Since when a check fails: the law of the 72 hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from emberflow.delivery.lasting_failures import CheckState, Status, after, lasting

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
LIMIT_S = 72 * 3600.0

histories = st.lists(
    st.tuples(st.sampled_from(["pass", "fail", "unknown"]), st.integers(1, 100)), min_size=1, max_size=20
)


def told(history: list[tuple[Status, int]]) -> tuple[CheckState, datetime]:
    """The state after outcomes that are so many hours apart, and the instant of the last one."""
    state, now = None, NOON
    for status, hours in history:
        now += timedelta(hours=hours)
        state = after(state, status, now)
    assert state is not None
    return state, now


def overdue(state: CheckState, now: datetime) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = lasting({"spf": state}, ["spf"], {"spf": LIMIT_S}, now)
    return found.failing, found.open


@given(histories)
def test_a_failure_lasts_from_the_first_fail_since_the_last_pass(history: list[tuple[Status, int]]) -> None:
    """Towards S-B9"""
    state, _ = told(history)
    now, first = NOON, None
    for status, hours in history:
        now += timedelta(hours=hours)
        if status == "pass":
            first = None
        elif status == "fail":
            first = first or now
    assert state.failing_since == first


@given(histories)
def test_what_is_not_known_stops_nothing_takes_nothing_back_and_moves_no_beginning(
    history: list[tuple[Status, int]],
) -> None:
    """Towards S-B9: without the unknown outcomes the beginning is the same."""
    state, now = told([*history, ("unknown", 1)])
    assert overdue(state, now)[0] == ()
    assert state.failing_since == told(history)[0].failing_since
    certain = [(status, hours) for status, hours in history if status != "unknown"]
    assert (state.failing_since is None) == (not certain or certain[-1][0] == "pass")


def test_the_limit_itself_is_not_too_long() -> None:
    failing = CheckState("fail", NOON)
    assert overdue(failing, NOON + timedelta(hours=72)) == ((), ())
    assert overdue(failing, NOON + timedelta(hours=72, seconds=1)) == (("spf",), ("spf",))
    assert overdue(CheckState("unknown", NOON), NOON + timedelta(hours=80)) == ((), ("spf",))


def test_a_check_that_is_not_required_is_never_overdue() -> None:
    assert lasting({"mx": CheckState("fail", NOON)}, ["spf"], {}, NOON + timedelta(days=9)).open == ()
