"""``bench sweep``: mailboxes read and recorded, beside bare imap-tools on the same Dovecot with the same concurrency.

Ours is the product's own run over its shards, a process for each: log in, find Junk, read Junk and INBOX, verify each
token, record, decide about replies, mark as read, classify what has no token. Every row is committed by a durable
PostgreSQL and counted after each round. Peers log in, open INBOX, fetch and parse all of it, and record nothing.

Genuine mail has to be known to the database: it is dispatched to a sink before each round, by the product too, and then
put into the mailboxes' directories as an MTA would. Each contender gets its own copy of it, new to Dovecot.
"""

from __future__ import annotations

import imaplib
import os
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from imap_tools import MailBox
from sqlalchemy import Engine, event, text

from benchmarks import world
from benchmarks.cpu import tree_cpu_s
from benchmarks.maildirs import Maildirs, Mails, genuine_mails
from benchmarks.measure import Figure, Report, Result, Target
from benchmarks.returned_mail import a_mixture
from benchmarks.servers import emberflow_database, postgres_server, scratch_directory, smtp_sink
from benchmarks.shards import at_once, begin
from emberflow.clock import SystemClock
from emberflow.database.engine import open_engine
from emberflow.errors import ConfigurationError, StackError
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.policy.document import Policy, shipped
from emberflow.queue_manager.receiving.sweep import read_shard
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import Settings
from tests.mail_servers.dovecot import Dovecot, why_not

SIZES = {"small": 200, "full": 2000}
ROUNDS = 3
SENDERS = 40
GENUINE, STRANGE = 4, 1  # messages of one mailbox and round
INBOX = shipped("standard").inbox
TARGETS = (Target("ratio_to_imap_tools", "at_least", 0.5),)
_PEERS = {"imap_tools": "imap-tools", "imap_tools_bulk": "imap-tools, one FETCH for all"}
_RECORDED = text("""
    select
        (select count(*) from ops.mail_events where event_type = 'placed_inbox') as placed,
        (select count(*) from ops.inbound_messages) as strange
""")


@dataclass(frozen=True)
class Share:
    """What one process did: CPU seconds of itself and its children, and what it counted by name."""

    cpu_s: float
    counted: Counter[str]


@dataclass(frozen=True)
class Round:
    """What one round took, in seconds, and what was counted; CPU of the client, PostgreSQL and Dovecot."""

    seconds: float
    client_cpu_s: float
    postgresql_cpu_s: float
    dovecot_cpu_s: float
    counted: Counter[str] = field(default_factory=Counter)


class _Bench:
    """The servers and mailboxes of one run, and one method per contender that runs a round of it."""

    def __init__(
        self, server: EmbeddedPostgres, dovecot: Dovecot, engine: Engine, settings: Settings, mailboxes: int
    ) -> None:
        self._server = server
        self._dovecot = dovecot
        self._engine = engine
        self._settings = settings
        self._addresses = [f"bot{number}@bots.test" for number in range(1, mailboxes + 1)]
        self._maildirs = Maildirs(dovecot)
        self._mails: Mails = {}
        self._strange = a_mixture(mailboxes * STRANGE * ROUNDS)
        self.octets = 0

    def make_mailboxes(self) -> None:
        """Let Dovecot make the folders of every mailbox, which it does at the first login."""
        self._maildirs.replace({address: [] for address in self._addresses})
        self._fetched(is_bulk=True)

    def renew(self) -> None:
        """Send mail that is new to the database, and draw new mail of strangers."""
        now = SystemClock().now()
        batch = str(time.time_ns())
        world.add_slots(self._engine, len(self._addresses) * GENUINE, batch=batch, now=now)
        world.analyze(self._engine)
        self._senders_are_checked(True)
        for shard in range(INBOX.shards):
            dispatcher.dispatch_shard(self._engine, shard, clock=SystemClock(), settings=self._settings)
        self._senders_are_checked(False)
        self._mails = genuine_mails(self._engine, self._settings, batch)
        if sum(map(len, self._mails.values())) != len(self._addresses) * GENUINE:
            raise StackError("not all of the mail that is to be read could be sent")
        for address in self._addresses:
            self._mails[address] += [self._strange.pop() for _ in range(STRANGE)]
        self.octets = sum(len(mail) for mails in self._mails.values() for mail in mails)

    def emberflow(self) -> Round:
        """A process per shard."""
        self._maildirs.replace(self._mails)
        before = self._recorded()
        found = self._measured(_sweep, [(shard, self._settings) for shard in range(INBOX.shards)])
        read = [now - then for now, then in zip(self._recorded(), before, strict=True)]
        wanted = [len(self._addresses) * GENUINE, len(self._addresses) * STRANGE]
        if read != wanted:
            raise RuntimeError(f"{read} messages with and without a token were recorded, instead of {wanted}")
        return found

    def imap_tools(self) -> Round:
        """As its documentation shows: one FETCH per message."""
        return self._peer(is_bulk=False)

    def imap_tools_bulk(self) -> Round:
        """All messages of a mailbox by one command."""
        return self._peer(is_bulk=True)

    def _peer(self, *, is_bulk: bool) -> Round:
        self._maildirs.replace(self._mails)
        found = self._fetched(is_bulk=is_bulk)
        wanted = len(self._addresses) * (GENUINE + STRANGE)
        if found.counted["messages"] != wanted:
            raise RuntimeError(f"{found.counted['messages']} messages were fetched instead of {wanted}")
        return found

    def _fetched(self, *, is_bulk: bool) -> Round:
        at = _Server(self._dovecot.imaps_port, self._dovecot.ca_file)
        shares = [self._addresses[shard :: INBOX.shards] for shard in range(INBOX.shards)]
        return self._measured(_fetch, [(share, at, is_bulk) for share in shares])

    def _measured(self, work: Callable[..., Share], arguments: Sequence[tuple[Any, ...]]) -> Round:
        pids = self._server.pid(), self._dovecot.pid
        before = [tree_cpu_s(pid) if pid else 0.0 for pid in pids]
        done = at_once(work, arguments)
        postgresql, dovecot = ((tree_cpu_s(pid) if pid else 0.0) - then for pid, then in zip(pids, before, strict=True))
        counted: Counter[str] = Counter()
        for share in done.results:
            counted.update(share.counted)
        return Round(done.seconds, sum(share.cpu_s for share in done.results), postgresql, dovecot, counted)

    def _recorded(self) -> tuple[int, int]:
        with self._engine.connect() as connection:
            row = connection.execute(_RECORDED).one()
        return int(row.placed), int(row.strange)

    def _senders_are_checked(self, are: bool) -> None:
        """Their mailboxes get nothing here: they send, but are not read."""
        statement = "update ops.mailboxes set check_passed = :are where id in (select mailbox_id from ops.senders)"
        with self._engine.begin() as connection:
            connection.execute(text(statement), {"are": are})


@dataclass(frozen=True)
class _Server:
    port: int
    ca_file: Path


def _sweep(shard: int, settings: Settings) -> Share:
    """Read one shard of the mailboxes, in this process."""
    engine = open_engine(settings.require_database_url())
    with engine.connect():  # imports done, a connection open
        pass
    counted: Counter[str] = Counter()
    event.listen(engine, "before_cursor_execute", lambda *_: counted.update(["statements"]))
    event.listen(engine, "commit", lambda *_: counted.update(["commits"]))
    event.listen(engine, "connect", lambda *_: counted.update(["sessions"]))
    begin()
    cpu_s = tree_cpu_s(os.getpid())
    with _counting(counted):
        report = read_shard(engine, shard, clock=SystemClock(), settings=settings)
    if report.unreadable:
        raise RuntimeError(f"{len(report.unreadable)} mailboxes could not be read: {report.unreadable[0]}")
    return Share(tree_cpu_s(os.getpid()) - cpu_s, counted)


def _fetch(addresses: Sequence[str], server: _Server, is_bulk: bool) -> Share:
    """Log in to each of the mailboxes, open INBOX, and fetch and parse what lies there, as many at once as we do."""
    context = ssl.create_default_context(cafile=server.ca_file)

    def fetch(address: str) -> int:
        with MailBox("localhost", server.port, ssl_context=context).login(address, world.PASSWORD) as mailbox:
            return sum(1 for _ in mailbox.fetch(mark_seen=False, bulk=is_bulk))

    counted: Counter[str] = Counter()
    begin()
    cpu_s = tree_cpu_s(os.getpid())
    with _counting(counted), ThreadPoolExecutor(INBOX.readers) as threads:
        counted["messages"] = sum(threads.map(fetch, addresses))
    return Share(tree_cpu_s(os.getpid()) - cpu_s, counted)


@contextmanager
def _counting(counted: Counter[str]) -> Iterator[None]:
    """Count the IMAP commands that anybody here gives, by name."""
    give: Any = imaplib.IMAP4._command  # type: ignore[attr-defined]

    def give_counted(self: imaplib.IMAP4, name: str, *arguments: Any) -> Any:
        told = " ".join([name, *map(str, arguments[:1])]) if name == "UID" else name
        counted.update([f"imap {told}", "imap"])
        return give(self, name, *arguments)

    imaplib.IMAP4._command = give_counted  # type: ignore[attr-defined]
    try:
        yield
    finally:
        imaplib.IMAP4._command = give  # type: ignore[attr-defined]


def a_policy() -> Policy:
    """Return the benchmarks' policy with the standard one's readers, and replies that are decided but not due yet."""
    document = world.a_policy(shards=INBOX.shards, window_s=0).model_dump()
    standard = shipped("standard")
    document["inbox"] = INBOX.model_dump() | {"run_s": 1500, "fresh_s": 604_800}
    document["replies"] = standard.replies.model_dump()
    return Policy.model_validate(document)


def run(report: Report, size: str = "small") -> Result:
    """Measure; on an idle machine a minute for ``small``, seven for ``full``.

    Raises:
        ConfigurationError: there is no such size, or Dovecot is not installed.
    """
    if size not in SIZES:
        raise ConfigurationError(f"there is no size {size!r}; there are: {', '.join(SIZES)}")
    reason = why_not()
    if reason is not None:
        raise ConfigurationError(f"the sweep is measured on a real server: {reason}")
    mailboxes = SIZES[size]
    result = Result("sweep", {"size": size, "shards": INBOX.shards, "readers per shard": INBOX.readers}, TARGETS)
    rounds: dict[str, list[Round]] = {name: [] for name in ("emberflow", *_PEERS)}
    with (
        scratch_directory() as directory,
        postgres_server(directory / "postgres") as server,
        emberflow_database(server, "emberflow") as engine,
    ):
        directory.chmod(0o755)  # Dovecot's processes are other users
        place = directory / "dovecot"
        place.mkdir()
        with Dovecot(place) as dovecot, smtp_sink(place) as sink:
            settings = world.some_settings(engine, ca_files={"localhost": sink.ca_file})
            world.populate(
                engine, settings, a_policy(), senders=SENDERS, bots=mailboxes,
                smtp_port=sink.port, imap_port=dovecot.imaps_port, now=SystemClock().now(),
            )  # fmt: skip
            bench = _Bench(server, dovecot, engine, settings, mailboxes)
            dovecot.create_accounts({f"bot{number}@bots.test": world.PASSWORD for number in range(1, mailboxes + 1)})
            report("making the mailboxes: a first login, which does not count")
            bench.make_mailboxes()
            for number in range(ROUNDS):
                report(f"sending the mail of round {number + 1} of {ROUNDS}")
                bench.renew()
                for name in list(rounds)[:: 1 if number % 2 else -1]:
                    report(f"{_PEERS.get(name, name)}, round {number + 1} of {ROUNDS}")
                    rounds[name].append(getattr(bench, name)())
    messages = mailboxes * (GENUINE + STRANGE)
    result.sizes |= {
        "mailboxes": mailboxes, "messages_per_round": messages, "warm_up_per_mailbox": GENUINE,
        "strangers_per_mailbox": STRANGE, "mean_message_bytes": bench.octets // messages,
    }  # fmt: skip
    summarise(result, rounds, mailboxes, messages)
    return result


def summarise(result: Result, rounds: Mapping[str, list[Round]], mailboxes: int, messages: int) -> None:
    ours = rounds["emberflow"]
    figures = partial(_figures, mailboxes=mailboxes, messages=messages)
    result.figures |= (
        figures(ours)
        | {
            f"{what}_per_mailbox": Figure.of([found.counted[what] / mailboxes for found in ours])
            for what in ("statements", "commits")
        }
        | {"database_sessions": Figure.of([float(found.counted["sessions"]) for found in ours])}
    )
    result.parts["imap_commands_per_mailbox"] = {
        name.removeprefix("imap "): Figure.of([found.counted[name] / mailboxes for found in ours])
        for name in sorted(ours[0].counted)
        if name.startswith("imap ")
    }
    for name, title in _PEERS.items():
        theirs = rounds[name]
        result.peers[title] = figures(theirs)
        result.figures |= {
            f"ratio_to_{name}": Figure.of([peer.seconds / own.seconds for own, peer in zip(ours, theirs, strict=True)]),
            f"cpu_ratio_to_{name}": Figure.of(
                [_cpu_s(peer) / _cpu_s(own) for own, peer in zip(ours, theirs, strict=True)]
            ),
        }


def _cpu_s(found: Round) -> float:
    return found.client_cpu_s + found.postgresql_cpu_s + found.dovecot_cpu_s


def _figures(rounds: Sequence[Round], *, mailboxes: int, messages: int) -> dict[str, Figure]:
    def per_mailbox(seconds: Sequence[float]) -> Figure:
        return Figure.of([value / mailboxes * 1e3 for value in seconds])

    return {
        "mailboxes_per_s": Figure.of([mailboxes / found.seconds for found in rounds]),
        "messages_per_s": Figure.of([messages / found.seconds for found in rounds]),
        "client_cpu_ms_per_mailbox": per_mailbox([found.client_cpu_s for found in rounds]),
        "postgresql_cpu_ms_per_mailbox": per_mailbox([found.postgresql_cpu_s for found in rounds]),
        "dovecot_cpu_ms_per_mailbox": per_mailbox([found.dovecot_cpu_s for found in rounds]),
        "commands_per_mailbox": Figure.of([found.counted["imap"] / mailboxes for found in rounds]),
    }
