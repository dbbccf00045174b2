"""The steps that Airflow runs. Each opens what it needs, does one thing, and returns plain numbers for XCom.

Each says in one line of the task's log what it came to: the hour (UTC) and the counts.

A step may be retried, cleared, run twice at once or backfilled at any time: what is sent is decided by the rows
of the database, never by the run that asks.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from emberflow.accounts import domain_checks
from emberflow.database.engine import open_engine
from emberflow.errors import WorkerRefusedError
from emberflow.policy.versions import in_force
from emberflow.queue_manager.planning import planner
from emberflow.queue_manager.receiving import reconcile, sweep
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import settings
from emberflow.steps import hour_of, log_step, workers_clock


def plan_hour(partition_key: str | None, *, far_ahead: bool = False) -> dict[str, Any]:
    """Plan the hour named by ``partition_key`` (ISO 8601, UTC), or the present hour when there is none.

    One that is days ahead is refused, unless ``far_ahead`` is asked for (`planner.plan_hour`).
    """
    clock = workers_clock()
    hour = hour_of(partition_key, clock.now())
    report = planner.plan_hour(open_engine(), hour, clock=clock, settings=settings(), far_ahead=far_ahead)
    before = ", was planned before" if report.was_planned_before else ""
    counts = {name: getattr(report, name) for name in ("senders", "bots", "wanted", "slots")}
    log_step(hour, f"{report.outcome}{before}", counts)
    return asdict(report) | {"hour": hour.isoformat()}


def due_shards() -> list[int]:
    """Return the shards that one dispatch run fans out to."""
    clock = workers_clock()
    shards = dispatcher.due_shards(open_engine(), clock=clock)
    log_step(clock.now(), f"shards with work: {_listed(shards)}")
    return shards


def dispatch_shard(shard: int) -> dict[str, Any]:
    """Send what is due in ``shard``; return how many slots came to which end.

    Raises:
        WorkerRefusedError: this machine must not send; the text says why.
    """
    clock = workers_clock()
    report = dispatcher.dispatch_shard(open_engine(), shard, clock=clock, settings=settings())
    if report.refused is not None:
        raise WorkerRefusedError(f"nothing was sent: {report.refused}")
    log_step(clock.now(), f"shard {shard}{' was busy' if report.was_busy else ''}", report.ends)
    return {"shard": shard, "was_busy": report.was_busy, **report.ends}


def shards() -> list[int]:
    """Return the shards of mailboxes that one inbox run fans out to."""
    with open_engine().begin() as connection:
        found = list(range(in_force(connection).policy.inbox.shards))
    log_step(workers_clock().now(), f"shards to read: {_listed(found)}")
    return found


def read_shard(shard: int) -> dict[str, Any]:
    """Read the mailboxes of ``shard``; return what was found."""
    clock = workers_clock()
    report = sweep.read_shard(open_engine(), shard, clock=clock, settings=settings())
    counts = {"mailboxes": report.mailboxes, "unreadable": len(report.unreadable), **report.found}
    log_step(clock.now(), f"shard {shard}", counts)
    return {"shard": shard, "mailboxes": report.mailboxes, "unreadable": report.unreadable, **report.found}


def uncertain_shards() -> list[int]:
    """Return the shards of mailboxes that one reconcile run fans out to."""
    now = workers_clock().now()
    with open_engine().begin() as connection:
        policy = in_force(connection).policy
        found = reconcile.due_shards(connection, now=now, policy=policy, shards=policy.inbox.shards)
    log_step(now, f"shards with uncertain slots: {_listed(found)}")
    return found


def reconcile_shard(shard: int) -> dict[str, Any]:
    """Settle the uncertain slots of ``shard``; return how many came to which end, and why others still wait.

    ``not_reached`` are the addresses of the mailboxes that come first in the next run.
    """
    engine, clock = open_engine(), workers_clock()
    with engine.begin() as connection:
        shards = in_force(connection).policy.inbox.shards
    report = reconcile.run(engine, clock=clock, settings=settings(), shard=shard, shards=shards)
    reasons = sorted(set(report.waiting.values()))
    counts = {"waiting": len(report.waiting), "not_reached": len(report.not_reached), **report.ends}
    log_step(clock.now(), f"shard {shard}", counts)
    return {"shard": shard, "reasons": reasons, **counts, "not_reached": report.not_reached}


def check_domains() -> dict[str, Any]:
    """Check what is due of the sending domains and egress addresses; return the outcomes and what followed."""
    clock = workers_clock()
    report = domain_checks.run(open_engine(), clock=clock, settings=settings())
    counts = {"subjects": report.subjects, "not_reached": len(report.not_reached), **report.outcomes}
    log_step(clock.now(), report.refused or "domains and egress addresses", counts)
    return asdict(report)


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"
