"""Many rows at once: numbers in and out by COPY.

Planning reads and writes hundreds of thousands of rows an hour. Row by row, a driver spends more on making Python
objects than the database on the query; COPY in binary form is laid out like a NumPy record, so that a column costs one
pass. Only types of a fixed width are read this way; text is written as records that are as wide as its longest value.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from psycopg2 import Error
from sqlalchemy import Connection

# PostgreSQL documentation, COPY, "Binary Format": signature, flags and an empty extension; -1 fields end the data.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_EPOCH_S: Final = 946_684_800  # PostgreSQL counts from 2000-01-01, in microseconds or days
_DAY_S: Final = 86_400
_COUNT_BYTES, _WIDTH_BYTES = 2, 4  # before a row and before each of its values
JSONB: Final = b"\x01"  # jsonb's binary form is a version and the text
_MISSING: Final = np.iinfo(np.int64).min  # '-infinity' to PostgreSQL, "not a time" to NumPy


class _Kind:
    """How a column of one PostgreSQL type is laid out, and what stands for null."""

    def __init__(self, name: str, layout: str, null: str | None = None) -> None:
        self.name, self.layout, self.null = name, layout, null


_INSTANT: Final = _Kind("timestamptz", ">i8", "'-infinity'")
_DAY: Final = _Kind("date", ">i4", "'-infinity'")
_KINDS: Final[Mapping[int, _Kind]] = {
    16: _Kind("boolean", "?"),
    20: _Kind("bigint", ">i8"),
    21: _Kind("smallint", ">i2"),
    23: _Kind("integer", ">i4"),
    701: _Kind("double precision", ">f8", "'NaN'"),
    1082: _DAY,
    1184: _INSTANT,
}

# Columns by statement and types of its parameters, as the server told them: few statements, and constants of modules.
_described: dict[tuple[object, ...], Mapping[str, _Kind]] = {}


def read_numbers(connection: Connection, query: str, **parameters: Any) -> pd.DataFrame:
    """Run ``query`` (psycopg's ``%(name)s`` placeholders) and return its columns by name.

    Integers come as int64, ``double precision`` as float64 (null: NaN), booleans as bool, ``timestamptz`` as
    datetime64[us, UTC] and dates as datetime64[s] (null: NaT).

    Raises:
        ValueError: a column is of another type, or an integer or boolean column holds a null.
    """
    with closing(connection.connection.cursor()) as cursor:
        filled = cursor.mogrify(query, parameters).decode()
        asked = (query, *(type(value) for value in parameters.values()))
        if asked not in _described:
            cursor.execute(f"select * from ({filled}) as described limit 0")  # noqa: S608 - the caller's own statement
            _described[asked] = {column[0]: _kind(column[0], cast(int, column[1])) for column in cursor.description}
        kinds = _described[asked]
        listed = ", ".join(
            f'"{name}"' if kind.null is None else f'coalesce("{name}", {kind.null}::{kind.name}) as "{name}"'
            for name, kind in kinds.items()
        )
        received = io.BytesIO()  # its write is C: the driver calls it once per row
        cursor.copy_expert(
            f"copy (select {listed} from ({filled}) as numbers) to stdout with (format binary)",  # noqa: S608
            received,
        )
    record = _record({name: kind.layout for name, kind in kinds.items()})
    body = received.getbuffer()[len(_HEADER) : -len(_TRAILER)]
    if len(body) % record.itemsize:
        raise ValueError(f"a column of {', '.join(kinds)} holds a null that nothing stands for")
    rows = np.frombuffer(body, dtype=record)
    if not all((rows[f"width {name}"] == np.dtype(kind.layout).itemsize).all() for name, kind in kinds.items()):
        raise ValueError(f"a column of {', '.join(kinds)} holds a null that nothing stands for")
    return pd.DataFrame({name: _native(rows[name], kind) for name, kind in kinds.items()}, copy=False)


def copy_numbers(connection: Connection, table: str, frame: pd.DataFrame) -> None:
    """Append ``frame`` to ``table`` with one COPY; the columns have the frame's names and types as in `copy_rows`."""
    copy_rows(connection, table, [{str(name): _plain(frame[name]) for name in frame.columns}])


def copy_rows(connection: Connection, table: str, pieces: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
    """Append rows to ``table`` with one COPY as ``pieces`` come: the same columns each, arrays of one length.

    int64, int32 and int16 become bigint, integer and smallint, float64 double precision, datetime64[us] (UTC)
    ``timestamptz``, other datetime64 a date, and bytes (UTF-8) text, or jsonb behind `JSONB`. The table's columns must
    be of exactly these types. The server takes in one piece while the next is made. An error of ``pieces`` is raised as
    it is; the transaction cannot go on then.
    """
    coming = iter(pieces)
    first = next(coming)
    listed = ", ".join(f'"{name}"' for name in first)
    source = _Source(chain([_HEADER], map(_binary, chain([first], coming)), [_TRAILER]))
    with closing(connection.connection.cursor()) as cursor:
        try:
            cursor.copy_expert(f"copy {table} ({listed}) from stdin with (format binary)", source, size=1 << 16)
        except Error:
            if source.error is not None:  # of which the driver would only quote the text
                raise source.error from None
            raise


class _Source:
    """A file that reads as the concatenation of ``pieces``, one at most at a time."""

    def __init__(self, pieces: Iterator[bytes | memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.error: Exception | None = None  # of a piece that could not be made

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except Exception as error:
                self.error = error
                raise
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


def _kind(name: str, oid: int) -> _Kind:
    if oid not in _KINDS:
        raise ValueError(f"column {name} is of a type (oid {oid}) that has no fixed width here")
    return _KINDS[oid]


def _record(layouts: Mapping[str, str]) -> np.dtype[Any]:
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, layout in layouts.items():
        fields += [(f"width {name}", ">i4"), (name, layout)]
    return np.dtype(fields)


def _native(values: npt.NDArray[Any], kind: _Kind) -> Any:
    if kind is _INSTANT:
        missing = values == _MISSING
        micros = np.where(missing, _MISSING, values.astype(np.int64) + _EPOCH_S * 1_000_000)
        return pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize("UTC")
    if kind is _DAY:
        missing = values == np.iinfo(np.int32).min
        return np.where(missing, _MISSING, values.astype(np.int64) * _DAY_S + _EPOCH_S).view("datetime64[s]")
    return values.astype(np.int64 if values.dtype.kind == "i" else values.dtype.newbyteorder("="))


def _plain(values: pd.Series[Any]) -> npt.NDArray[Any]:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return np.asarray(values.dt.tz_localize(None), dtype="datetime64[us]")
    return np.asarray(values)


def _binary(columns: Mapping[str, npt.NDArray[Any]]) -> memoryview:
    """Return rows in COPY's binary form: records of a fixed width, of which text uses what it needs."""
    wires = {name: _wire(values) for name, values in columns.items()}
    record = _record({name: values.dtype.str for name, values in wires.items()})
    rows = np.zeros(len(next(iter(wires.values()))), dtype=record)
    rows["fields"] = len(wires)
    is_used = np.ones((len(rows), record.itemsize), dtype=np.bool_)
    end = 0
    for name, values in wires.items():
        size: int = values.dtype.itemsize
        end = (end or _COUNT_BYTES) + _WIDTH_BYTES + size
        rows[name] = values
        rows[f"width {name}"] = size
        if values.dtype.kind == "S":
            lengths = np.strings.str_len(values)
            rows[f"width {name}"] = lengths
            is_used[:, end - size : end] = np.arange(size) < lengths[:, None]
    used = rows.view(np.uint8).reshape(is_used.shape)
    return (used if is_used.all() else used[is_used]).reshape(-1).data


def _wire(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.dtype.kind == "S":
        return values
    if values.dtype == np.dtype("datetime64[us]"):
        micros = values.astype(np.int64)
        return np.where(micros == _MISSING, _MISSING, micros - _EPOCH_S * 1_000_000).astype(">i8")
    if values.dtype.kind == "M":
        return ((values.astype("datetime64[s]").astype(np.int64) - _EPOCH_S) // _DAY_S).astype(">i4")
    return values.astype(values.dtype.newbyteorder(">"))
