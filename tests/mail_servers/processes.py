"""A server of the system's packages as a child: started in the foreground, ended with the tests, however those end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

LOOPBACK = "127.0.0.1"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
# The kernel tells a process of its parent's death unless its credentials have changed since it asked for that, and
# those of Postfix's master do: so a shell asks, and passes the signal on.
_FOLLOW = """trap 'kill "$child"' TERM; "$@" & child=$!; wait "$child"; wait "$child" """
_SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def program(name: str) -> str | None:
    """Return where a program of the system's packages is; an ordinary user's PATH has no ``sbin``."""
    return shutil.which(name, path=_SYSTEM_PATHS)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now; all of them are held until the last is found."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Daemon:
    """One server process in a session of its own; the kernel ends it when the tests are killed."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self._name = name
        self._log = log
        setpriv = program("setpriv")
        follows = [setpriv, "--pdeathsig", "TERM", "--", "sh", "-c", _FOLLOW, "sh"] if setpriv else []
        # A file, not a pipe: the server's children inherit it, and a reader would wait for all of them.
        with log.open("a") as out:
            self._process = subprocess.Popen(
                [*follows, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process whose descendants are all of the server."""
        return self._process.pid

    def wait_for(self, is_ready: Callable[[], bool]) -> None:
        """Wait until ``is_ready`` says so; a server that ends before, or says nothing for 20 s, fails the test."""
        give_up_at = time.monotonic() + _START_SECONDS
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.stop()
                raise RuntimeError(f"{self._name} did not start: {self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it politely, else by force."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def greets(port: int, greeting: bytes) -> bool:
    """Return whether a server on loopback begins with ``greeting``; before it has a process for us, it is silent."""
    try:
        with closing(socket.create_connection((LOOPBACK, port), timeout=2)) as connection:
            return connection.recv(200).startswith(greeting)
    except OSError:
        return False
