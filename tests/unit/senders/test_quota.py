"""Daily quotas, and how the hours of a day share them."""

from __future__ import annotations

from collections.abc import Callable, Set
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.senders.policy import ColdPolicy, LinearRamp, QuotaPolicy, RampPolicy
from emberflow.senders.quota import COLD_GATES, daily_quota, slots_for_hour
from tests.builders import a_grown_sender, a_sender, a_sender_day, frame

EVERY_DAY_WHOLE = {"daily_factor_low": 1, "quiet_day_share": 0}
STEADY = QuotaPolicy(**EVERY_DAY_WHOLE)
MAILS = ["warmup_slots", "cold_slots"]
PLATEAU: dict[str, Any] = {"sending_days": 30, "last_row": 14, "last_volume": 30}

any_sender = st.fixed_dictionaries(
    {
        "sending_days": st.integers(0, 60),
        "last_row": st.integers(0, 14),
        "last_volume": st.none() | st.integers(1, 50),
        "idle_days": st.integers(0, 60),
        "score": st.none() | st.floats(0, 100),
        "in_campaign": st.booleans(),
        "domain_age_days": st.none() | st.integers(0, 500),
        "inbox_rate": st.none() | st.floats(0, 1),
        "placements": st.integers(0, 100),
        "cold_peak": st.integers(0, 40),
    }
)


def day_of(policy: QuotaPolicy, *rows: dict[str, Any], seed: int = 1, ramp: RampPolicy | None = None) -> pd.DataFrame:
    return daily_quota(frame(*rows), ramp or LinearRamp(), policy, seed)


def quota_of(policy: QuotaPolicy = STEADY, **sender: Any) -> int:
    return int(day_of(policy, a_sender(**sender))["warmup_quota"].iloc[0])


def cold_of(policy: QuotaPolicy = STEADY, **sender: Any) -> tuple[int, str]:
    row = day_of(policy, a_grown_sender(**sender)).iloc[0]
    return int(row["cold_quota"]), str(row["cold_gate"])


@pytest.mark.parametrize(
    ("score", "quota"),
    [(100, 30), (80, 30), (79.9, 22), (60, 22), (59, 15), (40, 15), (39, 7), (0, 7), (None, 30)],
)
def test_health_scales_the_ramp_and_a_sender_without_a_score_keeps_it(score: float | None, quota: int) -> None:
    assert quota_of(**PLATEAU, score=score) == quota


@pytest.mark.parametrize(("last", "quota"), [(None, 30), (1, 30), (0.5, 15), (0.25, 7), (0, 0)])
def test_a_score_that_is_not_known_any_more_never_lifts_a_throttle(last: float | None, quota: int) -> None:
    assert quota_of(**PLATEAU, score=None, last_multiplier=last) == quota


def test_a_known_score_counts_whatever_the_day_before_was() -> None:
    assert quota_of(**PLATEAU, score=100, last_multiplier=0.25) == 30


def test_the_daily_factor_varies_from_day_to_day_but_not_within_a_day() -> None:
    days = [a_sender(**PLATEAU, local_day=date(2026, 6, 1) + timedelta(days=n)) for n in range(400)]
    first, again = (day_of(QuotaPolicy(), *days) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert set(first["warmup_quota"]) == {18, *range(23, 31)}


def test_the_daily_factor_only_lowers_and_has_its_quiet_and_its_whole_days() -> None:
    factor = day_of(QuotaPolicy(), *(a_sender(n) for n in range(20_000)))["daily_factor"]
    assert factor.max() == 1
    assert factor[factor != 0.6].between(0.75, 1).all()
    assert (factor == 0.6).mean() == pytest.approx(0.15, abs=0.01)
    assert (factor == 1).mean() == pytest.approx(0.85 * 0.10 / 0.35, abs=0.01)


def test_the_daily_factor_depends_on_the_sender_and_the_seed() -> None:
    rows = [a_sender(n, **PLATEAU) for n in range(50)]
    policy = QuotaPolicy(daily_factor_high=1, quiet_day_share=0)
    one, two = (day_of(policy, *rows, seed=seed)["daily_factor"] for seed in (1, 2))
    assert one.nunique() == 50
    assert (one != two).all()


def test_a_throttled_beginner_still_sends_one_mail() -> None:
    assert quota_of(score=10) == 1


def test_a_band_of_zero_sends_nothing() -> None:
    policy = QuotaPolicy(**EVERY_DAY_WHOLE, health=((50, 1.0), (0, 0.0)))
    assert quota_of(policy, **PLATEAU, score=49) == 0
    assert cold_of(policy, score=49) == (0, "open")


def test_the_total_cap_is_stated_and_bounds_the_warmup_quota() -> None:
    """S-B5: the cap is over mail of all kinds."""
    quota = day_of(QuotaPolicy(**EVERY_DAY_WHOLE, total_daily_cap=12), a_sender(**PLATEAU))
    assert quota[["total_quota", "warmup_quota"]].to_numpy().tolist() == [[12, 12]]


@settings(deadline=None)
@given(any_sender, st.integers(0, 2**40), st.integers(1, 200), st.integers(0, 100))
def test_quotas_keep_every_bound_and_never_starve_a_sender_that_may_send(
    sender: dict[str, Any], seed: int, total: int, cold_cap: int
) -> None:
    """S-B5, towards S-F6"""
    policy = QuotaPolicy(total_daily_cap=total, cold=ColdPolicy(cap=cold_cap))
    row = day_of(policy, a_sender(**sender), seed=seed).iloc[0]
    assert 1 <= row["warmup_quota"] <= max(row["ramp_volume"] * row["health_multiplier"], 1)
    assert row["warmup_quota"] + row["cold_quota"] <= row["total_quota"] == total
    assert 0 <= row["cold_quota"] <= min(cold_cap, row["cold_by_step"], row["cold_by_mix"])
    assert row["cold_quota"] == 0 or row["cold_gate"] == "open"


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({}, "open"),
        ({"in_campaign": False}, "no_campaign"),
        ({"sending_days": 14}, "open"),
        ({"sending_days": 13}, "too_few_sending_days"),
        ({"sending_days": 27, "domain_age_days": 89}, "too_few_sending_days"),
        ({"sending_days": 27, "domain_age_days": None}, "too_few_sending_days"),
        ({"sending_days": 28, "domain_age_days": 89}, "open"),
        ({"sending_days": 14, "domain_age_days": 90}, "open"),
        ({"sending_days": 200, "idle_days": 30}, "open"),
        ({"sending_days": 200, "idle_days": 31}, "too_few_sending_days"),
        ({"placements": 19}, "too_few_placements"),
        ({"inbox_rate": None}, "too_few_placements"),
        ({"inbox_rate": 0.899, "cold_peak": 0}, "placement_too_low"),
        ({"inbox_rate": 0.9, "cold_peak": 0}, "open"),
        ({"inbox_rate": 0.8, "cold_peak": 5}, "open"),
        ({"inbox_rate": 0.799, "cold_peak": 5}, "placement_too_low"),
    ],
)
def test_a_sender_graduates_to_cold_mail_by_sending_days_and_placement(changes: dict[str, Any], gate: str) -> None:
    """Towards S-F6: , with the hysteresis of a sender that sends cold mail already."""
    assert gate in COLD_GATES
    cold, reason = cold_of(**changes)
    assert reason == gate
    assert (cold > 0) == (gate == "open")


def test_cold_mail_grows_by_5_a_day_until_its_cap() -> None:
    """Towards S-F6"""
    peak, grown = 0, []
    for _ in range(8):
        peak, _ = cold_of(cold_peak=peak)
        grown.append(peak)
    assert grown == [5, 10, 15, 20, 25, 30, 30, 30]


@pytest.mark.parametrize(
    ("volume", "mix"), [(9, (9, 0)), (10, (10, 5)), (15, (15, 15)), (20, (20, 30)), (30, (20, 30))]
)
def test_the_mix_is_the_published_schedule(volume: int, mix: tuple[int, int]) -> None:
    """Towards S-F6: Smartlead's days of 9 + 0, 10 + 5, 15 + 15, 20 + 30; a larger ramp makes room under the cap."""
    ramp = LinearRamp(start=9 if volume == 9 else 10, step=0 if volume < 15 else 5, maximum=volume)
    row = day_of(STEADY, a_grown_sender(last_volume=volume), ramp=ramp).iloc[0]
    assert (row["warmup_quota"], row["cold_quota"]) == mix


def test_a_throttled_sender_falls_back_in_the_mix() -> None:
    """Towards S-F6: half of the ramp carries the cold mail of half of the ramp, a quarter of it none."""
    assert [cold_of(score=score)[0] for score in (80, 40, 39)] == [30, 15, 0]


def test_a_sender_without_a_campaign_keeps_its_whole_ramp() -> None:
    assert quota_of(**PLATEAU, cold_peak=30) == 30


def test_one_span_over_the_whole_window_takes_the_whole_quota() -> None:
    day = frame(a_sender_day(warmup_quota=17, cold_quota=9))
    assert slots_for_hour(day, STEADY, 1)[MAILS].to_numpy().tolist() == [[17, 9]]


def test_what_was_sent_or_reserved_is_subtracted_and_warmup_yields_down_to_its_reserve() -> None:
    """Q-B2: the reserve is a fifth of the total of 50; only mail that has left already can have used it."""
    day = frame(
        a_sender_day(1, warmup_quota=10, warmup_used=4, total_used=4),
        a_sender_day(2, warmup_quota=10, warmup_used=2, total_quota=50, total_used=47),
        a_sender_day(3, warmup_quota=10, warmup_used=12),
        a_sender_day(4, warmup_quota=20, cold_quota=30, cold_used=10, total_used=25),
        a_sender_day(5, warmup_quota=20, cold_quota=30, total_used=40),
        a_sender_day(6, warmup_quota=20, cold_quota=30, total_used=60),
    )
    assert slots_for_hour(day, STEADY, 1)[MAILS].to_numpy().tolist() == [
        [6, 0], [3, 0], [0, 0], [10, 15], [10, 0], [0, 0],
    ]  # fmt: skip


def test_mail_that_a_person_sent_takes_as_many_places_and_leaves_one_for_warm_up() -> None:
    """S-F7: of the ramp's volume and of the total, which it can use up."""
    day = frame(
        a_sender_day(1, warmup_quota=20, outside_sent=7),
        a_sender_day(2, warmup_quota=20, warmup_used=5, total_used=5, outside_sent=7),
        a_sender_day(3, warmup_quota=5, outside_sent=7),
        a_sender_day(4, warmup_quota=5, warmup_used=1, total_used=1, outside_sent=7),
        a_sender_day(5, warmup_quota=5, outside_sent=50),
        a_sender_day(6, warmup_quota=20, cold_quota=30, outside_sent=7),
        a_sender_day(7, warmup_quota=20, cold_quota=30, outside_sent=25),
        a_sender_day(8, warmup_quota=0, outside_sent=7),
    )
    assert slots_for_hour(day, STEADY, 1)[MAILS].to_numpy().tolist() == [
        [13, 0], [8, 0], [1, 0], [0, 0], [0, 0], [13, 30], [1, 24], [0, 0],
    ]  # fmt: skip


@settings(deadline=None)
@given(
    warmup=st.integers(1, 50),
    cold=st.integers(0, 40),
    total=st.integers(0, 60),
    outside=st.integers(0, 70),
    seed=st.integers(0, 2**40),
    spans=st.lists(st.integers(1, 3600), min_size=1, max_size=8),
)
def test_a_day_never_adds_up_to_more_than_its_total_with_what_a_person_sent(
    warmup: int, cold: int, total: int, outside: int, seed: int, spans: list[int]
) -> None:
    """S-F7, S-B5"""
    warmup_used, cold_used = _sent_in(
        spans, seed, warmup_quota=warmup, cold_quota=cold, total_quota=total, outside_sent=outside
    )
    assert warmup_used + cold_used <= max(total - outside, 0)
    assert warmup_used <= max(warmup - outside, 1)
    if total - outside > cold:
        assert warmup_used >= min(max(warmup - outside, 1), total - outside - cold)


def test_a_closed_window_gets_no_slots() -> None:
    day = frame(a_sender_day(open_s_now=0.0, open_s_left=0.0), a_sender_day(open_s_now=0.0, open_s_left=7200.0))
    assert not slots_for_hour(day, STEADY, 1)[MAILS].to_numpy().any()


@settings(deadline=None)
@given(
    warmup=st.integers(0, 50),
    cold=st.integers(0, 40),
    total=st.integers(0, 60),
    seed=st.integers(0, 2**40),
    spans=st.lists(st.integers(1, 3600), min_size=1, max_size=24),
)
def test_the_hours_of_a_window_add_up_to_the_quota(
    warmup: int, cold: int, total: int, seed: int, spans: list[int]
) -> None:
    """S-B5, Q-B2: never above what is left of any quota, the last span takes the rest, and warm-up has its reserve."""
    warmup_used, cold_used = _sent_in(spans, seed, warmup_quota=warmup, cold_quota=cold, total_quota=total)
    reserve = min(warmup, max(total // 5, 1))
    assert cold_used == min(cold, max(total - reserve, 0))
    assert warmup_used == min(warmup, total - cold_used)


@settings(deadline=None, max_examples=40)
@given(
    day=st.sampled_from([(date(2026, 3, 29), 23), (date(2026, 6, 1), 24), (date(2026, 10, 25), 25)]),
    seed=st.integers(0, 2**40),
    missed=st.sets(st.integers(0, 21)),
)
def test_a_day_of_23_or_25_hours_adds_up_to_its_quota_even_when_runs_are_missed(
    day: tuple[date, int], seed: int, missed: set[int]
) -> None:
    """S-B5: a window over the whole local day, on both days of Berlin's clock change."""
    berlin = ZoneInfo("Europe/Berlin")
    opens, closes = (datetime.combine(day[0] + timedelta(days=n), time(0), berlin).astimezone(UTC) for n in (0, 1))
    hours = int((closes - opens) / timedelta(hours=1))
    assert hours == day[1]
    assert _sent_in([3600] * hours, seed, missed, warmup_quota=30, cold_quota=20) == (30, 20)


def _sent_in(spans: list[int], seed: int, missed: Set[int] = frozenset(), **quota: int) -> tuple[int, int]:
    warmup_used = cold_used = 0
    for n, span in enumerate(spans):
        used = {"warmup_used": warmup_used, "cold_used": cold_used, "total_used": warmup_used + cold_used}
        day = a_sender_day(
            **quota, **used, open_s_now=float(span), open_s_left=float(sum(spans[n:])), open_s=float(sum(spans))
        )
        slots = slots_for_hour(frame(day), STEADY, seed)[MAILS].iloc[0]
        assert (slots >= 0).all()
        if n not in missed:
            warmup_used += int(slots["warmup_slots"])
            cold_used += int(slots["cold_slots"])
    return warmup_used, cold_used


def test_an_hour_expects_its_share_and_rounding_is_fair() -> None:
    day = frame(*(a_sender_day(n, warmup_quota=5, open_s_left=32_400.0, open_s=32_400.0) for n in range(20_000)))
    slots = slots_for_hour(day, STEADY, 1)["warmup_slots"]
    assert set(slots) == {0, 1}
    assert slots.mean() == pytest.approx(5 / 9, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    """Q-F1."""
    rows = [a_grown_sender(n, sending_days=n + 8) | a_sender_day(n, warmup_quota=n, open_s_left=9e3) for n in range(12)]
    straight, mixed = frame(*rows), frame(*(rows[n] for n in order))
    computations: list[Callable[[pd.DataFrame], pd.DataFrame]] = [
        lambda table: daily_quota(table, LinearRamp(), QuotaPolicy(), 1),
        lambda table: slots_for_hour(table, STEADY, 1),
    ]
    for compute in computations:
        by_id = compute(mixed).set_axis(mixed["sender_id"]).sort_index()
        pd.testing.assert_frame_equal(by_id, compute(straight).set_axis(straight["sender_id"]))


def test_nobody_gets_nothing() -> None:
    nobody = frame(a_sender() | a_sender_day()).iloc[:0]
    assert daily_quota(nobody, LinearRamp(), QuotaPolicy(), seed=1).empty
    assert slots_for_hour(nobody, STEADY, 1).empty


@pytest.mark.parametrize(
    "bands", [(), ((80, 1.0),), ((0, 1.0), (80, 0.5)), ((80, 0.5), (0, 1.0)), ((120, 1.0), (0, 0.5))]
)
def test_health_bands_that_contradict_themselves_are_refused(bands: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError):
        QuotaPolicy(health=bands)


@pytest.mark.parametrize(
    "numbers",
    [{"keep_placement": 0.95}, {"mix": ((10, 5), (10, 6))}, {"mix": ((10, 5), (15, 4))}, {"sending_days": 6}],
)
def test_a_cold_policy_that_contradicts_itself_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ColdPolicy(**numbers)


def test_a_quota_policy_from_before_cold_mail_still_loads() -> None:
    stored = {"daily_factor_low": 0.9, "total_daily_cap": 50, "health": [[80, 1], [0, 0.25]], "unscored_multiplier": 1}
    assert QuotaPolicy.model_validate(stored).cold == ColdPolicy()
