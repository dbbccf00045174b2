"""Workers as processes of the operating system, so that they can be killed, stopped and continued like real ones.

They are forked from a server that has imported the product once, which makes a new worker cost milliseconds. A worker
dies with the process that started the kit. What it does wrong is written to its log in the directory of the crew.

A fault is *armed* for the crew: the first worker that reaches the named crash point takes it, and dies there as by
``kill -9`` or stops there as by ``SIGSTOP``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self
from unittest.mock import patch

from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError

from emberflow import crash_points
from emberflow.clock import Clock
from emberflow.crash_points import CrashPoint
from emberflow.database.engine import open_engine
from emberflow.errors import EmberflowError
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import Settings
from tests.faults.kit.clocks import OffsetClock, set_offset
from tests.faults.kit.luck import generator
from tests.faults.kit.parent_death import die_with_parent

Role = Literal["dispatch", "reconcile"]
Action = Literal["die", "stop"]

# SQLSTATE: admin_shutdown, crash_shutdown, cannot_connect_now.
_AWAY = ("57P01", "57P02", "57P03")
_PAUSE_S = 0.1
_STOP_S = 15.0


@dataclass(frozen=True)
class Job:
    """What one worker does, over and over, until it is asked to stop."""

    name: str
    role: Role
    directory: Path
    settings: Settings
    seed: int


class Worker:
    """One running process."""

    def __init__(self, process: ForkServerProcess, job: Job) -> None:
        self.name = job.name
        self.role = job.role
        self._process = process
        self._clock_file = _clock_file(job)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, be it stopped."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """How it ended: -9 was killed; None while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a worker that is gone gets none."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def terminate(self) -> bool:
        """Ask it to end as Airflow does (SIGTERM), and wait; return whether it has ended by itself.

        A dispatch run takes the signal for its own and only ends itself, so the loop around it is asked again.
        """
        deadline = time.monotonic() + _STOP_S
        while self.is_alive and time.monotonic() < deadline:
            self.send(signal.SIGTERM)
            self.wait(0.3)
        return not self.is_alive

    def wait(self, seconds: float = _STOP_S) -> bool:
        """Wait until it has ended; return whether it has."""
        self._process.join(seconds)
        return not self.is_alive

    def set_clock(self, seconds: float) -> None:
        """Make its clock wrong by so many seconds."""
        set_offset(self._clock_file, seconds)


class Crew:
    """All workers on one database. Whatever happens in the block, none is left at its end."""

    def __init__(self, directory: Path, settings: Settings, *, seed: int = 1) -> None:
        self._directory = directory
        self._settings = settings
        self._seed = seed
        self._workers: list[Worker] = []
        self._context = fork_server()

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.send(signal.SIGKILL)
        for worker in self._workers:
            worker.wait()

    def start(self, role: Role = "dispatch", *, clock_offset_s: float = 0.0) -> Worker:
        """Start one more worker."""
        number = len(self._workers) + 1
        job = Job(f"{role}-{number}", role, self._directory, self._settings, self._seed + number)
        if clock_offset_s:
            set_offset(_clock_file(job), clock_offset_s)
        process = self._context.Process(target=work, args=(job,), name=job.name)
        process.start()
        worker = Worker(process, job)
        self._workers.append(worker)
        return worker

    def arm(self, action: Action, point: CrashPoint) -> None:
        """Let the first worker that reaches ``point`` die or stop there."""
        _taken_file(self._directory, action, point).unlink(missing_ok=True)
        _armed_file(self._directory, action, point).touch()

    def disarm(self, action: Action, point: CrashPoint) -> bool:
        """Take a fault back; return False if a worker took it before."""
        try:
            _armed_file(self._directory, action, point).unlink()
        except FileNotFoundError:
            return False
        return True

    def taken_by(self, action: Action, point: CrashPoint) -> Worker | None:
        """Return the worker that took the fault that was armed last, once it has."""
        try:
            pid = int(_taken_file(self._directory, action, point).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return next((worker for worker in self._workers if worker.pid == pid), None)

    def await_taken(self, action: Action, point: CrashPoint, seconds: float = 30.0) -> Worker:
        """Wait until a worker takes the fault, and is dead if that was the fault; return the worker."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            worker = self.taken_by(action, point)
            if worker is not None and (action == "stop" or worker.wait(1)):
                return worker
            time.sleep(0.01)
        raise TimeoutError(f"no worker reached {point} within {seconds:.0f} s: {self.complaints() or 'no complaints'}")

    def await_that(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until ``condition`` holds; a traceback of a worker ends the wait."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.complaints():
                raise TimeoutError(f"it did not come to that within {seconds:.0f} s: {self.complaints() or '-'}")
            time.sleep(0.02)

    def complaints(self) -> str:
        """Return what workers ended with that nobody did to them: tracebacks, which a run must not have."""
        logs = sorted(self._directory.glob("*.traceback"))
        return "\n".join(log.read_text() for log in logs)


def cut_off(engine: Engine, worker: Worker) -> int:
    """End every database session of a worker, as a network that fails does; return how many there were."""
    with engine.connect() as connection:
        query = text("select pg_terminate_backend(pid) from pg_stat_activity where application_name = :name")
        return len(connection.execute(query, {"name": worker.name}).all())


def work(job: Job) -> None:
    """Be a worker: the main function of the process."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    _write_output_to(job.directory / f"{job.name}.log")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    crash_points.on_reach = partial(_take_armed, job.directory)
    engine = open_engine(job.settings.require_database_url())
    _name_sessions(engine, job.name)
    clock = OffsetClock(_clock_file(job))
    step: Callable[[], bool] = partial(_STEPS[job.role], engine, clock, job)
    try:
        while True:
            if not _survive(step):
                time.sleep(_PAUSE_S)
    except SystemExit:
        raise
    except BaseException:
        (job.directory / f"{job.name}.traceback").write_text(traceback.format_exc())
        raise


def _survive(step: Callable[[], bool]) -> bool:
    """Run a step; one that fails because the database is away is run again, as a scheduler's retry does."""
    try:
        return step()
    except SQLAlchemyError as error:
        if not any(_is_away(cause) for cause in _causes(error)):
            raise
        logging.getLogger(__name__).warning("the database is away: %s", error)
        return False


def _dispatch(engine: Engine, clock: Clock, job: Job) -> bool:
    shards = dispatcher.due_shards(engine, clock=clock)
    generator(job.seed, "shards", clock.now()).shuffle(shards)
    ends = 0
    for shard in shards:
        ends += dispatcher.dispatch_shard(engine, shard, clock=clock, settings=job.settings).ends.total()
    return ends > 0


def _reconcile(engine: Engine, clock: Clock, job: Job) -> bool:
    try:
        reconcile.run(engine, clock=clock, settings=job.settings)
    except EmberflowError as error:  # no mailbox could be read: the next run tries again
        logging.getLogger(__name__).warning("reconcile: %s", error)
    return False


_STEPS: dict[Role, Callable[[Engine, Clock, Job], bool]] = {"dispatch": _dispatch, "reconcile": _reconcile}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those during whose handling it was raised: cleaning up after a lost session may fail too."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_away(error: BaseException) -> bool:
    """Tell a lost or refused session from a fault of ours (a deadlock, a broken constraint)."""
    if isinstance(error, PendingRollbackError):  # a statement after the one that lost the session
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "pgcode", None)
    return error.connection_invalidated or state in _AWAY or (state is None and isinstance(error, OperationalError))


def _take_armed(directory: Path, point: CrashPoint) -> None:
    for action, number in (("die", signal.SIGKILL), ("stop", signal.SIGSTOP)):
        try:
            _armed_file(directory, action, point).unlink()
        except FileNotFoundError:
            continue
        _taken_file(directory, action, point).write_text(str(os.getpid()))
        # This very thread: SIGSTOP to the process would let it run on until another thread has taken the signal.
        signal.pthread_kill(threading.get_ident(), number)


def _armed_file(directory: Path, action: str, point: CrashPoint) -> Path:
    return directory / f"{action}-{point}.armed"


def _taken_file(directory: Path, action: str, point: CrashPoint) -> Path:
    return directory / f"{action}-{point}.taken"


def _clock_file(job: Job) -> Path:
    return job.directory / f"{job.name}.clock"


def _name_sessions(engine: Engine, name: str) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("select set_config('application_name', %s, false)", (name,))
        connection.commit()


def _write_output_to(file: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(target, number)
    os.close(target)


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def fork_server() -> ForkServerContext:
    """Return the server that workers are forked from, running and with the product imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.kit.forkserver_preload"])
    # Python 3.11 gives the server the environment but not this process's sys.path (CPython issue 117378).
    with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        forkserver.ensure_running()
    return context
