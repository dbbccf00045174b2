"""A logged-in IMAP connection (RFC 9051) that is bounded in time and in what it takes in, whatever the server does.

imap-tools does the login; the commands are imaplib's. Whatever these raise becomes an :class:`ImapError`, so that one
server's oddity stays with its mailbox.
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NoReturn, Self

from imap_tools.errors import ImapToolsError
from imap_tools.utils import encode_folder, quote
from pydantic import SecretStr

from emberflow.email_ops import login_refusals, oauth
from emberflow.email_ops.egress import Mode, is_lasting_fault
from emberflow.email_ops.imap_client import Box, Client
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message_limits import HEADER_BYTES
from emberflow.email_ops.oauth import AccessTokenError
from emberflow.email_ops.session_budget import SessionBudget, SessionLimits
from emberflow.email_ops.tls import client_context
from emberflow.errors import ConfigurationError, EmberflowError

ImapStage = Literal["imap_connect", "imap_auth", "imap_select", "imap_command"]
Given = dict[int, tuple[bytes, bytes]]

MESSAGE_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 60.0
LAST_UID = 2**32 - 1  # RFC 9051 9: nz-number

_SESSION_TIMEOUTS = 5  # a session may last as long as so many reads
_GOODBYE_SECONDS = 5.0
_RECONNECTS = 3
_UIDS_PER_COMMAND = 100
_PIECES_PER_MESSAGE = 100  # two are usual: the text up to a literal with it, and what follows
_FETCH_START = re.compile(rb"\d+ \(")


class ImapError(EmberflowError):
    """Server or network did not do what was asked. ``stage`` says when; ``server_text`` holds no credentials.

    ``imap_auth`` is only ever the server's refusal of the login: a connection that breaks, an outage or a limit
    that the server announces during login, is ``imap_connect``. ``transient`` means that the same may succeed later
    although nobody changes anything. After ``is_lost`` the connection is of no use any more; ``ended_by`` are the
    messages at each of which one broke when nothing else was asked for, and why.
    """

    def __init__(self, stage: ImapStage, server_text: str, *, transient: bool = False, is_lost: bool = False) -> None:
        super().__init__(f"{stage}: {server_text}")
        self.stage = stage
        self.server_text = server_text
        self.transient = transient
        self.is_lost = is_lost
        self.ended_by: dict[int, str] = {}


class ImapSession:
    """A logged-in connection to one mailbox; use it in a ``with`` statement.

    ``timeout`` (seconds) is for one read; ``limits`` are for all of the session, by default five such reads.

    Raises:
        ImapError: on entering and from every method.
        EgressRefusedError: on entering.
        ConfigurationError: a configured CA file is unusable.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        ca_files: Mapping[str, Path],
        timeout: float = TIMEOUT_SECONDS,
        limits: SessionLimits | None = None,
    ) -> None:
        self._access = access
        self._mode = mode
        self._ca_files = ca_files
        self._context = client_context(access.imap_host, ca_files)
        self._timeout = timeout
        self._limits = limits or SessionLimits(seconds=_SESSION_TIMEOUTS * timeout)
        self._access_token: SecretStr | None = None
        self._reconnects_left = _RECONNECTS
        self._uidvalidity = 0
        self._is_utf8 = False
        self._permanent_flags: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        self._budget = SessionBudget(self._limits, self._timeout)
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
            self._budget.end_within(_GOODBYE_SECONDS)
            with suppress(ImapError), self._faults("imap_command"):
                self._client.logout()
        self._client.shutdown()

    def _connect(self) -> None:
        with self._faults("imap_connect"):
            try:
                self._client = Client(
                    self._access, self._mode, self._context, self._budget, literal_limit=MESSAGE_BYTES + HEADER_BYTES
                )
            except ConfigurationError as error:  # no possible host name
                raise ImapError("imap_connect", self._public(str(error))) from None
        try:
            self._login()
        except BaseException:
            self._client.shutdown()
            raise

    def _reconnect(self, folder: str) -> bool:
        """Go on in a new connection, within the same limits; return False if there were too many already."""
        if self._reconnects_left == 0:
            return False
        self._reconnects_left -= 1
        self._client.shutdown()
        self._connect()
        before = self._uidvalidity
        self._select(folder)
        if self._uidvalidity != before:
            raise ImapError("imap_select", f"{folder} was renumbered while it was read")
        return True

    def _login(self) -> None:
        self._box = Box(self._client)
        if self._access.oauth is None:
            self._login_by_password()
        else:
            self._login_by_token()
        # imaplib asked before the login, when servers announce neither MOVE nor UIDPLUS. Most tell it with their
        # consent (RFC 9051 7.1, response code CAPABILITY); the others are asked again.
        with self._faults("imap_connect"):
            names = self._client.response("CAPABILITY")[1][-1]
            if names is None:
                status, data = self._client.capability()
                names = data[-1] if status == "OK" and data else None
        if isinstance(names, bytes) and names.strip():
            self._client.capabilities = tuple(names.decode("ascii", "replace").upper().split())
        # RFC 6855 6: such a server takes no command from a client that did not ask for it. From all others folder names
        # come, and are given, in modified UTF-7 (RFC 9051 A.1), whatever they announce.
        self._is_utf8 = "UTF8=ONLY" in self._client.capabilities
        if self._is_utf8:
            with self._faults("imap_connect"):
                status, data = self._client.enable("UTF8=ACCEPT")
            if status != "OK":
                self._refused("imap_connect", data)

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

    def _select(self, folder: str) -> int:
        """Open ``folder``, keep its UIDVALIDITY, and return how many messages it has.

        One that this login may only read, such as a shared folder, is opened for reading.
        """
        name = self._named(folder)
        with self._faults("imap_select"):
            try:
                status, data = self._client.select(name)
            except imaplib.IMAP4.readonly:  # RFC 9051 6.3.2: imaplib takes this answer for a failure
                status, data = self._client.select(name, readonly=True)
        if status != "OK":
            self._refused("imap_select", data)
        self._uidvalidity = self._number("UIDVALIDITY")
        self._permanent_flags = self._flags("PERMANENTFLAGS")
        exists = data[-1] if data else None
        return int(exists) if isinstance(exists, bytes) and _is_number(exists) else 0

    def _named(self, folder: str) -> str:
        """Return a folder's name as a command names it."""
        return folder_name(folder, is_utf8=self._is_utf8)

    def _search(self, *criteria: str) -> list[int]:
        data = self._uid("SEARCH", *criteria)
        numbers = (number for line in data if isinstance(line, bytes) for number in line.split())
        return sorted({int(number) for number in numbers if _is_number(number) and 0 < int(number) <= LAST_UID})

    def _fetch_each(self, folder: str, uids: Sequence[int], items: str) -> tuple[Given, dict[int, str]]:
        """Return (text, literal) by UID, and by UID why the server does not give a message.

        A server that refuses one message refuses the command, or hangs up. What is missing then is asked for singly.

        Raises:
            ImapError: the connection is lost, and too many were before; ``ended_by`` tells of which messages.
        """
        given: Given = {}
        refused: dict[int, str] = {}
        for start in range(0, len(uids), _UIDS_PER_COMMAND):
            group = uids[start : start + _UIDS_PER_COMMAND]
            singly = list(group)
            if len(group) > 1:
                some, refusal = self._try_fetch(folder, group, items)
                given |= some
                singly = [] if refusal is None else [uid for uid in group if uid not in some]
            for uid in singly:
                try:
                    one, reason = self._try_fetch(folder, [uid], items)
                except ImapError as error:
                    error.ended_by = refused | {uid: error.server_text}
                    raise
                given |= one
                if reason is not None and uid not in one:
                    refused[uid] = reason
        return given, refused

    def _try_fetch(self, folder: str, uids: Sequence[int], items: str) -> tuple[Given, str | None]:
        try:
            return self._fetch(uids, items)
        except ImapError as error:
            if error.is_lost and not self._reconnect(folder):
                raise
            return {}, error.server_text

    def _fetch(self, uids: Sequence[int], items: str) -> tuple[Given, str | None]:
        """Return (text, literal) by UID, and what the server says if it did not give all of it.

        imaplib hands out a response in several pieces, and a server may tell of a message in several responses. A
        message in too many of them is refused.
        """
        self._client.untagged_responses.pop("FETCH", None)  # what was left of a command that failed
        with self._faults("imap_command"):
            status, data = self._client.uid("FETCH", ",".join(map(str, uids)), items)
            pieces = data if status == "OK" else self._client.response("FETCH")[1]
        responses: list[list[tuple[bytes, bytes]]] = []
        for piece in pieces:
            text, literal = piece if isinstance(piece, tuple) else (piece or b"", b"")
            if _FETCH_START.match(text) or not responses:
                responses.append([])
            responses[-1].append((text, literal))
        given_in: dict[int, list[tuple[bytes, bytes]]] = {}
        for response in responses:
            uid = int(item_of(rb"UID (\d{1,10})", b"".join(text for text, _ in response)) or 0)
            if uid in uids:
                given_in.setdefault(uid, []).extend(response)
        for uid, parts in given_in.items():
            if len(parts) > _PIECES_PER_MESSAGE:
                raise ImapError("imap_command", f"message {uid} was given in {len(parts)} pieces")
        given = {
            uid: (b"".join(text for text, _ in parts), b"".join(literal for _, literal in parts))
            for uid, parts in given_in.items()
        }
        return given, None if status == "OK" else self._said(data)

    def _uid(self, command: str, *arguments: str) -> list[bytes | tuple[bytes, bytes] | None]:
        with self._faults("imap_command"):
            status, data = self._client.uid(command, *arguments)
        if status != "OK":
            self._refused("imap_command", data)
        return data

    def _number(self, response: str) -> int:
        data = self._client.response(response)[1]
        number = data[-1] if data else None
        return int(number) if isinstance(number, bytes) and _is_number(number) else 0

    def _flags(self, response: str) -> frozenset[str]:
        data = self._client.response(response)[1]
        listed = data[-1] if data else None
        flags = listed.decode("ascii", "replace").strip("() ").lower() if isinstance(listed, bytes) else ""
        return frozenset(flags.split())

    def _refused(self, stage: ImapStage, data: Sequence[object]) -> NoReturn:
        text = self._said(data)
        raise ImapError(stage, text, transient=login_refusals.passes(text))

    def _said(self, data: Sequence[object]) -> str:
        texts = [piece.decode("utf-8", "replace") for piece in data if isinstance(piece, bytes)]
        return self._public(" ".join(texts) or "refused without a reason")

    def _public(self, text: str) -> str:
        return self._access.public_text(text, self._access_token)

    @contextmanager
    def _faults(self, stage: ImapStage) -> Iterator[None]:
        try:
            yield
        except EmberflowError:
            raise
        except Exception as error:  # imaplib promises nothing about what a server's answer makes it raise
            text = self._public(f"{type(error).__name__}: {error}")
            is_lost = not isinstance(error, imaplib.IMAP4.error | ImapToolsError) or isinstance(
                error, imaplib.IMAP4.abort
            )
            passes = login_refusals.passes(text)
            transient = passes or (is_lost and not _is_lasting(error))
            stage_told: ImapStage = "imap_connect" if stage == "imap_auth" and (is_lost or passes) else stage
            # Not chained: the original text may quote the login.
            raise ImapError(stage_told, text, transient=transient, is_lost=is_lost) from None


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


def folder_name(name: str, *, is_utf8: bool = False) -> str:
    """Return ``name`` as a command names it: in modified UTF-7, or as it is after ENABLE UTF8=ACCEPT (RFC 6855 3).

    Raises:
        ValueError: it is no folder name.
    """
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} is not a folder name")
    return str(quote(name)) if is_utf8 else str(encode_folder(name), "ascii")


def _is_number(text: bytes) -> bool:
    return len(text) <= 10 and text.isdigit()


def item_of(pattern: bytes, text: bytes) -> str | None:
    """Return what ``pattern`` groups in the text of a FETCH response."""
    found = re.search(pattern, text)
    return found.group(1).decode("ascii", "replace") if found else None
