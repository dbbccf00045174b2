"""Group commit: what several threads ask of the database at the same moment goes into one transaction.

A durable commit costs a flush to disk and a handful of round trips. Threads that wait for one anyway can share it: one
thread takes whatever has come in meanwhile, runs it as one transaction, and tells each its own result. The busier it
gets, the larger the groups, so the cost per request falls with load and the delay stays about one transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Result = TypeVar("Result")

LARGEST_GROUP = 64
_FIRST_PAUSE_S = 0.1


class GroupCommit(Generic[Request, Result]):
    """Runs ``work`` on groups of requests, each group in a transaction of its own, until it is closed.

    ``work`` returns one result per request, in order. A group that fails is tried again one by one, so that a request
    that cannot be done costs no other its result. A database that is away is asked again for ``patience_s`` seconds;
    then, and for every other error, the exception is the request's result.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        work: Callable[[Connection, Sequence[Request]], Sequence[Result]],
        *,
        patience_s: float = 0.0,
    ) -> None:
        self._engine = engine
        self._work = work
        self._patience_s = patience_s
        self._waiting: SimpleQueue[tuple[Request, Future[Result]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, request: Request) -> Future[Result]:
        """Put ``request`` into the next group; the future has its result once that group is committed."""
        future: Future[Result] = Future()
        self._waiting.put((request, future))
        return future

    def close(self) -> None:
        """Commit what is waiting and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group = []
            entry = self._waiting.get()
            while entry is not None:
                group.append(entry)
                if len(group) == LARGEST_GROUP:
                    break
                try:
                    entry = self._waiting.get_nowait()
                except Empty:
                    break
            is_open = entry is not None
            if group:
                self._commit(group)

    def _commit(self, group: Sequence[tuple[Request, Future[Result]]]) -> None:
        deadline = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._engine.begin() as connection:
                    results = self._work(connection, [request for request, _ in group])
                break
            except OperationalError as error:
                # A deadlock or a server that restarts: the same request may well succeed a moment later.
                if time.monotonic() + pause_s > deadline:
                    for _, future in group:
                        future.set_exception(error)
                    return None
                log.warning("a group of %s is tried again: %s", len(group), error)
                time.sleep(pause_s)
                pause_s *= 2
            except BaseException as error:
                return self._fail(group, error)
        for (_, future), result in zip(group, results, strict=True):
            future.set_result(result)
        return None

    def _fail(self, group: Sequence[tuple[Request, Future[Result]]], error: BaseException) -> None:
        if len(group) == 1:
            group[0][1].set_exception(error)
        else:
            for entry in group:
                self._commit([entry])
