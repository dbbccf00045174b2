"""A worker that Airflow declares dead while its process lives: continued, it sends nothing twice.

A *worker* is both processes of a LocalExecutor's task: the supervisor, which sends the heartbeats, and the task, which
sends the mail. They are stopped as by SIGSTOP, at a named point of a mail's way, past Airflow's heartbeat time-out. The
judge is the mail server's delivery log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, TextClause, create_engine, text

from emberflow.clock import HOUR, SystemClock, floor_hour
from emberflow.local_stack.airflow_client import AirflowClient
from emberflow.local_stack.demo import populate
from emberflow.local_stack.stack import DAG_IDS, Stack
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import put_in_force
from emberflow.queue_manager.planning import planner
from emberflow.sandbox import read_deliveries
from emberflow.settings import PROJECT_ROOT

pytestmark = [pytest.mark.stack, pytest.mark.long(seconds=90), pytest.mark.timeout(900)]

SHARDS = 2
POINTS = ("before_guard", "after_dot")  # one per shard
HEARTBEAT_TIMEOUT_S = 10  # on a loaded machine a healthy task may send none for seconds
ROOM_S = 30  # that much of the hour must be left, for its plan to have slots
RUN_TIMEOUT_S = 240.0  # a guard against hanging

# Airflow finds it instead of our own, in the scheduler, from which it forks the workers.
_STOPPING_LOCAL_SETTINGS = """
import os, runpy, signal, sys

__all__ = ()
if "scheduler" in sys.argv:
    runpy.run_path({ours!r})
    from emberflow import crash_points

    has_stopped = False

    def stop_once(point):
        # Each of the points stops the first task that reaches it, and a task stops once.
        global has_stopped
        if has_stopped or point not in {points!r}:
            return
        try:
            marker = os.open({directory!r} + "/" + point, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        has_stopped = True
        os.write(marker, f"{{os.getpid()}} {{os.getppid()}}".encode())
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    crash_points.on_reach = stop_once
"""

# The shard is lost as well, as by a broken connection: else no other worker would have it before this one is gone.
_TAKE_SHARDS_AWAY = text("""
    select count(pg_terminate_backend(pid))
    from (
        select distinct pid
        from pg_locks
        where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
    ) as holders
""")
_HELD = text(
    "select count(*) from ops.slots where status in ('leased', 'submitting') and lease_until > clock_timestamp()"
)
# Neither a quota nor a gap shall refuse what the lease must.
_RAISE_QUOTAS = text("""
    update ops.sender_days
    set ramp_volume = ramp_volume + 100, warmup_quota = warmup_quota + 100, total_quota = total_quota + 100
""")
_AHEAD = text("select count(*) from ops.slots where target_time > now()")
_PAUSED = text("select count(*) from ops.mailboxes where next_send_at > now()")
_SLOTS = text("select message_id, status from ops.slots")
_CLAIMS = text("select distinct lease_token::text from ops.slots where status in ('leased', 'submitting')")
_FENCED = text("select distinct split_part(natural_key, ':', -1) from ops.mail_events where event_type = 'fenced'")


@dataclass(frozen=True)
class Worker:
    """A task that has stopped itself and its supervisor."""

    task: psutil.Process
    supervisor: psutil.Process

    @property
    def processes(self) -> tuple[psutil.Process, psutil.Process]:
        return self.task, self.supervisor

    @property
    def is_stopped(self) -> bool:
        return all(process.status() == psutil.STATUS_STOPPED for process in self.processes)


@dataclass(frozen=True)
class Running:
    """A stack of which each shard's first worker stops, and where they leave their process ids."""

    stack: Stack
    engine: Engine
    markers: Path

    @property
    def client(self) -> AirflowClient:
        return self.stack.airflow_client()

    def count(self, query: TextClause) -> int:
        """Return the number that ``query`` finds."""
        with self.engine.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def keys(self, query: TextClause) -> set[str]:
        """Return the keys that ``query`` finds."""
        with self.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def slots(self) -> dict[str, str]:
        """Return the status of every slot by Message-ID."""
        with self.engine.connect() as connection:
            return {row.message_id: row.status for row in connection.execute(_SLOTS)}

    def copies(self) -> Counter[str]:
        """Return how often the mail server stored each Message-ID."""
        return Counter(delivery.message_id for delivery in read_deliveries(self.stack.sandbox_directory))

    def workers(self) -> dict[str, Worker]:
        """Return the workers that have stopped, by the point that they had reached."""
        found = {}
        for marker in self.markers.iterdir():
            with suppress(ValueError, psutil.NoSuchProcess):  # its process ids are being written; it was killed
                task, supervisor = map(int, marker.read_text().split())
                found[marker.name] = Worker(psutil.Process(task), psutil.Process(supervisor))
        return found

    def states_of_shards(self) -> Counter[str]:
        """Return the states of all tasks that send, over all runs."""
        tasks = [
            task
            for run in self.client.runs("dispatch")
            for task in self.client.task_instances("dispatch", run["dag_run_id"])
        ]
        return Counter(str(task["state"]) for task in tasks if task["task_id"] == "send_shard")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A stack with due slots in both shards."""
    markers, settings = tmp_path / "markers", tmp_path / "settings"
    markers.mkdir()
    settings.mkdir()
    ours = PROJECT_ROOT / "deploy" / "airflow_config" / "airflow_local_settings.py"
    (settings / ours.name).write_text(
        _STOPPING_LOCAL_SETTINGS.format(ours=str(ours), points=POINTS, directory=str(markers))
    )
    variables = {
        "PYTHONPATH": str(settings),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT_S),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
    stack = Stack(tmp_path / "home", attached=True, policy="demo", variables=variables)
    engine = create_engine(stack.database_url)
    found = Running(stack, engine, markers)
    try:
        stack.start_servers()
        with engine.begin() as connection:
            put_in_force(connection, a_quick_policy())
        stack.start_airflow()
        # After Airflow, which plans the present hour as soon as it runs: nobody is there to be planned yet. And nobody
        # reads mail, which would settle the one that is in doubt, or sends before all is due.
        for dag_id in DAG_IDS:
            found.client.pause(dag_id)
        populate(stack, engine, stack.settings(), senders_per_domain=1, bots_per_domain=1)
        yield found
    finally:
        for worker in found.workers().values():
            worker.task.kill()  # leads a group of its own, and a stopped process does not see its parent's end
        engine.dispose()
        stack.remove()


def a_quick_policy() -> Policy:
    """The demonstration's policy with a few mails that are due at once, no replies, and leases that lapse soon.

    One mail at a time is under way in a shard, so that a worker is stopped without an open transaction: its locks would
    hold up every other worker until the server ends it.
    """
    document = shipped("demo").model_dump()
    document["name"] = "stopped worker"
    document["ramp"] |= {"start": 2}
    document["pacing"] |= {"gap_minimum_s": 1, "gap_jitter_s": 0, "spread_s": 2}
    document["replies"] |= {"rate": 0}
    document["dispatch"] |= {"shards": SHARDS, "dialogues": 1, "lease_s": 12}
    # What takes longer than this is in doubt: on a loaded machine a healthy server may need seconds.
    document["dispatch"] |= {"data_start_s": 4, "data_block_s": 2, "end_of_data_s": 6}
    return Policy.model_validate(document)


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = RUN_TIMEOUT_S) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.2)


def plan_the_present_hour(running: Running) -> None:
    """Have slots that are due, unless the hour is about to end: then those of the next one."""
    clock = SystemClock()
    left_s = (floor_hour(clock.now()) + HOUR - clock.now()).total_seconds()
    if left_s < ROOM_S:
        time.sleep(left_s)
    planner.plan_hour(running.engine, floor_hour(clock.now()), clock=clock, settings=running.stack.settings())
    with running.engine.begin() as connection:
        connection.execute(_RAISE_QUOTAS)
    eventually(lambda: running.count(_AHEAD) == 0, "every slot is due")


def test_a_worker_that_is_declared_dead_and_lives_on_sends_nothing_twice(running: Running) -> None:
    """Q-B3, I1, I10: its slots are another worker's by then, or in doubt, and its lease token is no good any more."""
    client = running.client
    plan_the_present_hour(running)
    client.pause("dispatch", is_paused=False)
    client.trigger("dispatch")
    eventually(lambda: running.workers().keys() == set(POINTS), "both shards' workers have stopped")
    stopped = running.workers()
    claims = running.keys(_CLAIMS)

    eventually(lambda: running.states_of_shards()["failed"] == SHARDS, "Airflow declares both workers dead")
    assert all(worker.is_stopped for worker in stopped.values())
    eventually(lambda: running.count(_HELD) == 0, "their leases have lapsed")
    assert running.count(_TAKE_SHARDS_AWAY) >= SHARDS
    client.wait_for_run("dispatch", client.trigger("dispatch"), RUN_TIMEOUT_S)

    # One mail had left before its worker was stopped, and nobody knows; all others were sent by the second run.
    sent = running.slots()
    assert running.copies() == dict.fromkeys(sent, 1)
    assert Counter(sent.values()) == {"sent": len(sent) - 1, "uncertain": 1}
    assert len(claims) == SHARDS < len(sent)

    assert all(worker.is_stopped for worker in stopped.values())
    eventually(lambda: running.count(_PAUSED) == 0, "every gap is over")
    for worker in stopped.values():
        worker.task.resume()
    # Only its main thread is left, which waits for the supervisor.
    eventually(lambda: all(worker.task.num_threads() == 1 for worker in stopped.values()), "both shards' runs are over")
    assert running.keys(_FENCED) == claims
    assert running.copies() == dict.fromkeys(sent, 1)
    for worker in stopped.values():
        worker.supervisor.resume()
    psutil.wait_procs([worker.task for worker in stopped.values()], timeout=RUN_TIMEOUT_S)
    assert not any(worker.task.is_running() for worker in stopped.values())

    assert running.copies() == dict.fromkeys(sent, 1)
    assert running.slots() == sent
