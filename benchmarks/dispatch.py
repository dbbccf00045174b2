"""``bench dispatch``: durable dispatch beside raw smtplib, nodemailer and Airflow's SmtpHook, on the same sink.

Ours is the product's own step over slots that are due: claim, build, guard, send, record, all committed by a durable
PostgreSQL. Every mail must be at the sink once, or say that it is in doubt. As in the product there is one process per
shard; beside that, one process serves all shards in turn. A peer runs in a process of its own (``smtp_peers.py``,
``nodemailer_peer.cjs``), raw smtplib also in as many as we have shards.
What ``airflow_cpu_share`` is and how it is measured stands in ``airflow_share.py``.
"""

from __future__ import annotations

import json
import smtplib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import certifi
from sqlalchemy import Engine, make_url

from benchmarks import airflow_share, world
from benchmarks.cpu import tree_cpu_s
from benchmarks.measure import Figure, Report, Result, Target
from benchmarks.servers import (
    HERE,
    PeerError,
    Sink,
    emberflow_database,
    node_modules,
    postgres_server,
    run_worker,
    scratch_directory,
    smtp_sink,
)
from benchmarks.shards import at_once, begin
from emberflow.clock import SystemClock
from emberflow.database.engine import open_engine
from emberflow.email_ops.content import load_scripts
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.errors import StackError
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.policy.document import shipped
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import Settings

MESSAGES = 5000
HOOK_MESSAGES = 200  # a connection and a TLS context per mail: 2,000 would take a minute a round
ROUNDS = 5
SENDERS, BOTS = 40, 400
SHARDS = shipped("standard").dispatch.shards
TARGETS = (
    Target("ratio_to_smtplib", "at_least", 0.5),
    Target("ratio_to_nodemailer", "at_least", 5),
    Target("ratio_to_smtphook", "at_least", 40),
    Target("cpu_ms_per_message", "at_most", 1.2),
    Target("airflow_cpu_share", "at_most", 0.25),
)
_PEERS = {
    "smtplib": "smtplib, reused",
    "smtplib_per_shard": "smtplib, reused, a process per shard",
    "nodemailer": "nodemailer pool 5 + row",
    "smtphook": "Airflow SmtpHook",
}
_OURS = {"emberflow": "", "emberflow_one_process": "_one_process"}  # by the end of the figures' names


@dataclass(frozen=True)
class Round:
    """What one round took, in seconds; CPU of the client, the PostgreSQL server and the sink."""

    count: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    sink_cpu_s: float

    @property
    def per_s(self) -> float:
        """Messages per second."""
        return self.count / self.seconds


class _Bench:
    """The servers of one benchmark, and one method per contender that runs a round of it."""

    def __init__(
        self, directory: Path, server: EmbeddedPostgres, sink: Sink, engine: Engine, settings: Settings
    ) -> None:
        self._server = server
        self._sink = sink
        self._engine = engine
        self._settings = settings
        self._shards = list(range(SHARDS))
        self._message_file = directory / "message.eml"
        self._message_file.write_bytes(_a_message())
        # As on any machine that sends mail: the public CAs are trusted, and here the sink's as well.
        self._trusted_file = directory / "trusted.pem"
        self._trusted_file.write_bytes(Path(certifi.where()).read_bytes() + sink.ca_file.read_bytes())
        # SQLAlchemy's own name for the directory of the socket.
        self._socket_directory = str(make_url(server.url("postgres")).query["host"])
        server.create_database("nodemailer")

    def emberflow(self) -> Round:
        """A process per shard."""
        return self._dispatched([[shard] for shard in self._shards])

    def emberflow_one_process(self) -> Round:
        """One process, the shards one after the other."""
        return self._dispatched([self._shards])

    def _dispatched(self, served: list[list[int]]) -> Round:
        world.add_slots(self._engine, MESSAGES, batch=str(time.time_ns()), now=SystemClock().now())
        world.analyze(self._engine)

        before = self._taken()
        ends: Counter[str] = Counter()

        def work() -> tuple[float, float]:
            done = at_once(_dispatch, [(own, self._settings) for own in served])
            for own_ends, _ in done.results:
                ends.update(own_ends)
            return done.seconds, sum(cpu_s for _, cpu_s in done.results)

        found = self._measured(work)
        arrived, different = (now - then for now, then in zip(self._taken(), before, strict=True))
        require_honest(ends, MESSAGES, arrived=arrived, different=different)
        return found

    def smtplib(self) -> Round:
        """One connection, prebuilt bytes."""
        return self._python_peer("smtplib", MESSAGES)

    def smtplib_per_shard(self) -> Round:
        """One connection per process."""
        return self._python_peer("smtplib", MESSAGES, processes=len(self._shards))

    def smtphook(self) -> Round:
        """A hook per mail."""
        secret = f"smtp://any:any@localhost:{self._sink.port}/?from_email=sender1%40senders.test&disable_ssl=true"
        return self._python_peer("smtphook", HOOK_MESSAGES, environment={"AIRFLOW_CONN_SMTP_DEFAULT": secret})

    def nodemailer(self) -> Round:
        """Five connections, one row per mail."""
        modules = node_modules()
        headers, _, body = self._message_file.read_text().partition("\n\n")
        subject = next(line for line in headers.splitlines() if line.startswith("Subject: "))
        options = {
            "count": MESSAGES, "port": self._sink.port, "host": self._socket_directory, "database": "nodemailer",
            "subject": subject.partition(": ")[2], "text": body,
        }  # fmt: skip
        environment = {"NODE_PATH": str(modules), "NODE_EXTRA_CA_CERTS": str(self._sink.ca_file)}
        return self._peer(["node", str(HERE / "nodemailer_peer.cjs"), json.dumps(options)], MESSAGES, environment)

    def _python_peer(
        self, name: str, count: int, *, processes: int = 1, environment: dict[str, str] | None = None
    ) -> Round:
        options = {
            "count": count, "port": self._sink.port, "message_file": str(self._message_file), "processes": processes
        }  # fmt: skip
        home = {"AIRFLOW_HOME": str(self._message_file.parent / "airflow"), "SSL_CERT_FILE": str(self._trusted_file)}
        command = [sys.executable, "-m", "benchmarks.smtp_peers", name, json.dumps(options)]
        return self._peer(command, count, home | (environment or {}))

    def _peer(self, command: list[str], count: int, environment: dict[str, str]) -> Round:
        def work() -> tuple[float, float]:
            found = run_worker(command, environment=environment)
            return found["seconds"], found["cpu_s"]

        round_ = self._measured(work)
        if round_.count != count:
            raise RuntimeError(f"the sink took {round_.count} messages instead of {count}")
        return round_

    def _measured(self, work: Callable[[], tuple[float, float]]) -> Round:
        """Run ``work``, which returns its own wall and CPU seconds; what counts are the mails that the sink took."""
        pid = self._server.pid()
        if pid is None:
            raise RuntimeError("PostgreSQL is gone")
        (taken, _), server, sink = self._taken(), tree_cpu_s(pid), tree_cpu_s(self._sink.pid)
        seconds, cpu = work()
        server, sink = tree_cpu_s(pid) - server, tree_cpu_s(self._sink.pid) - sink
        return Round(self._taken()[0] - taken, seconds, cpu, server, sink)

    def _taken(self) -> tuple[int, int]:
        """Return how many messages the sink has taken, and how many different Message-IDs they had."""
        with smtplib.SMTP("localhost", self._sink.port, local_hostname="localhost", timeout=30) as connection:
            taken, different = connection.docmd("HELP")[1].split()
        return int(taken), int(different)


def require_honest(ends: Mapping[str, int], wanted: int, *, arrived: int, different: int) -> None:
    """Hold what we say became of ``wanted`` mails against what the sink took: each once, or honestly in doubt.

    Raises:
        RuntimeError: a mail arrived twice, was lost, was denied, or came to another end.
    """
    sent, in_doubt = ends.get("sent", 0), ends.get("uncertain", 0)
    if arrived != different:
        raise RuntimeError(f"{arrived - different} of {arrived} messages were second copies")
    if sent + in_doubt != wanted:
        raise RuntimeError(f"{sent} messages were sent and {in_doubt} are in doubt, instead of {wanted}: {dict(ends)}")
    if not sent <= arrived <= sent + in_doubt:
        raise RuntimeError(f"the sink took {arrived} messages; {sent} say that they were sent, {in_doubt} are in doubt")


def _dispatch(shards: Sequence[int], settings: Settings) -> tuple[Counter[str], float]:
    """Dispatch ``shards`` in this process; return how many slots came to which end, and the CPU seconds meanwhile."""
    engine = open_engine(settings.require_database_url())
    with engine.connect():  # imports done, a connection open
        pass
    begin()
    cpu = time.process_time()
    ends: Counter[str] = Counter()
    for shard in shards:
        ends += dispatcher.dispatch_shard(engine, shard, clock=SystemClock(), settings=settings).ends
    return ends, time.process_time() - cpu


def run(report: Report) -> Result:
    """Measure; about ten minutes, and one more the first time, when peers are installed."""
    settings = {
        "messages": MESSAGES, "messages of SmtpHook": HOOK_MESSAGES, "shards": SHARDS, "senders": SENDERS, "bots": BOTS
    }  # fmt: skip
    result = Result("dispatch", settings, TARGETS)
    rounds: dict[str, list[Round]] = {name: [] for name in (*_OURS, *_PEERS)}
    with (
        scratch_directory() as directory,
        postgres_server(directory / "postgres") as server,
        emberflow_database(server, "emberflow") as engine,
        smtp_sink(directory / "sink") as sink,
    ):
        product = world.some_settings(engine, ca_files={"localhost": sink.ca_file})
        world.populate(
            engine, product, world.a_policy(shards=SHARDS),
            senders=SENDERS, bots=BOTS, smtp_port=sink.port, now=SystemClock().now(),
        )  # fmt: skip
        bench = _Bench(directory, server, sink, engine, product)
        for number in range(ROUNDS):
            for name, found in rounds.items():
                if name in result.unmeasured:
                    continue
                report(f"{_PEERS.get(name, name.replace('_', ' '))}, round {number + 1} of {ROUNDS}")
                try:
                    found.append(getattr(bench, name)())
                except PeerError as error:
                    result.unmeasured[name] = str(error)
    _summarise(result, rounds)
    try:
        result.figures |= airflow_share.measure(report)
    except StackError as error:
        result.figures["airflow_cpu_share"] = None
        result.unmeasured["airflow_cpu_share"] = str(error)
    return result


def _summarise(result: Result, rounds: dict[str, list[Round]]) -> None:
    ours = rounds["emberflow"]
    for name, ending in _OURS.items():
        result.figures |= {f"{figure}{ending}": value for figure, value in _figures(rounds[name]).items()}
    for name, title in _PEERS.items():
        if name in result.unmeasured:
            result.figures[f"ratio_to_{name}"] = result.peers[title] = None
            result.unmeasured[f"ratio_to_{name}"] = result.unmeasured[title] = result.unmeasured.pop(name)
        else:
            ratios = [mine.per_s / theirs.per_s for mine, theirs in zip(ours, rounds[name], strict=True)]
            result.figures[f"ratio_to_{name}"] = Figure.of(ratios)
            result.peers[title] = _figures(rounds[name])


def _figures(rounds: list[Round]) -> dict[str, Figure]:
    def per_message(seconds: list[float]) -> Figure:
        return Figure.of([value / found.count * 1e3 for value, found in zip(seconds, rounds, strict=True)])

    return {
        "messages_per_s": Figure.of([found.per_s for found in rounds]),
        "cpu_ms_per_message": per_message([found.client_cpu_s for found in rounds]),
        "postgresql_cpu_ms_per_message": per_message([found.server_cpu_s for found in rounds]),
        "sink_cpu_ms_per_message": per_message([found.sink_cpu_s for found in rounds]),
    }


def _a_message() -> bytes:
    """Return a warm-up mail as the product builds it: what peers send, or whose text they send."""
    now = SystemClock().now()
    subject, body = load_scripts().render(
        "soup-recipe", 1, seed=1, key=("benchmark",), from_name="Sender 1", to_name="Bot 1"
    )
    return build(
        OutgoingMessage(
            message_id="<benchmark@senders.test>", from_address="sender1@senders.test", from_name="Sender 1",
            to_address="bot1@bots.test", subject=subject, body=body, date=now - timedelta(seconds=1),
            in_reply_to=None, references=(), token="x" * 60, auto_reply=False,
        )
    )  # fmt: skip
