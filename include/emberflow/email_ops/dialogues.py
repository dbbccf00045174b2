"""Many SMTP dialogues led by one thread.

A dialogue (``SmtpConnection.dialogue``) yields whenever it waits for its server. Here one thread waits for all of them
at once and lets each go on when its server has answered or its time is over: a slow server delays nobody else, and no
dialogue costs a thread. Cost: one ``poll`` a turn, linear in the open dialogues, of which there are at most hundreds.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from emberflow.domain.attempt import Attempt
from emberflow.email_ops.smtp_session import Session, Steps

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Ended:
    """How a dialogue ended: with an attempt, with None (its session was over, begin again), or by an exception."""

    attempt: Attempt | None = None
    error: BaseException | None = None


class Dialogues(Generic[Key]):
    """The dialogues of one thread, each under a key of the caller's; only :meth:`wake` may be called by other threads.

    :meth:`turn` returns what happened: a key with None when that dialogue asks for permission to send DATA, which
    :meth:`permit` or :meth:`refuse` answers whenever the answer is known, or with :class:`Ended`.
    """

    def __init__(self) -> None:
        self._steps: dict[Key, tuple[Session, Steps[Attempt | None]]] = {}
        self._listening: dict[int, tuple[Key, float]] = {}
        self._events: list[tuple[Key, Ended | None]] = []
        self._is_woken = False
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.POLLIN)

    def __len__(self) -> int:
        return len(self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def begin(self, key: Key, session: Session, steps: Steps[Attempt | None]) -> None:
        """Take over a dialogue that has not begun."""
        self._steps[key] = (session, steps)
        self._go_on(key)

    def permit(self, key: Key, owned_s: float) -> None:
        """Let the dialogue that asked send its message within ``owned_s`` seconds of its question."""
        self._go_on(key, owned_s)

    def refuse(self, key: Key, reason: BaseException) -> None:
        """Let the dialogue that asked reset its transaction; it ends with ``reason``."""
        self._go_on(key, refusal=reason)

    def cut(self, key: Key) -> None:
        """End a dialogue, if there is one, where it stands, together with its session; nothing is told of it."""
        for number in [number for number, (listening, _) in self._listening.items() if listening == key]:
            self._hear(number)
        self._events = [event for event in self._events if event[0] != key]
        if key in self._steps:
            self._steps.pop(key)[1].close()

    def wake(self) -> None:
        """End the present or the next :meth:`turn` at once."""
        if self._is_woken:
            return  # who called before did it; a group of answers is one step to the kernel
        self._is_woken = True
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def turn(self, timeout_s: float) -> list[tuple[Key, Ended | None]]:
        """Wait until a server answers, a wait is over, :meth:`wake` is called, or ``timeout_s`` is; let them go on."""
        now = time.monotonic()
        wait_s = 0.0 if self._events else timeout_s
        for _, until in self._listening.values():
            wait_s = min(wait_s, until - now)
        for number, _ in self._poll.poll(max(wait_s, 0.0) * 1000):
            if number == self._wake:
                os.eventfd_read(self._wake)
                # Only now: what was asked for until here is seen by whoever called this turn, after it.
                self._is_woken = False
            else:
                self._go_on(self._hear(number))
        now = time.monotonic()
        for number in [number for number, (_, until) in self._listening.items() if until <= now]:
            self._go_on(self._hear(number))
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Cut every dialogue that is left where it stands."""
        for number in list(self._listening):
            self._hear(number)
        for _, steps in self._steps.values():
            steps.close()
        self._steps.clear()
        os.close(self._wake)

    def _hear(self, number: int) -> Key:
        self._poll.unregister(number)
        return self._listening.pop(number)[0]

    def _go_on(self, key: Key, owned_s: float | None = None, refusal: BaseException | None = None) -> None:
        session, steps = self._steps[key]
        try:
            until = steps.send(owned_s) if refusal is None else steps.throw(refusal)
        except StopIteration as end:
            self._end(key, Ended(attempt=end.value))
        except BaseException as error:  # it is how the dialogue ended, and whoever leads it must know
            self._end(key, Ended(error=error))
        else:
            if until is None or session.sock is None:
                self._events.append((key, None))
            else:
                number = session.sock.fileno()
                self._listening[number] = (key, until)
                self._poll.register(number, select.POLLIN)

    def _end(self, key: Key, how: Ended) -> None:
        del self._steps[key]
        self._events.append((key, how))
