"""Inbox intake: read owned mailboxes, record placement, rescue from Junk, decide and schedule replies.

Junk is read first: a junked warm-up mail is recorded as such and moved to the inbox, and only when it is seen
there (B-B5) does its reader decide to reply. Every step can be repeated: events have natural keys, a decision
is drawn from the slot's own stream, a reply has an idempotency key of its parent, and the cursor of a folder
moves only after everything that was read is committed. A crash therefore costs a second reading, not a second
reply.

A fault stays where it happens. A message that cannot be read or rescued is set aside (`message_faults`), a folder that
cannot be opened leaves the other one to be read, and a mailbox that fails is left with its reason (`mailbox_readings`).
A mailbox has a time limit and so has the run; what a run does not reach comes first in the next one.

A shard is a fixed share of the mailboxes (mailbox id modulo the number of shards).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.database.server_clock import shared
from emberflow.database.tables import imap_cursors
from emberflow.email_ops.bounded_parser import BoundedParser, ParserUnavailableError
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader, Unread
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.session_budget import SessionLimits
from emberflow.errors import EmberflowError, WorkerRefusedError
from emberflow.policy.script_sets import ScriptLibrary
from emberflow.policy.versions import PolicyInForce, in_force
from emberflow.queue_manager import recover
from emberflow.queue_manager.receiving import mailbox_readings, message_faults
from emberflow.queue_manager.receiving.arrivals import Arrival, Finder, Placement, StillBeingSentError
from emberflow.queue_manager.receiving.mailbox_readings import Outcome, Turn
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.queue_manager.receiving.replies import Answerer
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_READ_S = 30.0  # how long one answer of a server is waited for
_MAILBOX_S = 150.0
_MAILBOX_AFTER_FAILURE_S = 45.0  # who failed the last time holds up the others for less
_PORTIONS = 4  # of 500 messages, per folder and run


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
    report = ReadingReport(shard)
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        force = in_force(connection)
        # What a dead worker was submitting could hold up its recipient's folder as long as nothing is dispatched.
        freed = recover.free_lapsed(connection, now=clock.now(), policy=force.policy.queue)
        turns = mailbox_readings.in_turn(connection, shard, force.policy.inbox.shards)
        opened = open_mailboxes(connection, settings, [turn.mailbox_id for turn in turns])
    if freed.is_anything:
        log.warning("freed lapsed leases: %s", freed)
    ends_at = time.monotonic() + force.policy.inbox.run_s
    failed = 0
    not_reached: list[str] = []
    with BoundedParser() as parser:
        reading = _Reading(engine, force, mode, clock, settings, report, parser)
        for turn in turns:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                not_reached.append(turn.address)
                continue
            if turn.mailbox_id in opened.boxes:
                try:
                    outcome = reading.read(turn, opened.boxes[turn.mailbox_id], left_s)
                except restores.DatabaseBehindError as error:
                    raise WorkerRefusedError(str(restores.declare(engine, str(error)))) from error
            else:
                outcome = Outcome([opened.unreadable.get(turn.mailbox_id, "it is gone")])
            report.unreadable += [f"{turn.address}: {problem}" for problem in outcome.problems]
            failed += bool(outcome.problems) and not outcome.was_read
            with engine.begin() as connection:
                mailbox_readings.record(connection, turn, outcome, clock.now())
    if not_reached:
        report.found["not_reached"] = len(not_reached)
        report.unreadable.append(f"{len(not_reached)} were not reached in time and come first next: {not_reached[0]}")
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    report.mailboxes = len(turns)
    if turns and failed == len(turns) - len(not_reached):
        raise InboxUnreadableError(
            f"shard {shard}: none of {failed} mailboxes could be read; the first: {report.unreadable[0]}"
        )
    return report


class _Reading:
    """One run's pass over mailboxes."""

    def __init__(
        self,
        engine: Engine,
        force: PolicyInForce,
        mode: Mode,
        clock: Clock,
        settings: Settings,
        report: ReadingReport,
        parser: BoundedParser,
    ) -> None:
        self._engine = engine
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._found = report.found
        self._parser = parser
        self._finder = Finder(settings, clock, force.policy.bots.cooldown_s, report.found)
        self._answerer = Answerer(settings, clock, force, ScriptLibrary(), report.found)

    def read(self, turn: Turn, mailbox: Mailbox, left_s: float) -> Outcome:
        """Read Junk, then INBOX, and say what could not be read."""
        outcome = Outcome([])
        own_s = _MAILBOX_AFTER_FAILURE_S if turn.failures else _MAILBOX_S
        limits = SessionLimits(seconds=max(min(own_s, left_s), _MAILBOX_AFTER_FAILURE_S))
        try:
            with ImapReader(
                mailbox.access, self._mode, self._settings.ca_files, _READ_S, limits, self._parser
            ) as reader:
                self._read_folders(reader, mailbox, outcome)
        except (ParserUnavailableError, restores.DatabaseBehindError):
            raise
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            self._fault(turn, outcome, f"{type(error).__name__}: {error.orig}")
        except EmberflowError as error:
            self._fault(turn, outcome, str(error))
        except Exception as error:  # one mailbox, whatever is wrong with it, is not all of them
            log.exception("mailbox %s could not be read", turn.address)
            self._fault(turn, outcome, f"{type(error).__name__}: {error}")
        return outcome

    def _fault(self, turn: Turn, outcome: Outcome, problem: str) -> None:
        log.warning("mailbox %s: %s", turn.address, problem)
        outcome.problems.append(problem)

    def _read_folders(self, reader: ImapReader, mailbox: Mailbox, outcome: Outcome) -> None:
        try:
            outcome.junk_folder = reader.find_folder("\\Junk")
            outcome.saw_folders = True
        except ImapError as error:
            if error.is_lost:
                raise
            outcome.problems.append(f"folders: {error}")
        folders: list[tuple[str, Placement]] = [("INBOX", "inbox")]
        if outcome.junk_folder is not None:
            folders.insert(0, (outcome.junk_folder, "junk"))
        for folder, placement in folders:
            folder_reading = _FolderReading(reader, mailbox, folder, placement, outcome)
            try:
                self._read_folder(folder_reading)
                outcome.was_read = True
            except ImapError as error:
                if error.is_lost:
                    raise
                log.warning("%s of %s: %s", folder, mailbox.access.address, error)
                outcome.problems.append(f"{folder}: {error}")

    def _read_folder(self, at: _FolderReading) -> None:
        with self._engine.begin() as connection:
            before = _cursor(connection, at.mailbox_id, at.folder)
            given_up = message_faults.given_up(connection, at.mailbox_id, at.folder)
        for _ in range(_PORTIONS):
            portion = at.reader.next_portion(at.folder, before, having=TOKEN_HEADER, without=given_up)
            is_complete = self._take_in(at, portion.cursor.uidvalidity, portion.messages, portion.unread)
            if not is_complete:
                break
            if portion.cursor != before:
                with self._engine.begin() as connection:
                    _move_cursor(connection, at.mailbox_id, at.folder, portion.cursor)
            if portion.is_last:
                break
            before = portion.cursor
        self._try_again(at)

    def _take_in(
        self, at: _FolderReading, uidvalidity: int, messages: Sequence[ReceivedMessage], unread: Sequence[Unread]
    ) -> bool:
        """Record what was read, answer, rescue; return False if some of it must be looked at again."""
        place = Place(at.mailbox_id, at.folder, uidvalidity)
        arrivals: list[Arrival] = []
        faults = list(unread)
        is_complete = True
        with self._engine.begin() as connection:
            for message in messages:
                try:
                    with connection.begin_nested():
                        arrival = self._finder.take_in(
                            connection, at.mailbox, message, at.placement, uidvalidity, at.outcome.junk_told
                        )
                except StillBeingSentError:
                    is_complete = False
                except EmberflowError:  # not of this message: a key is missing
                    raise
                except Exception as error:  # one message, whatever is wrong with it, is not all of them
                    if isinstance(error, DBAPIError) and error.connection_invalidated:
                        raise
                    log.exception("%s of %s, UID %s", at.folder, at.mailbox.access.address, message.uid)
                    reason = f"{type(error).__name__}: {error}"
                    faults.append(Unread(message.uid, message.size, reason, is_final=False))
                else:
                    arrivals += [arrival] if arrival is not None else []
            message_faults.note(connection, place, "read", faults, self._clock.now())
            if at.placement == "inbox":
                self._answerer.answer(connection, at.mailbox, arrivals)
        for fault in faults:
            self._found["quarantined" if fault.is_final else "refused"] += 1
            log.warning("%s of %s, UID %s: %s", at.folder, at.mailbox.access.address, fault.uid, fault.reason)
        uids = [arrival.message.uid for arrival in arrivals]
        if at.placement == "junk":
            self._rescue(at, place, uids)
        elif uids:
            self._mark_seen(at, uids)
        return is_complete

    def _mark_seen(self, at: _FolderReading, uids: Collection[int]) -> None:
        try:
            at.reader.mark_seen(uids)
        except ImapError as error:
            if error.is_lost:
                raise
            at.outcome.problems.append(f"{at.folder}, marking as read: {error}")

    def _rescue(self, at: _FolderReading, place: Place, uids: Collection[int]) -> None:
        """Move messages to INBOX. Their placement is recorded already; what cannot be moved is tried again later."""
        if not uids:
            return
        try:
            at.reader.move(uids, "INBOX")
        except ImapError as error:
            faults = [Unread(uid, None, str(error), is_final=False) for uid in uids]
            with self._engine.begin() as connection:
                message_faults.note(connection, place, "rescue", faults, self._clock.now())
            self._found["rescue_failed"] += len(faults)
            log.warning(
                "%s of %s: %s could not be rescued: %s", at.folder, at.mailbox.access.address, len(faults), error
            )
            if error.is_lost:
                raise
        else:
            with self._engine.begin() as connection:
                message_faults.settle(connection, place, "rescue", uids)

    def _try_again(self, at: _FolderReading) -> None:
        """Try what was set aside and is due now: singly, because one refusal would be that of all of them."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            unread = message_faults.due(connection, at.mailbox_id, at.folder, "read", now)
            in_junk = message_faults.due(connection, at.mailbox_id, at.folder, "rescue", now)
        for uidvalidity, uids in unread.items():
            place = Place(at.mailbox_id, at.folder, uidvalidity)
            messages, still = at.reader.read_again(at.folder, uidvalidity, uids, having=TOKEN_HEADER)
            if self._take_in(at, uidvalidity, messages, still):
                done = set(uids) - {one.uid for one in still}
                with self._engine.begin() as connection:
                    message_faults.settle(connection, place, "read", done)
        for uidvalidity, uids in in_junk.items():
            place = Place(at.mailbox_id, at.folder, uidvalidity)
            if at.reader.select(at.folder)[0] == uidvalidity:
                for uid in uids:
                    self._rescue(at, place, [uid])
            else:
                with self._engine.begin() as connection:
                    message_faults.settle(connection, place, "rescue", uids)


@dataclass(frozen=True)
class _FolderReading:
    """One folder of one mailbox in one run."""

    reader: ImapReader
    mailbox: Mailbox
    folder: str
    placement: Placement
    outcome: Outcome

    @property
    def mailbox_id(self) -> int:
        return self.mailbox.access.mailbox_id


def _cursor(connection: Connection, mailbox_id: int, folder: str) -> Cursor | None:
    row = connection.execute(
        imap_cursors.select().where(imap_cursors.c.mailbox_id == mailbox_id, imap_cursors.c.folder == folder)
    ).one_or_none()
    return None if row is None else Cursor(row.uidvalidity, row.next_uid)


def _move_cursor(connection: Connection, mailbox_id: int, folder: str, cursor: Cursor) -> None:
    row = {
        "uidvalidity": cursor.uidvalidity,
        "next_uid": cursor.next_uid,
        "synced_at": text("clock_timestamp()"),
    }
    statement = insert(imap_cursors).values(mailbox_id=mailbox_id, folder=folder, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["mailbox_id", "folder"], set_=row))
