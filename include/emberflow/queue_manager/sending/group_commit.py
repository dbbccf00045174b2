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
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from emberflow.database.prepared import keep_plans

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Result = TypeVar("Result")

LARGEST_GROUP = 64
_FIRST_PAUSE_S = 0.1
_LONGEST_IDLE_S = 10  # within a transaction; far more than any machine needs, and others wait for its locks
_GATHER_S = 0.02  # far less than a mail takes over a real network, and enough for threads on one core to come together


class GroupCommit(Generic[Request, Result]):
    """Runs ``work`` on groups of requests, each group in a transaction of its own, until it is closed.

    ``work`` returns one result per request, in order. ``crowd`` says how many might be asking: a group waits for a few
    milliseconds until so many have come. A group that fails is tried again one by one, so that a request that cannot be
    done costs no other its result. A database that is away is asked again for ``patience_s`` seconds; then, and for
    every other error, the exception is the request's result.

    A process that is stopped inside a transaction holds its locks for ten seconds at most: then the server ends it, and
    if the process goes on after that, the group is tried again like after any other lost connection.

    Without ``is_durable`` a result is given before its flush to disk, which the next durable commit of anybody makes;
    a crash of PostgreSQL itself may lose it. Joins are made in the order in which the statements of ``work`` name their
    tables: for groups of a few dozen rows, searching for a better one took longer than the statement itself.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        work: Callable[[Connection, Sequence[Request]], Sequence[Result]],
        *,
        crowd: Callable[[], int],
        patience_s: float = 0.0,
        is_durable: bool = True,
    ) -> None:
        self._engine = engine
        self._work = work
        self._crowd = crowd
        self._patience_s = patience_s
        self._is_durable = is_durable
        self._connection: Connection | None = None
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
        try:
            while group := self._gather():
                self._commit(group)
        finally:
            self._disconnect()

    def _gather(self) -> list[tuple[Request, Future[Result]]]:
        """Return the next group; an empty one is the end."""
        group: list[tuple[Request, Future[Result]]] = []
        entry = self._waiting.get()
        deadline = time.monotonic() + _GATHER_S
        while entry is not None:
            group.append(entry)
            if len(group) >= min(self._crowd(), LARGEST_GROUP):
                return group
            try:
                entry = self._waiting.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                return group
        if group:
            self._waiting.put(None)  # commit these first, then come back to the end
        return group

    def _commit(self, group: Sequence[tuple[Request, Future[Result]]]) -> None:
        deadline = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._connected().begin():
                    results = self._work(self._connected(), [request for request, _ in group])
                break
            except DBAPIError as error:
                self._disconnect()
                if not (isinstance(error, OperationalError) or error.connection_invalidated):
                    self._fail(group, error)
                    return
                # A deadlock or a server that restarts: the same request may well succeed a moment later.
                if time.monotonic() + pause_s > deadline:
                    for _, future in group:
                        future.set_exception(error)
                    return
                log.warning("a group of %s is tried again: %s", len(group), error)
                time.sleep(pause_s)
                pause_s *= 2
            except BaseException as error:  # it is the result of those who asked
                self._fail(group, error)
                return
        for (_, future), result in zip(group, results, strict=True):
            future.set_result(result)

    def _fail(self, group: Sequence[tuple[Request, Future[Result]]], error: BaseException) -> None:
        """Give the error to the only one who asked, or try each of them by itself."""
        if len(group) == 1:
            group[0][1].set_exception(error)
        else:
            for entry in group:
                self._commit([entry])

    def _connected(self) -> Connection:
        """Return this thread's own connection, which the pool never gets back with its settings."""
        if self._connection is None:
            connection = self._engine.connect()
            connection.detach()
            connection.execute(text("set join_collapse_limit = 1"))
            connection.execute(text(f"set idle_in_transaction_session_timeout = '{_LONGEST_IDLE_S}s'"))
            if not self._is_durable:
                connection.execute(text("set synchronous_commit = off"))
            connection.commit()
            keep_plans(connection)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()
