"""A generated world in a database, as if it had grown there, and back to that state after each plan.

Tables are loaded by COPY without their indexes, which are built afterwards, and without the checks of foreign keys,
which hold by construction. Columns that the schema does not have are left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import BigInteger, Boolean, Column, Date, DateTime, Double, Engine, Integer, SmallInteger, Table, text
from sqlalchemy.dialects.postgresql import JSONB

from emberflow.database.tables import metadata
from emberflow.simulation.generator import World

_T = TypeVar("_T")
_BIG = ("bot_sender_interactions", "mail_events")
_PLANNED = ("sender_days", "bot_days")
_EPOCH = np.datetime64("2000-01-01", "us")
# Signature, flags, no header extension (PostgreSQL: COPY, "Binary Format"); a count of -1 ends the rows.
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"
_BINARY: dict[type, str] = {BigInteger: ">i8", Integer: ">i4", SmallInteger: ">i2", Double: ">f8", Boolean: "u1"}

_INDEXES = """
    select
        coalesce(constraints.conname, classes.relname) as name,
        constraints.oid is not null as is_constraint,
        coalesce(pg_get_constraintdef(constraints.oid), pg_get_indexdef(indexes.indexrelid)) as definition
    from pg_index as indexes
    inner join pg_class as classes on classes.oid = indexes.indexrelid
    left join pg_constraint as constraints
        on constraints.conindid = indexes.indexrelid and constraints.contype in ('p', 'u')
    where indexes.indrelid = cast(%s as regclass)
"""
_SCORES = """
    create schema if not exists marts;
    create table marts.sender_scores (
        sender_id bigint primary key, model_version text not null, score_band text not null, score double precision,
        placements bigint not null, inbox_rate double precision, evidence_days bigint not null,
        providers bigint not null, as_of timestamptz not null
    )
"""


def load(engine: Engine, world: World) -> dict[str, int]:
    """Write the world into the empty database of ``engine`` and return how many rows each table has."""
    scores = world.scores()
    counts = {"sender_scores": len(scores)}
    with _driver(engine) as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("set maintenance_work_mem = '1GB'")
        indexes = {name: _drop_indexes(cursor, name) for name in _BIG}
        for name, columns, count, rows in _made_ahead(_streams(world)):
            cursor.copy_expert(f"copy ops.{name} ({columns}) from stdin (format binary)", io.BytesIO(rows))
            counts[name] = counts.get(name, 0) + count
        for statement in chain.from_iterable(indexes.values()):
            cursor.execute(statement)
        for name in ("egress_ips", "mailboxes", "senders", "bots"):
            cursor.execute(f"select setval(pg_get_serial_sequence('ops.{name}', 'id'), {counts[name]})")
        cursor.execute(_SCORES)
        rows_of_scores = io.StringIO(scores.to_csv(index=False, header=False))
        cursor.copy_expert("copy marts.sender_scores from stdin (format csv)", rows_of_scores)
        cursor.execute("create schema benchmark")
        for name in _PLANNED:
            recent = f"select * from ops.{name} where local_day > %s"  # noqa: S608 - a name of this module
            cursor.execute(f"create table benchmark.{name} as {recent}", (_recent(world),))
        cursor.execute("set session_replication_role = origin")
    _vacuum(engine)
    return counts


def partitions(engine: Engine) -> set[str]:
    """Return the partitions of the slots' tables that there are."""
    query = text("select cast(inhrelid as regclass)::text from pg_inherits inner join pg_class on oid = inhrelid "
                 "where relkind in ('r', 'p')")  # fmt: skip
    with engine.connect() as connection:
        return set(connection.execute(query).scalars())


def forget_plan(engine: Engine, world: World, kept: set[str]) -> None:
    """Take back what planning wrote: slots, runs, quotas and counts of the day, and partitions beyond ``kept``."""
    with _driver(engine) as cursor:
        cursor.execute("set session_replication_role = replica")  # rows that otherwise stay
        cursor.execute("truncate ops.slot_states, ops.scheduled_tasks, ops.plan_runs restart identity cascade")
        for name in partitions(engine) - kept:
            cursor.execute(f"drop table {name}")
        for name in _PLANNED:
            cursor.execute(f"delete from ops.{name} where local_day > %s", (_recent(world),))  # noqa: S608
            cursor.execute(f"insert into ops.{name} select * from benchmark.{name}")  # noqa: S608
        cursor.execute("set session_replication_role = origin")
    _vacuum(engine, *(f"ops.{name}" for name in (*_PLANNED, "scheduled_tasks", "slot_states")))


def binary_rows(frame: pd.DataFrame, table: Table) -> bytes:
    """Return the frame as one stream of PostgreSQL's binary COPY format, typed as the table's columns."""
    cells, used = [np.broadcast_to(_bytes(np.array([len(frame.columns)], ">i2")), (len(frame), 2))], []
    used.append(np.ones((len(frame), 2), dtype=np.bool_))
    for name in frame.columns:
        values = frame[name]
        data, sizes = _field(values, table.c[name])
        sizes = np.where(values.isna().to_numpy(), -1, sizes)
        cells += [_bytes(sizes.astype(">i4")), data]
        used += [np.ones((len(frame), 4), dtype=np.bool_), np.arange(data.shape[1]) < sizes[:, None]]
    return _HEADER + np.concatenate(cells, axis=1).ravel()[np.concatenate(used, axis=1).ravel()].tobytes() + _TRAILER


def _streams(world: World) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield (table, its columns, number of rows, the rows as a stream)."""
    for name, rows in world.tables():
        table = metadata.tables[f"ops.{name}"]
        known = rows[[column for column in rows.columns if column in table.c]]
        yield name, ", ".join(known.columns), len(known), binary_rows(known, table)


def _made_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yield the items; the next one is made while the last one is being used."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = worker.submit(next, items, None)
            yield item


def _field(values: pd.Series[Any], column: Column[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return a row of bytes per value, and how many of them count."""
    if isinstance(column.type, DateTime):
        moments = values.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
        data = _bytes((moments - _EPOCH).astype(np.int64).astype(">i8"))
    elif isinstance(column.type, Date):
        days = values.to_numpy(dtype="datetime64[D]")
        data = _bytes((days - _EPOCH.astype("datetime64[D]")).astype(np.int64).astype(">i4"))
    elif (kind := _BINARY.get(type(column.type))) is not None:
        data = _bytes(values.fillna(0).to_numpy().astype(kind))
    else:
        return _text(values, b"\x01" if isinstance(column.type, JSONB) else b"")
    return data, np.full(len(values), data.shape[1])


def _text(values: pd.Series[Any], prefix: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    if isinstance(values.dtype, pd.CategoricalDtype):
        data, sizes = _text(values.cat.categories.to_series(), prefix)
        return data[values.cat.codes], sizes[values.cat.codes]
    encoded = np.array([prefix + value.encode() for value in values.fillna("").tolist()], dtype="S")
    return _bytes(encoded), np.char.str_len(encoded)


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.dtype.itemsize)


def _drop_indexes(cursor: Any, name: str) -> list[str]:
    """Drop the indexes of a table and return the statements that build them again."""
    cursor.execute(_INDEXES, (f"ops.{name}",))
    again = []
    for index, is_constraint, definition in cursor.fetchall():
        if is_constraint:
            cursor.execute(f"alter table ops.{name} drop constraint {index}")
            again.append(f"alter table ops.{name} add constraint {index} {definition}")
        else:
            cursor.execute(f"drop index ops.{index}")
            again.append(definition)
    return again


def _recent(world: World) -> Any:
    """A day before today in every zone."""
    return (pd.Timestamp(world.at) - pd.Timedelta(days=3)).date()


def _vacuum(engine: Engine, *tables: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("set statement_timeout = 0"))
        connection.execute(text(f"vacuum (analyze) {', '.join(tables)}"))


@contextmanager
def _driver(engine: Engine) -> Iterator[Any]:
    """Yield the driver's cursor in one transaction without a time limit."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("set statement_timeout = 0")
        yield cursor
        connection.commit()
    finally:
        # Not back into the pool: its settings are changed.
        connection.invalidate()
