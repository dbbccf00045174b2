"""The ramp of a sender, day by day."""

from __future__ import annotations

import math
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from emberflow.senders.policy import (
    PUBLISHED,
    EngagementRamp,
    GeometricRamp,
    LinearRamp,
    LogisticRamp,
    RampPolicy,
    StepRamp,
    TableRamp,
)
from emberflow.senders.ramp import published_table, ramp_rows, ramp_today
from tests.builders import a_sender, frame

TABLES = sorted(file.stem for file in PUBLISHED.glob("*.csv") if file.stem != "sources")
MONDAY = date(2026, 6, 1)

common = {
    "start": st.integers(1, 20),
    "maximum": st.integers(20, 50),
    "max_daily_growth": st.floats(1, 2, exclude_min=True, exclude_max=True),
}
factors = st.floats(1.01, 1.5)
engagement = st.builds(EngagementRamp, shape=st.just("engagement"), step=st.integers(0, 10), **common)
own_rows = st.tuples(st.integers(1, 20), st.lists(st.integers(0, 40), max_size=60)).map(
    lambda drawn: TableRamp(
        shape="table", start=drawn[0], maximum=50, rows=tuple(np.cumsum([drawn[0], *drawn[1]]).tolist())
    )
)
advancing = (
    st.builds(LinearRamp, step=st.integers(0, 10), **common)
    | st.builds(StepRamp, shape=st.just("step"), step=st.integers(0, 10), hold_days=st.integers(1, 30), **common)
    | st.builds(GeometricRamp, shape=st.just("geometric"), growth=factors, **common)
    | st.builds(LogisticRamp, shape=st.just("logistic"), growth=factors, **common)
    | st.builds(TableRamp, shape=st.just("table"), table=st.sampled_from(TABLES), **common)
    | own_rows
)
policies = advancing | engagement


def ramp_policy(**document: Any) -> RampPolicy:
    return TypeAdapter(RampPolicy).validate_python(document)


def today(policy: RampPolicy, **sender: Any) -> pd.Series[Any]:
    return ramp_today(policy, frame(a_sender(**sender))).iloc[0]


def volumes_of(policy: RampPolicy, days: list[date], score: float | None = 100) -> list[int]:
    """Send on each of ``days`` and return the volumes; between them nothing is sent, for whatever reason."""
    sender: dict[str, Any] = {"score": score}
    volumes = []
    for n, day in enumerate(days):
        idle = (day - days[n - 1]).days - 1 if n else 0
        row = today(policy, **sender, sending_days=n, idle_days=idle)
        volumes.append(int(row["ramp_volume"]))
        sender |= {"last_row": row["ramp_row"], "last_volume": row["ramp_volume"]}
    return volumes


def most_after(volume: float, growth: float) -> float:
    return max(volume * growth, volume + 5)


def test_the_standard_ramp_starts_at_5_and_grows_by_2_until_30() -> None:
    """S-B3."""
    days = [MONDAY + timedelta(days=n) for n in range(40)]
    assert volumes_of(LinearRamp(), days) == [min(5 + 2 * (n - 1), 30) for n in range(1, 41)]


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        ({"shape": "step", "step": 10, "hold_days": 2, "maximum": 22}, [5, 5, 10, 15, 20, 22]),
        ({"shape": "step", "maximum": 15}, [5] * 5 + [10] * 5 + [15]),
        ({"shape": "geometric", "growth": 1.2, "maximum": 12}, [5, 6, 7, 9, 10, 12]),
        ({"shape": "logistic", "growth": 1.5, "maximum": 20}, [5, 7, 9, 11, 13, 14, 16, 17, 18, 19, 19, 19, 20]),
        ({"shape": "table", "rows": [3, 4, 4, 9, 30]}, [3, 4, 4, 9, 14, 19, 24, 30]),
        ({"shape": "table", "table": "braze"}, [5, 10, 15, 20, 26, 30]),
        ({"shape": "table", "table": "smartlead", "maximum": 15}, [5, 7, 9, 9, 10, 10, 10, 10, 10, 15]),
        ({"shape": "linear", "start": 9, "step": 0}, [9]),
    ],
)
def test_each_shape_asks_for_its_rows_and_is_followed_as_fast_as_growth_allows(
    document: dict[str, Any], rows: list[int]
) -> None:
    """S-F1."""
    assert ramp_rows(ramp_policy(**document)).tolist() == rows


@settings(deadline=None)
@given(policies)
def test_rows_start_low_never_fall_stay_under_the_cap_and_keep_the_growth_bound(policy: RampPolicy) -> None:
    """S-F1: the invariants of every ramp, whatever its shape."""
    rows = ramp_rows(policy)
    assert 1 <= rows[0] <= policy.start
    assert rows.max() <= policy.maximum
    assert (np.diff(rows) >= 0).all()
    assert all(after <= most_after(before, policy.max_daily_growth) for before, after in pairwise(rows))


@settings(deadline=None, max_examples=25)
@given(policies, st.integers(1, 60))
def test_a_sender_that_sends_daily_walks_the_rows_and_stays_on_the_last(policy: RampPolicy, count: int) -> None:
    """S-F1; flat stretches are held as long as the ramp says."""
    rows = ramp_rows(policy).tolist()
    days = [MONDAY + timedelta(days=n) for n in range(count)]
    assert volumes_of(policy, days) == (rows + [rows[-1]] * count)[:count]


@settings(deadline=None, max_examples=25)
@given(policies, st.sets(st.integers(0, 6), min_size=1), st.integers(0, 6))
def test_a_mask_of_weekdays_moves_nothing(policy: RampPolicy, weekdays: set[int], first: int) -> None:
    """S-B4: closed days neither advance the ramp nor are made up for, even if one day a week is open."""
    days = [day for n in range(40) if (day := MONDAY + timedelta(days=first + n)).weekday() in weekdays]
    every_day = [MONDAY + timedelta(days=n) for n in range(len(days))]
    assert volumes_of(policy, days) == volumes_of(policy, every_day)


@settings(deadline=None, max_examples=60)
@given(advancing, st.integers(1, 40), st.integers(1, 6))
def test_a_pause_of_less_than_a_week_does_not_advance_the_ramp(policy: RampPolicy, sent: int, pause: int) -> None:
    """S-B4."""
    rows = ramp_rows(policy)
    row = min(sent, len(rows))
    sender = {"sending_days": sent, "last_row": row, "last_volume": rows[row - 1]}
    assert today(policy, **sender, idle_days=pause).equals(today(policy, **sender))


@settings(deadline=None, max_examples=60)
@given(policies, st.integers(1, 60), st.integers(7, 30))
def test_seven_to_thirty_idle_days_step_back_a_row_for_each_week_begun(
    policy: RampPolicy, sent: int, idle: int
) -> None:
    """S-F10."""
    rows = ramp_rows(policy)
    row = min(sent, len(rows))
    now = today(policy, sending_days=sent, last_row=row, last_volume=rows[row - 1], idle_days=idle, score=100)
    assert now["ramp_row"] == max(1, row - math.ceil(idle / 7))
    assert now["ramp_volume"] == rows[now["ramp_row"] - 1]
    assert now["ramp_move"] == "idle_steps_back"


@pytest.mark.parametrize(("idle", "volume"), [(6, 30), (7, 29), (8, 27), (14, 27), (30, 21), (31, 5), (400, 5)])
def test_the_standard_ramp_after_idle_days(idle: int, volume: int) -> None:
    """S-F10, at its edges, of a sender on the plateau."""
    now = today(LinearRamp(), sending_days=200, last_row=14, last_volume=30, idle_days=idle)
    assert now["ramp_volume"] == volume


def test_a_stepped_back_sender_climbs_again_from_where_it_is() -> None:
    """S-F10: the days before the silence do not carry it back at once."""
    days = [MONDAY + timedelta(days=n) for n in range(20)]
    later = [days[-1] + timedelta(days=20 + n) for n in range(4)]
    assert volumes_of(LinearRamp(), days + later)[-4:] == [25, 27, 29, 30]


@pytest.mark.parametrize(("idle", "ramp_day"), [(0, 201), (30, 201), (31, 1)])
def test_a_restarted_ramp_counts_its_sending_days_anew(idle: int, ramp_day: int) -> None:
    """S-F10: a step back is no start."""
    now = today(LinearRamp(), sending_days=200, last_row=14, last_volume=30, idle_days=idle)
    assert now["ramp_day"] == ramp_day


def test_a_restarted_step_ramp_holds_its_levels_again() -> None:
    """S-F10."""
    days = [MONDAY + timedelta(days=n) for n in range(9)]
    later = [days[-1] + timedelta(days=32 + n) for n in range(7)]
    policy = ramp_policy(shape="step", step=5, hold_days=3)
    assert volumes_of(policy, days + later)[-7:] == [5, 5, 5, 10, 10, 10, 15]


@pytest.mark.parametrize(
    ("score", "volume", "move"),
    [
        (100, 13, "advances"),
        (80, 13, "advances"),
        (79.9, 11, "holds"),
        (60, 11, "holds"),
        (None, 11, "holds"),
        (59.9, 9, "score_steps_back"),
    ],
)
def test_an_engagement_driven_ramp_moves_on_evidence_only(score: float | None, volume: int, move: str) -> None:
    """S-F1: between the two thresholds lies the band that holds."""
    policy = ramp_policy(shape="engagement")
    now = today(policy, sending_days=4, last_row=4, last_volume=11, score=score)
    assert (now["ramp_volume"], now["ramp_move"]) == (volume, move)


@settings(deadline=None, max_examples=40)
@given(engagement, st.lists(st.none() | st.floats(0, 100), max_size=40))
def test_an_engagement_driven_ramp_is_never_above_the_linear_one(
    policy: EngagementRamp, scores: list[float | None]
) -> None:
    """S-F1."""
    linear = ramp_rows(LinearRamp(**policy.model_dump(include={"start", "step", "maximum", "max_daily_growth"})))
    sender: dict[str, Any] = {}
    for n, score in enumerate(scores):
        now = today(policy, **sender, sending_days=n, score=score)
        assert now["ramp_volume"] <= linear[min(n, len(linear) - 1)]
        sender = {"last_row": now["ramp_row"], "last_volume": now["ramp_volume"]}


@settings(deadline=None)
@given(policies, policies, st.integers(1, 60))
def test_a_change_of_policy_keeps_the_growth_bound_and_the_cap(old: RampPolicy, new: RampPolicy, sent: int) -> None:
    """S-F1."""
    rows = ramp_rows(old)
    row = min(sent, len(rows))
    now = today(new, sending_days=sent, last_row=row, last_volume=rows[row - 1], score=100)
    assert now["ramp_volume"] <= min(most_after(rows[row - 1], new.max_daily_growth), new.maximum)


def test_a_sender_without_a_last_volume_starts_whatever_else_is_known() -> None:
    now = today(LinearRamp(), sending_days=90, last_row=14, last_volume=None)
    assert now.to_dict() == {"ramp_day": 1, "ramp_row": 1, "ramp_volume": 5, "ramp_move": "starts"}


def test_a_ramp_of_nobody_is_empty_and_keeps_its_columns() -> None:
    nobody = ramp_today(LinearRamp(), frame(a_sender()).iloc[:0])
    assert nobody.empty
    assert [str(dtype) for dtype in nobody.dtypes] == ["int64", "int64", "int64", "category"]


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("sendgrid_manual", 50, 12_000_000, 17),
        ("sendgrid_automated", 20 * 24, 2_603_222 * 24, 36),
        ("braze", 50, 4_000_000, 17),
        ("salesforce", 50_000, 1_600_000, 36),
        ("adcrux", 200, 10_000_000, 29),
        ("mailrush", 150, 1_000, 91),
        ("agentmail", 10, 500, 15),
        ("smartlead", 5, 20, 20),
    ],
)
def test_a_published_table_is_read_per_sending_day_in_mails_per_day(
    name: str, first: int, last: int, count: int
) -> None:
    """S-F1: ages count from 0, a week has seven rows, an hourly limit counts 24 times."""
    table = published_table(name)
    assert (table[0], table[-1], len(table)) == (first, last, count)


def test_published_tables_keep_their_irregularities() -> None:
    """S-F1: SendGrid's hourly limits are 20 x 1.4^age except at ages 12 and 18; a snapshot is not smoothed."""
    hourly = published_table("sendgrid_automated") // 24
    assert (hourly[12], hourly[18]) == (1000, 8583)


def test_every_published_table_names_its_source_and_rises() -> None:
    sources = pd.read_csv(PUBLISHED / "sources.csv").set_index("name")
    assert sorted(sources.index) == TABLES
    assert sources["source"].str.len().gt(0).all()
    assert all((np.diff(published_table(name)) >= 0).all() for name in TABLES)


def test_a_policy_without_a_shape_is_linear() -> None:
    assert ramp_policy(start=3, step=1, maximum=9) == LinearRamp(start=3, step=1, maximum=9)
    assert ramp_policy(shape="linear", start=5, step=10, maximum=50).shape == "linear"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"start": 0}, "greater than or equal to 1"),
        ({"maximum": 51}, "less than or equal to 50"),
        ({"step": -1}, "greater than or equal to 0"),
        ({"start": 9, "maximum": 8}, "starts at 9, above its maximum 8"),
        ({"increment": 2}, "Extra inputs"),
        ({"max_daily_growth": 2.0}, "less than 2"),
        ({"shape": "logistic", "step": 2}, "Extra inputs"),
        ({"shape": "sigmoid"}, "linear, step, geometric, logistic, engagement or table"),
        ({"shape": "table"}, "either rows or the name"),
        ({"shape": "table", "rows": [5], "table": "braze"}, "either rows or the name"),
        ({"shape": "table", "table": "hubspot"}, "there are adcrux, agentmail"),
        ({"shape": "table", "rows": [5, 9, 8]}, "must not fall"),
        ({"shape": "table", "rows": [8, 9]}, "raise start, or lower the row"),
        ({"shape": "engagement", "advance_from": 60, "step_back_below": 60}, "must be less than advance_from"),
    ],
)
def test_a_ramp_policy_that_cannot_be_meant_is_refused_with_the_reason(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ramp_policy(**document)
