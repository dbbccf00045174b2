"""Leases: which slots one run holds, from the claim until what became of them is recorded or left to the lease.

A slot passes through three steps here. It is *claimed*: it counts as held, so that this run claims nothing twice, also
if its lease lapses while the run is still at it. It is *kept*: its lease is renewed until the mail may leave. It is
*left to its lease*, which ends it if this process dies now: as ``planned`` before the pre-send check, as ``uncertain``
after it (docs/guarantees.md).

**Threads.** All methods belong to the run's thread. The thread of :meth:`Leases.renewing` only reads which slots are
kept; that dictionary is the one state which two threads share, and has a lock. Every write to a slot carries its lease
token, so a slot that somebody else has taken over meanwhile is not changed by a late renewal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from emberflow.delivery.guard import Refusal
from emberflow.domain.slot import Slot
from emberflow.policy.document import Policy
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.sending.recorder import Result

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 3  # two of them may fail before a lease lapses


class Leases:
    """The slots of one shard that one run holds; ``len()`` says how many."""

    def __init__(self, engine: Engine, shard: int, policy: Policy) -> None:
        self._engine = engine
        self._shard = shard
        self._policy = policy
        self._held: set[int] = set()
        self._kept: dict[int, Slot] = {}
        self._kept_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, connection: Connection, until: datetime, limit: int) -> list[Slot]:
        """Lease at most ``limit`` slots that are due at ``until``, the most urgent first, and none that is held.

        They are held from :meth:`hold` on, which is for when the caller's transaction is committed.

        Raises:
            DBAPIError: the database is away or has another schema; nothing is leased.
        """
        dispatch = self._policy.dispatch
        return slot_store.claim(
            connection,
            shard=self._shard,
            shards=dispatch.shards,
            now=until,
            limit=limit,
            lease_s=dispatch.lease_s,
            policy=self._policy.queue,
            held=self._held,
        )

    def hold(self, slots: Sequence[Slot]) -> None:
        """Count claimed slots as held, until :meth:`end`."""
        self._held |= {slot.id for slot in slots}

    def keep(self, slot: Slot) -> None:
        """Have its lease renewed from now on."""
        with self._kept_lock:
            self._kept[slot.id] = slot

    def leave(self, slot: Slot) -> None:
        """Renew its lease no more; a second call does nothing."""
        with self._kept_lock:
            self._kept.pop(slot.id, None)

    def end(self, slot: Slot) -> None:
        """The slot is nothing of this run's any more: it may be claimed again."""
        self.leave(slot)
        self._held.discard(slot.id)

    def next_due(self) -> datetime | None:
        """Return the earliest target time of what is planned in the shard; None if nothing is."""
        with self._engine.begin() as connection:
            return slot_store.next_due(connection, self._shard, self._policy.dispatch.shards)

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the leases of what is kept, three times in the length of a lease, in a thread of its own.

        A renewal that fails is logged and nothing else: the next one may succeed, and a lease that lapses is safe.
        """
        with _ticking(self._policy.dispatch.lease_s / _RENEWALS_PER_LEASE, self._renew):
            yield

    def _renew(self) -> None:
        """In the thread of :meth:`renewing`."""
        with self._kept_lock:
            kept = list(self._kept.values())
        with self._engine.begin() as connection:
            slot_store.renew(connection, kept, self._policy.dispatch.lease_s)


def given_back(slot: Slot, reason: str) -> Result:
    """Return the result that puts a slot back as it was: planned, due when it was due, no attempt counted."""
    return Result(slot, refusal=Refusal(reason, slot.target_time))


def put_off(reason: str, now: datetime, retry_s: float) -> Refusal:
    """Return the refusal that puts a slot back for ``retry_s`` seconds: it cannot be sent as things are set up."""
    return Refusal(reason, now + timedelta(seconds=retry_s))


@contextmanager
def _ticking(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` every so many seconds of real time, in a thread of its own; a failure ends nothing but that call."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            try:
                act()
            except Exception:
                log.warning("leases could not be renewed; the database is asked again", exc_info=True)

    thread = threading.Thread(target=tick, name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
