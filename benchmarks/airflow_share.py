"""How much of a dispatch run's CPU is Airflow's own.

A whole local stack runs; every DAG but ``dispatch`` is paused. In each round 500 slots are due in the standard
policy's shards, and one triggered run of ``dispatch`` sends them to the sink; then 500 more are sent by the same steps
called one after the other in this process. With

    run     CPU seconds, from the trigger until the run has ended, of Airflow's four components with all their
            descendants (the tasks included) and of PostgreSQL, which serves both Airflow and the queue,
    idle    what the same processes use in as many seconds while nothing is due,
    direct  CPU seconds of this process and of PostgreSQL for the same number of messages,

``airflow_cpu_share`` is (run - idle - direct) / (run - idle): of what the run costs, the part that is not dispatching.
``airflow_cpu_share_without_postgresql`` leaves PostgreSQL out of all three. The sink is in none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, TextClause, create_engine, make_url, text

from benchmarks import world
from benchmarks.cpu import tree_cpu_s
from benchmarks.measure import Figure, Report
from benchmarks.servers import scratch_directory, smtp_sink
from emberflow.clock import SystemClock
from emberflow.database.engine import open_engine
from emberflow.errors import StackError
from emberflow.local_stack.airflow import COMPONENTS
from emberflow.local_stack.stack import Stack
from emberflow.policy.document import shipped
from emberflow.queue_manager.sending import dispatcher

MESSAGES = 500
ROUNDS = 3
SENDERS, BOTS = 40, 400
IDLE_S = 20.0
_RUN_TIMEOUT_S = 180.0
_UNSENT = text("select status, reason, count(*) from ops.slots where status <> 'sent' group by 1, 2")
_UNFINISHED_RUNS = text("select count(*) from dag_run where dag_id = 'dispatch' and state in ('queued', 'running')")
_RUNNING_TASKS = text("select count(*) from task_instance where state in ('queued', 'running')")
_RUN_STATE = text("select state from dag_run where dag_id = 'dispatch' and run_id = :run_id")
# The DAG's own schedule strikes every second minute and takes a few seconds to find nothing due.
_SCHEDULE_S, _AFTER_SCHEDULE_S, _ROOM_S = 120, 15, 40


def measure(report: Report) -> dict[str, Figure]:
    """Return the shares and what they are made of; about five minutes."""
    with scratch_directory() as directory:
        stack = Stack(directory / "home", attached=True, policy="demo")
        database = open_engine(stack.database_url)
        metadata = create_engine(make_url(stack.database_url).set(database="airflow"))
        try:
            report("starting the stack")
            stack.start_servers()
            with smtp_sink(stack.sandbox_directory) as sink:
                stack.start_airflow()
                # Before there are senders: the scheduler plans the present hour as soon as it runs.
                with metadata.begin() as connection:
                    connection.execute(text("update dag set is_paused = true where dag_id <> 'dispatch'"))
                _wait_for(lambda: _count(metadata, _RUNNING_TASKS) == 0, "the tasks that ran at the start")
                world.populate(
                    database, stack.settings(), world.a_policy(shards=shipped("standard").dispatch.shards),
                    senders=SENDERS, bots=BOTS, smtp_port=sink.port, now=SystemClock().now(),
                )  # fmt: skip
                # The first run makes Airflow's workers and warms every cache.
                _wait_for_quiet(metadata)
                _run_under_airflow(stack, database, metadata)
                report(f"the idle stack, {IDLE_S:.0f} s")
                _wait_for_quiet(metadata)
                before = Cpu.of(stack)
                time.sleep(IDLE_S)
                idle_per_s = (Cpu.of(stack) - before) * (1 / IDLE_S)
                rounds = []
                for number in range(ROUNDS):
                    report(f"a dispatch run under Airflow, round {number + 1} of {ROUNDS}")
                    rounds.append(_round(stack, database, metadata, idle_per_s))
        finally:
            database.dispose()
            metadata.dispose()
            stack.remove()
    shares = [_share(run.total_s, idle.total_s, direct.total_s) for run, idle, direct in rounds]
    without = [_share(run.processes_s, idle.processes_s, direct.processes_s) for run, idle, direct in rounds]
    return {
        "airflow_cpu_share": Figure.of(shares),
        "airflow_cpu_share_without_postgresql": Figure.of(without),
        "airflow_run_cpu_s": Figure.of([run.total_s for run, _, _ in rounds]),
        "airflow_idle_cpu_s": Figure.of([idle.total_s for _, idle, _ in rounds]),
        "direct_cpu_s": Figure.of([direct.total_s for _, _, direct in rounds]),
    }


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of the processes that dispatch (Airflow's, or this one) and of PostgreSQL."""

    processes_s: float
    postgresql_s: float

    @classmethod
    def of(cls, stack: Stack, *, directly: bool = False) -> Cpu:
        """Return what was used until now, by this process if it dispatches ``directly``, else by Airflow."""
        pids = {part.name: part.pid for part in stack.status() if part.pid is not None}
        airflow_s = sum(tree_cpu_s(pid) for name, pid in pids.items() if name in COMPONENTS)
        return cls(time.process_time() if directly else airflow_s, tree_cpu_s(pids["postgresql"]))

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.processes_s + self.postgresql_s

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.processes_s - other.processes_s, self.postgresql_s - other.postgresql_s)

    def __mul__(self, factor: float) -> Cpu:
        return Cpu(self.processes_s * factor, self.postgresql_s * factor)


def _share(run_s: float, idle_s: float, direct_s: float) -> float:
    return (run_s - idle_s - direct_s) / (run_s - idle_s)


def _round(stack: Stack, database: Engine, metadata: Engine, idle_per_s: Cpu) -> tuple[Cpu, Cpu, Cpu]:
    """Return the CPU of a run, of the idle stack in the same time, and of direct dispatch."""
    _wait_for_quiet(metadata)
    seconds, run = _run_under_airflow(stack, database, metadata)
    return run, idle_per_s * seconds, _directly(stack, database)


def _run_under_airflow(stack: Stack, database: Engine, metadata: Engine) -> tuple[float, Cpu]:
    """Return the wall seconds and the CPU of a run that sends everything."""
    _add_slots(database)
    before, started = Cpu.of(stack), time.monotonic()
    run_id = stack.airflow_client().trigger("dispatch")
    # Asked of the database: the REST API would have to work for every answer.
    while True:
        time.sleep(0.25)
        with metadata.connect() as connection:
            found: str = connection.execute(_RUN_STATE, {"run_id": run_id}).scalar_one()
        if found == "success":
            break
        if found == "failed" or time.monotonic() - started > _RUN_TIMEOUT_S:
            raise StackError(f"the dispatch run {run_id} is {found} after {time.monotonic() - started:.0f} s")
    seconds, cpu = time.monotonic() - started, Cpu.of(stack) - before
    _require_all_sent(database)
    return seconds, cpu


def _directly(stack: Stack, database: Engine) -> Cpu:
    """Return the CPU of the same steps without Airflow."""
    _add_slots(database)
    clock, settings = SystemClock(), stack.settings()
    before = Cpu.of(stack, directly=True)
    for shard in dispatcher.due_shards(database, clock=clock):
        dispatcher.dispatch_shard(database, shard, clock=clock, settings=settings)
    cpu = Cpu.of(stack, directly=True) - before
    _require_all_sent(database)
    return cpu


def _add_slots(database: Engine) -> None:
    world.add_slots(database, MESSAGES, batch=str(time.time_ns()), now=SystemClock().now())


def _require_all_sent(database: Engine) -> None:
    with database.connect() as connection:
        unsent = connection.execute(_UNSENT).all()
    if unsent:
        raise StackError("not everything was sent: " + "; ".join(f"{n} {status} ({why})" for status, why, n in unsent))


def _wait_for_quiet(metadata: Engine) -> None:
    """Wait until no dispatch runs and the next scheduled one is far enough away."""

    def is_quiet() -> bool:
        since_schedule_s = SystemClock().now().timestamp() % _SCHEDULE_S
        is_far = _AFTER_SCHEDULE_S <= since_schedule_s <= _SCHEDULE_S - _ROOM_S
        return is_far and _count(metadata, _UNFINISHED_RUNS) == 0

    _wait_for(is_quiet, "the scheduled runs of dispatch")


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _RUN_TIMEOUT_S + _SCHEDULE_S
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not end")
        time.sleep(0.5)


def _count(database: Engine, query: TextClause) -> int:
    with database.connect() as connection:
        return int(connection.execute(query).scalar_one())
