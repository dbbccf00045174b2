"""``bench claim``: how fast slots are claimed and finished, and whether a million finished ones slow it down.

A process claims due slots in batches (``slot_store.claim``, one transaction) and records their ends
(``slot_store.finish``, one transaction). The pre-send check between the two belongs to ``bench dispatch``; so the slots
end as ``failed``, the one end that needs no submission, and whose row is written like any other. As in the product
there is one process per shard; beside that, one process serves all shards in turn.

Peers do the same on the same server, each through its own library, with as many processes: see ``queue_peers.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, make_url, text

from benchmarks import world
from benchmarks.cpu import tree_cpu_s
from benchmarks.measure import Figure, Report, Result, Target
from benchmarks.servers import (
    PeerError,
    emberflow_database,
    postgres_server,
    python_for_peers,
    run_worker,
    scratch_directory,
)
from benchmarks.shards import at_once, begin
from emberflow.clock import SystemClock
from emberflow.database.engine import open_engine
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import in_force
from emberflow.queue_manager import slot_store

# Batch and whether each shard has a process of its own, by the end of the figure's name; the first is the product's.
VARIANTS = {"": (1000, True), "_one_process": (1000, False), "_one_process_batch_100": (100, False)}
SLOTS = 100_000
FINISHED = 1_000_000
ROUNDS = 3
SENDERS, BOTS = 1000, 2000
LEASE_S = 600
TARGETS = (Target("claims_per_s", "at_least", 20_000), Target("ratio_after_1m", "at_least", 0.8))

# Batch, jobs per round, and whether as many processes as we have shards drain the queue, or one.
_PEERS = {
    "procrastinate (one by one)": ("procrastinate", 1, 3_000, True),
    "pgqueuer (batch 10)": ("pgqueuer", 10, 20_000, True),
    "pgqueuer (batch 100)": ("pgqueuer", 100, 40_000, True),
    "pgqueuer (batch 1000)": ("pgqueuer", 1000, 40_000, True),
    "pgqueuer (batch 1000, one process)": ("pgqueuer", 1000, 40_000, False),
    "pgmq (batch 100)": ("pgmq", 100, 100_000, True),
    "pgmq (batch 1000)": ("pgmq", 1000, 100_000, True),
    "pgmq (batch 1000, one process)": ("pgmq", 1000, 100_000, False),
}


@dataclass(frozen=True)
class Round:
    """What one round took, in seconds; CPU of the client and of the PostgreSQL server."""

    count: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float

    @property
    def per_s(self) -> float:
        """Claim and finish pairs per second."""
        return self.count / self.seconds


def run(report: Report) -> Result:
    """Measure; about five minutes, and one more the first time, when peers are installed."""
    policy = world.a_policy(shards=shipped("standard").dispatch.shards)
    settings = {
        "slots per round": SLOTS, "batch": VARIANTS[""][0], "shards": policy.dispatch.shards, "senders": SENDERS,
        "bots": BOTS, "finished slots": FINISHED,
    }  # fmt: skip
    result = Result("claim", settings, TARGETS)
    with (
        scratch_directory() as directory,
        postgres_server(directory / "postgres") as server,
        emberflow_database(server, "emberflow") as engine,
    ):
        world.populate(
            engine, world.some_settings(engine), policy,
            senders=SENDERS, bots=BOTS, smtp_port=25, now=SystemClock().now(),
        )  # fmt: skip
        queue = _Queue(engine, server, policy)
        ours, theirs = _side_by_side(queue, server, result, report)
        report(f"finishing {FINISHED:,} slots")
        queue.empty()
        for _ in range(FINISHED // SLOTS):
            queue.round("")
        after = []
        for number in range(ROUNDS):
            report(f"emberflow with {FINISHED:,} finished slots, round {number + 1}")
            after.append(queue.round(""))
    _summarise(result, ours, after, theirs)
    return result


class _Queue:
    """Our queue, and a round of it."""

    def __init__(self, engine: Engine, server: EmbeddedPostgres, policy: Policy) -> None:
        self._engine = engine
        self._url = engine.url.render_as_string(hide_password=False)
        self._server = server
        self._policy = policy

    def empty(self) -> None:
        """Remove every slot and what they left behind."""
        with self._engine.begin() as connection:
            connection.execute(text("set local session_replication_role = replica"))  # rows that otherwise stay
            connection.execute(text("truncate ops.scheduled_tasks, ops.slot_states"))

    def round(self, variant: str) -> Round:
        """Add due slots, then claim and finish all of them; they stay in the table, with their dead versions."""
        world.add_slots(self._engine, SLOTS, batch=str(time.time_ns()), now=SystemClock().now())
        world.analyze(self._engine)
        batch, is_parted = VARIANTS[variant]
        shards = list(range(self._policy.dispatch.shards))
        served = [[shard] for shard in shards] if is_parted else [shards]
        server_cpu = _server_cpu_s(self._server)
        work = at_once(_serve, [(self._url, own, len(shards), batch) for own in served])
        server_cpu = _server_cpu_s(self._server) - server_cpu
        done = sum(count for count, _ in work.results)
        if done != SLOTS:
            raise RuntimeError(f"{done} slots were claimed and finished instead of {SLOTS}")
        return Round(done, work.seconds, sum(cpu_s for _, cpu_s in work.results), server_cpu)


def _serve(url: str, own: Sequence[int], shards: int, batch: int) -> tuple[int, float]:
    """Claim and finish what is due in a process's own shards, in turn; return how many and the CPU seconds it took."""
    engine, clock = open_engine(url), SystemClock()
    with engine.begin() as connection:
        policy = in_force(connection).policy.queue
    begin()
    cpu, done, empty, turn = time.process_time(), 0, 0, 0
    while empty < len(own):
        with engine.begin() as connection:
            slots = slot_store.claim(
                connection, shard=own[turn], shards=shards, now=clock.now(), limit=batch, lease_s=LEASE_S, policy=policy
            )
        if slots:
            ends = [slot_store.End(slot, "failed", reason="benchmark") for slot in slots]
            with engine.begin() as connection:
                done += len(slot_store.finish(connection, ends))
        empty = 0 if slots else empty + 1
        turn = (turn + 1) % len(own)
    return done, time.process_time() - cpu


def _side_by_side(
    queue: _Queue, server: EmbeddedPostgres, result: Result, report: Report
) -> tuple[dict[str, list[Round]], dict[str, list[Round]]]:
    """Let everybody take turns; a peer that fails is left out from then on, with the reason in ``result``."""
    shards = int(result.settings["shards"])
    ours: dict[str, list[Round]] = {variant: [] for variant in VARIANTS}
    theirs: dict[str, list[Round]] = {name: [] for name in _PEERS}
    for number in range(ROUNDS):
        for variant, rounds in ours.items():
            report(f"emberflow{variant.replace('_', ' ')}, round {number + 1} of {ROUNDS}")
            queue.empty()
            rounds.append(queue.round(variant))
        for name, rounds in theirs.items():
            if name in result.unmeasured:
                continue
            report(f"{name}, round {number + 1} of {ROUNDS}")
            try:
                rounds.append(_peer_round(server, name, shards))
            except PeerError as error:
                result.unmeasured[name] = str(error)
    return ours, theirs


def _summarise(
    result: Result, ours: dict[str, list[Round]], after: list[Round], theirs: dict[str, list[Round]]
) -> None:
    for variant, rounds in ours.items():
        result.figures[f"claims_per_s{variant}"] = Figure.of([found.per_s for found in rounds])
    before = ours[""]
    ratios = [late.per_s / early.per_s for early, late in zip(before, after, strict=True)]
    result.figures["claims_per_s_after_1m"] = Figure.of([found.per_s for found in after])
    result.figures["ratio_after_1m"] = Figure.of(ratios)
    result.figures |= _cpu(before)
    for name, rounds in theirs.items():
        if name in result.unmeasured:
            result.peers[name] = None
        else:
            result.peers[name] = {"claims_per_s": Figure.of([found.per_s for found in rounds]), **_cpu(rounds)}


def _peer_round(server: EmbeddedPostgres, name: str, shards: int) -> Round:
    peer, batch, count, is_parted = _PEERS[name]
    database = f"peer_{peer}"
    server.create_database(database)
    options = {
        "count": count,
        "batch": batch,
        "processes": shards if is_parted else 1,
        "host": make_url(server.url(database)).query["host"],
        "database": database,
        "server_pid": server.pid(),
    }
    found = run_worker([str(python_for_peers()), "-m", "benchmarks.queue_peers", peer, json.dumps(options)])
    return Round(count, found["seconds"], found["cpu_s"], found["server_cpu_s"])


def _server_cpu_s(server: EmbeddedPostgres) -> float:
    pid = server.pid()
    return 0.0 if pid is None else tree_cpu_s(pid)


def _cpu(rounds: list[Round]) -> dict[str, Figure]:
    return {
        "client_cpu_us_per_slot": Figure.of([found.client_cpu_s / found.count * 1e6 for found in rounds]),
        "server_cpu_us_per_slot": Figure.of([found.server_cpu_s / found.count * 1e6 for found in rounds]),
    }
