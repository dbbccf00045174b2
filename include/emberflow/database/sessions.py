"""Several sessions of one database that read at the same time: each has a process of its own at the server.

A query about a hundred thousand keys keeps one of the server's processes busy while all the others, and this one, wait
for it. Cut into parts it takes as many cores as there are sessions. Every statement sees what is committed when it
begins, as on one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine, text

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

# Each session is a part already: helpers of its own would wait for the same cores. Sorts fit into memory.
_READING = text("set local max_parallel_workers_per_gather = 0; set local work_mem = '64MB'")


class Sessions:
    """Connections that are used by nobody else meanwhile; with one of them, all happens one after the other."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    def __len__(self) -> int:
        return len(self._connections)

    def each(self, work: Callable[[Connection], object]) -> None:
        """Call ``work`` with every connection."""
        for connection in self._connections:
            work(connection)

    def map(self, work: Callable[[Connection, _Item], _Answer], items: Sequence[_Item]) -> list[_Answer]:
        """Return ``work(connection, item)`` of every item, in their order; items wait for each other in turns."""
        count = len(self._connections)

        def in_turn(place: int) -> list[_Answer]:
            return [work(self._connections[place], item) for item in items[place::count]]

        places = range(min(count, len(items)))
        if len(places) <= 1:
            return [answer for place in places for answer in in_turn(place)]
        answers: list[list[_Answer]]
        with ThreadPoolExecutor(len(places) - 1) as pool:
            others = [pool.submit(in_turn, place) for place in places[1:]]
            answers = [in_turn(0), *(other.result() for other in others)]
        return [answers[number % count][number // count] for number in range(len(items))]


@contextmanager
def reading(engine: Engine, count: int) -> Iterator[Sessions]:
    """Yield ``count`` sessions, each in a transaction that is rolled back at the end."""
    with ExitStack() as opened:
        sessions = Sessions([opened.enter_context(engine.connect()) for _ in range(count)])
        sessions.each(lambda connection: connection.execute(_READING))
        yield sessions
