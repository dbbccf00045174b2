"""Limits on open connections per mail host and per egress address, across all processes and machines (E-F4).

A limit of *n* is *n* numbered advisory locks of PostgreSQL; who holds one of them may keep one connection open. The
locks belong to a database session, so those of a process that dies are free as soon as its session ends, and nothing
has to be counted or swept. A pooler between us and PostgreSQL must keep sessions apart (PgBouncer: session pooling).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

_SEED = 0x656D6265  # sets these 64-bit lock names apart from other users of the database

_TAKE = text("""
    select number
    from unnest(cast(:free as integer[])) as number
    where pg_try_advisory_lock(hashtextextended(:name || '#' || number, :seed))
    limit 1
""")

_FREE = text("select pg_advisory_unlock(hashtextextended(:name || '#' || :number, :seed))")

_Held = tuple[str, int]


class Permits:
    """The permits that one database session holds, each for one open connection.

    ``connection`` is in autocommit (its locks outlive transactions) and stays checked out as long as permits are held.
    If its session is lost, so are the permits: the holder closes its mail connections then. Threads may share this
    object.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: set[_Held] = set()
        self._one_at_a_time = threading.Lock()

    def take(self, limits: Mapping[str, int]) -> Place | None:
        """Take one permit of each of ``limits`` (name -> how many there are), or none at all: then return None."""
        with self._one_at_a_time:
            permits: list[_Held] = []
            try:
                for name, limit in limits.items():
                    permit = self._try(name, limit)
                    if permit is None:
                        self._free(permits)
                        return None
                    permits.append(permit)
            except BaseException:
                self._free(permits)
                raise
            return Place(self, permits)

    def free(self, permits: list[_Held]) -> None:
        """Give permits back; only a place calls this."""
        with self._one_at_a_time:
            self._free(permits)

    def _try(self, name: str, limit: int) -> _Held | None:
        # PostgreSQL grants a session the same lock again and again; what is held here must not be asked for.
        free = [number for number in range(limit) if (name, number) not in self._held]
        number = self._connection.execute(_TAKE, {"name": name, "free": free, "seed": _SEED}).scalar_one_or_none()
        if number is None:
            return None
        self._held.add((name, number))
        return name, number

    def _free(self, permits: list[_Held]) -> None:
        for name, number in permits:
            self._held.discard((name, number))
            # A session that was lost took its locks with it.
            with suppress(DBAPIError, PendingRollbackError):
                self._connection.execute(_FREE, {"name": name, "number": number, "seed": _SEED})


class Place:
    """Permits for one open connection; give them back with ``release`` or by leaving the ``with`` block."""

    def __init__(self, owner: Permits, permits: list[_Held]) -> None:
        self._owner = owner
        self._permits = permits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the permits back; a second call does nothing."""
        permits, self._permits = self._permits, []
        self._owner.free(permits)
