"""The steps that Airflow runs. Each opens what it needs, does one thing, and returns plain numbers for XCom.

A step may be retried, cleared, run twice at once or backfilled at any time: what is sent is decided by the rows
of the database, never by the run that asks.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from emberflow.clock import HOUR, SystemClock, floor_hour
from emberflow.database.engine import connect
from emberflow.queue_manager import dispatcher, inbox, planner, reconcile, reputation
from emberflow.queue_manager.policies import in_force
from emberflow.settings import settings


def plan_hour(partition_key: str | None) -> dict[str, Any]:
    """Plan the hour named by ``partition_key`` (ISO 8601, UTC), or the present hour when there is none."""
    clock = SystemClock()
    hour = _hour(partition_key, clock.now())
    report = asdict(planner.plan_hour(connect(), hour, clock=clock, settings=settings()))
    return report | {"hour": hour.isoformat()}


def due_lanes() -> list[int]:
    """Return the lanes that one dispatch run fans out to."""
    return dispatcher.due_lanes(connect(), clock=SystemClock())


def dispatch_lane(lane: int) -> dict[str, Any]:
    """Send what is due in ``lane``; return how many slots came to which end."""
    report = dispatcher.dispatch_lane(connect(), lane, clock=SystemClock(), settings=settings())
    return {"lane": lane, "was_busy": report.was_busy, **report.ends}


def shards() -> list[int]:
    """Return the shards of mailboxes that one inbox run fans out to."""
    with connect().begin() as connection:
        return list(range(in_force(connection).policy.inbox.shards))


def read_shard(shard: int) -> dict[str, Any]:
    """Read the mailboxes of ``shard``; return what was found."""
    report = inbox.read_shard(connect(), shard, clock=SystemClock(), settings=settings())
    return {"shard": shard, "mailboxes": report.mailboxes, "unreadable": report.unreadable, **report.found}


def uncertain_shards() -> list[int]:
    """Return the shards of mailboxes that one reconcile run fans out to."""
    with connect().begin() as connection:
        policy = in_force(connection).policy
        return reconcile.due_shards(connection, now=SystemClock().now(), policy=policy, shards=policy.inbox.shards)


def reconcile_shard(shard: int) -> dict[str, Any]:
    """Settle the uncertain slots of ``shard``; return how many came to which end, and why others still wait."""
    engine = connect()
    with engine.begin() as connection:
        shards = in_force(connection).policy.inbox.shards
    report = reconcile.run(engine, clock=SystemClock(), settings=settings(), shard=shard, shards=shards)
    reasons = sorted(set(report.waiting.values()))
    return {"shard": shard, "waiting": len(report.waiting), "reasons": reasons, **report.ends}


def marts_are_due() -> bool:
    """Return whether events came in that the reputation marts do not know, and the policy's interval is over."""
    with connect().begin() as connection:
        refresh_s = in_force(connection).policy.reputation.refresh_s
        return reputation.is_due(connection, SystemClock().now(), refresh_s)


def build_marts(partition_key: str | None) -> dict[str, Any]:
    """Build the reputation marts as of the end of the named hour, or as of now while that is still ahead."""
    now = SystemClock().now()
    return asdict(reputation.build_marts(min(_hour(partition_key, now) + HOUR, now)))


def _hour(partition_key: str | None, now: datetime) -> datetime:
    if partition_key is None:
        return floor_hour(now)
    moment = datetime.fromisoformat(partition_key)
    return floor_hour(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)
