"""What people decide about plans: to plan an hour by hand, or to take its plan back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from emberflow.operations.actor import Actor
from emberflow.operations.audit import announce, doing

if TYPE_CHECKING:
    from emberflow.queue_manager.cancellation import CancelledPlan


def run(engine: Engine, actor: Actor, hour: datetime | None, *, far_ahead: bool = False, reason: str) -> dict[str, Any]:
    """Plan an hour (None: the present one) now, as the DAG does; return what it came to. A planned one stays as it is.

    Raises:
        EmberflowError: the hour is days ahead, and ``far_ahead`` is not asked for.
    """
    from emberflow.queue_manager import tasks

    subject = "the present hour" if hour is None else f"{hour:%Y-%m-%dT%H}"
    announce(engine, actor, "plan.run", subject, reason, far_ahead=far_ahead)
    return tasks.plan_hour(None if hour is None else hour.isoformat(), far_ahead=far_ahead)


def cancel(engine: Engine, actor: Actor, hour: datetime, *, reason: str) -> CancelledPlan:
    """Cancel the slots of an hour that are still planned; the hour is not planned again.

    Raises:
        EmberflowError: the hour is not planned, or its plan has no slots.
    """
    from emberflow.queue_manager.cancellation import cancel_hour

    with doing(engine, actor, "plan.cancel", f"{hour:%Y-%m-%dT%H}", reason) as deed:
        done = cancel_hour(deed.connection, hour, by=actor.name, reason=reason)
        deed.details |= {"cancelled": done.cancelled, "left": done.left}
    return done
