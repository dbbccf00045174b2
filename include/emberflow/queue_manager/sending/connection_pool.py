"""The SMTP connections of one run: one for each mailbox that is being served, opened, reused and closed here.

An open connection takes up a *place*: a permit of its host and of its egress address, which all processes share
(``permits``). It keeps that place until it has hung up, also while its session has ended and is opened again.

**Threads.** Logging in and hanging up block, so each is done by a small pool of threads: :meth:`ConnectionPool._open`
and what it calls run in an opener, ``_Line.hang_up`` in a closer. Everything else belongs to the run's thread, which
hears of an opener's work by a message (:data:`Message`) and never waits for it. An opener adds the line of its mailbox,
the run's thread takes lines away: the dictionary of lines has a lock. A line is used by one thread at a time, because a
mailbox has one mail under way: by an opener until its :class:`Opened` was told, then by the run's thread, at last by a
closer. :meth:`ConnectionPool.abort` alone reaches into a line that an opener may be using.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.delivery.connections import ConnectionPolicy
from emberflow.delivery.guard import Refusal
from emberflow.domain.slot import Slot
from emberflow.email_ops.dialogues import Ended
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.queue_manager import egress_logins
from emberflow.queue_manager.permits import Permits, Place

_OPENERS, _CLOSERS = 16, 4
_PLACE_ATTEMPTS, _PLACE_PAUSE_S, _PLACE_RETRY_S = 50, 0.1, 10


class NotNowError(Exception):
    """A mail is not sent now, and no attempt is counted; ``refusal`` says why and when it is tried again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True)
class Opened:
    """The session of the mailbox that sends ``slot`` is open; or it is not, and ``failed`` is how the mail ended.

    Its error is :class:`NotNowError` if there is no place, no login left or no time; else what could not be foreseen.
    """

    slot: Slot
    failed: Ended | None = None


@dataclass(frozen=True)
class PlaceWanted:
    """An opener waits for a place at a host: hang up whatever connection has no work."""


Message = Opened | PlaceWanted


@dataclass(frozen=True)
class _Line:
    """A mailbox's connection and the place that it takes up."""

    connection: SmtpConnection
    place: Place

    def hang_up(self) -> None:
        try:
            self.connection.close()
        finally:
            self.place.release()


class ConnectionPool:
    """The lines of one run, by mailbox. ``tell`` gets what the openers have to say, in their threads.

    ``connect`` makes the connection of a mailbox, which is not open yet. Leaving the ``with`` block ends the threads
    only; :meth:`close` hangs up.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        permits: Permits,
        clock: Clock,
        policy: ConnectionPolicy,
        connect: Callable[[Mailbox], SmtpConnection],
        tell: Callable[[Message], None],
    ) -> None:
        self._engine = engine
        self._permits = permits
        self._clock = clock
        self._policy = policy
        self._connect = connect
        self._tell = tell
        self._lines: dict[int, _Line] = {}
        self._lines_lock = threading.Lock()
        self._is_stopping = False
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix=f"{name}-open")
        self._closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix=f"{name}-close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closers.shutdown()
        self._openers.shutdown()

    def kept(self, mailbox_id: int) -> SmtpConnection | None:
        """Return the mailbox's connection, if it has one; its session may be over."""
        with self._lines_lock:
            line = self._lines.get(mailbox_id)
        return None if line is None else line.connection

    def open(self, slot: Slot, sender: Mailbox) -> None:
        """Have the session of the mailbox that sends ``slot`` opened, over its line if it has one.

        Returns at once; :class:`Opened` is told, whatever happens. Until then the mailbox is not opened again.
        """
        with self._lines_lock:
            line = self._lines.get(slot.from_mailbox_id)
        self._openers.submit(self._open, slot, sender, line)

    def close_all_but(self, busy: Collection[int]) -> None:
        """Hang up for every mailbox that is not in ``busy``; servers hang up on idle connections anyway."""
        with self._lines_lock:
            idle = [self._lines.pop(mailbox_id) for mailbox_id in self._lines.keys() - set(busy)]
        for line in idle:
            self._closers.submit(line.hang_up)

    def open_no_more(self) -> None:
        """Let openers that have not begun tell that the run has stopped, and wait for a place no longer."""
        self._is_stopping = True

    def abort(self) -> None:
        """Cut every connection: whoever waits for a server's answer stops waiting, without one."""
        with self._lines_lock:
            lines = list(self._lines.values())
        for line in lines:
            line.connection.abort()

    def close(self) -> None:
        """Wait for the openers, hang up everywhere, and wait for that."""
        self._openers.shutdown()
        self.close_all_but(())
        self._closers.shutdown()

    # In an opener's thread

    def _open(self, slot: Slot, sender: Mailbox, line: _Line | None) -> None:
        """Open a session, which takes a place at its host and a login of its egress address."""
        try:
            self._require_going_on(slot)
            if line is None:
                line = _Line(self._connect(sender), self._place(sender))
                with self._lines_lock:
                    self._lines[slot.from_mailbox_id] = line
            failed = line.connection.open()
        except BaseException as error:
            self._tell(Opened(slot, Ended(error=error)))
        else:
            self._tell(Opened(slot, None if failed is None else Ended(attempt=failed)))

    def _require_going_on(self, slot: Slot) -> None:
        if self._is_stopping:
            raise NotNowError(Refusal("run stopped", slot.target_time))

    def _place(self, sender: Mailbox) -> Place:
        """Take a place at the mailbox's host, waiting for one if need be, and a login of its egress address."""
        now = self._clock.now()
        if sender.egress_ip_id is not None:
            with self._engine.begin() as connection:
                refusal = egress_logins.may_log_in(connection, sender.egress_ip_id, now)
            if refusal is not None:
                raise NotNowError(refusal)
        limits = self._policy.limits(
            host=sender.access.smtp_host, provider=sender.provider, egress_address=sender.access.source_address
        )
        for _ in range(_PLACE_ATTEMPTS):
            place = self._permits.take(limits)
            if place is not None:
                return place
            if self._is_stopping:
                break
            self._tell(PlaceWanted())
            time.sleep(_PLACE_PAUSE_S)
        raise NotNowError(Refusal("connection_limit", now + timedelta(seconds=_PLACE_RETRY_S)))
