"""Daily quotas, and how the hours of a day share them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.senders.quota import QuotaPolicy, daily_quota, slots_for_hour
from emberflow.senders.ramp import RampPolicy
from tests.builders import MONDAY_NOON, a_sender, a_sender_day, frame

STEADY = QuotaPolicy(daily_factor_low=1)
DAY_30 = 30  # a ramp day on the plateau


def quota_of(policy: QuotaPolicy = STEADY, seed: int = 1, **sender: Any) -> int:
    quota = daily_quota(frame(a_sender(**sender)), RampPolicy(), policy, seed)
    return int(quota["warmup_quota"].iloc[0])


@pytest.mark.parametrize(
    ("score", "quota"),
    [(100, 30), (80, 30), (79.9, 22), (60, 22), (59, 15), (40, 15), (39, 7), (0, 7), (None, 30)],
)
def test_health_scales_the_ramp_and_a_sender_without_a_score_keeps_it(score: float | None, quota: int) -> None:
    assert quota_of(ramp_day=DAY_30, score=score) == quota


def test_the_daily_factor_varies_from_day_to_day_but_not_within_a_day() -> None:
    days = [a_sender(ramp_day=DAY_30, local_day=date(2026, 6, 1) + timedelta(days=n)) for n in range(60)]
    first, again = (daily_quota(frame(*days), RampPolicy(), QuotaPolicy(), seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert first["daily_factor"].between(0.9, 1).all()
    assert set(first["warmup_quota"]) == {27, 28, 29, 30}


def test_the_daily_factor_depends_on_the_sender_and_the_seed() -> None:
    rows = [a_sender(sender_id=n, ramp_day=DAY_30) for n in range(50)]
    one, two = (daily_quota(frame(*rows), RampPolicy(), QuotaPolicy(), seed)["daily_factor"] for seed in (1, 2))
    assert one.nunique() == 50
    assert (one != two).all()


def test_a_throttled_beginner_still_sends_one_mail() -> None:
    assert quota_of(ramp_day=1, score=10) == 1


def test_a_band_of_zero_sends_nothing() -> None:
    policy = QuotaPolicy(health=((50, 1.0), (0, 0.0)))
    assert quota_of(policy, ramp_day=DAY_30, score=49) == 0


def test_the_total_cap_is_stated_and_bounds_the_warmup_quota() -> None:
    """S-B5: the cap is over mail of all kinds."""
    quota = daily_quota(frame(a_sender(ramp_day=DAY_30)), RampPolicy(), QuotaPolicy(total_daily_cap=12), seed=1)
    assert quota[["total_quota", "warmup_quota"]].to_numpy().tolist() == [[12, 12]]


@settings(deadline=None)
@given(
    ramp_day=st.integers(0, 400),
    score=st.none() | st.floats(0, 100),
    seed=st.integers(0, 2**40),
    low=st.floats(0.5, 1),
)
def test_a_quota_is_never_above_the_ramp_and_never_starves_a_sender_that_may_send(
    ramp_day: int, score: float | None, seed: int, low: float
) -> None:
    row = daily_quota(
        frame(a_sender(ramp_day=ramp_day, score=score)), RampPolicy(), QuotaPolicy(daily_factor_low=low), seed
    ).iloc[0]
    healthy = row["ramp_volume"] * row["health_multiplier"]
    assert row["warmup_quota"] <= max(healthy, 1)
    assert (row["warmup_quota"] >= 1) == (healthy > 0)


def test_one_span_over_the_whole_window_takes_the_whole_quota() -> None:
    assert slots_for_hour(frame(a_sender_day(warmup_quota=17)), MONDAY_NOON, seed=1).tolist() == [17]


def test_what_was_sent_or_reserved_is_subtracted() -> None:
    day = frame(
        a_sender_day(1, warmup_quota=10, warmup_used=4, total_used=4),
        a_sender_day(2, warmup_quota=10, warmup_used=2, total_quota=50, total_used=47),
        a_sender_day(3, warmup_quota=10, warmup_used=12),
    )
    assert slots_for_hour(day, MONDAY_NOON, seed=1).tolist() == [6, 3, 0]


def test_a_closed_window_gets_no_slots() -> None:
    day = frame(a_sender_day(open_s_now=0.0, open_s_left=0.0), a_sender_day(open_s_now=0.0, open_s_left=7200.0))
    assert slots_for_hour(day, MONDAY_NOON, seed=1).tolist() == [0, 0]


@settings(deadline=None)
@given(
    quota=st.integers(0, 50),
    total=st.integers(0, 60),
    seed=st.integers(0, 2**40),
    spans=st.lists(st.integers(1, 3600), min_size=1, max_size=24),
)
def test_the_hours_of_a_window_add_up_to_the_quota(quota: int, total: int, seed: int, spans: list[int]) -> None:
    """S-B5: never above what is left of either quota, and the last span takes the rest."""
    used = 0
    for n, span in enumerate(spans):
        day = a_sender_day(
            warmup_quota=quota,
            warmup_used=used,
            total_quota=total,
            total_used=used,
            open_s_now=float(span),
            open_s_left=float(sum(spans[n:])),
        )
        slots = int(slots_for_hour(frame(day), MONDAY_NOON + timedelta(hours=n), seed).iloc[0])
        assert slots >= 0
        used += slots
    assert used == min(quota, total)


def test_an_hour_expects_its_share_and_rounding_is_fair() -> None:
    day = frame(*(a_sender_day(n, warmup_quota=5, open_s_left=32_400.0) for n in range(20_000)))
    slots = slots_for_hour(day, MONDAY_NOON, seed=1)
    assert set(slots) == {0, 1}
    assert slots.mean() == pytest.approx(5 / 9, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    """Q-F1."""
    rows = [a_sender(n, ramp_day=n) | a_sender_day(n, warmup_quota=n, open_s_left=9000.0) for n in range(12)]
    straight, mixed = frame(*rows), frame(*(rows[n] for n in order))
    for compute in (
        lambda table: daily_quota(table, RampPolicy(), QuotaPolicy(), 1)["warmup_quota"],
        lambda table: slots_for_hour(table, MONDAY_NOON, 1),
    ):
        by_id = compute(mixed).set_axis(mixed["sender_id"]).sort_index()
        assert by_id.tolist() == compute(straight).tolist()


def test_nobody_gets_nothing() -> None:
    nobody = frame(a_sender() | a_sender_day()).iloc[:0]
    assert daily_quota(nobody, RampPolicy(), QuotaPolicy(), seed=1).empty
    assert slots_for_hour(nobody, MONDAY_NOON, seed=1).empty


@pytest.mark.parametrize(
    "bands", [(), ((80, 1.0),), ((0, 1.0), (80, 0.5)), ((80, 0.5), (0, 1.0)), ((120, 1.0), (0, 0.5))]
)
def test_health_bands_that_contradict_themselves_are_refused(bands: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError):
        QuotaPolicy(health=bands)
