"""The engine of the database ``emberflow``: its pool of connections, and whether the server is away."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from emberflow.settings import settings

T = TypeVar("T")

_DEADLOCK_TRIES = 3

# Classes of PostgreSQL's error codes (its manual, appendix A): a server that shuts down or starts; a lost connection.
_SERVER_GOES = ("57P", "08")

# Times in milliseconds. JIT compiles statements whose cost is overestimated, longer than they then run.
_SESSION = ("timezone=UTC", "jit=off", "statement_timeout=300000", "idle_in_transaction_session_timeout=300000")


def open_engine(url: str | None = None) -> Engine:
    """Return this process's engine for ``url`` (default: the database that is configured now).

    Sessions run in UTC. A statement that takes longer than five minutes is cancelled by the server, so that a
    stuck query cannot hold the queue.
    """
    return _engine(url or settings().require_database_url())


@lru_cache(maxsize=4)
def _engine(url: str) -> Engine:
    return create_engine(
        url,
        # As many as the readers of a shard may want at once: one over the size is a new session each time, that is a
        # process of the server's.
        pool_size=20,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={
            "options": " ".join(f"-c {setting}" for setting in _SESSION),
            "application_name": "emberflow",
        },
    )


def is_away(error: Exception) -> bool:
    """Return whether the database does not answer, so that the next statement would meet the same."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, SQLAlchemyError)
    code = getattr(error.orig, "pgcode", None)
    return error.connection_invalidated or (
        isinstance(error, OperationalError | InterfaceError) and (code is None or code.startswith(_SERVER_GOES))
    )


def is_deadlock(error: DBAPIError) -> bool:
    """Return whether the server ended this transaction because another one and it waited for each other."""
    return getattr(error.orig, "pgcode", None) == "40P01"


def again_after_deadlock(transaction: Callable[[], T]) -> T:
    """Return what ``transaction`` returns, which is repeated as a whole if it ends in a deadlock, twice at most.

    Raises:
        DBAPIError: another error of the database, or a third deadlock.
    """
    for _ in range(_DEADLOCK_TRIES - 1):
        try:
            return transaction()
        except DBAPIError as error:
            if not is_deadlock(error):
                raise
    return transaction()
