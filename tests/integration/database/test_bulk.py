"""Columns go into a table and come back as they were."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from emberflow.database.bulk import JSONB, copy_rows, read_numbers
from emberflow.text_columns import spelled, texts

_TABLE = text("""
    create temporary table columns (
        place integer, big bigint, small smallint, share double precision, happened timestamptz, day date, name text,
        details jsonb
    ) on commit drop
""")
_ALL = text("select * from columns order by place")
_rows = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**15), 2**15 - 1),
        st.floats(allow_nan=False),
        st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001 - NumPy's are UTC without saying so
        st.dates(date(1900, 1, 1), date(2200, 1, 1)),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    ),
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=_rows, at_once=st.integers(1, 30))
def test_rows_of_every_type_come_back_as_they_went_in(
    database: Engine, rows: list[tuple[Any, ...]], at_once: int
) -> None:
    """Towards Q-F1: a plan is stored as it was computed, whatever the length of a text, and wherever the pieces end."""
    big, small, share, happened, day, name = (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 6
    columns: dict[str, Any] = {
        "place": np.arange(len(rows), dtype=np.int32),
        "big": np.array(big, dtype=np.int64),
        "small": np.array(small, dtype=np.int16),
        "share": np.array(share, dtype=np.float64),
        "happened": np.array(happened, dtype="datetime64[us]"),
        "day": np.array(day, dtype="datetime64[D]"),
        "name": texts(name),
        "details": spelled(JSONB.decode(), texts(['{"found": true}'] * len(rows))),
    }
    pieces = [
        {column: values[first : first + at_once] for column, values in columns.items()}
        for first in range(0, max(len(rows), 1), at_once)
    ]
    with database.begin() as connection:
        connection.execute(_TABLE)
        copy_rows(connection, "columns", pieces)
        found = connection.execute(_ALL).all()
    assert [row[1:-1] for row in found] == [(*row[:3], row[3].replace(tzinfo=UTC), *row[4:]) for row in rows]
    assert all(row.details == {"found": True} for row in found)


def test_a_null_that_nothing_stands_for_is_refused(database: Engine) -> None:
    """Towards Q-F1: nothing is taken for another number."""
    with database.begin() as connection, pytest.raises(ValueError, match="holds a null"):
        read_numbers(connection, "select null::bigint as count")
