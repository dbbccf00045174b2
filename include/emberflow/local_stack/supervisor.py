"""What ``emberflow up`` starts is started again when it dies, and its logs are kept small.

A part that has died is started again at once, then with a growing pause, and no more after too many tries in a row; a
part that has run for a minute counts as new. A part waits for those without which it would only fail: Airflow's for the
database, its scheduler for the API server too. What happened stands in the supervisor's log, and in
``supervisor.json`` for ``emberflow status`` and ``doctor``.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from emberflow import private_files
from emberflow.clock import SystemClock
from emberflow.errors import EmberflowError
from emberflow.local_stack import log_files
from emberflow.local_stack.processes import Service
from emberflow.local_stack.stack import SUPERVISOR, Part, Stack
from emberflow.locations import home

log = logging.getLogger("supervisor")

LOOK_S = 1.0
ROTATE_S = 30.0
CLEAN_S = 3600.0
MOST_TRIES = 30
_STEADY_S = 60.0
_LONGEST_PAUSE_S = 60.0


@dataclass
class History:
    """What became of one part since the supervisor began. Times are of ``time.monotonic``."""

    restarts: int = 0
    tries: int = 0
    last: str | None = None
    gave_up: bool = False
    started_at: float = 0.0
    not_before: float = 0.0


class Supervisor:
    """Starts parts again that have died. ``record`` is the file that says what happened."""

    def __init__(self, parts: Sequence[Part], record: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._record = record
        self._now = now
        self._histories = {part.name: History() for part in parts}
        self._write()

    def look(self) -> None:
        """Look at every part once, in the order in which they are started."""
        answering: set[str] = set()
        for part in self._parts:
            if part.is_running():
                if part.answers():
                    answering.add(part.name)
                self._is_well(self._histories[part.name])
            elif answering.issuperset(part.needs):
                self._start_again(part, self._histories[part.name])

    def _is_well(self, history: History) -> None:
        if history.tries and self._now() - history.started_at >= _STEADY_S:
            history.tries = 0

    def _start_again(self, part: Part, history: History) -> None:
        if history.gave_up or self._now() < history.not_before:
            return
        if history.tries >= MOST_TRIES:
            history.gave_up = True
            log.error("%s: gave up after %s tries; run `./emberflow up` when it is mended", part.name, history.tries)
            self._write()
            return
        history.tries += 1
        log.warning("%s has stopped; starting it again (try %s)", part.name, history.tries)
        try:
            part.start()
            history.restarts += 1
            history.last = SystemClock().now().isoformat(timespec="seconds")
        except (EmberflowError, OSError) as error:
            log.error("%s did not start: %s", part.name, error)  # noqa: TRY400 - the text says it all
        history.started_at = self._now()
        history.not_before = self._now() + min(2.0 ** min(history.tries, 10), _LONGEST_PAUSE_S)
        self._write()

    def _write(self) -> None:
        recorded = {
            name: {key: value for key, value in asdict(history).items() if key in ("restarts", "last", "gave_up")}
            for name, history in self._histories.items()
        }
        written = self._record.with_suffix(".new")
        private_files.write_text(written, json.dumps(recorded))
        written.replace(self._record)


def histories(stack_home: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return by part what the last supervisor of a stack recorded: ``restarts``, ``last`` (UTC), ``gave_up``."""
    try:
        recorded: dict[str, dict[str, Any]] = json.loads((stack_home / "run" / "supervisor.json").read_text())
    except (OSError, ValueError):
        return {}
    return recorded


def supervise(stack: Stack, stop: threading.Event) -> None:
    """Watch over a stack that runs, until ``stop`` is set."""
    private_files.make_directory(stack.home / "run")
    supervisor = Supervisor(stack.parts(), stack.home / "run" / "supervisor.json")
    rotated = cleaned = -CLEAN_S
    log.info("watching over the stack in %s", stack.home)
    while not stop.wait(LOOK_S):
        try:
            supervisor.look()
            if time.monotonic() - rotated >= ROTATE_S:
                rotated = time.monotonic()
                _rotate_logs(stack.home)
            if time.monotonic() - cleaned >= CLEAN_S:
                cleaned = time.monotonic()
                _remove_old_task_logs(stack.home)
        except OSError as error:  # a full disk, for instance: who watches must outlive it
            log.error("%s", error)  # noqa: TRY400 - the text says it all


def _rotate_logs(stack_home: Path) -> None:
    for file in [*(stack_home / "run").glob("*.log"), stack_home / "postgres" / "postgres.log"]:
        if log_files.rotate(file):
            log.info("rotated %s", file.name)


def _remove_old_task_logs(stack_home: Path) -> None:
    oldest = SystemClock().now() - timedelta(days=log_files.TASK_LOG_DAYS)
    removed = log_files.remove_old(stack_home / "airflow" / "logs", oldest.timestamp())
    if removed:
        log.info("removed %s task logs of more than %s days", removed, log_files.TASK_LOG_DAYS)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def set_it(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, set_it)
    return stop


def main() -> None:
    """Watch over the stack of ``EMBERFLOW_HOME`` until a signal comes."""
    stop = stop_on_signals()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
    supervise(Stack(home(), attached=False), stop)


def in_the_foreground(stack: Stack) -> None:
    """Watch over a stack from this process until a signal comes, as ``emberflow up --foreground`` does."""
    stop = stop_on_signals()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    myself = Service(SUPERVISOR, stack.home / "run")
    myself.remember(os.getpid(), stack.environment())
    try:
        supervise(stack, stop)
    finally:
        myself.forget()


if __name__ == "__main__":
    main()
