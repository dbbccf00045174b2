"""The embedded PostgreSQL, crashed."""

from __future__ import annotations

import os
import signal
import time

from emberflow.local_stack.postgres import EmbeddedPostgres

_GONE_S = 30.0


def stop_immediately(server: EmbeddedPostgres) -> None:
    """Do what ``pg_ctl stop -m immediate`` does (SIGQUIT): every session is lost, the next start recovers."""
    pid = server.pid()
    if pid is None:
        raise RuntimeError("this PostgreSQL does not run")
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + _GONE_S
    while server.pid() is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL {pid} did not stop within {_GONE_S:.0f} s")
        time.sleep(0.01)
