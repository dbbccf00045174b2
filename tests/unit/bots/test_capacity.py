"""How many bots are needed, and what the bots there are can take (B-F6)."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.capacity import BotsNeeded, supply_by_provider, supply_by_state
from tests.builders import Row, records

FULL_CAP = 40


def bots(*rows: dict[str, object]) -> pd.DataFrame:
    usual = {"provider": 0, "seats": 1, "reason": None, "inbound_cap": FULL_CAP, "inbound_used": 0}
    return pd.DataFrame([usual | {"bot_id": number} | row for number, row in enumerate(rows, start=1)])


def by_state(frame: pd.DataFrame) -> dict[str, Row]:
    supply = supply_by_state(frame, FULL_CAP)
    return {row.pop("state"): row for row in records(supply)}


@pytest.mark.parametrize(
    ("senders", "volume", "needed"),
    [(10, 15, 45), (200, 20, 100), (1_000, 20, 500), (5_000, 20, 2_500)],
)
def test_the_published_table_of_sizes_is_reproduced(senders: int, volume: int, needed: int) -> None:
    """B-F6: solo, agency, large and stress, with K = 3 days and L = 40."""
    assert BotsNeeded(senders * volume, volume, inbound_cap=40, cooldown_h=72).bots == needed


@given(
    volumes=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    cap=st.integers(1, 200),
    cooldown_h=st.integers(24, 24 * 90),
)
def test_the_number_needed_is_the_smallest_that_satisfies_both_terms(
    volumes: list[int], cap: int, cooldown_h: int
) -> None:
    """B-F6: B >= max(ceil(S w / L), w K), and one bot less would not do."""
    needed = BotsNeeded(sum(volumes), max(volumes), cap, cooldown_h)

    assert needed.bots * cap >= sum(volumes)
    assert needed.bots * 24 >= max(volumes) * cooldown_h
    assert (
        needed.bots == 0 or (needed.bots - 1) * cap < sum(volumes) or (needed.bots - 1) * 24 < max(volumes) * cooldown_h
    )
    assert needed.by_load == math.ceil(sum(volumes) / cap)


def test_bots_are_added_up_by_why_they_take_nothing_now() -> None:
    """B-F6"""
    found = by_state(
        bots(
            {"seats": 2, "inbound_used": 3},
            {"seats": 4},
            {"seats": 0, "reason": "asleep", "inbound_used": 10},
            {"seats": 0, "reason": "cooldown"},
            {"seats": 0, "reason": "at_cap", "inbound_used": 40},
        )
    )

    assert next(iter(found)) == "free"
    assert found["free"] == {"bots": 2, "cap_today": 80, "used_today": 3, "left_today": 77, "seats_now": 6}
    assert found["asleep"] == {"bots": 1, "cap_today": 40, "used_today": 10, "left_today": 30, "seats_now": 0}
    assert found["at_cap"]["left_today"] == 0
    assert sum(state["bots"] for state in found.values()) == 5


def test_a_young_bot_at_its_cap_is_distinguished_from_a_grown_one() -> None:
    """B-F6"""
    found = by_state(
        bots(
            {"seats": 0, "reason": "at_cap", "inbound_cap": 7, "inbound_used": 7},
            {"seats": 0, "reason": "at_cap", "inbound_used": 40},
        )
    )

    assert found["at_lower_cap"]["bots"] == found["at_cap"]["bots"] == 1


def test_more_used_than_a_lowered_cap_leaves_nothing_and_not_less() -> None:
    """B-F6"""
    assert (
        by_state(bots({"seats": 0, "reason": "at_cap", "inbound_cap": 5, "inbound_used": 9}))["at_lower_cap"][
            "left_today"
        ]
        == 0
    )


def test_reasons_may_be_categorical_and_there_may_be_no_bots() -> None:
    """B-F6"""
    frame = bots({"seats": 0, "reason": "asleep"}, {})

    assert by_state(frame.astype({"reason": "category"})) == by_state(frame)
    assert supply_by_state(frame.iloc[:0], FULL_CAP).empty
    assert supply_by_provider(frame.iloc[:0], pd.DataFrame({"bot_id": pd.Series(dtype="int64")})).empty


def test_the_pool_that_is_used_up_comes_first() -> None:
    """B-F6: what limits the plan is a pool of one provider."""
    frame = bots(
        {"provider": 0, "seats": 5},
        {"provider": 0, "seats": 5},
        {"provider": 1, "seats": 2},
        {"provider": -1, "seats": 0},
    )

    pools = supply_by_provider(frame, pd.DataFrame({"bot_id": [1, 3, 3]}))

    assert pools["provider"].tolist() == [1, 0, -1]
    assert pools["seats"].tolist() == [2, 10, 0]
    assert pools["taken"].tolist() == [2, 1, 0]
    assert pools["bots"].tolist() == [1, 2, 1]
    assert pools["example_bot_id"].tolist() == [3, 1, 4]
