"""The Sent folder of a sender's mailbox, read for what a person sent from it; no inbound message or event comes of it.

It has a cursor of its own (``imap_cursors``) and is read as far as the headers, after the warm-up mail and before what
strangers wrote: only the mailbox's owner can put anything into it. Of a folder that is read for the first time what was
stored since yesterday counts, of one that was numbered anew the newest 500 are looked at again. Where more than 500
came since the last reading, that was no person: the newest 500 are read and the others passed over, so that a mailbox
that is moved between servers costs no run more than that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Engine, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.database.engine import again_after_deadlock
from emberflow.database.tables import imap_cursors
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader, Unread
from emberflow.email_ops.received import ReceivedMessage
from emberflow.queue_manager import outside_mail
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.queue_manager.receiving.quarantine import unread_of
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_FIRST_LOOK = timedelta(days=1)
_LONGEST_OUTAGE = timedelta(days=14)  # after which nothing is caught up with


class SentReading:
    """Reads it in one thread. ``found`` counts new messages as ``sent_outside``."""

    def __init__(self, engine: Engine, clock: Clock, settings: Settings, found: Counter[str]) -> None:
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._found = found

    def read(self, reader: ImapReader, mailbox: Mailbox, problems: list[str]) -> None:
        """Read what is new; a mailbox without a Sent folder has nothing to read, and a folder that fails is told.

        Raises:
            ImapError: the connection is lost.
            ParserUnavailableError, DBAPIError: what ends the run.
        """
        folder = "Sent"
        try:
            found = reader.find_folder("\\Sent")
            if found is not None:
                folder = found
                self._read_folder(reader, mailbox, folder)
        except ImapError as error:
            self._set_aside(Place(mailbox.access.mailbox_id, folder, reader.uidvalidity), unread_of(error))
            if error.is_lost:
                raise
            log.warning("%s of %s: %s", folder, mailbox.access.address, error)
            problems.append(f"{folder}: {error}")

    def _read_folder(self, reader: ImapReader, mailbox: Mailbox, folder: str) -> None:
        mailbox_id = mailbox.access.mailbox_id
        key = imap_cursors.c.mailbox_id == mailbox_id, imap_cursors.c.folder == folder
        with self._engine.begin() as connection:
            row = connection.execute(imap_cursors.select().where(*key)).one_or_none()
            known = message_faults.set_aside(connection, mailbox_id, folder, "read")
            due = message_faults.due(connection, mailbox_id, folder, "read", self._clock.now())
        after = None if row is None else Cursor(row.uidvalidity, row.next_uid)
        since = (self._clock.now() - (_FIRST_LOOK if after is None else _LONGEST_OUTAGE)).date()
        portion = reader.next_portion(folder, after, without=known, since=since, headers_only=True)
        if not portion.is_last:
            since = (self._clock.now() - _FIRST_LOOK).date()
            portion = reader.next_portion(folder, None, without=known, since=since, headers_only=True)
        moves = portion.cursor != after
        self._take_in(
            mailbox, folder, portion.cursor, portion.messages, portion.unread, moves=moves, is_anew=portion.is_anew
        )
        for uidvalidity, uids in due.items():
            messages, unread = reader.read_again(folder, uidvalidity, uids, headers_only=True)
            self._take_in(mailbox, folder, Cursor(uidvalidity, 1), messages, unread, moves=False)
            done = set(uids) - {one.uid for one in unread}
            with self._engine.begin() as connection:
                message_faults.settle(connection, Place(mailbox_id, folder, uidvalidity), "read", done)

    def _take_in(
        self,
        mailbox: Mailbox,
        folder: str,
        cursor: Cursor,
        messages: Sequence[ReceivedMessage],
        unread: Sequence[Unread],
        *,
        moves: bool,
        is_anew: bool = False,
    ) -> None:
        """Record what was read together with the cursor behind it, if it moves."""
        mailbox_id = mailbox.access.mailbox_id
        if not (messages or unread or moves):
            return

        def record() -> outside_mail.Recorded:
            recorded = outside_mail.Recorded()
            with self._engine.begin() as connection:
                if messages:
                    recorded = outside_mail.record(
                        connection,
                        mailbox,
                        messages,
                        keys=self._settings.require_token_keys(),
                        now=self._clock.now(),
                        may_be_old=is_anew,
                    )
                place = Place(mailbox_id, folder, cursor.uidvalidity)
                message_faults.note(connection, place, "read", unread, self._clock.now())
                if moves:
                    row = {**vars(cursor), "synced_at": text("clock_timestamp()")}
                    statement = insert(imap_cursors).values(mailbox_id=mailbox_id, folder=folder, **row)
                    index = ["mailbox_id", "folder"]
                    connection.execute(statement.on_conflict_do_update(index_elements=index, set_=row))
            return recorded

        # What a person took over is cancelled, and workers hold slots of the same conversations.
        recorded = again_after_deadlock(record)
        self._found.update({"sent_outside": recorded.mails} if recorded.mails else {})
        self._found.update({"left_to_a_person": recorded.cancelled} if recorded.cancelled else {})
        self._tell(unread)

    def _set_aside(self, place: Place, faults: Sequence[Unread]) -> None:
        """Note the messages at which the connection broke, so that the next run is not ended by the same ones."""
        if faults:
            with self._engine.begin() as connection:
                message_faults.note(connection, place, "read", faults, self._clock.now())
            self._tell(faults)

    def _tell(self, faults: Sequence[Unread]) -> None:
        for fault in faults:
            self._found["quarantined" if fault.is_final else "refused"] += 1
