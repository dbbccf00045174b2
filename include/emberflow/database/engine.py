"""Connections to the database ``emberflow``."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Engine, create_engine

from emberflow.settings import settings

# Times in milliseconds. JIT compiles statements whose cost is overestimated, longer than they then run.
_SESSION = ("timezone=UTC", "jit=off", "statement_timeout=300000", "idle_in_transaction_session_timeout=300000")


def connect(url: str | None = None) -> Engine:
    """Return this process's engine for ``url`` (default: the database that is configured now).

    Sessions run in UTC. A statement that takes longer than five minutes is cancelled by the server, so that a
    stuck query cannot hold the queue.
    """
    return _engine(url or settings().require_database_url())


@lru_cache(maxsize=4)
def _engine(url: str) -> Engine:
    return create_engine(
        url,
        pool_size=4,
        max_overflow=16,
        pool_pre_ping=True,
        connect_args={
            "options": " ".join(f"-c {setting}" for setting in _SESSION),
            "application_name": "emberflow",
        },
    )
