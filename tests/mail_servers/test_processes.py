"""A server ends with the tests that started it, also when these are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.mail_servers import processes

# A parent that starts a server and waits to be killed.
_PARENT = """
import sys, time
from pathlib import Path
from tests.mail_servers.processes import Daemon

Daemon("a server", ["sleep", "600"], Path(sys.argv[1]))
print("started", flush=True)
time.sleep(600)
"""


def sleeping(log: Path) -> list[psutil.Process]:
    """The processes that write to ``log``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "sleep" and Path(f"/proc/{process.pid}/fd/1").samefile(log):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_server_ends_when_the_tests_are_killed(tmp_path: Path) -> None:
    if processes.program("setpriv") is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(log)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        give_up_at = time.monotonic() + 10
        while not sleeping(log) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        (server,) = sleeping(log)
        parent.kill()
    server.wait(10)
    assert sleeping(log) == []
