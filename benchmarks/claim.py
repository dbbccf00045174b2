"""``bench claim``: how fast slots are claimed and finished, and whether a million finished ones slow it down.

One process claims due slots in batches (``store.claim``, one transaction) and records their ends (``store.finish``,
one transaction). The guarded step between the two belongs to ``bench dispatch``; so the slots end as ``failed``, the
one end that needs no submission, and whose row is written like any other. Lanes take turns, as in the product.

Peers do the same on the same server, each through its own library: see ``queue_peers.py``.
"""

from __future__ import annotations

import json
import time
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
from emberflow.clock import SystemClock
from emberflow.database.embedded import EmbeddedPostgres
from emberflow.queue_manager import store
from emberflow.queue_manager.policies import Policy, shipped

BATCHES = (100, 1000)
SLOTS = 100_000
FINISHED = 1_000_000
ROUNDS = 3
SENDERS, BOTS = 1000, 2000
LEASE_S = 600
TARGETS = (Target("claims_per_s", "at_least", 20_000), Target("ratio_after_1m", "at_least", 0.8))

# Jobs per round: about ten seconds of each, so that no peer is judged by its first second.
_PEERS = {
    "procrastinate (one by one)": ("procrastinate", 1, 3_000),
    "pgqueuer (batch 10)": ("pgqueuer", 10, 20_000),
    "pgqueuer (batch 100)": ("pgqueuer", 100, 40_000),
    "pgqueuer (batch 1000)": ("pgqueuer", 1000, 40_000),
    "pgmq (batch 100)": ("pgmq", 100, 100_000),
    "pgmq (batch 1000)": ("pgmq", 1000, 100_000),
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
    policy = world.a_policy(lanes=shipped("standard").dispatch.lanes)
    settings = {
        "slots per round": SLOTS, "batch": BATCHES[-1], "lanes": policy.dispatch.lanes, "senders": SENDERS,
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
            queue.round(BATCHES[-1])
        after = []
        for number in range(ROUNDS):
            report(f"emberflow with {FINISHED:,} finished slots, round {number + 1}")
            after.append(queue.round(BATCHES[-1]))
    _summarise(result, ours, after, theirs)
    return result


class _Queue:
    """Our queue, and a round of it."""

    def __init__(self, engine: Engine, server: EmbeddedPostgres, policy: Policy) -> None:
        self._engine = engine
        self._server = server
        self._policy = policy

    def empty(self) -> None:
        """Remove every slot and what they left behind."""
        with self._engine.begin() as connection:
            connection.execute(text("truncate ops.scheduled_tasks, ops.slot_states"))

    def round(self, batch: int) -> Round:
        """Add due slots, then claim and finish all of them; they stay in the table, with their dead versions."""
        world.add_slots(self._engine, SLOTS, batch=str(time.time_ns()), now=SystemClock().now())
        world.analyze(self._engine)
        server_cpu, cpu, started = _server_cpu_s(self._server), time.process_time(), time.perf_counter()
        done = self._claim_and_finish(batch)
        seconds = time.perf_counter() - started
        cpu = time.process_time() - cpu
        if done != SLOTS:
            raise RuntimeError(f"{done} slots were claimed and finished instead of {SLOTS}")
        return Round(done, seconds, cpu, _server_cpu_s(self._server) - server_cpu)

    def _claim_and_finish(self, batch: int) -> int:
        clock = SystemClock()
        lanes = self._policy.dispatch.lanes
        done, empty, lane = 0, 0, 0
        while empty < lanes:
            with self._engine.begin() as connection:
                slots = store.claim(
                    connection, lane=lane, lanes=lanes, now=clock.now(), limit=batch, lease_s=LEASE_S,
                    policy=self._policy.queue,
                )  # fmt: skip
            if slots:
                ends = [store.End(slot, "failed", reason="benchmark") for slot in slots]
                with self._engine.begin() as connection:
                    done += len(store.finish(connection, ends))
            empty = 0 if slots else empty + 1
            lane = (lane + 1) % lanes
        return done


def _side_by_side(
    queue: _Queue, server: EmbeddedPostgres, result: Result, report: Report
) -> tuple[dict[int, list[Round]], dict[str, list[Round]]]:
    """Let everybody take turns; a peer that fails is left out from then on, with the reason in ``result``."""
    ours: dict[int, list[Round]] = {batch: [] for batch in BATCHES}
    theirs: dict[str, list[Round]] = {name: [] for name in _PEERS}
    for number in range(ROUNDS):
        for batch in BATCHES:
            report(f"emberflow (batch {batch}), round {number + 1} of {ROUNDS}")
            queue.empty()
            ours[batch].append(queue.round(batch))
        for name, rounds in theirs.items():
            if name in result.unmeasured:
                continue
            report(f"{name}, round {number + 1} of {ROUNDS}")
            try:
                rounds.append(_peer_round(server, name))
            except PeerError as error:
                result.unmeasured[name] = str(error)
    return ours, theirs


def _summarise(
    result: Result, ours: dict[int, list[Round]], after: list[Round], theirs: dict[str, list[Round]]
) -> None:
    for batch, rounds in ours.items():
        name = "claims_per_s" if batch == BATCHES[-1] else f"claims_per_s_batch_{batch}"
        result.figures[name] = Figure.of([found.per_s for found in rounds])
    before = ours[BATCHES[-1]]
    ratios = [late.per_s / early.per_s for early, late in zip(before, after, strict=True)]
    result.figures["claims_per_s_after_1m"] = Figure.of([found.per_s for found in after])
    result.figures["ratio_after_1m"] = Figure.of(ratios)
    result.figures |= _cpu(before)
    for name, rounds in theirs.items():
        if name in result.unmeasured:
            result.peers[name] = None
        else:
            result.peers[name] = {"claims_per_s": Figure.of([found.per_s for found in rounds]), **_cpu(rounds)}


def _peer_round(server: EmbeddedPostgres, name: str) -> Round:
    peer, batch, count = _PEERS[name]
    database = f"peer_{peer}"
    server.create_database(database)
    options = {
        "count": count, "batch": batch, "host": make_url(server.url(database)).query["host"], "database": database,
        "server_pid": server.pid(),
    }  # fmt: skip
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
