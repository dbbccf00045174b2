"""Text columns say what a format string would say row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.text_columns import padded, spelled, texts


@given(st.lists(st.tuples(st.integers(0, 10**10 - 1), st.integers(0, 999), st.text("aé-. ", max_size=9))))
def test_a_spelled_column_is_every_row_spelled(rows: list[tuple[int, int, str]]) -> None:
    numbers, ordinals = (np.array([row[place] for row in rows], dtype=np.int64) for place in (0, 1))
    column = spelled("<", padded(numbers, 10), ":", padded(ordinals, 3), "@", texts([row[2] for row in rows]), ">")
    assert [value.decode() for value in column.tolist()] == [f"<{a:010d}:{b:03d}@{name}>" for a, b, name in rows]


@pytest.mark.parametrize("number", [-1, 1000])
def test_a_number_that_does_not_fit_is_refused(number: int) -> None:
    """Two rows must never be spelled alike."""
    with pytest.raises(ValueError, match="does not fit into 3 digits"):
        padded(np.array([1, number]), 3)
