"""What only a person can decide about slots: what became of a mail in doubt, and that a parked one may go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from emberflow.clock import SystemClock
from emberflow.database import server_clock
from emberflow.errors import EmberflowError
from emberflow.operations.actor import Actor
from emberflow.operations.audit import announce, doing
from emberflow.queue_manager import slot_store
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.queue_manager.receiving.reconcile import ReconcileReport


def settle(engine: Engine, actor: Actor, slots: Sequence[int], *, is_sent: bool, reason: str) -> dict[int, str]:
    """Settle uncertain slots, all or none; return what each is now. A mail that was not sent may be sent again.

    Raises:
        EmberflowError: one of them is not ``uncertain``.
    """
    from emberflow.policy.versions import in_force
    from emberflow.queue_manager.receiving import reconcile

    wanted = list(dict.fromkeys(slots))
    subject = ", ".join(f"slot {slot}" for slot in wanted)
    with doing(engine, actor, "queue.settle", subject, reason, is_sent=is_sent) as deed:
        connection = deed.connection
        policy, now = in_force(connection).policy, server_clock.now(connection)
        ends = {
            slot: reconcile.settle(connection, slot, is_sent=is_sent, by=actor.name, why=reason, now=now, policy=policy)
            for slot in wanted
        }
        deed.details["ends"] = ends
    return ends


def release(engine: Engine, actor: Actor, slot: int, *, reason: str) -> None:
    """Plan a parked slot again, because its cause is mended.

    Raises:
        EmberflowError: the slot is not ``parked``.
    """
    with doing(engine, actor, "queue.release", f"slot {slot}", reason) as deed:
        released, now = f"released by {actor.name}", server_clock.now(deed.connection)
        if not slot_store.release(deed.connection, slot, reason=released, now=now):
            raise EmberflowError(f"slot {slot} is not parked; see `emberflow queue list --status parked`")


def reconcile(engine: Engine, actor: Actor, settings: Settings, *, reason: str) -> ReconcileReport:
    """Look for every uncertain mail in its mailboxes now, however old it is, and settle what can be settled."""
    from emberflow.queue_manager.receiving import reconcile as search

    announce(engine, actor, "queue.reconcile", "all uncertain slots", reason)
    return search.run(engine, clock=SystemClock(), settings=settings, is_asked_for=True)
