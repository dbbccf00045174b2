"""One run of reading over one shard: its mailboxes are read at once, as many as the policy and the servers allow.

`mailbox_reading` reads one of them, `turns` says whose turn it is, `imap_connections` holds the limits. A mailbox has a
time limit and so has the run; what a run does not reach comes first in the next one. A slow, dead or hostile server
costs its own mailboxes only.

A shard is a fixed share of the mailboxes (mailbox id modulo the number of shards).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from sqlalchemy import Engine

from emberflow.accounts.mailboxes import Mailbox, Opened, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.database.server_clock import shared
from emberflow.email_ops.bounded_parser import ParserPool
from emberflow.errors import EmberflowError, WorkerRefusedError
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force
from emberflow.queue_manager import recover
from emberflow.queue_manager.permits import Permits
from emberflow.queue_manager.receiving import mailbox_readings, quarantine
from emberflow.queue_manager.receiving.imap_connections import ImapConnections, NoPlaceError, imap_server_of
from emberflow.queue_manager.receiving.mailbox_reading import MailboxReading
from emberflow.queue_manager.receiving.mailbox_readings import Outcome
from emberflow.queue_manager.receiving.turns import Turn, TurnQueue
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_READ_S = 30.0  # how long one answer of a server is waited for
_PARSERS = 2  # processes: parsing is work of the processor, and a shard is one of several
_NO_PLACE_PAUSE_S = 0.5


class InboxUnreadableError(EmberflowError):
    """Not one mailbox of a shard could be read."""


@dataclass
class ReadingReport:
    """What one run found in one shard, by kind, and by address what could not be read and why."""

    shard: int
    mailboxes: int = 0
    found: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def read_shard(engine: Engine, shard: int, *, clock: Clock, settings: Settings) -> ReadingReport:
    """Read every mailbox of ``shard`` once, within the policy's time; one that fails does not keep the others back.

    Raises:
        InboxUnreadableError: all of them failed.
        ConfigurationError: as in ``dispatcher.dispatch_shard``.
        ParserUnavailableError: strangers' messages cannot be parsed here.
        WorkerRefusedError: this machine has other keys, or the database was restored.
    """
    clock = shared(engine, clock)
    held = restores.notice(engine)
    if held is not None:
        raise WorkerRefusedError(f"nothing is read: {held}")
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        force = in_force(connection)
        policy = force.policy
        quarantine.purge(connection, policy.inbox.quarantine_days, clock.now())
        # What a dead worker was submitting could hold up its recipient's folder as long as nothing is dispatched.
        freed = recover.free_lapsed(connection, now=clock.now(), policy=policy.queue)
        turns = mailbox_readings.in_turn(connection, shard, policy.inbox.shards, clock.now())
        opened = open_mailboxes(connection, settings, [turn.mailbox_id for turn in turns])
    if freed.is_anything:
        log.warning("freed lapsed leases: %s", freed)
    readers = min(policy.inbox.readers, len(turns))
    queue = TurnQueue(_at_their_servers(turns, opened.boxes), readers, time.monotonic() + policy.inbox.run_s)
    run = _Run(engine, shard, clock, policy, queue, opened, time.monotonic() + policy.inbox.run_s)
    with (
        ParserPool(min(_PARSERS, max(readers, 1))) as parsers,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session,
        ThreadPoolExecutor(max(readers, 1), thread_name_prefix=f"shard-{shard}-read") as threads,
    ):
        connections = ImapConnections(
            engine, Permits(session), policy.connections, mode, clock, settings, read_s=_READ_S
        )
        readings = [MailboxReading(engine, force, clock, settings, connections, parsers) for _ in range(readers)]
        for work in [threads.submit(run.take_turns, reading) for reading in readings]:
            work.result()
    if run.failure is not None:
        raise run.failure
    report = run.conclude(turns)
    for reading in readings:
        report.found.update(reading.found)
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    if turns and run.failed == len(turns) - len(queue.left()):
        raise InboxUnreadableError(
            f"shard {shard}: none of {run.failed} mailboxes could be read; the first: {report.unreadable[0]}"
        )
    return report


class _Run:
    """What the threads of one run share; ``failure`` is what ended it before its time."""

    def __init__(
        self, engine: Engine, shard: int, clock: Clock, policy: Policy, queue: TurnQueue, opened: Opened, ends_at: float
    ) -> None:
        self.failure: BaseException | None = None
        self.failed = 0
        self._engine = engine
        self._clock = clock
        self._policy = policy
        self._queue = queue
        self._opened = opened
        self._ends_at = ends_at
        self._report = ReadingReport(shard)
        self._one_at_a_time = threading.Lock()

    def take_turns(self, reading: MailboxReading) -> None:
        """Read mailboxes until none is left; in each of the threads."""
        try:
            while (turn := self._queue.take()) is not None:
                try:
                    outcome = self._read(reading, turn)
                except NoPlaceError:
                    self._queue.put_back(turn, _NO_PLACE_PAUSE_S)
                    continue
                self._note(turn, outcome)
                self._queue.done(turn, outcome.no_answer)
        except BaseException as error:
            with self._one_at_a_time:
                self.failure = self.failure or error
            self._queue.stop()

    def conclude(self, turns: Sequence[Turn]) -> ReadingReport:
        """Record what was left out, and return the report; after the threads have ended."""
        report = self._report
        report.mailboxes = len(turns)
        for turn, reason in self._queue.unanswered():
            self._note(turn, Outcome([reason]))
        left = self._queue.left()
        if left:
            report.found["not_reached"] = len(left)
            report.unreadable.append(f"{len(left)} were not reached in time and come first next: {left[0].address}")
        return report

    def _read(self, reading: MailboxReading, turn: Turn) -> Outcome:
        mailbox = self._opened.boxes.get(turn.mailbox_id)
        if mailbox is None:
            return Outcome([self._opened.unreadable.get(turn.mailbox_id, "it is gone")])
        try:
            return reading.read(turn, mailbox, self._ends_at - time.monotonic())
        except restores.DatabaseBehindError as error:
            raise WorkerRefusedError(str(restores.declare(self._engine, str(error)))) from error

    def _note(self, turn: Turn, outcome: Outcome) -> None:
        with self._one_at_a_time:
            if outcome.waits_because is not None:
                self._report.found["waiting_for_a_login"] += 1
                self._report.unreadable.append(f"{turn.address}: waits, {outcome.waits_because}")
                return
            self._report.unreadable += [f"{turn.address}: {problem}" for problem in outcome.problems]
            self.failed += bool(outcome.problems) and not outcome.was_read
        with self._engine.begin() as connection:
            mailbox_readings.record(connection, turn, outcome, self._clock.now(), self._policy.refusals)


def _at_their_servers(turns: Sequence[Turn], boxes: Mapping[int, Mailbox]) -> list[Turn]:
    """Return the turns with the server of each; a mailbox that cannot be opened is at none."""
    return [
        replace(turn, server=imap_server_of(boxes[turn.mailbox_id])) if turn.mailbox_id in boxes else turn
        for turn in turns
    ]
