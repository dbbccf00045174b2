"""Admission: which of the slots that were just claimed are tried, and what becomes of the others at once.

Nobody logs in for a slot that has no builder, that the pre-send check would refuse anyway, whose mailbox cannot be
opened, whose route cannot be told, or which a circuit breaker holds. This is the first look; the pre-send check before
DATA decides.

**Threads.** Everything here belongs to the run's thread. Every claim adds the mailboxes and scripts that its slots
need, and nothing is taken away before the run is over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from emberflow.accounts.mailboxes import Mailbox, open_mailboxes
from emberflow.clock import Clock
from emberflow.delivery.guard import Refusal
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot
from emberflow.policy.document import Policy
from emberflow.policy.script_sets import ScriptLibrary
from emberflow.queue_manager import host_breakers, pre_send
from emberflow.queue_manager.sending import builders, slot_message
from emberflow.queue_manager.sending.leases import put_off
from emberflow.queue_manager.sending.recorder import Result
from emberflow.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admitted:
    """What one claim brought, each part in the order of the claim.

    ``to_try`` are slots whose turn may come; ``settled`` are the results of the others, which are to be recorded.
    ``senders`` are the mailboxes that have work, by id, also those that a breaker holds: their connections stay open.
    """

    to_try: Sequence[Slot]
    settled: Sequence[Result]
    senders: frozenset[int]


class Admission:
    """The first look at claimed slots; ``boxes`` and ``scripts`` hold what the slots of this run need."""

    def __init__(self, clock: Clock, settings: Settings, policy: Policy, seed: int) -> None:
        self._clock = clock
        self._settings = settings
        self._policy = policy
        self._seed = seed
        self.boxes: dict[int, Mailbox] = {}
        self.scripts = ScriptLibrary()

    def admit(self, connection: Connection, slots: Sequence[Slot]) -> Admitted:
        """Sort claimed slots, in the transaction that claimed them.

        Raises:
            DBAPIError, ConfigurationError: no slot is to blame; the transaction must not be committed.
        """
        opened = open_mailboxes(connection, self._settings, _mailboxes_of_all(slots) - self.boxes.keys())
        for reason in opened.unreadable.values():
            log.error("slots are held: %s", reason)
        self.boxes |= opened.boxes
        self.scripts.fetch(connection, [slot.payload for slot in slots])
        now = self._clock.now()
        refused = builders.without_builder(slots, now)
        known = [slot for slot in slots if slot.id not in refused]
        refused |= pre_send.unfit(connection, known, now=now, policy=self._policy, seed=self._seed)
        refused |= {
            slot.id: put_off("secret_unreadable", self._clock.now(), self._policy.dispatch.retry_s)
            for slot in slots
            if slot.id not in refused and not self.boxes.keys() >= mailboxes_of(slot)
        }
        routes, unbuilt = self._routes([slot for slot in slots if slot.id not in refused])
        usable = [slot for slot in slots if slot.id in routes]
        keys = {slot.id: host_breakers.keys_of(slot, routes[slot.id]) for slot in usable}
        blocked = host_breakers.admit(connection, keys, self._clock.now(), self._policy.breakers)
        refused |= {slot_id: Refusal(block.reason, block.retry_at) for slot_id, block in blocked.items()}
        return Admitted(
            to_try=[slot for slot in usable if slot.id not in refused],
            # Of what has a route or was refused, `unbuilt` knows nothing, and the other way round.
            settled=[
                Result(slot, refusal=refused.get(slot.id), unbuilt=unbuilt.get(slot.id))
                for slot in slots
                if slot.id in refused or slot.id in unbuilt
            ],
            senders=frozenset(slot.from_mailbox_id for slot in usable),
        )

    def _routes(self, slots: Sequence[Slot]) -> tuple[dict[int, Route], dict[int, str]]:
        """Return which way the slots' mails go, and why others go none, by slot."""
        routes: dict[int, Route] = {}
        unbuilt: dict[int, str] = {}
        for slot in slots:
            try:
                routes[slot.id] = slot_message.route_of(slot, self.boxes)
            except Exception as error:
                unbuilt[slot.id] = unbuilt_because(error)
        return routes, unbuilt


def unbuilt_because(error: Exception) -> str:
    """Return the reason that a slot fails with when its message cannot be built, in at most 200 characters."""
    return f"message cannot be built: {type(error).__name__}: {error}"[:200]


def mailboxes_of(slot: Slot) -> set[int]:
    """Return the ids of the operator's mailboxes that a slot needs: its sender, and its recipient if it is ours."""
    return {slot.from_mailbox_id} | ({slot.to_mailbox_id} if slot.to_mailbox_id is not None else set())


def _mailboxes_of_all(slots: Sequence[Slot]) -> set[int]:
    return {mailbox_id for slot in slots for mailbox_id in mailboxes_of(slot)}
