"""Taking an hour's plan back: what of it has not left is cancelled, and the hour is not planned again.

Its row in ``plan_runs`` stays with the number of its slots, which is what keeps the hour from being planned anew.
Cancelled slots hold no place in a quota, so the later hours of the same local day make up for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.errors import EmberflowError
from emberflow.queue_manager import event_log, slot_store
from emberflow.queue_manager.plan_runs import run_of

_LEFT = ("submitting", "sent", "uncertain")
_STATUSES = text("""
    select slots.status, count(*) as slots
    from ops.slots
    where slots.plan_run_id = :run
    group by slots.status
    order by slots.status
""")


@dataclass(frozen=True)
class CancelledPlan:
    """How many slots of ``hour`` were cancelled by this call, how many ``left`` before it, and the others by status."""

    hour: datetime
    cancelled: int
    left: int
    others: dict[str, int]


def cancel_hour(connection: Connection, hour: datetime, *, by: str, reason: str) -> CancelledPlan:
    """Cancel the slots of the UTC hour that are still planned; ``by`` and ``reason`` are stored with each.

    Raises:
        EmberflowError: the hour is not planned, or its plan has no slots.
    """
    run = run_of(connection, hour)
    if run is None or not run["slots"]:
        what = "is not planned" if run is None else "has no slots"
        raise EmberflowError(
            f"{hour:%Y-%m-%dT%H} {what}: there is nothing to cancel; `emberflow plan show` lists the planned hours"
        )
    cancelled = slot_store.cancel_plan(connection, run["id"], f"cancelled by {by}: {reason}")
    for slot in cancelled:
        # A first mail has no conversation yet.
        if slot.conversation_id is not None:
            event_log.close_conversation(connection, slot)
    counts = {row.status: row.slots for row in connection.execute(_STATUSES, {"run": run["id"]})}
    counts["cancelled"] = counts.get("cancelled", 0) - len(cancelled)
    others = {status: count for status, count in counts.items() if status not in _LEFT and count}
    return CancelledPlan(hour, len(cancelled), sum(counts.get(status, 0) for status in _LEFT), others)
