"""Recover: bring back what a dead worker held, and deal with what nobody sent in time.

Nothing here waits for a lock and nothing depends on who calls it, so any run may begin with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from emberflow.policy.queue import QueuePolicy
from emberflow.queue_manager import event_log, slot_store


@dataclass(frozen=True)
class Recovered:
    """How many slots came to which state: ``released`` and ``planned_again`` are planned."""

    released: int
    uncertain: int
    parked: int
    expired: int = 0
    planned_again: int = 0

    @property
    def is_anything(self) -> bool:
        """Whether there was something to put right."""
        return bool(self.released or self.uncertain or self.expired or self.planned_again or self.parked)


def free_lapsed(connection: Connection, *, now: datetime, policy: QueuePolicy) -> Recovered:
    """Free lapsed leases.

    One that lapsed before DATA is simply planned again, until it has lapsed too often: then it is parked, which is an
    event. One that lapsed after DATA began may have been sent: it becomes ``uncertain`` and is never sent again
    blindly.
    """
    lapsed = slot_store.free_before_data(connection, policy.maximum_lapses)
    parked = [dict(row) for row in lapsed if row["status"] == "parked"]
    event_log.record_parked(connection, parked, now)
    uncertain = slot_store.free_after_data(connection)
    return Recovered(released=len(lapsed) - len(parked), uncertain=uncertain, parked=len(parked))


def recover(connection: Connection, *, now: datetime, policy: QueuePolicy) -> Recovered:
    """Free lapsed leases, give up overdue warm-up slots, and spread other overdue mail (Q-B8)."""
    too_late = now - timedelta(seconds=policy.overdue_s)
    return replace(
        free_lapsed(connection, now=now, policy=policy),
        expired=slot_store.expire(connection, too_late=too_late),
        planned_again=slot_store.plan_again(connection, too_late=too_late, now=now, spread_s=policy.spread_s),
    )
