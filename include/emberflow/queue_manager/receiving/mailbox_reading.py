"""One mailbox, read once: Junk, then INBOX; what arrived is recorded, answered, acted upon. Then Sent, then strangers.

Junk is read first: a junked warm-up mail is recorded as such and moved to the inbox, and only when it is seen
there (B-B5) does its reader decide to reply and what else to do with it (`mailbox_actions`). Every step can be
repeated: events have natural keys, a decision is drawn from the slot's own stream, a reply has an idempotency key of
its parent, and the cursor of a folder moves only after everything that was read is committed. A crash therefore costs
a second reading, not a second reply.

Then what a person sent from a sender's mailbox is counted (`sent_reading`), and what has no token of ours is read
(`stranger_reading`), so late that it keeps no warm-up mail waiting. Last, what was handled is filed (`filing`).

A fault stays where it happens. A message that cannot be read, moved or marked is set aside (`message_faults`), a folder
that cannot be opened leaves the other one to be read, and a mailbox that fails is left with its reason
(`mailbox_readings`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.database.engine import again_after_deadlock, is_deadlock
from emberflow.database.tables import imap_cursors
from emberflow.email_ops.bounded_parser import Parser, ParserUnavailableError
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader, Unread
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.session_budget import SessionLimits
from emberflow.errors import EmberflowError
from emberflow.policy.script_sets import ScriptLibrary
from emberflow.policy.versions import PolicyInForce
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.arrivals import Arrival, Finder, Placement, StillBeingSentError
from emberflow.queue_manager.receiving.filing import Filing, is_due
from emberflow.queue_manager.receiving.imap_connections import ImapConnections, LoginsUsedUpError, NoPlaceError
from emberflow.queue_manager.receiving.mailbox_actions import (
    ARCHIVES,
    Abilities,
    Deeds,
    Recipient,
    archive_of,
    carry_out,
)
from emberflow.queue_manager.receiving.mailbox_readings import Outcome
from emberflow.queue_manager.receiving.message_faults import Act, Place, Step
from emberflow.queue_manager.receiving.quarantine import Quarantine, unread_of
from emberflow.queue_manager.receiving.replies import Answerer
from emberflow.queue_manager.receiving.sent_reading import SentReading
from emberflow.queue_manager.receiving.stranger_reading import StrangerReading, Unfinished
from emberflow.queue_manager.receiving.turns import Turn
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_MAILBOX_S = 150.0
_MAILBOX_AFTER_FAILURE_S = 45.0  # who failed the last time holds up the others for less
_PORTIONS = 4  # of 500 messages, per folder and run


class MailboxReading:
    """Reads mailboxes one after the other, in one thread. ``found`` counts what came of it, by kind."""

    def __init__(
        self,
        engine: Engine,
        force: PolicyInForce,
        clock: Clock,
        settings: Settings,
        connections: ImapConnections,
        parser: Parser,
    ) -> None:
        self.found: Counter[str] = Counter()
        self._engine = engine
        self._clock = clock
        self._connections = connections
        self._parser = parser
        self._finder = Finder(settings, clock, force.policy.rests, self.found)
        self._recipient = Recipient(Answerer(settings, clock, force, ScriptLibrary(), self.found))
        inbox = force.policy.inbox
        self._quarantine = Quarantine(settings, inbox.quarantine_days)
        self._strangers = StrangerReading(
            engine, clock, settings, inbox.strangers_per_run, self._quarantine, self.found
        )
        self._sent = SentReading(engine, clock, settings, self.found)
        self._filing = Filing(engine, clock, settings, inbox, self.found)

    def read(self, turn: Turn, mailbox: Mailbox, left_s: float) -> Outcome:
        """Read Junk, then INBOX, and say what could not be read.

        Raises:
            NoPlaceError: nothing was begun, and the mailbox's turn comes again.
            ParserUnavailableError, DatabaseBehindError, DBAPIError: what ends the run.
        """
        outcome = Outcome([])
        own_s = _MAILBOX_AFTER_FAILURE_S if turn.failures else _MAILBOX_S
        limits = SessionLimits(seconds=max(min(own_s, left_s), _MAILBOX_AFTER_FAILURE_S))
        ends_at = time.monotonic() + limits.seconds
        try:
            with self._connections.open(mailbox, limits, self._parser) as reader:
                outcome.was_logged_in = True
                outcome.began_at = self._clock.now()
                unfinished = self._read_folders(reader, mailbox, outcome)
                if turn.is_sender:
                    self._sent.read(reader, mailbox, outcome.problems)
                self._strangers.read(reader, mailbox, unfinished, ends_at, outcome.problems)
                self._file(reader, turn, mailbox, outcome, ends_at)
        except (ParserUnavailableError, restores.DatabaseBehindError, NoPlaceError):
            raise
        except LoginsUsedUpError as error:
            outcome.waits_because = str(error)
        except ImapError as error:
            if error.stage == "imap_auth" and not error.transient:
                outcome.login_refused = error.server_text
            elif error.stage == "imap_connect" and error.is_lost and not outcome.was_logged_in:
                outcome.no_answer = error.server_text
            self._fault(turn, outcome, str(error))
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

    def _file(self, reader: ImapReader, turn: Turn, mailbox: Mailbox, outcome: Outcome, ends_at: float) -> None:
        outcome.filed = self._filing.file(
            reader,
            mailbox,
            outcome.arrived,
            ends_at,
            is_sender=turn.is_sender,
            is_day_due=is_due(turn.mailbox_id, turn.looked_through_at, self._clock.now()),
            junk_folder=outcome.junk_folder,
        )

    def _fault(self, turn: Turn, outcome: Outcome, problem: str) -> None:
        log.warning("mailbox %s: %s", turn.address, problem)
        outcome.problems.append(problem)

    def _read_folders(self, reader: ImapReader, mailbox: Mailbox, outcome: Outcome) -> list[Unfinished]:
        """Read what has a token; return the folders in which there may be something without one."""
        unfinished: list[Unfinished] = []
        archive: str | None = None
        try:
            special = reader.find_folders("\\Junk", *ARCHIVES)
            archive = archive_of(reader, special)
            outcome.junk_folder = special["\\Junk"]
            outcome.saw_folders = True
        except ImapError as error:
            if error.is_lost:
                raise
            outcome.problems.append(f"folders: {error}")
        folders: list[tuple[str, Placement]] = [("INBOX", "inbox")]
        if outcome.junk_folder is not None:
            folders.insert(0, (outcome.junk_folder, "junk"))
        for folder, placement in folders:
            folder_reading = _FolderReading(reader, mailbox, folder, placement, archive, outcome)
            try:
                unfinished += self._read_folder(folder_reading)
                outcome.was_read = True
            except ImapError as error:
                self._set_aside(folder_reading, error)
                if error.is_lost:
                    raise
                log.warning("%s of %s: %s", folder, mailbox.access.address, error)
                outcome.problems.append(f"{folder}: {error}")
        return unfinished

    def _read_folder(self, at: _FolderReading) -> list[Unfinished]:
        with self._engine.begin() as connection:
            before, strangers_before = _cursors(connection, at.mailbox_id, at.folder)
            at.set_aside = message_faults.all_set_aside(connection, at.mailbox_id, at.folder, before)
        # Most folders get warm-up mail only: then nothing is asked twice.
        nothing_else = strangers_before == before
        known = at.set_aside.get("read", ())
        for _ in range(_PORTIONS):
            portion = at.reader.next_portion(at.folder, before, having=TOKEN_HEADER, without=known)
            is_complete, _ = self._take_in(at, portion.cursor.uidvalidity, portion.messages, portion.unread)
            nothing_else = nothing_else and not portion.others
            if not is_complete:
                break
            if portion.cursor != before:
                with self._engine.begin() as connection:
                    _move_cursor(connection, at.mailbox_id, at.folder, portion.cursor, of_strangers=nothing_else)
            before = portion.cursor
            if portion.is_last:
                break
        again = self._try_again(at)
        if nothing_else and not again:
            return []
        return [Unfinished(at.folder, strangers_before, before, again)]

    def _take_in(
        self, at: _FolderReading, uidvalidity: int, messages: Sequence[ReceivedMessage], unread: Sequence[Unread]
    ) -> tuple[bool, set[int]]:
        """Record what was read, answer, act.

        Return False if some of it must be looked at again, and the UIDs of what was set aside.
        """
        place = Place(at.mailbox_id, at.folder, uidvalidity)
        # Two mailboxes may hold mail of the same slots.
        deeds, faults, is_complete = again_after_deadlock(lambda: self._record(at, place, messages, unread))
        self._tell(at, faults)
        unmarked: set[int] = set()
        for act, uids in deeds.items():
            # What could not be done waits for its own turn: it may be what ended the run before this one.
            waiting = {uid for uid in uids if (uidvalidity, uid) in at.set_aside.get(act, ())}
            todo = set(uids) - waiting
            if act == "archive":
                self._let_wait(at, place, act, sorted(todo & unmarked), "it waits for its marks")
                todo -= unmarked
            is_done = self._carry_out(at, place, act, sorted(todo))
            unmarked |= waiting if is_done else waiting | todo
        return is_complete, {fault.uid for fault in faults}

    def _record(
        self, at: _FolderReading, place: Place, messages: Sequence[ReceivedMessage], unread: Sequence[Unread]
    ) -> tuple[Deeds, list[Unread], bool]:
        """Record, decide, and set aside in one transaction; the last value: nothing must be looked at again."""
        found: Counter[str] = Counter()
        finder = replace(self._finder, found=found)
        recipient = Recipient(replace(self._recipient.answerer, found=found))
        arrivals: list[Arrival] = []
        faults = list(unread)
        is_complete = True
        with self._engine.begin() as connection:
            for message in messages:
                try:
                    with connection.begin_nested():
                        arrival = finder.take_in(
                            connection, at.mailbox, message, at.placement, place.uidvalidity, at.outcome.junk_told
                        )
                except StillBeingSentError:
                    is_complete = False
                except EmberflowError:  # not of this message: a key is missing
                    raise
                except Exception as error:  # one message, whatever is wrong with it, is not all of them
                    faults.append(_fault_of(at, message, error))
                else:
                    arrivals += [arrival] if arrival is not None else []
            deeds, undecided = self._decide(connection, recipient, at, arrivals)
            faults += undecided
            self._quarantine.note(connection, place, faults, self._clock.now())
        self.found.update(found)
        if at.placement == "inbox":
            left = {fault.uid for fault in undecided}
            self._filing.take_note(at.outcome.arrived, place, [one for one in arrivals if one.message.uid not in left])
        return deeds, faults, is_complete

    def _decide(
        self, connection: Connection, recipient: Recipient, at: _FolderReading, arrivals: Sequence[Arrival]
    ) -> tuple[Deeds, list[Unread]]:
        """Decide about all at once; if that fails, about one after the other, and set aside what it fails with."""
        abilities = Abilities(at.archive, at.reader.can_mark_important)
        found = recipient.answerer.found
        counted = Counter(found)
        try:
            with connection.begin_nested():
                return recipient.decide(connection, at.mailbox, arrivals, at.placement, abilities), []
        except EmberflowError:
            raise
        except Exception as error:
            found.clear()
            found.update(counted)
            if len(arrivals) == 1:
                return {}, [_fault_of(at, arrivals[0].message, error)]
            if _ends_the_reading(error):
                raise
        deeds: dict[Act, list[int]] = {}
        undecided: list[Unread] = []
        for arrival in arrivals:
            some, fault = self._decide(connection, recipient, at, [arrival])
            undecided += fault
            for act, uids in some.items():
                deeds.setdefault(act, []).extend(uids)
        return deeds, undecided

    def _set_aside(self, at: _FolderReading, error: ImapError) -> None:
        """Note the messages at which the connection broke, so that the next run is not ended by the same ones."""
        faults = unread_of(error)
        if faults:
            place = Place(at.mailbox_id, at.folder, at.reader.uidvalidity)
            with self._engine.begin() as connection:
                self._quarantine.note(connection, place, faults, self._clock.now())
            self._tell(at, faults)

    def _tell(self, at: _FolderReading, faults: Sequence[Unread]) -> None:
        for fault in faults:
            self.found["quarantined" if fault.is_final else "refused"] += 1
            log.warning("%s of %s, UID %s: %s", at.folder, at.mailbox.access.address, fault.uid, fault.reason)

    def _carry_out(
        self, at: _FolderReading, place: Place, act: Act, uids: Collection[int], *, is_due: bool = False
    ) -> bool:
        """Act on messages, which is recorded already; what cannot be done is tried again later, and False returned."""
        if not uids:
            return True
        try:
            carry_out(at.reader, act, uids, at.archive)
        except ImapError as error:
            self._let_wait(at, place, act, uids, str(error))
            self.found[f"{act}_failed"] += len(uids)
            if error.is_lost:
                raise
            return False
        if is_due:
            with self._engine.begin() as connection:
                message_faults.settle(connection, place, act, uids)
        return True

    def _let_wait(self, at: _FolderReading, place: Place, act: Act, uids: Collection[int], reason: str) -> None:
        if not uids:
            return
        faults = [Unread(uid, None, reason, is_final=False) for uid in uids]
        with self._engine.begin() as connection:
            message_faults.note(connection, place, act, faults, self._clock.now())
        log.warning("%s of %s, %s of %s messages: %s", at.folder, at.mailbox.access.address, act, len(faults), reason)

    def _try_again(self, at: _FolderReading) -> list[tuple[int, int]]:
        """Try what was set aside and is due now: singly, because one refusal would be that of all of them.

        Return (UIDVALIDITY, UID) of what turns out to have no token.
        """
        without_token: list[tuple[int, int]] = []
        now = self._clock.now()
        with self._engine.begin() as connection:
            unread = message_faults.due(connection, at.mailbox_id, at.folder, "read", now)
            undone = message_faults.acts_due(connection, at.mailbox_id, at.folder, now)
        for uidvalidity, uids in unread.items():
            place = Place(at.mailbox_id, at.folder, uidvalidity)
            messages, still = at.reader.read_again(at.folder, uidvalidity, uids, having=TOKEN_HEADER)
            is_complete, faulted = self._take_in(at, uidvalidity, messages, still)
            if is_complete:
                known = {message.uid for message in messages} | {one.uid for one in still}
                without_token += [(uidvalidity, uid) for uid in uids if uid not in known]
                with self._engine.begin() as connection:
                    message_faults.settle(connection, place, "read", {message.uid for message in messages} - faulted)
        for (act, uidvalidity), uids in undone.items():
            place = Place(at.mailbox_id, at.folder, uidvalidity)
            if at.reader.select(at.folder)[0] == uidvalidity:
                for uid in uids:
                    self._carry_out(at, place, act, [uid], is_due=True)
            else:
                with self._engine.begin() as connection:
                    message_faults.settle(connection, place, act, uids)
        return without_token


@dataclass
class _FolderReading:
    """One folder of one mailbox in one run; ``set_aside`` is what is not tried in passing."""

    reader: ImapReader
    mailbox: Mailbox
    folder: str
    placement: Placement
    archive: str | None
    outcome: Outcome
    set_aside: Mapping[Step, Collection[tuple[int, int]]] = field(default_factory=dict)

    @property
    def mailbox_id(self) -> int:
        return self.mailbox.access.mailbox_id


def _fault_of(at: _FolderReading, message: ReceivedMessage, error: Exception) -> Unread:
    """Return a message as set aside, unless the error ends the reading."""
    if _ends_the_reading(error):
        raise error
    log.error("%s of %s, UID %s", at.folder, at.mailbox.access.address, message.uid, exc_info=error)
    return Unread(message.uid, message.size, f"{type(error).__name__}: {error}", is_final=False)


def _ends_the_reading(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and (error.connection_invalidated or is_deadlock(error))


def _cursors(connection: Connection, mailbox_id: int, folder: str) -> tuple[Cursor | None, Cursor | None]:
    """Return how far a folder was read, and how far what has no token was."""
    row = connection.execute(
        imap_cursors.select().where(imap_cursors.c.mailbox_id == mailbox_id, imap_cursors.c.folder == folder)
    ).one_or_none()
    if row is None:
        return None, None
    of_strangers = (
        None if row.strangers_uidvalidity is None else Cursor(row.strangers_uidvalidity, row.strangers_next_uid)
    )
    return Cursor(row.uidvalidity, row.next_uid), of_strangers


def _move_cursor(connection: Connection, mailbox_id: int, folder: str, cursor: Cursor, *, of_strangers: bool) -> None:
    row = {
        "uidvalidity": cursor.uidvalidity,
        "next_uid": cursor.next_uid,
        "synced_at": text("clock_timestamp()"),
    }
    if of_strangers:
        row |= {"strangers_uidvalidity": cursor.uidvalidity, "strangers_next_uid": cursor.next_uid}
    statement = insert(imap_cursors).values(mailbox_id=mailbox_id, folder=folder, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["mailbox_id", "folder"], set_=row))
