"""Reading a mailbox over IMAP (RFC 9051): incrementally, within bounds, changing nothing by accident.

imap-tools does the login. Its ``fetch``, ``flag``, ``move`` and ``delete`` are not used: the first marks as read and
mixes up messages while flags change, the others EXPUNGE the whole folder and with it what others had marked. Where
reading stopped is in the caller's :class:`Cursor`, not here.

A server is not trusted: a session has a deadline and a number of bytes, a message is parsed in a process of its own,
and whatever is raised on the way is an :class:`ImapError` of this mailbox.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from emberflow.email_ops.bounded_parser import BoundedParser, Parser, UnreadableMessageError
from emberflow.email_ops.classify import READ_BYTES
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.header_fields import MESSAGE_ID, TOKEN_HEADER
from emberflow.email_ops.imap_changes import ImapChanges, OwnFolder
from emberflow.email_ops.imap_folders import SpecialUse, special_folder
from emberflow.email_ops.imap_session import (
    LAST_UID,
    MESSAGE_BYTES,
    TIMEOUT_SECONDS,
    ImapError,
    item_of,
)
from emberflow.email_ops.inbound import InboundMessage
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message_limits import HEADER_BYTES
from emberflow.email_ops.received import ReceivedMessage, field_of, parse_date
from emberflow.email_ops.session_budget import SessionLimits

__all__ = [
    "Cursor",
    "Envelope",
    "ImapError",
    "ImapReader",
    "OwnFolder",
    "Portion",
    "SpecialUse",
    "Strangers",
    "Unread",
]

HeaderName = Literal["Message-ID", "X-Emberflow-Token"]

REPORT_BYTES = 256 * 1024
MESSAGES_PER_CALL = 500
_FIELD_BYTES = 1024

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# What may stand in an IMAP quoted string as it is (RFC 9051 4.3): nothing else may become part of a command.
_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,500}")


@dataclass(frozen=True)
class Cursor:
    """Up to where a folder was read: every UID below ``next_uid`` under this ``uidvalidity`` is known."""

    uidvalidity: int
    next_uid: int


@dataclass(frozen=True)
class Unread:
    """A message that could not be read, and why. ``size`` in bytes, if told; ``is_final``: no later try can succeed.

    ``raw`` is what was read of it before that.
    """

    uid: int
    size: int | None
    reason: str
    is_final: bool
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Portion:
    """What was read of a folder, by ascending UID, and the cursor to go on from; ``is_last``: nothing is left.

    ``others`` is how many more there were, without the header field that was asked for; ``is_anew``: no cursor told
    what of the folder is new.
    """

    messages: list[ReceivedMessage]
    unread: list[Unread]
    others: int
    cursor: Cursor
    is_last: bool
    is_anew: bool


@dataclass(frozen=True)
class Envelope:
    """What can be told of a message without reading it; ``has_header``: the field that was asked for."""

    uid: int
    size: int
    arrived: datetime | None
    has_header: bool

    @property
    def octets_read(self) -> int:
        """Return how much of it is read to classify it."""
        return min(self.size, READ_BYTES)


@dataclass(frozen=True)
class Strangers:
    """The messages of a folder without a header field of ours, by ascending UID, not read yet.

    ``cursor`` is for when all of them are read, ``is_last`` as in :class:`Portion`.
    """

    envelopes: list[Envelope]
    unread: list[Unread]
    cursor: Cursor
    is_last: bool


# What bounces have in common, as search keys; what else they may be is not looked at.
_BOUNCES = (
    ("HEADER", "Content-Type", '"multipart/report"'),
    ("HEADER", "Return-Path", '"<>"'),
    ("FROM", '"mailer-daemon"'),
    ("FROM", '"postmaster"'),
    ("FROM", '"mail delivery"'),
)


class ImapReader(ImapChanges):
    """What a mailbox holds, over a logged-in connection; use it in a ``with`` statement.

    Without a ``parser`` the reader starts one of its own when it needs it.

    Raises:
        ImapError, EgressRefusedError, ConfigurationError: as in :class:`ImapSession`.
        ParserUnavailableError: from what returns messages.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        ca_files: Mapping[str, Path],
        timeout: float = TIMEOUT_SECONDS,
        limits: SessionLimits | None = None,
        parser: Parser | None = None,
    ) -> None:
        super().__init__(access, mode, ca_files, timeout, limits)
        self._own_parser = BoundedParser()  # starts no process before it is used
        self._parser: Parser = self._own_parser if parser is None else parser

    def __exit__(self, failed: type[BaseException] | None, *arguments: object) -> None:
        super().__exit__(failed, *arguments)
        self._own_parser.close()

    @property
    def uidvalidity(self) -> int:
        """Return the UIDVALIDITY of the selected folder."""
        return self._uidvalidity

    def select(self, folder: str) -> tuple[int, int]:
        """Open ``folder`` for reading and flagging; return its UIDVALIDITY and UIDNEXT (0 if not told)."""
        self._select(folder)
        return self._uidvalidity, self._number("UIDNEXT")

    def find_folder(self, special_use: SpecialUse) -> str | None:
        """Return the folder that the server marks with ``special_use``, else one with a customary name."""
        return self.find_folders(special_use)[special_use]

    def find_folders(self, *special_uses: SpecialUse) -> dict[SpecialUse, str | None]:
        """Do what :meth:`find_folder` does for several at once."""
        folders = self._folders()
        return {use: special_folder(folders, use) for use in special_uses}

    def new_messages(self, folder: str, after: Cursor | None) -> tuple[list[ReceivedMessage], Cursor]:
        """Return what arrived in ``folder`` since ``after``, whole, and the cursor to go on from.

        As :meth:`next_portion`, without what could not be read.
        """
        portion = self.next_portion(folder, after)
        return portion.messages, portion.cursor

    def next_portion(
        self,
        folder: str,
        after: Cursor | None,
        *,
        having: HeaderName | None = None,
        without: Collection[tuple[int, int]] = (),
        since: date | None = None,
        headers_only: bool = False,
    ) -> Portion:
        """Return what arrived in ``folder`` since ``after``.

        At most 500 messages a call: the oldest new ones, so that the next call goes on where this one
        stopped. Without a cursor, or when the server has renumbered the folder (another UIDVALIDITY, RFC 9051
        2.3.1.1), the newest 500 are returned; after a renumbering the caller knows some of them already. A UIDNEXT
        below the cursor is taken for a renumbering: the server was put back to an older state, and gives numbers again.
        With ``having`` only messages that have this header field are returned, read as far as their header: what
        strangers send costs a line each. Otherwise they are read whole, and of those over 1 MiB the header; all as far
        as their header with ``headers_only``. Those ``without`` (UIDVALIDITY, UID) are left out, and with a cursor, or
        with ``headers_only``, those that arrived before ``since`` (the server's calendar). Nothing is marked as read.
        Selects ``folder``.

        A message that the server does not give, or that cannot be parsed, is in ``unread`` and keeps no other back.
        """
        uids, cursor, is_last, is_anew = self._since(folder, after, since, is_always=headers_only)
        messages, unread, others = self._read(folder, uids, having, without, headers_only=headers_only)
        return Portion(messages, unread, others, cursor, is_last, is_anew)

    def strangers(
        self,
        folder: str,
        after: Cursor | None,
        *,
        lacking: HeaderName,
        without: Collection[tuple[int, int]] = (),
        since: date | None = None,
    ) -> Strangers:
        """Return which messages without the header field ``lacking`` arrived in ``folder`` since ``after``.

        As :meth:`next_portion`, but nothing of them is read, and ``since`` holds without a cursor too. Selects
        ``folder``.
        """
        uids, cursor, is_last, _ = self._since(folder, after, since, is_always=True)
        uids = [uid for uid in uids if (self._uidvalidity, uid) not in without]
        envelopes, refused = self._envelopes(folder, uids, lacking)
        return Strangers(
            sorted((one for one in envelopes if not one.has_header), key=lambda one: one.uid),
            [Unread(uid, None, reason, is_final=False) for uid, reason in refused.items()],
            cursor,
            is_last,
        )

    def strangers_again(
        self, folder: str, uidvalidity: int, uids: Sequence[int], *, lacking: HeaderName
    ) -> list[Envelope]:
        """Return which of these messages are there and lack a header field; none under another UIDVALIDITY."""
        self._select(folder)
        if self._uidvalidity != uidvalidity:
            return []
        return [one for one in self._envelopes(folder, uids, lacking)[0] if not one.has_header]

    def read_strangers(
        self, folder: str, envelopes: Sequence[Envelope], *, mailbox: str
    ) -> tuple[list[InboundMessage], list[Unread]]:
        """Read messages of the selected ``folder``, 256 KiB of each at most, and classify them.

        What is gone is left out.
        """
        messages: list[InboundMessage] = []
        given, refused = self._fetch_each(folder, [one.uid for one in envelopes], f"(UID BODY.PEEK[]<0.{READ_BYTES}>)")
        unread = [
            Unread(one.uid, one.size, refused[one.uid], is_final=False) for one in envelopes if one.uid in refused
        ]
        for one in envelopes:
            head, raw = given.get(one.uid, (b"", b""))
            if b"BODY[" not in head.upper():
                continue
            try:
                header = self._parser.message(
                    raw, uid=one.uid, folder=folder, size=one.size, internal_date=one.arrived, with_body=False
                )
                found = self._parser.classify(raw, mailbox=mailbox, received_at=one.arrived)
            except UnreadableMessageError as error:
                unread.append(Unread(one.uid, one.size, str(error), is_final=True, raw=raw))
            else:
                named = raw if header.message_id is None else header.message_id.encode()
                messages.append(InboundMessage(header, found, hashlib.sha256(named).hexdigest()))
        return messages, unread

    def _since(
        self, folder: str, after: Cursor | None, since: date | None, *, is_always: bool = False
    ) -> tuple[list[int], Cursor, bool, bool]:
        exists = self._select(folder)
        uidnext = self._number("UIDNEXT")
        if uidnext > LAST_UID:  # there is no such number: it is not told
            uidnext = 0
        arrived = () if since is None else ("SINCE", _day(since))
        is_renumbered = after is not None and (
            after.uidvalidity != self._uidvalidity or after.next_uid > LAST_UID or 0 < uidnext < after.next_uid
        )
        if after is None or is_renumbered:
            newest = f"{exists - MESSAGES_PER_CALL + 1}:*" if exists > MESSAGES_PER_CALL else "ALL"
            uids = self._search(newest, *(arrived if is_always else ()))[-MESSAGES_PER_CALL:]
            next_uid = max([1, uidnext, *(uid + 1 for uid in uids)])
            return uids, Cursor(self._uidvalidity, min(next_uid, LAST_UID)), True, True
        start = max(after.next_uid, 1)
        if uidnext == start:
            return [], after, True, False
        # "n:*" always matches the last message, also when its UID is below n.
        found = [uid for uid in self._search("UID", f"{start}:*", *arrived) if uid >= start]
        uids = found[:MESSAGES_PER_CALL]
        cursor = Cursor(self._uidvalidity, min(uids[-1] + 1, LAST_UID)) if uids else after
        return uids, cursor, len(found) == len(uids), False

    def read_again(
        self,
        folder: str,
        uidvalidity: int,
        uids: Sequence[int],
        *,
        having: HeaderName | None = None,
        headers_only: bool = False,
    ) -> tuple[list[ReceivedMessage], list[Unread]]:
        """Return these messages as :meth:`next_portion` does; none under another UIDVALIDITY. Selects ``folder``."""
        self._select(folder)
        if self._uidvalidity != uidvalidity:
            return [], []
        messages, unread, _ = self._read(folder, uids, having, headers_only=headers_only)
        return messages, unread

    def folders(self) -> list[str]:
        """Return every folder that can hold messages, INBOX first; one whose name cannot be told is left out."""
        names = {folder.name for folder in self._folders() if folder.is_selectable}
        return sorted(names, key=lambda name: (name.upper() != "INBOX", name))

    def find_by_message_id(self, message_ids: Collection[str], folder: str) -> dict[str, list[int]]:
        """Return the UIDs of the messages of ``folder`` with these Message-IDs; selects ``folder``.

        Raises:
            ValueError: not a Message-ID.
        """
        for message_id in message_ids:
            if not MESSAGE_ID.fullmatch(message_id):
                raise ValueError(f"{message_id!r} is not a Message-ID of the form <...>")
        return self.find_by_header("Message-ID", message_ids, folder)

    def find_by_header(self, header: HeaderName, values: Collection[str], folder: str) -> dict[str, list[int]]:
        """Return, by value, the UIDs of the messages of ``folder`` whose ``header`` contains it; selects ``folder``.

        Raises:
            ValueError: a value cannot stand in a command as it is.
        """
        for value in values:
            if not _QUOTABLE.fullmatch(value):
                raise ValueError(f"{value!r} cannot be searched for")
        self.select(folder)
        found = {value: self._search("HEADER", header, f'"{value}"') for value in values}
        return {value: uids for value, uids in found.items() if uids}

    def with_token(self, folder: str, *, is_unmarked: bool, since: date | None = None) -> tuple[int, list[int]]:
        """Return the UIDVALIDITY of ``folder`` and the UIDs of its messages with a token; selects ``folder``.

        ``is_unmarked``: those that somebody has marked as deleted are left out. ``since``: those that arrived before,
        by the server's calendar, are.
        """
        uidvalidity, _ = self.select(folder)
        which = [*(("UNDELETED",) if is_unmarked else ()), *(() if since is None else ("SINCE", _day(since)))]
        # An empty value finds every message that has the field (RFC 9051 6.4.4); a "." is no word to an index of words.
        return uidvalidity, self._search(*which, "HEADER", TOKEN_HEADER, '""')

    def field_values(self, header: HeaderName, uids: Sequence[int], folder: str) -> dict[int, str]:
        """Return by UID the header field of messages of the selected ``folder``, 1,024 bytes of it at most.

        What is gone, has no such field, or is not given by the server, is left out.
        """
        given, _ = self._fetch_each(folder, uids, f"(UID BODY.PEEK[HEADER.FIELDS ({header})]<0.{_FIELD_BYTES}>)")
        fields = {uid: field_of(literal, header) for uid, (_, literal) in given.items()}
        return {uid: value for uid, value in fields.items() if value is not None}

    def raw_message(self, folder: str, uid: int) -> bytes | None:
        """Return a message, cut at 1 MiB, without marking it as read; None if it is gone. Selects ``folder``."""
        self.select(folder)
        return self._raw(uid, f"BODY.PEEK[]<0.{MESSAGE_BYTES}>")

    def reports(self, folder: str, since: date) -> Iterator[bytes]:
        """Yield the newest 500 messages since ``since`` (the server's calendar) that may be bounces.

        They are a multipart/report (RFC 6522), have no return path, or come from a mail system by their From.
        Each is cut at 256 KiB; one that the server does not give, or that cannot be parsed in bounded time, is left
        out. Nothing is marked as read. Selects ``folder``.
        """
        self.select(folder)
        found = {uid for kind in _BOUNCES for uid in self._search("SINCE", _day(since), *kind)}
        for uid in sorted(found)[-MESSAGES_PER_CALL:]:
            given, _ = self._fetch_each(folder, [uid], f"(UID BODY.PEEK[]<0.{REPORT_BYTES}>)")
            for head, raw in given.values():
                if b"BODY[" in head.upper() and self._parser.can_read_report(raw):
                    yield raw

    def _read(
        self,
        folder: str,
        uids: Sequence[int],
        having: HeaderName | None,
        without: Collection[tuple[int, int]] = (),
        *,
        headers_only: bool = False,
    ) -> tuple[list[ReceivedMessage], list[Unread], int]:
        uids = [uid for uid in uids if (self._uidvalidity, uid) not in without]
        told, refused = self._envelopes(folder, uids, having)
        envelopes = [one for one in told if one.has_header]
        unread = [Unread(uid, None, reason, is_final=False) for uid, reason in refused.items()]
        messages: list[ReceivedMessage] = []
        header = f"(UID BODY.PEEK[HEADER]<0.{HEADER_BYTES}>)"
        whole = f"(UID BODY.PEEK[]<0.{MESSAGE_BYTES}>)"
        is_header = headers_only or having is not None
        is_short = {one.uid: is_header or one.size > MESSAGE_BYTES for one in envelopes}
        for asked in (header, whole):
            wanted = [one for one in envelopes if is_short[one.uid] == (asked == header)]
            # Whole messages one by one: together they may be more than the answer to one command may be.
            for group in [wanted] if asked == header else [[one] for one in wanted]:
                given, refused = self._fetch_each(folder, [one.uid for one in group], asked)
                for one in group:
                    if one.uid in refused:
                        unread.append(Unread(one.uid, one.size, refused[one.uid], is_final=False))
                    elif one.uid in given and b"BODY[" in given[one.uid][0].upper():
                        read = self._parse(folder, one, given[one.uid][1], with_body=asked == whole)
                        (messages if isinstance(read, ReceivedMessage) else unread).append(read)  # type: ignore[arg-type]
        return sorted(messages, key=lambda message: message.uid), unread, len(told) - len(envelopes)

    def _parse(self, folder: str, one: Envelope, raw: bytes, *, with_body: bool) -> ReceivedMessage | Unread:
        oversized = one.size > MESSAGE_BYTES
        try:
            return self._parser.message(
                raw,
                uid=one.uid,
                folder=folder,
                size=one.size,
                internal_date=one.arrived,
                oversized=oversized,
                with_body=with_body,
            )
        except UnreadableMessageError as error:
            return Unread(one.uid, one.size, str(error), is_final=True, raw=raw)

    def _envelopes(
        self, folder: str, uids: Sequence[int], having: HeaderName | None
    ) -> tuple[list[Envelope], dict[int, str]]:
        """Return what can be told of the messages without reading them, and why nothing can be told of others."""
        # Its name tells that it is there; a stranger's field may be longer than any literal that is taken.
        header = f" BODY.PEEK[HEADER.FIELDS ({having})]<0.{_FIELD_BYTES}>" if having else ""
        given, refused = self._fetch_each(folder, uids, f"(UID RFC822.SIZE INTERNALDATE{header})")
        envelopes = []
        for uid, (head, literal) in given.items():
            size = item_of(rb"RFC822\.SIZE (\d{1,10})", head)
            if size is None:
                continue  # an unsolicited FETCH: somebody changed a flag
            arrived = parse_date(item_of(rb'INTERNALDATE "([^"]+)"', head) or "")
            envelopes.append(Envelope(uid, int(size), arrived, having is None or b":" in literal))
        return envelopes, refused

    def _raw(self, uid: int, part: str) -> bytes | None:
        given, refusal = self._fetch([uid], f"(UID {part})")
        if refusal is not None:
            raise ImapError("imap_command", refusal)
        head, literal = given.get(uid, (b"", b""))
        return literal if b"BODY[" in head.upper() else None  # expunged since the search


def _day(day: date) -> str:
    return f"{day.day}-{_MONTHS[day.month - 1]}-{day.year}"
