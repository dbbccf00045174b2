"""Whether and when a received warm-up mail is answered."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.bots.policy import ReplyPolicy
from emberflow.bots.replies import decide_replies
from tests.builders import MONDAY_NOON, Row, a_received_mail, frame

STANDARD = ReplyPolicy()
ALWAYS = ReplyPolicy(rate=1, continue_rate=1)
DEMONSTRATION = ReplyPolicy(
    rate=1, floor_s=1, ceiling_s=30, fast_median_s=2, fast_sigma=0.5, slow_median_s=6, slow_sigma=0.5
)


def decide(rows: list[Row], policy: ReplyPolicy = STANDARD, seed: int = 1) -> pd.DataFrame:
    return decide_replies(frame(*rows), policy, seed)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), first=st.integers(1, 2**40), rate=st.floats(0, 0.6))
def test_of_a_thousand_mails_the_configured_share_is_answered(seed: int, first: int, rate: float) -> None:
    """B-B6, for every seed."""
    thousand = [a_received_mail(first + n) for n in range(1000)]
    assert decide(thousand, ReplyPolicy(rate=rate), seed)["replies"].mean() == pytest.approx(rate, abs=0.03)


def test_mails_with_scattered_slot_ids_are_answered_at_the_rate_too() -> None:
    """B-B6: eleven ids apart, so that no two share a stratum."""
    replies = decide([a_received_mail(n * 11) for n in range(20_000)])["replies"]
    assert replies.mean() == pytest.approx(0.30, abs=0.01)


def test_the_draw_of_a_slot_does_not_depend_on_its_company() -> None:
    alone = decide([a_received_mail(42)])
    among = decide([a_received_mail(n) for n in range(100)])
    assert among.loc[among["slot_id"] == 42, "draw"].item() == alone["draw"].item()


def test_later_turns_are_answered_at_their_own_rate() -> None:
    replies = decide([a_received_mail(n, turn=2) for n in range(10_000)])["replies"]
    assert replies.mean() == pytest.approx(0.5, abs=0.01)


def test_a_thread_ends_at_its_maximum_of_turns() -> None:
    """B-F7."""
    decided = decide([a_received_mail(n, turn=turn) for n, turn in enumerate((4, 5, 6))], ALWAYS)
    assert decided["reason"].tolist() == ["replies", "turns", "turns"]
    assert decided["target_turn"].tolist() == [5, 6, 7]


def test_a_mail_without_an_answer_has_no_delay_and_says_why() -> None:
    decided = decide([a_received_mail()], ReplyPolicy(rate=0))
    assert decided["reason"].tolist() == ["rate"]
    assert decided[["delay_s", "reply_at"]].isna().all(axis=None)


def test_the_reply_cap_is_used_up_in_the_order_of_slot_ids() -> None:
    """B-B3."""
    rows = [a_received_mail(n, responder_id=n % 2, replies_left=2) for n in (8, 5, 4, 3, 2, 1)]
    decided = decide(rows, ALWAYS).set_index("slot_id")["reason"]
    assert decided.to_dict() == {
        8: "reply_cap", 5: "reply_cap", 4: "replies", 3: "replies", 2: "replies", 1: "replies",
    }  # fmt: skip


def test_mails_that_the_draw_declines_do_not_use_the_reply_cap() -> None:
    rows = [a_received_mail(n, replies_left=30) for n in range(100)]
    assert decide(rows)["reason"].value_counts().to_dict() == {"rate": 70, "replies": 30}


def test_delays_follow_the_truncated_mixture() -> None:
    """Kolmogorov-Smirnov distance under 0.02; the bounds cut the tails off instead of piling them up."""
    delays = np.sort(decide([a_received_mail(n) for n in range(20_000)], ALWAYS)["delay_s"].to_numpy())

    def unbounded(seconds: Any) -> Any:
        normal = np.vectorize(NormalDist().cdf)
        fast = normal(np.log(np.asarray(seconds) / STANDARD.fast_median_s) / STANDARD.fast_sigma)
        slow = normal(np.log(np.asarray(seconds) / STANDARD.slow_median_s) / STANDARD.slow_sigma)
        return STANDARD.fast_share * fast + (1 - STANDARD.fast_share) * slow

    low, high = unbounded(STANDARD.floor_s), unbounded(STANDARD.ceiling_s)
    distance = np.abs((unbounded(delays) - low) / (high - low) - np.arange(1, delays.size + 1) / delays.size)
    assert distance.max() < 0.02
    assert delays.min() > STANDARD.floor_s
    assert delays.max() < STANDARD.ceiling_s
    assert np.unique(delays).size == delays.size


zones = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
    ]
)
clock_changes = [datetime(2026, *day, tzinfo=UTC) for day in ((3, 8), (3, 29), (4, 5), (9, 6), (10, 4), (10, 25))]
around_clock_changes = st.builds(
    lambda day, hours: day + timedelta(hours=hours), st.sampled_from(clock_changes), st.floats(-80, 30)
)


@settings(deadline=None)
@given(
    received_at=around_clock_changes,
    zone=zones,
    wakes=st.integers(0, 23 * 60),
    awake_for=st.integers(15, 24 * 60),
    seed=st.integers(0, 2**40),
)
# Its clock is put forward by two hours, and swallows all or the first part of these hours.
@example(received_at=datetime(2026, 3, 28, 23, tzinfo=UTC), zone="Antarctica/Troll", wakes=60, awake_for=60, seed=1)
@example(received_at=datetime(2026, 3, 28, 23, tzinfo=UTC), zone="Antarctica/Troll", wakes=90, awake_for=150, seed=1)
def test_a_reply_waits_for_its_delay_and_for_waking_hours(
    received_at: datetime, zone: str, wakes: int, awake_for: int, seed: int
) -> None:
    """B-B7, also across changes of the clock and for hours that one of them swallows."""
    sleeps = min(wakes + awake_for, 24 * 60)
    hours: dict[str, Any] = {"wake_start": time(*divmod(wakes, 60)), "wake_end": time(*divmod(sleeps % (24 * 60), 60))}
    row = decide([a_received_mail(received_at=received_at, zone=zone, **hours)], ALWAYS, seed).iloc[0]
    earliest = received_at + timedelta(seconds=row["delay_s"])
    wall = row["reply_at"].tz_convert(zone)
    assert row["reply_at"] >= earliest
    assert wakes <= wall.hour * 60 + wall.minute < sleeps
    assert row["reply_at"] < earliest + timedelta(days=3)


def test_an_opening_that_the_clock_passes_twice_means_the_second_time() -> None:
    """B-B7: half an hour after the first 02:45 it is 02:15 again, and the bot would be asleep."""
    hours: dict[str, Any] = {"wake_start": time(2, 45), "wake_end": time(9), "zone": "Europe/Berlin"}
    at = datetime(2026, 10, 25, 0, 5, tzinfo=UTC)
    decided = decide([a_received_mail(n, received_at=at, **hours) for n in range(200)], DEMONSTRATION)
    waited = (decided["reply_at"] - pd.Timestamp("2026-10-25 01:45", tz="UTC")).dt.total_seconds()
    assert waited.between(0, 1800, inclusive="left").all()


def test_waking_hours_that_a_clock_change_swallows_are_those_of_the_next_day() -> None:
    """B-B7: on that day it is never between 02:10 and 02:50 in Berlin."""
    hours: dict[str, Any] = {"wake_start": time(2, 10), "wake_end": time(2, 50), "zone": "Europe/Berlin"}
    at = datetime(2026, 3, 28, 20, tzinfo=UTC)
    reply_at = decide([a_received_mail(received_at=at, **hours)], DEMONSTRATION)["reply_at"].iloc[0]
    assert reply_at.tz_convert("Europe/Berlin").floor("h") == pd.Timestamp("2026-03-30 02:00", tz="Europe/Berlin")


def test_replies_of_the_night_are_spread_over_the_first_half_hour_of_the_day() -> None:
    evening = datetime(2026, 6, 1, 21, 59, 50, tzinfo=UTC)
    decided = decide([a_received_mail(n, received_at=evening) for n in range(500)], DEMONSTRATION)
    late = decided.loc[decided["reply_at"] > evening + timedelta(hours=1), "reply_at"]
    minutes = (late - pd.Timestamp("2026-06-02 07:00", tz="UTC")).dt.total_seconds() / 60
    assert len(late) > 10
    assert minutes.between(0, 30, inclusive="left").all()
    assert minutes.max() > 20


def test_a_demonstration_answers_within_seconds() -> None:
    decided = decide([a_received_mail(n) for n in range(500)], DEMONSTRATION)
    waits = (decided["reply_at"] - MONDAY_NOON).dt.total_seconds()
    assert decided["replies"].all()
    assert waits.between(1, 30).all()
    assert waits.median() < 8


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(30)))
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    """Q-F1."""
    zone_of = ("UTC", "Asia/Tokyo", "America/New_York")
    rows = [a_received_mail(n, responder_id=n % 4, zone=zone_of[n % 3], replies_left=3) for n in range(30)]
    straight = decide(rows, ALWAYS)
    mixed = decide([rows[n] for n in order], ALWAYS).sort_values("slot_id", ignore_index=True)
    pd.testing.assert_frame_equal(straight, mixed)


def test_an_empty_mailbox_decides_nothing() -> None:
    decided = decide_replies(frame(a_received_mail()).iloc[:0], STANDARD, seed=1)
    assert decided.empty
    assert {"replies", "reason", "draw", "delay_s", "reply_at", "target_turn"} <= set(decided.columns)


def test_the_dtypes_are_the_same_with_and_without_replies() -> None:
    with_replies, without = (
        decide([a_received_mail()], ALWAYS),
        decide([a_received_mail()], ReplyPolicy(rate=0)),
    )
    assert with_replies.dtypes.equals(without.dtypes)
    assert str(with_replies["reply_at"].dtype) == "datetime64[us, UTC]"


def test_waking_hours_that_wrap_are_refused() -> None:
    with pytest.raises(ValueError, match="waking hours"):
        decide([a_received_mail(wake_start=time(22), wake_end=time(7))], ALWAYS)


@pytest.mark.parametrize(
    "values",
    [{"rate": 1.1}, {"floor_s": 0}, {"floor_s": 600}, {"slow_median_s": 100}, {"ceiling_s": 9999999}],
)
def test_a_reply_policy_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ReplyPolicy(**values)
