"""A process of the stack is stopped with everything that it started, whoever of them died first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from emberflow.local_stack.processes import Service

# A leader with two workers that ignore SIGTERM, one of them in a process group of its own, as Airflow's tasks are.
LEADER = """
import os, signal, subprocess, sys, time
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
worker = ignore + "print('works', flush=True); time.sleep(300)"
workers = [subprocess.Popen([sys.executable, "-c", worker], process_group=group) for group in (None, 0)]
time.sleep(300)
"""


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A running service with its workers."""
    started = Service("leader", tmp_path / "run")
    started.start([sys.executable, "-c", LEADER], dict(os.environ), die_with_parent=True)
    try:
        eventually(lambda: started.log_tail().count("works") == 2)
        yield started
    finally:
        started.stop()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def kill_leader(service: Service) -> list[psutil.Process]:
    """Kill the leader alone and return its workers, which live on."""
    leader = service.process()
    assert leader is not None
    workers = [process for process in service.session() if process != leader]
    leader.kill()
    eventually(lambda: service.process() is None)
    assert len(alive(workers)) == 2
    return workers


def test_a_stopped_service_takes_its_workers_with_it(service: Service) -> None:
    members = service.session()
    assert len(members) == 3

    service.stop()

    assert alive(members) == []


def test_workers_that_outlived_their_killed_leader_are_stopped_all_the_same(service: Service) -> None:
    workers = kill_leader(service)

    service.stop()

    assert alive(workers) == []


def test_a_service_that_is_started_again_ends_what_was_left_of_it(service: Service) -> None:
    workers = kill_leader(service)

    service.start(["sleep", "300"], dict(os.environ), die_with_parent=True)

    assert alive(workers) == []
    assert len(service.session()) == 1


def test_a_process_of_somebody_else_is_never_ended(tmp_path: Path) -> None:
    """A pid file of yesterday may name a process of today."""
    service = Service("old", tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True) as other:
        try:
            service.remember(other.pid, {})
            pid, created = (tmp_path / "old.pid").read_text().split()
            (tmp_path / "old.pid").write_text(f"{pid} {float(created) - 3600}")

            assert (service.process(), service.session()) == (None, [])
            service.stop()

            assert other.poll() is None
        finally:
            other.kill()
