"""Statements that a session parses and plans once, however often it runs them.

For a statement of many parts over a few dozen rows, reading and planning it costs PostgreSQL more than running it, and
SQLAlchemy's way to the driver costs us more than the driver itself. A thread that has a connection of its own, never
goes back to the pool with it, and repeats a few statements says so once (:func:`keep_plans`); what it runs by
:func:`rows_of` from then on is prepared in that session and given to the driver as it is. On every other connection it
is ``connection.execute``.

A plan is made anew when the statistics of its tables are (PostgreSQL documentation, PREPARE, Notes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any, Final

from psycopg2 import Error
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Connection, TextClause
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

_KEPT: Final = "prepared statements"  # in the `info` of a connection: those that its session knows, by name


def keep_plans(connection: Connection) -> None:
    """Let this session prepare what it runs; it must be nobody else's, as one behind a pooler of transactions is."""
    connection.info[_KEPT] = {}


def rows_of(connection: Connection, name: str, statement: TextClause, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """Run a statement that is a constant of its module and return its rows, whose columns are attributes.

    ``name`` is its own in the whole program. ``parameters`` are plain values, of the types that the driver knows.
    Errors are SQLAlchemy's on every connection.

    Raises:
        ValueError: this session knows another statement by the name.
    """
    kept: dict[str, TextClause] | None = connection.info.get(_KEPT)
    if kept is None:
        found = connection.execute(statement, parameters)
        return found.all() if found.returns_rows else []
    prepare, run = _prepared(name, statement)
    if name not in kept:
        connection.exec_driver_sql(prepare)
        kept[name] = statement
    elif kept[name] is not statement:
        raise ValueError(f"two prepared statements have the name {name}")
    dialect: Any = connection.dialect
    driver: Any = connection.connection
    with closing(driver.cursor(cursor_factory=NamedTupleCursor)) as cursor:
        try:
            cursor.execute(run, parameters)
            return [] if cursor.description is None else cursor.fetchall()
        except Error as error:
            is_lost = dialect.is_disconnect(error, driver.dbapi_connection, cursor)
            if is_lost:
                connection.invalidate(error)
            raise DBAPIError.instance(
                run, parameters, error, Error, connection_invalidated=is_lost, dialect=dialect
            ) from error


@lru_cache(maxsize=256)
def _prepared(name: str, statement: TextClause) -> tuple[str, str]:
    """Return what prepares ``statement`` in a session, and what runs it."""
    dialect: Any = postgresql.dialect
    compiled: Any = statement.compile(dialect=dialect(paramstyle="numeric_dollar"))
    values = ", ".join(f"%({parameter})s" for parameter in compiled.positiontup)
    # The driver takes a per cent sign for the beginning of a value.
    query = compiled.string.replace("%", "%%")
    return f"prepare {name} as {query}", f"execute {name}" + (f"({values})" if values else "")
