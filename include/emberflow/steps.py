"""What the steps that Airflow runs have in common: one clock, the hour of a partition, one line in the task's log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from emberflow.clock import Clock, SystemClock, floor_hour
from emberflow.database import server_clock
from emberflow.database.engine import open_engine

log = logging.getLogger(__name__)


def workers_clock() -> Clock:
    """Return the clock that all workers share."""
    return server_clock.shared(open_engine(), SystemClock())


def hour_of(partition_key: str | None, now: datetime) -> datetime:
    """Return the start of the hour (UTC) that a partition names, or of the present one."""
    if partition_key is None:
        return floor_hour(now)
    moment = datetime.fromisoformat(partition_key)
    return floor_hour(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)


def log_step(moment: datetime, what: str, counts: Mapping[str, float] | None = None) -> None:
    """Log what a step came to, under the hour of ``moment``."""
    figures = ", ".join(f"{name} {count:.4g}" for name, count in (counts or {}).items())
    log.info("%s UTC: %s%s", f"{floor_hour(moment):%Y-%m-%d %H:%M}", what, f": {figures}" if figures else "")
