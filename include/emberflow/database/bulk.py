"""Many rows at once: one SELECT in, one COPY out, and rows as one parameter of a statement."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Executable, Table

# pg_type.oid -> dtype, for the types whose empty column pandas could not infer.
_TIMESTAMPTZ = 1184
_DTYPES: dict[int, Any] = {16: "bool", 20: "int64", 21: "int64", 23: "int64", 25: "str", 700: "float64", 701: "float64"}


def read_frame(connection: Connection, query: Executable, **parameters: Any) -> pd.DataFrame:
    """Run ``query`` and return its rows with the columns' own names.

    ``timestamptz`` columns become ``datetime64[us, UTC]`` whatever they hold, and the columns of an empty result
    have the types that they would have with rows.
    """
    result = connection.execute(query, parameters)
    cursor = result.cursor
    if cursor is None or cursor.description is None:
        raise ValueError("the statement returns no rows")
    types: dict[str, Any] = {column[0]: column[1] for column in cursor.description}
    frame = pd.DataFrame(result.fetchall(), columns=list(types))
    for name, oid in types.items():
        if oid == _TIMESTAMPTZ:
            frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
        elif frame.empty and oid in _DTYPES:
            frame[name] = pd.Series(dtype=_DTYPES[oid])
    return frame


def copy_frame(connection: Connection, table: Table, frame: pd.DataFrame) -> int:
    """Append ``frame`` to ``table`` with one COPY and return the number of rows that were new.

    The frame's columns are columns of the table; the others take their defaults. Dicts and lists are written
    as JSON. Rows that break a unique constraint of the table are already there and are skipped
    (COPY to a temporary table, then INSERT ... ON CONFLICT DO NOTHING): writing the same frame twice is
    harmless. Cost: linear in rows.
    """
    if frame.empty:
        return 0
    names = [table.c[name].name for name in frame.columns]
    listed = ", ".join(f'"{name}"' for name in names)
    driver = connection.connection.cursor()
    try:
        driver.execute(
            f"create temporary table incoming on commit drop as "  # noqa: S608 - names come from Table metadata
            f"select {listed} from {table.fullname} with no data"
        )
        driver.copy_expert(f"copy incoming ({listed}) from stdin with (format csv)", _as_csv(frame))
        driver.execute(
            f"insert into {table.fullname} ({listed}) select {listed} from incoming on conflict do nothing"  # noqa: S608
        )
        written = int(driver.rowcount)
        driver.execute("drop table incoming")
    finally:
        driver.close()
    return written


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as one parameter for ``jsonb_to_recordset``; instants and days become ISO 8601 text."""
    return json.dumps(list(rows), default=_iso)


def _iso(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a row of JSON")


def _as_csv(frame: pd.DataFrame) -> io.StringIO:
    plain = frame.copy(deep=False)
    for name in plain.columns:
        if plain[name].dtype == object:
            plain[name] = [json.dumps(value) if isinstance(value, dict | list) else value for value in plain[name]]
    buffer = io.StringIO()
    plain.to_csv(buffer, index=False, header=False, date_format="%Y-%m-%dT%H:%M:%S.%f%z")
    buffer.seek(0)
    return buffer
