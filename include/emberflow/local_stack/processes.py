"""Processes of the local stack: started, found again by a later command, and stopped for certain.

A process is remembered in ``<name>.pid`` by its id *and* its start time, so that a recycled id is never taken for
ours. Each one leads a session of its own (setsid(2)). Whatever it starts belongs to that session, also in a process
group of its own, and still does when the leader has died: so workers are found and ended whoever died first. The kernel
gives the id of a session to no new process while the session has a member (fork(2), credentials(7)).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from emberflow import private_files
from emberflow.errors import StackError

_STOP_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 10.0
_SAME_START_S = 1.0
_LOG_TAIL_BYTES = 2000

# What this process started and does not wait for. A child that ended stays a zombie until its parent asks for its end.
_children: dict[int, subprocess.Popen[bytes]] = {}


def let_run(child: subprocess.Popen[bytes]) -> None:
    """Leave a child to itself; its end is asked for when the next one is started or stopped."""
    reap()
    _children[child.pid] = child


def reap() -> None:
    """Ask for the end of every child that ended."""
    for child in list(_children.values()):
        if child.poll() is not None:
            del _children[child.pid]


@dataclass(frozen=True)
class Service:
    """One process of the stack and where its traces are."""

    name: str
    directory: Path

    @property
    def log_file(self) -> Path:
        """The file that collects the process's output."""
        return self.directory / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    @property
    def _settings_file(self) -> Path:
        return self.directory / f"{self.name}.settings.json"

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, die_with_parent: bool) -> None:
        """Start the process in the background; with ``die_with_parent`` the kernel ends it after this one.

        What an earlier process of this name left behind is ended first.
        """
        private_files.make_directory(self.directory)
        self.end_session()
        tie = ["setpriv", "--pdeathsig", "TERM"] if die_with_parent and shutil.which("setpriv") else []
        with private_files.append(self.log_file) as log:
            child = subprocess.Popen(
                [*tie, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                start_new_session=True,
                umask=private_files.UMASK,
            )
        let_run(child)
        self.remember(child.pid, environment)

    def remember(self, pid: int, environment: Mapping[str, str]) -> None:
        """Take a process that runs already for this one; ``environment`` is what it was started with."""
        private_files.write_text(self._settings_file, json.dumps(_fingerprints(environment)))
        private_files.write_text(self._pid_file, f"{pid} {psutil.Process(pid).create_time()}")

    def forget(self) -> None:
        """Forget the process that was remembered; it is not stopped."""
        self._pid_file.unlink(missing_ok=True)
        self._settings_file.unlink(missing_ok=True)

    def other_settings(self, environment: Mapping[str, str]) -> list[str]:
        """Return the names of the settings with which the running process was started otherwise than ``environment``.

        What it was started with is recorded as fingerprints, because Airflow's processes overwrite the place where the
        kernel keeps their environment (setproctitle).
        """
        if self.process() is None:
            return []
        try:
            had: dict[str, str] = json.loads(self._settings_file.read_text())
        except (OSError, ValueError):
            return []  # started by a version that recorded none
        wanted = _fingerprints(environment)
        return sorted(name for name in had.keys() | wanted.keys() if had.get(name) != wanted.get(name))

    def process(self) -> psutil.Process | None:
        """Return the running process, or None."""
        remembered = self._remembered()
        if remembered is None:
            return None
        pid, created = remembered
        try:
            process = psutil.Process(pid)
            is_ours = abs(process.create_time() - created) < _SAME_START_S
            return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def session(self) -> list[psutil.Process]:
        """Return the living members of the process's session, itself among them; it may have died before them."""
        remembered = self._remembered()
        if remembered is None:
            return []
        leader, created = remembered
        members = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) != leader or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.pid == leader and abs(process.create_time() - created) >= _SAME_START_S:
                    return []  # the id is somebody else's by now, and so is the session
                members.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return members

    def _remembered(self) -> tuple[int, float] | None:
        try:
            pid, created = self._pid_file.read_text().split()
            return int(pid), float(created)
        except (OSError, ValueError):
            return None

    def require_running(self) -> None:
        """Raise a StackError with the end of the log if the process is gone."""
        if self.process() is None:
            raise StackError(f"{self.name} stopped on its own; the end of {self.log_file}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the process's output."""
        try:
            return self.log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return "(no output)"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process, if it runs."""
        process = self.process()
        if process is not None:
            process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the process and whatever it started; return when all of it is gone, whoever died first."""
        process = self.process()
        if process is not None:
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while self.process() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        self.end_session()
        self.forget()
        reap()

    def end_session(self) -> None:
        """End every member of the session at once, and wait until they are gone."""
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while members := self.session():
            for process in members:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(members, timeout=0.2)
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: {len(members)} process(es) cannot be ended: {members}")


def is_suspended(pid: int) -> bool:
    """Return whether a signal holds a process (SIGSTOP) until another one lets it go on."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _fingerprints(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a digest of each of our settings, by name."""
    return {
        name: hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()
        for name, value in environment.items()
        if name.startswith("EMBERFLOW_")
    }
