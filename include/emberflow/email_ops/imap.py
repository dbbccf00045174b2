"""Reading a mailbox over IMAP (RFC 9051): incrementally, within bounds, changing nothing by accident.

imap-tools does the login and the folder list. Its ``fetch``, ``flag``, ``move`` and ``delete`` are not used:
the first marks as read and mixes up messages while flags change, the others EXPUNGE the whole folder and with
it what others had marked. Where reading stopped is in the caller's :class:`Cursor`, not here.
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal, NoReturn, Self

from imap_tools.errors import ImapToolsError
from imap_tools.utils import encode_folder
from pydantic import SecretStr

from emberflow.email_ops import login_refusals, oauth
from emberflow.email_ops.egress import Mode, is_lasting_fault
from emberflow.email_ops.imap_client import Box, Client
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message import MESSAGE_ID
from emberflow.email_ops.oauth import AccessTokenError
from emberflow.email_ops.received import HEADER_BYTES, ReceivedMessage, parse, parse_date
from emberflow.email_ops.tls import client_context
from emberflow.errors import EmberflowError

SpecialUse = Literal["\\Junk", "\\Sent"]
HeaderName = Literal["Message-ID", "X-Emberflow-Token"]
ImapStage = Literal["imap_connect", "imap_auth", "imap_select", "imap_command"]

MESSAGE_BYTES = 1024 * 1024
MESSAGES_PER_CALL = 500
TIMEOUT_SECONDS = 60.0

# For servers without SPECIAL-USE (RFC 6154); compared without case, after the namespace prefix.
_FOLDER_NAMES: Mapping[str, tuple[str, ...]] = {
    "\\Junk": ("junk", "spam", "junk e-mail", "junk email", "bulk mail"),
    "\\Sent": ("sent", "sent items", "sent messages", "sent mail"),
}
_UIDS_PER_COMMAND = 100
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FETCH_START = re.compile(rb"\d+ \(")
# What may stand in an IMAP quoted string as it is (RFC 9051 4.3): nothing else may become part of a command.
_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,500}")
_NOT_SELECTABLE = {"\\noselect", "\\nonexistent"}


class ImapError(EmberflowError):
    """Server or network did not do what was asked. ``stage`` says when; ``server_text`` holds no credentials.

    ``imap_auth`` is only ever the server's refusal of the login: a connection that breaks, an outage or a limit
    that the server announces during login, is ``imap_connect``. ``transient`` means that the same may succeed later
    although nobody changes anything.
    """

    def __init__(self, stage: ImapStage, server_text: str, *, transient: bool = False) -> None:
        super().__init__(f"{stage}: {server_text}")
        self.stage = stage
        self.server_text = server_text
        self.transient = transient


@dataclass(frozen=True)
class Cursor:
    """Up to where a folder was read: every UID below ``next_uid`` under this ``uidvalidity`` is known."""

    uidvalidity: int
    next_uid: int


class ImapReader:
    """A logged-in connection to one mailbox; use it in a ``with`` statement.

    Raises:
        ImapError: on entering and from every method.
        EgressRefusedError, ConfigurationError: on entering.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        ca_files: Mapping[str, Path],
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._access = access
        self._mode = mode
        self._ca_files = ca_files
        self._context = client_context(access.imap_host, ca_files)
        self._timeout = timeout
        self._access_token: SecretStr | None = None

    def __enter__(self) -> Self:
        try:
            self._connect()
        except ImapError as error:
            if error.stage != "imap_auth" or self._access_token is None:
                raise
            # The access token was withdrawn or expired before its time; a second one is asked for once.
            oauth.forget(self._access, self._access_token)
            self._connect()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        # After a failure nobody may be there to answer a LOGOUT, or the conversation may be out of step.
        if failed is None:
            with suppress(OSError, imaplib.IMAP4.error):
                self._client.logout()
        self._client.shutdown()

    def select(self, folder: str) -> tuple[int, int]:
        """Open ``folder`` for reading and flagging; return its UIDVALIDITY and UIDNEXT (0 if not told)."""
        name = _folder(folder)
        with self._faults("imap_select"):
            status, data = self._client.select(name)
        if status != "OK":
            self._refused("imap_select", data)
        return self._number("UIDVALIDITY"), self._number("UIDNEXT")

    def find_folder(self, special_use: SpecialUse) -> str | None:
        """Return the folder that the server marks with ``special_use``, else one with a customary name."""
        with self._faults("imap_command"):
            folders = self._box.folder.list()
        for folder in folders:
            if special_use.lower() in (flag.lower() for flag in folder.flags):
                return str(folder.name)
        names = {folder.name.rpartition(folder.delim or "/")[2].lower(): str(folder.name) for folder in folders}
        return next((names[name] for name in _FOLDER_NAMES[special_use] if name in names), None)

    def ensure_folder(self, folder: str) -> None:
        """Create ``folder`` unless it exists."""
        name = _folder(folder)
        with self._faults("imap_command"):
            if not any(known.name == folder for known in self._box.folder.list()):
                self._box.folder.create(name.encode())

    def new_messages(self, folder: str, after: Cursor | None) -> tuple[list[ReceivedMessage], Cursor]:
        """Return what arrived in ``folder`` since ``after``, by ascending UID, and the cursor to go on from.

        At most 500 messages a call: the oldest new ones, so that the next call goes on where this one
        stopped. Without a cursor, or when the server has renumbered the folder (another UIDVALIDITY, RFC 9051
        2.3.1.1), the newest 500 are returned; after a renumbering the caller knows some of them already.
        Nothing is marked as read, and of messages over 1 MiB only the header is read. Selects ``folder``.
        """
        uidvalidity, uidnext = self.select(folder)
        if after is None or after.uidvalidity != uidvalidity:
            uids = self._search("ALL")[-MESSAGES_PER_CALL:]
            return list(self._read(folder, uids)), Cursor(uidvalidity, max([uidnext, *(uid + 1 for uid in uids)]))
        if 0 < uidnext <= after.next_uid:
            return [], after
        # "n:*" always matches the last message, also when its UID is below n.
        found = self._search("UID", f"{after.next_uid}:*")
        uids = [uid for uid in found if uid >= after.next_uid][:MESSAGES_PER_CALL]
        return list(self._read(folder, uids)), Cursor(uidvalidity, uids[-1] + 1 if uids else after.next_uid)

    def folders(self) -> list[str]:
        """Return every folder that can hold messages, INBOX first."""
        with self._faults("imap_command"):
            listed = self._box.folder.list()
        names = {str(folder.name) for folder in listed if not _NOT_SELECTABLE & {flag.lower() for flag in folder.flags}}
        for name in names:
            if not name.isprintable():
                raise ImapError("imap_command", f"the folder {name!r} cannot be named in a command")
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

    def raw_message(self, folder: str, uid: int) -> bytes | None:
        """Return a message, cut at 1 MiB, without marking it as read; None if it is gone. Selects ``folder``."""
        self.select(folder)
        return self._raw(uid, f"BODY.PEEK[]<0.{MESSAGE_BYTES}>")

    def reports(self, folder: str, since: date) -> Iterator[bytes]:
        """Yield the newest 500 multipart/report messages (RFC 6522) since ``since`` (the server's calendar).

        Each is cut at 1 MiB; nothing is marked as read. Selects ``folder``.
        """
        self.select(folder)
        uids = self._search("SINCE", _day(since), "HEADER", "Content-Type", '"multipart/report"')
        for uid in uids[-MESSAGES_PER_CALL:]:
            raw = self._raw(uid, f"BODY.PEEK[]<0.{MESSAGE_BYTES}>")
            if raw is not None:
                yield raw

    def mark_seen(self, uids: Iterable[int]) -> None:
        """Mark messages of the selected folder as read."""
        for group in _groups(uids):
            self._uid("STORE", group, "+FLAGS.SILENT", "(\\Seen)")

    def move(self, uids: Iterable[int], folder: str) -> None:
        """Move messages of the selected folder to ``folder``, which must exist.

        Atomic where the server has MOVE (RFC 6851). Elsewhere a crash between the steps can leave a copy in
        both folders, but never in none.
        """
        for group in _groups(uids):
            if "MOVE" in self._client.capabilities:
                self._uid("MOVE", group, _folder(folder))
            else:
                self._uid("COPY", group, _folder(folder))
                self._remove(group)

    def delete_before(self, folder: str, day: date) -> int:
        """Delete what arrived in ``folder`` before ``day`` (the server's calendar); return how many."""
        self.select(folder)
        uids = self._search("BEFORE", _day(day))
        for group in _groups(uids):
            self._remove(group)
        return len(uids)

    def _connect(self) -> None:
        with self._faults("imap_connect"):
            self._client = Client(
                self._access,
                self._mode,
                self._context,
                self._timeout,
                literal_limit=MESSAGE_BYTES + HEADER_BYTES,
            )
        try:
            self._login()
        except BaseException:
            self._client.shutdown()
            raise

    def _login(self) -> None:
        self._box = Box(self._client)
        if self._access.oauth is None:
            self._login_by_password()
        else:
            self._login_by_token()
        with self._faults("imap_connect"):
            # imaplib asked before the login, when servers announce neither MOVE nor UIDPLUS.
            _, data = self._client.capability()
            self._client.capabilities = tuple(data[-1].decode("ascii", "replace").upper().split())

    def _login_by_password(self) -> None:
        access = self._access
        password = access.password.get_secret_value()
        login = access.username + password
        # RFC 9051 6.2.3: with LOGINDISABLED the command must not be tried; it carries ASCII only.
        by_command = login.isascii() and login.isprintable() and "LOGINDISABLED" not in self._client.capabilities
        with self._faults("imap_auth"):
            if "AUTH=PLAIN" in self._client.capabilities and self._is_taken_by_plain(or_else=by_command):
                return
            if not by_command:
                raise ImapError(
                    "imap_auth", "the server offers neither AUTH=PLAIN nor a LOGIN command that could carry this login"
                )
            self._box.login(access.username, password, initial_folder=None)

    def _is_taken_by_plain(self, *, or_else: bool) -> bool:
        """Log in by SASL PLAIN; False if the mechanism was refused, not the login, and there is something else."""
        try:
            self._box.login_utf8(self._access.username, self._access.password.get_secret_value(), initial_folder=None)
        except imaplib.IMAP4.error as refusal:
            if or_else and _refuses_the_mechanism(refusal):
                return False
            raise
        return True

    def _login_by_token(self) -> None:
        self._access_token = None
        if "AUTH=XOAUTH2" not in self._client.capabilities:
            raise ImapError("imap_auth", "the server does not offer AUTH=XOAUTH2")
        try:
            self._access_token = token = oauth.access_token(self._access, self._mode, self._ca_files)
        except AccessTokenError as error:
            stage: ImapStage = "imap_auth" if error.permanent else "imap_connect"
            raise ImapError(stage, str(error), transient=not error.permanent) from None
        initial = self._access.xoauth2(token)
        with self._faults("imap_auth"):
            # A second challenge says why the token is refused; the refusal itself follows an empty answer.
            self._client.authenticate("XOAUTH2", lambda challenge: b"" if challenge else initial)

    def _search(self, *criteria: str) -> list[int]:
        data = self._uid("SEARCH", *criteria)
        return sorted(int(uid) for line in data if isinstance(line, bytes) for uid in line.split() if uid.isdigit())

    def _read(self, folder: str, uids: Sequence[int]) -> Iterator[ReceivedMessage]:
        for group in _groups(uids):
            for head, _ in self._fetch(group, "(UID RFC822.SIZE INTERNALDATE)"):
                uid, size = _item(rb"UID (\d+)", head), _item(rb"RFC822\.SIZE (\d+)", head)
                if uid is None or size is None or int(uid) not in uids:
                    continue  # an unsolicited FETCH: somebody changed a flag
                arrived = parse_date(_item(rb'INTERNALDATE "([^"]+)"', head) or "")
                message = self._read_one(folder, int(uid), int(size), arrived)
                if message is not None:
                    yield message

    def _read_one(self, folder: str, uid: int, size: int, arrived: datetime | None) -> ReceivedMessage | None:
        oversized = size > MESSAGE_BYTES
        part = f"BODY.PEEK[HEADER]<0.{HEADER_BYTES}>" if oversized else f"BODY.PEEK[]<0.{MESSAGE_BYTES}>"
        raw = self._raw(uid, part)
        if raw is None:
            return None
        return parse(raw, uid=uid, folder=folder, size=size, internal_date=arrived, oversized=oversized)

    def _raw(self, uid: int, part: str) -> bytes | None:
        for head, literal in self._fetch(str(uid), f"(UID {part})"):
            if _item(rb"UID (\d+)", head) == str(uid) and b"BODY[" in head.upper():
                return literal
        return None  # expunged since the search

    def _fetch(self, uids: str, items: str) -> list[tuple[bytes, bytes]]:
        """Return (text, literal) of each FETCH response; imaplib hands out a response in several pieces."""
        responses: list[tuple[bytes, bytes]] = []
        for piece in self._uid("FETCH", uids, items):
            text, literal = piece if isinstance(piece, tuple) else (piece or b"", b"")
            if _FETCH_START.match(text) or not responses:
                responses.append((text, literal))
            else:
                head, body = responses[-1]
                responses[-1] = (head + text, body + literal)
        return responses

    def _remove(self, group: str) -> None:
        self._uid("STORE", group, "+FLAGS.SILENT", "(\\Deleted)")
        # Without UIDPLUS (RFC 4315) they stay marked: EXPUNGE would also remove what others had marked.
        if "UIDPLUS" in self._client.capabilities:
            self._uid("EXPUNGE", group)

    def _uid(self, command: str, *arguments: str) -> list[bytes | tuple[bytes, bytes] | None]:
        with self._faults("imap_command"):
            status, data = self._client.uid(command, *arguments)
        if status != "OK":
            self._refused("imap_command", data)
        return data

    def _number(self, response: str) -> int:
        data = self._client.response(response)[1]
        return int(data[-1]) if data and data[-1] and data[-1].isdigit() else 0

    def _refused(self, stage: ImapStage, data: Sequence[object]) -> NoReturn:
        texts = [piece.decode("utf-8", "replace") for piece in data if isinstance(piece, bytes)]
        text = self._public(" ".join(texts) or "refused without a reason")
        raise ImapError(stage, text, transient=login_refusals.passes(text))

    def _public(self, text: str) -> str:
        return self._access.public_text(text, self._access_token)

    @contextmanager
    def _faults(self, stage: ImapStage) -> Iterator[None]:
        try:
            yield
        except (OSError, imaplib.IMAP4.error, ImapToolsError, ValueError) as error:
            text = self._public(f"{type(error).__name__}: {error}")
            is_broken = isinstance(error, OSError | imaplib.IMAP4.abort)
            passes = login_refusals.passes(text)
            transient = passes or (is_broken and not _is_lasting(error))
            # Not chained: the original text may quote the login.
            stage_told: ImapStage = "imap_connect" if stage == "imap_auth" and (is_broken or passes) else stage
            raise ImapError(stage_told, text, transient=transient) from None


def _refuses_the_mechanism(refusal: imaplib.IMAP4.error) -> bool:
    """Return whether AUTHENTICATE was refused before the password was judged: BAD (RFC 9051 7.1.3), or the words."""
    if isinstance(refusal, imaplib.IMAP4.abort):
        return False
    text = str(refusal)
    return "command error: BAD" in text or login_refusals.is_about_the_mechanism(text)


def _is_lasting(error: Exception) -> bool:
    """Return whether a connection failed for a reason that stays until somebody changes something."""
    if isinstance(error, OSError):
        return is_lasting_fault(error)
    return "TLS not supported by server" in str(error)


def _folder(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} is not a folder name")
    return str(encode_folder(name), "ascii")


def _day(day: date) -> str:
    return f"{day.day}-{_MONTHS[day.month - 1]}-{day.year}"


def _groups(uids: Iterable[int]) -> Iterator[str]:
    ordered = sorted(set(uids))
    for start in range(0, len(ordered), _UIDS_PER_COMMAND):
        yield ",".join(str(int(uid)) for uid in ordered[start : start + _UIDS_PER_COMMAND])


def _item(pattern: bytes, text: bytes) -> str | None:
    found = re.search(pattern, text)
    return found.group(1).decode("ascii", "replace") if found else None
