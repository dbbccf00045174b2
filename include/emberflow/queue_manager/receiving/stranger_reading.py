"""What lies in INBOX and Junk without a token of ours, read after everything that has one, and within bounds.

A run reads so many per folder (``inbox.strangers_per_run``), for half a minute and 32 MiB per mailbox; the next run
goes on where it stopped. They have a cursor of their own, which follows the one of warm-up mail. Of a folder that is
read for the first time those count that came since the mailbox was added, of a folder that was numbered anew the newest
500. A message that cannot be read within the limits of the parser is set aside once (`message_faults`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.database.engine import again_after_deadlock, is_deadlock
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import Cursor, Envelope, ImapError, ImapReader, Unread
from emberflow.email_ops.inbound import InboundMessage
from emberflow.errors import EmberflowError
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.inbound_messages import Recorder
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.queue_manager.receiving.quarantine import Quarantine, unread_of
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_MAILBOX_S = 30.0
_GOODBYE_S = 10.0  # of a session's time are left over
_MAILBOX_BYTES = 32 * 1024 * 1024
_PORTIONS = 4  # of 500 messages, of which warm-up mail is passed over
_AT_ONCE = 20  # are committed together with the cursor behind them

_ADDED_ON = text("select cast(created_at as date) from ops.mailboxes where id = :mailbox_id")
_MOVE_CURSOR = text("""
    update ops.imap_cursors
    set strangers_uidvalidity = :uidvalidity, strangers_next_uid = :next_uid
    where mailbox_id = :mailbox_id and folder = :folder
""")


@dataclass(frozen=True)
class Unfinished:
    """A folder in which there may be something without a token.

    It was read up to ``after``, and for warm-up mail up to ``reached``. ``again`` are messages as (UIDVALIDITY, UID)
    that could not be read before and are due now.
    """

    folder: str
    after: Cursor | None
    reached: Cursor | None
    again: Sequence[tuple[int, int]] = ()


class StrangerReading:
    """Reads them in one thread. ``most`` is how many of a folder; ``found`` counts what came of it, by kind."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        settings: Settings,
        most: int,
        quarantine: Quarantine,
        found: Counter[str],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._most = most
        self._quarantine = quarantine
        self._recorder = Recorder(settings, clock, found)

    def read(
        self,
        reader: ImapReader,
        mailbox: Mailbox,
        folders: Sequence[Unfinished],
        session_ends_at: float,
        problems: list[str],
    ) -> None:
        """Read every folder as far as the bounds let it; a folder that fails is told in ``problems``.

        Raises:
            ImapError: the connection is lost.
            ParserUnavailableError, DBAPIError: what ends the run.
        """
        ends_at = min(time.monotonic() + _MAILBOX_S, session_ends_at - _GOODBYE_S)
        left = _Left(ends_at, _MAILBOX_BYTES)
        for unfinished in folders:
            at = _Folder(reader, mailbox, unfinished.folder, replace(left, messages=self._most))
            try:
                self._read_again(at, unfinished.again)
                self._read_folder(at, unfinished)
            except ImapError as error:
                self._set_aside(Place(at.mailbox_id, at.folder, reader.uidvalidity), unread_of(error))
                if error.is_lost:
                    raise
                log.warning("strangers in %s of %s: %s", at.folder, mailbox.access.address, error)
                problems.append(f"{at.folder}, messages without a token: {error}")
            left = at.left

    def _read_folder(self, at: _Folder, unfinished: Unfinished) -> None:
        after, reached = unfinished.after, unfinished.reached
        with self._engine.begin() as connection:
            known = message_faults.set_aside(connection, at.mailbox_id, at.folder, "read", after)
            since = None if after is not None else _since(connection, at.mailbox_id)
        for _ in range(_PORTIONS):
            if at.left.is_over:
                return
            some = at.reader.strangers(at.folder, after, lacking=TOKEN_HEADER, without=known, since=since)
            uidvalidity = some.cursor.uidvalidity
            self._set_aside(Place(at.mailbox_id, at.folder, uidvalidity), some.unread)
            if not self._read_all(at, uidvalidity, some.envelopes):
                return
            after = some.cursor
            if some.is_last and reached is not None and reached.uidvalidity == uidvalidity:
                after = Cursor(uidvalidity, max(after.next_uid, reached.next_uid))
            with self._engine.begin() as connection:
                _move_cursor(connection, Place(at.mailbox_id, at.folder, uidvalidity), after.next_uid)
            if some.is_last:
                return

    def _read_again(self, at: _Folder, again: Sequence[tuple[int, int]]) -> None:
        by_uidvalidity: dict[int, list[int]] = {}
        for uidvalidity, uid in again:
            by_uidvalidity.setdefault(uidvalidity, []).append(uid)
        for uidvalidity, uids in by_uidvalidity.items():
            place = Place(at.mailbox_id, at.folder, uidvalidity)
            there = at.reader.strangers_again(at.folder, uidvalidity, uids, lacking=TOKEN_HEADER)
            done = set(uids)
            for one in there:
                if at.left.is_over:
                    done.discard(one.uid)
                    continue
                done -= {fault.uid for fault in self._read(at, place, [one], None)}
            with self._engine.begin() as connection:
                message_faults.settle(connection, place, "read", done)

    def _read_all(self, at: _Folder, uidvalidity: int, envelopes: Sequence[Envelope]) -> bool:
        """Read messages in their order; return False if some are left for the next run."""
        place = Place(at.mailbox_id, at.folder, uidvalidity)
        todo = list(envelopes)
        while todo:
            if at.left.is_over:
                return False
            now = todo[: min(_AT_ONCE, at.left.messages)]
            todo = todo[len(now) :]
            self._read(at, place, now, now[-1].uid + 1)
        return True

    def _read(self, at: _Folder, place: Place, envelopes: Sequence[Envelope], next_uid: int | None) -> list[Unread]:
        """Read and record some messages, and move the cursor behind them; return those that could not be."""
        messages, unread = at.reader.read_strangers(at.folder, envelopes, mailbox=at.mailbox.access.address)
        at.left = at.left.after(envelopes)
        # Two mailboxes may have bounces of the same addresses, which both suppress.
        faults = again_after_deadlock(lambda: self._record(at, place, messages, unread, next_uid))
        self._count(faults)
        return faults

    def _record(
        self,
        at: _Folder,
        place: Place,
        messages: Sequence[InboundMessage],
        unread: Sequence[Unread],
        next_uid: int | None,
    ) -> list[Unread]:
        found: Counter[str] = Counter()
        recorder = replace(self._recorder, found=found)
        faults = list(unread)
        with self._engine.begin() as connection:
            for message in messages:
                fault = _recorded(recorder, connection, at, place, message)
                faults += [fault] if fault is not None else []
            self._quarantine.note(connection, place, faults, self._clock.now())
            if next_uid is not None:
                _move_cursor(connection, place, next_uid)
        self._recorder.found.update(found)
        return faults

    def _set_aside(self, place: Place, faults: Sequence[Unread]) -> None:
        if faults:
            with self._engine.begin() as connection:
                self._quarantine.note(connection, place, faults, self._clock.now())
            self._count(faults)

    def _count(self, faults: Sequence[Unread]) -> None:
        for fault in faults:
            self._recorder.found["quarantined" if fault.is_final else "refused"] += 1


@dataclass(frozen=True)
class _Left:
    """What may still be read: until when, how many bytes, and how many messages of a folder."""

    ends_at: float
    octets: int
    messages: int = 0

    @property
    def is_over(self) -> bool:
        return self.messages <= 0 or self.octets <= 0 or time.monotonic() >= self.ends_at

    def after(self, envelopes: Sequence[Envelope]) -> _Left:
        read = sum(one.octets_read for one in envelopes)
        return replace(self, octets=self.octets - read, messages=self.messages - len(envelopes))


@dataclass
class _Folder:
    """One folder of one mailbox in one run; ``left`` shrinks as it is read."""

    reader: ImapReader
    mailbox: Mailbox
    folder: str
    left: _Left

    @property
    def mailbox_id(self) -> int:
        return self.mailbox.access.mailbox_id


def _recorded(
    recorder: Recorder, connection: Connection, at: _Folder, place: Place, message: InboundMessage
) -> Unread | None:
    """Record one message, or return why it could not be: whatever is wrong with it, it is not all of them."""
    try:
        with connection.begin_nested():
            recorder.take_in(connection, at.mailbox.access, place, message)
    except EmberflowError:  # not of this message: a key is missing
        raise
    except Exception as error:
        if isinstance(error, DBAPIError) and (error.connection_invalidated or is_deadlock(error)):
            raise
        log.exception("%s of %s, UID %s", at.folder, at.mailbox.access.address, message.header.uid)
        return Unread(message.header.uid, message.header.size, f"{type(error).__name__}: {error}", is_final=False)
    return None


def _since(connection: Connection, mailbox_id: int) -> date:
    """Return the day before the mailbox was added: the server's calendar may be another one."""
    added_on: date = connection.execute(_ADDED_ON, {"mailbox_id": mailbox_id}).scalar_one()
    return added_on - timedelta(days=1)


def _move_cursor(connection: Connection, place: Place, next_uid: int) -> None:
    connection.execute(_MOVE_CURSOR, vars(place) | {"next_uid": next_uid})
