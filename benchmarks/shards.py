"""Several processes that begin at once, as the product has one per shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Barrier
from typing import Any

_START_S = 60
_context = get_context("spawn")
_starting: Barrier


@dataclass(frozen=True)
class Work:
    """What the processes did: ``seconds`` from when all were ready until the last had ended, and what each returned."""

    seconds: float
    results: list[Any]


def begin() -> None:
    """Wait, in one of the processes, until all of them are ready."""
    _starting.wait(_START_S)


def at_once(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Work:
    """Call ``work`` with each item of ``arguments`` in a process of its own; each calls `begin` once it is ready.

    Raises:
        BrokenProcessPool, BrokenBarrierError: a process died.
        Exception: what ``work`` raised.
    """
    barrier = _context.Barrier(len(arguments) + 1)
    with ProcessPoolExecutor(len(arguments), _context, _remember, (barrier,)) as pool:
        running = [pool.submit(work, *given) for given in arguments]
        barrier.wait(_START_S)
        since = time.perf_counter()
        results = [future.result() for future in running]
        return Work(time.perf_counter() - since, results)


def _remember(barrier: Barrier) -> None:
    global _starting  # noqa: PLW0603 - a barrier can be handed to a process only when it starts
    _starting = barrier
