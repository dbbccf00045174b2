"""Which mailbox is read next, and by which of a run's threads. No database, no network; threads share one queue.

Who was tried longest ago goes first. A server takes half of the threads at most while mailboxes of others wait, so that
a slow one costs its own mailboxes their time and no others theirs. One that answers nobody is asked a few times, and
its other mailboxes are left for the next run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

SILENT_AFTER = 3  # mailboxes in a row that could not be connected to

_LONGEST_WAIT_S = 0.5


@dataclass(frozen=True)
class Turn:
    """A mailbox to read. ``failures``: how often in a row it could not be read; ``server``: where it lies.

    ``is_sender``: people may write from it too. ``looked_through_at``: when handled mail was last looked for.
    """

    mailbox_id: int
    address: str
    failures: int
    server: str = ""
    is_sender: bool = False
    looked_through_at: datetime | None = None


@dataclass
class _Server:
    waiting: deque[tuple[int, Turn]] = field(default_factory=deque)
    under_way: int = 0
    silent: int = 0
    not_before: float = 0.0


class TurnQueue:
    """The mailboxes of one run, for ``readers`` threads until ``ends_at`` (of ``time.monotonic``)."""

    def __init__(self, turns: Sequence[Turn], readers: int, ends_at: float) -> None:
        self._readers = readers
        self._ends_at = ends_at
        self._servers: dict[str, _Server] = {}
        self._changed = threading.Condition()
        self._is_stopped = False
        self._unanswered: list[tuple[Turn, str]] = []
        self._places = {turn.mailbox_id: place for place, turn in enumerate(turns)}
        for place, turn in enumerate(turns):
            self._servers.setdefault(turn.server, _Server()).waiting.append((place, turn))

    def take(self) -> Turn | None:
        """Return the mailbox that this thread shall read; None: none is left, the time is over, or `stop` was called.

        Waits while the only mailboxes left are of servers that must wait.
        """
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                if now >= self._ends_at:
                    return None
                server = self._next(now)
                if server is not None:
                    server.under_way += 1
                    return server.waiting.popleft()[1]
                if not any(one.waiting or one.under_way for one in self._servers.values()):
                    return None
                self._changed.wait(min(_LONGEST_WAIT_S, self._ends_at - now))
            return None

    def put_back(self, turn: Turn, pause_s: float) -> None:
        """Return a mailbox that was not begun: its server has no place for another connection now."""
        with self._changed:
            server = self._servers[turn.server]
            server.under_way -= 1
            server.waiting.appendleft((self._places[turn.mailbox_id], turn))
            server.not_before = time.monotonic() + pause_s
            self._changed.notify_all()

    def done(self, turn: Turn, no_answer: str | None = None) -> None:
        """Say that a mailbox was dealt with; ``no_answer``: its server could not be connected to, and why."""
        with self._changed:
            server = self._servers[turn.server]
            server.under_way -= 1
            server.silent = 0 if no_answer is None else server.silent + 1
            if no_answer is not None and server.silent >= SILENT_AFTER:
                reason = f"{turn.server} did not answer for {server.silent} other mailboxes: {no_answer}"
                self._unanswered += [(waiting, reason) for _, waiting in server.waiting]
                server.waiting.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """Let no thread begin another mailbox."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def left(self) -> list[Turn]:
        """Return the mailboxes that nobody has taken, in their order."""
        with self._changed:
            waiting = [entry for server in self._servers.values() for entry in server.waiting]
            return [turn for _, turn in sorted(waiting, key=lambda entry: entry[0])]

    def unanswered(self) -> list[tuple[Turn, str]]:
        """Return the mailboxes that were left out because their server answers nobody, and the reason of each."""
        with self._changed:
            return list(self._unanswered)

    def _next(self, now: float) -> _Server | None:
        waiting = [server for server in self._servers.values() if server.waiting]
        most = self._readers if len(waiting) == 1 else max(self._readers // 2, 1)
        # A silent server is asked by one thread at a time: none of the others would be answered either.
        free = [
            server
            for server in waiting
            if server.not_before <= now and server.under_way < (1 if server.silent else most)
        ]
        return min(free, key=lambda server: server.waiting[0][0], default=None)
