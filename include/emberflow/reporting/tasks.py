"""The steps that Airflow runs to keep the reputation marts fresh; the others are in ``queue_manager.tasks``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from emberflow.clock import HOUR
from emberflow.database.engine import open_engine
from emberflow.policy.versions import in_force
from emberflow.reporting import marts
from emberflow.steps import hour_of, log_step, workers_clock


def marts_are_due() -> bool:
    """Return whether events came in that the reputation marts do not know, and the policy's interval is over."""
    now = workers_clock().now()
    with open_engine().begin() as connection:
        refresh_s = in_force(connection).policy.reputation.refresh_s
        is_due = marts.is_due(connection, now, refresh_s)
    log_step(now, "the marts are due" if is_due else "no new events, or the marts are fresh enough")
    return is_due


def build_marts(partition_key: str | None) -> dict[str, Any]:
    """Build the reputation marts as of the end of the named hour, or as of now while that is still ahead."""
    now = workers_clock().now()
    hour = hour_of(partition_key, now)
    report = asdict(marts.build_marts(min(hour + HOUR, now)))
    log_step(hour, "marts built", report)
    return report
