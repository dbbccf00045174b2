"""Statements that a session parses and plans once, however often it runs them.

For a statement of many parts over a few dozen rows, reading and planning it costs PostgreSQL more than running it, and
SQLAlchemy's way to the driver costs us as much again. A thread that has a connection of its own, never goes back to the
pool with it, and repeats a few statements says so once (:func:`keep_plans`); what it runs by :func:`execute` from then
on is prepared in that session. On every other connection, :func:`execute` is ``connection.execute``.

A plan is made anew when the statistics of its tables are (PostgreSQL documentation, PREPARE, Notes).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, TextClause
from sqlalchemy.dialects import postgresql

_KEPT: Final = "prepared statements"  # in the `info` of a connection: the names of those that its session knows


def keep_plans(connection: Connection) -> None:
    """Let this session prepare what it runs; it must be nobody else's, as one behind a pooler of transactions is."""
    connection.info[_KEPT] = set()


def execute(connection: Connection, statement: TextClause, parameters: Mapping[str, Any]) -> CursorResult[Any]:
    """Run a statement that is a constant of its module, with plain values that need no type of SQLAlchemy's."""
    kept: set[str] | None = connection.info.get(_KEPT)
    if kept is None:
        return connection.execute(statement, parameters)
    name, prepare, run = _prepared(statement)
    if name not in kept:
        connection.exec_driver_sql(prepare)
        kept.add(name)
    return connection.exec_driver_sql(run, dict(parameters))


@lru_cache(maxsize=256)
def _prepared(statement: TextClause) -> tuple[str, str, str]:
    """Return the name of ``statement`` in a session, what prepares it, and what runs it."""
    dialect: Any = postgresql.dialect
    compiled: Any = statement.compile(dialect=dialect(paramstyle="numeric_dollar"))
    name = f"statement_{id(statement)}"
    values = ", ".join(f"%({parameter})s" for parameter in compiled.positiontup)
    # The driver takes a per cent sign for the beginning of a value.
    query = compiled.string.replace("%", "%%")
    return name, f"prepare {name} as {query}", f"execute {name}" + (f"({values})" if values else "")
