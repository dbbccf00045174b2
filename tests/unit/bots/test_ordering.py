"""Ordered arrays: quick sorts that come out as the plain ones do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.ordering import by_group, order_of_whole, rank_within

numbers = st.lists(st.integers(0, 5) | st.integers(2**16 - 2, 2**16 + 2), max_size=60)


@given(numbers)
def test_whole_numbers_are_ordered_as_by_a_stable_sort(values: list[int]) -> None:
    """Q-F1: equal ones stay as their rows stand, below two bytes and above."""
    column = np.array(values, dtype=np.int64)
    assert order_of_whole(column).tolist() == np.argsort(column, kind="stable").tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), max_size=60))
def test_rows_are_ordered_by_group_and_by_key_within_and_ranked_there(rows: list[tuple[int, float]]) -> None:
    """Q-F1"""
    groups = np.array([group for group, _ in rows], dtype=np.int64)
    keys = np.array([key for _, key in rows], dtype=np.float64)
    order = by_group(groups, keys)
    assert order.tolist() == np.lexsort((keys, groups)).tolist()
    assert rank_within(groups[order]).tolist() == [rank for size in np.bincount(groups) for rank in range(size)]
