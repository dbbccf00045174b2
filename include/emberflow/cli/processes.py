"""Supervised processes of the local stack: started, found again by a later command, and stopped for certain.

A process is remembered in ``<name>.pid`` by its id *and* its start time, so that a recycled id is never taken for
ours. Each one leads its own process group; stopping means SIGTERM to the leader and, when that is not enough,
SIGKILL to the group.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from emberflow import private_files
from emberflow.errors import StackError

_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 2000


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

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, die_with_parent: bool) -> None:
        """Start the process in the background; with ``die_with_parent`` the kernel ends it after this one."""
        private_files.make_directory(self.directory)
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
        private_files.write_text(self._pid_file, f"{child.pid} {psutil.Process(child.pid).create_time()}")

    def process(self) -> psutil.Process | None:
        """Return the running process, or None."""
        try:
            pid, created = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            is_ours = abs(process.create_time() - float(created)) < 1.0
            return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, psutil.NoSuchProcess):
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
        """Stop the process and whatever it left in its group; return when both are gone."""
        process = self.process()
        if process is not None:
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while self.process() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            self._kill_group(process.pid)
        self._pid_file.unlink(missing_ok=True)

    @staticmethod
    def _kill_group(leader: int) -> None:
        """End workers that outlived their leader; a session's group id is its leader's process id."""
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                os.waitpid(leader, os.WNOHANG)
            except ChildProcessError:
                return
            if not psutil.pid_exists(leader):
                return
            time.sleep(0.05)
