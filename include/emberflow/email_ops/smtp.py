"""SMTP submission that knows what it knows: sent, certainly not sent, or uncertain.

``smtplib.sendmail`` raises the same exception for a connection lost at MAIL and for one lost after the final
dot, and blind retries of the latter are how duplicates happen. Here every command is issued by hand and every
answer becomes an :class:`Attempt`:

* Until the final dot is written the message is certainly not sent (RFC 5321 4.1.1.4), whatever happens.
* After the dot a reply of 2xx means sent and 4xx or 5xx means not sent; silence, a cut line or anything else
  means ``uncertain``. Nothing that happens afterwards (QUIT, a dropped connection) takes back a 2xx.

``scope`` says whose state a failure is: one message's, the mailbox's (login, sender address), or the host's
(connection, TLS, 421). A mailbox or host failure says nothing about the recipient.
"""

from __future__ import annotations

import base64
import re
import smtplib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from emberflow.email_ops.addresses import domain_of, require_unrepaired
from emberflow.email_ops.egress import Mode, dial
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.smtp_session import Session
from emberflow.email_ops.tls import client_context
from emberflow.errors import ConfigurationError

Outcome = Literal["sent", "transient", "permanent", "uncertain"]
Stage = Literal["dial", "tls", "ehlo", "auth", "mail", "rcpt", "data", "eod"]
Scope = Literal["message", "mailbox", "host"]

# Large providers close a connection after 20 to 100 messages, most after 50 (KumoMTA's shaping table).
MESSAGES_PER_CONNECTION = 50

_ENHANCED_CODE = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_NOT_WIRE_FORM = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0|[^\r\n]{999}|[\x80-\xff]")
# RFC 4954 6: authentication required or refused, whichever command the server chooses to say it at.
_AUTH_CODES = frozenset({530, 534, 535, 538})


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for the network at each step.

    ``command`` may stay below the 300 s of RFC 5321 4.5.3.2, because giving up before the dot is a harmless
    retry. ``end_of_data`` is that section's 10 minutes: giving up there makes an uncertain message.
    """

    connect: float = 30.0
    command: float = 60.0
    end_of_data: float = 600.0


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt, and how it is known (E-B2).

    ``server_text`` is printable, at most 500 characters, and without credentials; ``enhanced_code`` is of
    RFC 3463.
    """

    outcome: Outcome
    stage: Stage
    scope: Scope
    reply_code: int | None
    enhanced_code: str | None
    server_text: str


class SmtpConnection:
    """Submission for one mailbox over one connection, which is opened when needed and reused.

    Faults of servers and networks are returned, never raised. EgressRefusedError, ConfigurationError and
    AddressError are raised, because trying again cannot help.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        ca_files: Mapping[str, Path],
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self._access = access
        self._mode = mode
        self._context = client_context(access.smtp_host, ca_files)
        self._timeouts = timeouts
        self._session: Session | None = None
        self._delivered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Attempt | None:
        """Connect, verify TLS and log in, unless that is done; return None when ready, else what failed."""
        if self._session is not None:
            return None
        self._delivered = 0
        try:
            failed = self._connect() or self._secure() or self._authenticate()
        except BaseException:
            self._drop()
            raise
        if failed is not None:
            self._drop()
        return failed

    def deliver(
        self,
        message: bytes,
        from_address: str,
        to_address: str,
        *,
        before_data: Callable[[], None],
    ) -> Attempt:
        """Send one message to one recipient.

        ``before_data`` is called once MAIL and RCPT are accepted, immediately before the DATA command; it is
        the caller's last chance to say no. If it raises, the transaction is reset and the exception goes on.

        Raises:
            ValueError: the message is not CRLF-terminated 7-bit lines of at most 998 bytes.
            AddressError: an address would not reach the server as it is written.
        """
        body = _wire_form(message)
        sender, recipient = require_unrepaired(from_address), require_unrepaired(to_address)
        if self._delivered >= MESSAGES_PER_CONNECTION:
            self.close()
        reused = self._session is not None
        failed = self.open() or self._envelope(len(body), sender, recipient)
        if failed and reused and self._session is None and failed.stage == "mail":
            # An idle server hangs up between two messages (421 4.4.2, or just a closed socket).
            failed = self.open() or self._envelope(len(body), sender, recipient)
        if failed:
            return failed
        try:
            before_data()
        except BaseException:
            self._reset()
            raise
        try:
            return self._transmit(body)
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        """Say QUIT if there is somebody to say it to; what the server makes of it changes nothing."""
        if self._session is None:
            return
        try:
            self._session.quit()
        except OSError:
            self._session.close()
        self._session = None

    def _connect(self) -> Attempt | None:
        access = self._access
        try:
            connection = dial(self._mode, access.smtp_host, access.smtp_port, self._timeouts.connect)
        except OSError as error:
            return self._lost("dial", error)
        if access.smtp_tls == "implicit":
            try:
                connection = self._context.wrap_socket(connection, server_hostname=access.smtp_host)
            except OSError as error:
                connection.close()
                return self._lost("tls", error)
        connection.settimeout(self._timeouts.command)
        self._session = Session(connection, access.smtp_host, domain_of(access.address))
        return self._expect("dial", 220, self._session.getreply) or self._greet()

    def _greet(self) -> Attempt | None:
        return self._expect("ehlo", 250, self._live.ehlo)

    def _secure(self) -> Attempt | None:
        if self._access.smtp_tls == "implicit":
            return None
        if not self._live.has_extn("starttls"):
            return self._misconfigured("tls", "the server does not offer STARTTLS")
        return self._expect("tls", 220, lambda: self._live.starttls(context=self._context)) or self._greet()

    def _authenticate(self) -> Attempt | None:
        username, password = self._access.username, self._access.password.get_secret_value()
        if "\0" in username + password:
            raise ConfigurationError(f"the login of {self._access.address} holds a NUL character")
        offered = self._live.esmtp_features.get("auth", "").upper().split()
        if "PLAIN" in offered:
            plain = _base64(f"\0{username}\0{password}")
            return self._expect("auth", 235, lambda: self._live.docmd("AUTH", f"PLAIN {plain}"))
        if "LOGIN" in offered:
            return (
                self._expect("auth", 334, lambda: self._live.docmd("AUTH", "LOGIN"))
                or self._expect("auth", 334, lambda: self._live.docmd(_base64(username)))
                or self._expect("auth", 235, lambda: self._live.docmd(_base64(password)))
            )
        return self._misconfigured("auth", "the server offers neither AUTH PLAIN nor AUTH LOGIN")

    def _envelope(self, size: int, sender: str, recipient: str) -> Attempt | None:
        size_option = f" SIZE={size}" if self._live.has_extn("size") else ""
        return self._expect(
            "mail", 250, lambda: self._live.docmd("MAIL", f"FROM:<{sender}>{size_option}")
        ) or self._expect("rcpt", 250, lambda: self._live.docmd("RCPT", f"TO:<{recipient}>"))

    def _transmit(self, body: bytes) -> Attempt:
        failed = self._expect("data", 354, lambda: self._live.docmd("DATA"))
        if failed:
            return failed
        session = self._live
        session.wait_at_most(self._timeouts.end_of_data)
        try:
            session.send(body)
        except OSError as error:
            return self._lost("data", error)
        try:
            session.send(b".\r\n")
            code, text = session.getreply()
        except OSError as error:
            return self._lost("eod", error, "uncertain")
        session.wait_at_most(self._timeouts.command)
        if not 200 <= code < 300:
            return self._answered("eod", code, text)
        self._delivered += 1
        return self._attempt("sent", "eod", "message", code, text)

    @property
    def _live(self) -> Session:
        if self._session is None:
            raise RuntimeError("an SMTP command was issued without a connection")
        return self._session

    def _expect(self, stage: Stage, wanted: int, command: Callable[[], tuple[int, bytes]]) -> Attempt | None:
        """Run one command; None if it was answered as wanted (250 stands for any 2xx)."""
        try:
            code, text = command()
        except smtplib.SMTPResponseException as refusal:
            code, text = refusal.smtp_code, _octets(refusal.smtp_error)
        except OSError as error:
            return self._lost(stage, error)
        except BaseException:
            self._drop()  # interrupted between command and reply: the next reply would be taken for another's
            raise
        accepted = 200 <= code < 300 if wanted == 250 else code == wanted
        return None if accepted else self._answered(stage, code, text)

    def _answered(self, stage: Stage, code: int, text: bytes) -> Attempt:
        """Judge a reply that is not the wanted one, and leave the connection clean for the next message."""
        refused = 400 <= code < 600
        if code == 421 or not refused:
            self._drop()
        elif stage in ("mail", "rcpt", "data", "eod"):
            self._reset()
        outcome: Outcome = "permanent" if code >= 500 else "transient"
        if not refused and stage == "eod":
            outcome = "uncertain"
        return self._attempt(outcome, stage, _scope(stage, code, refused), code, text)

    def _lost(self, stage: Stage, error: OSError, outcome: Outcome = "transient") -> Attempt:
        """The connection is gone or never was."""
        self._drop()
        if isinstance(error, ssl.SSLCertVerificationError):
            outcome = "permanent"
        return self._attempt(outcome, stage, "host", None, f"{type(error).__name__}: {error}")

    def _misconfigured(self, stage: Stage, text: str) -> Attempt:
        return self._attempt("permanent", stage, "host", None, text)

    def _attempt(self, outcome: Outcome, stage: Stage, scope: Scope, code: int | None, text: bytes | str) -> Attempt:
        shown = self._access.public_text(text)
        enhanced = _ENHANCED_CODE.match(shown)
        return Attempt(outcome, stage, scope, code, enhanced.group(1) if enhanced else None, shown)

    def _reset(self) -> None:
        if self._session is None:
            return
        try:
            code, _ = self._session.rset()
        except OSError:
            code = 0
        if code != 250:
            self._drop()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _scope(stage: Stage, code: int, refused: bool) -> Scope:
    if code == 421 or not refused or stage in ("dial", "tls", "ehlo"):
        return "host"
    # MAIL names the sender and the size only; 552 there is about this message's size (RFC 1870 6.1).
    if stage == "auth" or code in _AUTH_CODES or (stage == "mail" and code != 552):
        return "mailbox"
    return "message"


def _wire_form(message: bytes) -> bytes:
    """Dot-stuff (RFC 5321 4.5.2); refuse what a lenient server may take for the end (SMTP smuggling)."""
    if _NOT_WIRE_FORM.search(message) or not message.endswith(b"\r\n"):
        raise ValueError("a message must consist of 7-bit lines of at most 998 bytes, each ended by CRLF")
    return re.sub(rb"(?m)^\.", b"..", message)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _octets(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
