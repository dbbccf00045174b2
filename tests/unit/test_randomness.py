"""Named streams: the same question always draws the same number, and other questions draw independent ones."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.randomness import state, uniforms
from emberflow.stream_names import states

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ids = st.lists(st.integers(min_value=-(2**62), max_value=2**62), min_size=1, max_size=50)


def test_the_numbers_are_these_on_every_machine_and_for_ever() -> None:
    """Q-F1: a changed value here means that no stored plan can be replayed any more."""
    assert state(1, "gap") == np.uint64(11449269266240663218)
    drawn = uniforms(np.uint64(42), np.array([1, 2, 3]), np.array([1, 1, 1]))
    assert drawn.tolist() == [0.5130812526834327, 0.34094902130943044, 0.8629929460519195]


@given(ids, st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_company_of_a_row_changes_its_number(keys: list[int], shuffle: random.Random) -> None:
    """Q-F1"""
    start = state(1, "purpose", NOON)
    alone = {key: float(uniforms(start, [key])[0]) for key in keys}
    mixed = list(keys)
    shuffle.shuffle(mixed)
    assert [alone[key] for key in mixed] == uniforms(start, mixed).tolist()


@given(ids)
def test_a_draw_is_strictly_between_zero_and_one(keys: list[int]) -> None:
    """Q-F1: so that its logarithm is finite."""
    drawn = uniforms(state(7, "purpose"), keys, keys)
    assert ((drawn > 0) & (drawn < 1)).all()
    assert np.isfinite(np.log(drawn)).all()


@pytest.mark.parametrize(
    "names",
    [
        (1, "other"),
        (2, "purpose"),
        (1, "purpose", 1),
        (1, "purpose", "1", ""),
        (1, "purpose", date(2026, 6, 1)),
        (1, "p", "urpose"),
    ],
)
def test_streams_of_different_names_are_different(names: tuple[int, str]) -> None:
    """Q-F1"""
    seed, *rest = names
    assert state(seed, *rest) != state(1, "purpose")


names_of_streams = st.lists(st.one_of(st.text(max_size=5), st.integers(), st.dates()), max_size=3)


@given(st.integers(), names_of_streams, names_of_streams.filter(bool))
def test_what_names_have_in_common_may_be_hashed_once(
    seed: int, common: list[str | int | date], more: list[str | int | date]
) -> None:
    """Q-F1"""
    assert states(seed, *common)(*more) == int(state(seed, *common, *more))


def test_the_order_of_keys_names_another_row() -> None:
    """Q-F1"""
    start = state(1, "purpose")
    assert uniforms(start, [1], [2]) != uniforms(start, [2], [1])


def test_many_draws_are_uniform_and_uncorrelated() -> None:
    """Q-F1: over consecutive ids, which is what a database hands out. Bounds are five standard errors."""
    count = 100_000
    keys = np.arange(count)
    drawn = uniforms(state(1, "uniformity"), keys)
    tenths = np.histogram(drawn, bins=10, range=(0, 1))[0]
    assert abs(drawn.mean() - 0.5) < 5 * (1 / 12 / count) ** 0.5
    assert np.abs(tenths - count / 10).max() < 5 * (count * 0.1 * 0.9) ** 0.5
    neighbours = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    other = np.corrcoef(drawn, uniforms(state(1, "another"), keys))[0, 1]
    assert max(abs(neighbours), abs(other)) < 5 / count**0.5
    assert len(np.unique(drawn)) == count
