"""Turns: whose mail is next. Of each mailbox one mail is under way at most, and mailboxes take turns.

So a mailbox needs one connection, its mails leave in the order of the claim, and a crash leaves one mail of a mailbox
in doubt, not two.

**Threads.** Everything here belongs to the run's thread, except that any thread may ask for the number
:attr:`Turns.under_way`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, KeysView

from emberflow.domain.slot import Slot


class Turns:
    """Claimed slots that wait, by the mailbox that sends them, and the slot of each mailbox that is under way."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Slot]] = {}  # a key is a mailbox that is being served
        self._ready: deque[int] = deque()  # such mailboxes of which no mail is under way
        self._under_way: dict[int, int] = {}  # slot by mailbox

    @property
    def mailboxes(self) -> KeysView[int]:
        """The mailboxes that are being served: a mail of theirs waits or is under way."""
        return self._waiting.keys()

    @property
    def under_way(self) -> int:
        """How many mails are under way."""
        return len(self._under_way)

    def add(self, slot: Slot) -> None:
        """Let a slot wait behind the others of its mailbox."""
        mailbox_id = slot.from_mailbox_id
        if mailbox_id not in self._waiting:
            self._waiting[mailbox_id] = deque()
            self._ready.append(mailbox_id)
        self._waiting[mailbox_id].append(slot)

    def take(self, most: int) -> Slot | None:
        """Take out the slot whose turn it is; None if there is none, or if ``most`` mails are under way.

        The caller begins it at once (:meth:`begin`), or drops it: then it is the turn of the same mailbox's next slot.
        """
        while self._ready and len(self._under_way) < most:
            mailbox_id = self._ready[0]
            if queue := self._waiting[mailbox_id]:
                return queue.popleft()
            self._ready.popleft()
            del self._waiting[mailbox_id]
        return None

    def begin(self, slot: Slot) -> None:
        """The slot that was just taken is under way: no other of its mailbox has a turn until :meth:`end`."""
        self._ready.popleft()
        self._under_way[slot.from_mailbox_id] = slot.id

    def is_under_way(self, slot: Slot) -> bool:
        """Return whether this very slot is under way."""
        return self._under_way.get(slot.from_mailbox_id) == slot.id

    def end(self, slot: Slot) -> None:
        """If this slot is under way, it is no more, and its mailbox may go on behind those that are ready."""
        if self.is_under_way(slot):
            del self._under_way[slot.from_mailbox_id]
            self._ready.append(slot.from_mailbox_id)

    def drain(self) -> Iterator[Slot]:
        """Take out every slot that waits."""
        for queue in self._waiting.values():
            while queue:
                yield queue.popleft()
