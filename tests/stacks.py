"""What the tests of a whole stack share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

RUN_TIMEOUT_S = 300.0  # a guard against hanging: several stacks share the cores with other tests


def processes_of(home: Path) -> list[str]:
    """Return every living process that was started for ``home``: its environment or command line names it."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            traces = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(str(home) in trace for trace in traces):
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def eventually(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.5)
