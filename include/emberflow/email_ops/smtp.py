"""SMTP submission with three outcomes: sent, certainly not sent, or uncertain.

``smtplib.sendmail`` raises the same exception for a connection lost at MAIL and for one lost after the final
dot, and blind retries of the latter are how duplicates happen. Here every command is issued by hand and every
answer becomes an :class:`Attempt`:

* Until the final dot is written the message is certainly not sent (RFC 5321 4.1.1.4), whatever happens.
* After the dot a reply of 2xx means sent and 4xx or 5xx means not sent; silence, a cut line or anything else
  means ``uncertain``. Nothing that happens afterwards (QUIT, a dropped connection) takes back a 2xx.

``scope`` says whose state a failure is: one message's, the mailbox's (login, sender address), or the host's
(connection, TLS, 421). A mailbox or host failure says nothing about the recipient.

From MAIL on a dialogue is a generator that never blocks on a silent server (see ``smtp_session``), so that one thread
can lead many of them; connecting and logging in block.
"""

from __future__ import annotations

import base64
import hmac
import logging
import socket
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from emberflow.clock import seconds_since_boot
from emberflow.crash_points import reach
from emberflow.domain.attempt import Attempt, Outcome, Scope, Stage
from emberflow.email_ops import login_refusals, oauth
from emberflow.email_ops.addresses import domain_of, require_unrepaired
from emberflow.email_ops.egress import Mode, SourceAddressError, dial, is_lasting_fault
from emberflow.email_ops.enhanced_codes import enhanced_code
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message import LINE_BYTES
from emberflow.email_ops.oauth import AccessTokenError
from emberflow.email_ops.smtp_session import Session, Steps, run
from emberflow.email_ops.timeouts import RESET_S, Timeouts
from emberflow.email_ops.tls import client_context
from emberflow.errors import ConfigurationError, EgressRefusedError

log = logging.getLogger(__name__)

# Large providers close a connection after 20 to 100 messages, most after 50 (KumoMTA's shaping table).
MESSAGES_PER_CONNECTION = 50

_TIMEOUTS = Timeouts()
_DOT = b".\r\n"
# A message up to this size is written together with its dot: one TLS record (16 KiB at most), which the kernel takes
# at once on a connection that has nothing else to send. So no time passes between the last look at the lease and the
# dot.
_ONE_WRITE_BYTES = 8192

# Nobody waits longer for the answer to QUIT: what it would say is known, and hanging up says the same.
_FAREWELL_S = 1.0

LEASE_ENDED = "the lease ended before the message was complete"

# RFC 4954 6: authentication required or refused, whichever command the server chooses to say it at.
_AUTH_CODES = frozenset({530, 534, 535, 538})


class SmtpConnection:
    """Submission for one mailbox over one connection, which is opened when needed and reused.

    Whatever goes wrong on the way is returned, never raised, also what nobody has thought of: one mailbox's error is
    its own. EgressRefusedError, ConfigurationError and AddressError are raised, because trying again cannot help.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        ca_files: Mapping[str, Path],
        timeouts: Timeouts = _TIMEOUTS,
        *,
        elapsed: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._access = access
        self._mode = mode
        self._ca_files = ca_files
        self._timeouts = timeouts
        self._elapsed = elapsed
        self._session: Session | None = None
        self._peer: tuple[str, int] | None = None
        self._is_fresh = False
        self._delivered = 0
        self._access_token: SecretStr | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def session(self) -> Session | None:
        """The open session; None if there is none, or if it has carried as many messages as servers like."""
        return self._session if self._delivered < MESSAGES_PER_CONNECTION else None

    def open(self) -> Attempt | None:
        """Connect, verify TLS and log in, unless that is done; return None when ready, else what failed."""
        if self.session is not None:
            return None
        self.close()
        failed = self._log_in()
        if failed is not None and self._refuses_access_token(failed):
            # Withdrawn or expired before its time: a new one costs a login, not a message.
            failed = self._log_in()
        return failed

    def deliver(
        self,
        message: bytes,
        from_address: str,
        to_address: str,
        *,
        before_data: Callable[[], float],
    ) -> Attempt:
        """Send one message to one recipient: connect if need be, and lead the dialogue to its end.

        ``before_data`` gives the permission that :meth:`dialogue` asks for.

        Raises:
            ValueError, AddressError: as :meth:`dialogue`.
        """
        self._is_fresh = False
        attempt: Attempt | None = None
        while attempt is None:
            steps = self.dialogue(message, from_address, to_address)
            attempt = self.open() or run(steps, self._live, before_data)
        return attempt

    def dialogue(self, message: bytes, from_address: str, to_address: str) -> Steps[Attempt | None]:
        """Send one message to one recipient over the open session.

        Asks for permission (yields None) once MAIL and RCPT are accepted, immediately before the DATA command; it is
        the leader's last chance to say no, by throwing an exception: the transaction is reset and the exception goes
        on. The answer says for how many seconds, counted from just before the question, the leader still owns the
        message. Later than that neither DATA nor the final dot is written, so a process that was stopped meanwhile
        (SIGSTOP, a sleeping machine) cannot complete a message that somebody else has taken over.

        Returns None if the session had ended before this message began, as idle servers end it: open it again and
        begin again.

        Raises:
            ValueError: the message is not CRLF-terminated 7-bit lines of at most 998 bytes.
            AddressError: an address would not reach the server as it is written.
        """
        body = _wire_form(message)
        sender, recipient = require_unrepaired(from_address), require_unrepaired(to_address)
        return self._dialogue(body, sender, recipient)

    def _dialogue(self, body: bytes, sender: str, recipient: str) -> Steps[Attempt | None]:
        is_fresh, self._is_fresh = self._is_fresh, False
        failed = yield from self._envelope(len(body), sender, recipient)
        if failed is not None:
            if is_fresh or failed.stage != "mail" or not self._is_over(failed):
                return failed
            self._drop()
            return None
        try:
            reach("before_guard")
            asked_at = self._elapsed()
            owned_until = asked_at + ((yield None) or 0.0)
        except GeneratorExit:
            self._drop()
            raise
        except BaseException:
            yield from self._reset()
            raise
        try:
            reach("after_guard")
            return (yield from self._transmit(body, owned_until))
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        """Say QUIT if there is somebody to say it to; what the server makes of it changes nothing."""
        if self._session is None:
            return
        self._session.wait_at_most(_FAREWELL_S)
        try:
            self._session.quit()
        except OSError:
            self._session.close()
        finally:
            self._session = None

    def abort(self) -> None:
        """Cut the connection from another thread: whoever waits for an answer stops waiting, without one."""
        session = self._session
        if session is not None and session.sock is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown: it drops TLS, and an answer that has arrived is still to be read through it.
                socket.socket.shutdown(session.sock, socket.SHUT_RDWR)

    def _log_in(self) -> Attempt | None:
        self._delivered = 0
        steps: Mapping[Stage, Callable[[], Attempt | None]] = {
            "dial": self._connect,
            "tls": self._secure,
            "auth": self._authenticate,
        }
        failed: Attempt | None = None
        try:
            for stage, step in steps.items():
                failed = failed or self._tried(stage, step)
        except BaseException:
            self._drop()
            raise
        if failed is not None:
            self._drop()
        elif self._session is not None:
            self._session.end_by(None)
        self._is_fresh = True
        return failed

    def _tried(self, stage: Stage, step: Callable[[], Attempt | None]) -> Attempt | None:
        try:
            return step()
        except (EgressRefusedError, ConfigurationError):
            raise
        except Exception as error:
            return self._lost(stage, error)

    def _is_over(self, failed: Attempt) -> bool:
        """An idle server ends a session between two messages: 421 4.4.2, a closed socket, or a login that lapsed."""
        return self._session is None or failed.reply_code in _AUTH_CODES

    def _refuses_access_token(self, failed: Attempt) -> bool:
        if self._access_token is None or failed.stage != "auth" or failed.outcome != "permanent":
            return False
        oauth.forget(self._access, self._access_token)
        return True

    def _connect(self) -> Attempt | None:
        access = self._access
        context = client_context(access.smtp_host, self._ca_files)
        self._peer = None
        try:
            connection = dial(
                self._mode, access.smtp_host, access.smtp_port, self._timeouts.connect, access.source_address
            )
        except SourceAddressError as error:
            return self._misconfigured("dial", str(error))
        except OSError as error:
            return self._lost("dial", error)
        with suppress(OSError):
            self._peer = connection.getpeername()[:2]
        if access.smtp_tls == "implicit":
            try:
                connection = context.wrap_socket(connection, server_hostname=access.smtp_host)
            except Exception as error:
                connection.close()
                return self._lost("tls", error)
        self._session = session = Session(connection, access.smtp_host, domain_of(access.address))
        session.end_by(time.monotonic() + self._timeouts.login)
        session.wait_at_most(self._timeouts.greeting)
        failed = self._expect("dial", 220, session.getreply)
        session.wait_at_most(self._timeouts.command)
        return failed or self._greet()

    def _greet(self) -> Attempt | None:
        return self._expect("ehlo", 250, self._live.ehlo)

    def _secure(self) -> Attempt | None:
        if self._access.smtp_tls == "implicit":
            return None
        if not self._live.has_extn("starttls"):
            return self._misconfigured("tls", "the server does not offer STARTTLS")
        context = client_context(self._access.smtp_host, self._ca_files)
        return self._expect("tls", 220, lambda: self._live.starttls(context=context)) or self._greet()

    def _authenticate(self) -> Attempt | None:
        """Log in by the mailbox's own method; a server that does not offer it gets no other credential."""
        offered = self._live.esmtp_features.get("auth", "").upper().split()
        if self._access.oauth is not None:
            return self._authenticate_by_token(offered)
        username, password = self._access.username, self._access.password.get_secret_value()
        if "\0" in username + password:
            raise ConfigurationError(f"the login of {self._access.address} holds a NUL character")
        mechanisms = {
            "PLAIN": lambda: self._log_in_by_plain(username, password),
            "LOGIN": lambda: self._log_in_by_login(username, password),
            "CRAM-MD5": lambda: self._log_in_by_cram_md5(username, password),
        }
        failed: Attempt | None = self._misconfigured("auth", f"the server offers none of AUTH {', '.join(mechanisms)}")
        for name in [name for name in mechanisms if name in offered]:
            failed = mechanisms[name]()
            if failed is None or self._session is None:
                return failed
            # The server has judged the login; another mechanism would only count as another failed login.
            if not login_refusals.is_about_the_mechanism(failed.server_text, failed.reply_code):
                return failed
        return failed

    def _log_in_by_plain(self, username: str, password: str) -> Attempt | None:
        """RFC 4616, with the initial response of RFC 4954 4."""
        plain = _base64(f"\0{username}\0{password}")
        return self._expect("auth", 235, lambda: self._live.docmd("AUTH", f"PLAIN {plain}"))

    def _log_in_by_login(self, username: str, password: str) -> Attempt | None:
        """The mechanism of draft-murchison-sasl-login."""
        return (
            self._expect("auth", 334, lambda: self._live.docmd("AUTH", "LOGIN"))
            or self._expect("auth", 334, lambda: self._live.docmd(_base64(username)))
            or self._expect("auth", 235, lambda: self._live.docmd(_base64(password)))
        )

    def _log_in_by_cram_md5(self, username: str, password: str) -> Attempt | None:
        """RFC 2195."""
        challenge = b""

        def begin() -> tuple[int, bytes]:
            nonlocal challenge
            code, challenge = self._live.docmd("AUTH", "CRAM-MD5")
            return code, challenge

        failed = self._expect("auth", 334, begin)
        if failed is not None:
            return failed
        try:
            asked = base64.b64decode(challenge, validate=True)
        except ValueError:
            self._drop()
            return self._attempt("transient", "auth", "host", 334, "the challenge of AUTH CRAM-MD5 is not base64")
        digest = hmac.new(password.encode(), asked, "md5").hexdigest()
        return self._expect("auth", 235, lambda: self._live.docmd(_base64(f"{username} {digest}")))

    def _authenticate_by_token(self, offered: Collection[str]) -> Attempt | None:
        self._access_token = None
        if "XOAUTH2" not in offered:
            return self._misconfigured("auth", "the server does not offer AUTH XOAUTH2")
        try:
            token = oauth.access_token(self._access, self._mode, self._ca_files)
        except AccessTokenError as error:
            return self._attempt("permanent" if error.permanent else "transient", "auth", "mailbox", None, str(error))
        initial = base64.b64encode(self._access.xoauth2(token)).decode()
        self._access_token = token

        def authenticate() -> tuple[int, bytes]:
            code, text = self._live.docmd("AUTH", f"XOAUTH2 {initial}")
            if code == 334:
                # It holds why the token is refused; the refusal itself follows an empty answer.
                oauth.forget(self._access, token)
                code, text = self._live.docmd("")
            return code, text

        return self._expect("auth", 235, authenticate)

    def _envelope(self, size: int, sender: str, recipient: str) -> Steps[Attempt | None]:
        session = self._live
        mail = f"MAIL FROM:<{sender}>" + (f" SIZE={size}" if session.has_extn("size") else "")
        rcpt = f"RCPT TO:<{recipient}>"
        if not session.has_extn("pipelining"):
            failed = yield from self._ask("mail", 250, f"{mail}\r\n")
            return failed or (yield from self._ask("rcpt", 250, f"{rcpt}\r\n"))
        failed = yield from self._ask("mail", 250, f"{mail}\r\n{rcpt}\r\n", unwanted=1)
        return failed or (yield from self._ask("rcpt", 250))

    def _transmit(self, body: bytes, owned_until: float) -> Steps[Attempt]:
        if self._elapsed() >= owned_until:
            return self._lapsed()
        session = self._live
        session.wait_at_most(self._timeouts.data_start)
        failed = yield from self._ask("data", 354, "DATA\r\n")
        if failed:
            session.wait_at_most(self._timeouts.command)
            return failed
        reach("after_data")
        session.wait_at_most(self._timeouts.data_block)
        rest = _DOT
        try:
            session.require_silence()
            if len(body) > _ONE_WRITE_BYTES:
                session.send(body)
            else:
                rest = body + _DOT
        except Exception as error:
            return self._lost("data", error)
        reach("before_dot")
        if self._elapsed() >= owned_until:
            return self._lapsed()
        try:
            session.send(rest)
        except Exception as error:
            # Of a TLS record that was not written whole the server can read nothing: what was in it with the dot
            # has not arrived either. A dot alone may have left before the error was seen.
            is_cut = isinstance(error, OSError) and rest is not _DOT
            return self._lost("data", error) if is_cut else self._lost("eod", error, "uncertain")
        try:
            reach("after_dot")
            session.wait_at_most(self._timeouts.end_of_data)
            code, text = yield from session.reply()
        except Exception as error:
            return self._lost("eod", error, "uncertain")
        reach("after_reply")
        session.wait_at_most(self._timeouts.command)
        if not 200 <= code < 300:
            return (yield from self._answered("eod", code, text))
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
        except (EgressRefusedError, ConfigurationError):
            raise
        except Exception as error:
            return self._lost(stage, error)
        except BaseException:
            self._drop()  # interrupted between command and reply: the next reply would be taken for another's
            raise
        return None if _is_wanted(code, wanted) else self._refused(stage, code, text)

    def _ask(self, stage: Stage, wanted: int, commands: str = "", *, unwanted: int = 0) -> Steps[Attempt | None]:
        """Write ``commands``, if any, and read one reply; None if it is as wanted.

        If it is a refusal, ``unwanted`` more replies are read, to the commands that were written with it: they are
        answered all the same (RFC 2920 3.1) and mean nothing.
        """
        session = self._live
        try:
            if commands:
                session.send(commands)
            code, text = yield from session.reply()
            if 400 <= code < 600 and code != 421:
                with suppress(OSError):
                    for _ in range(unwanted):
                        yield from session.reply()
        except Exception as error:
            return self._lost(stage, error)
        except BaseException:
            self._drop()  # interrupted between command and reply: the next reply would be taken for another's
            raise
        return None if _is_wanted(code, wanted) else (yield from self._answered(stage, code, text))

    def _answered(self, stage: Stage, code: int, text: bytes) -> Steps[Attempt]:
        """Judge a reply that is not the wanted one, and leave the connection clean for the next message."""
        attempt = self._refused(stage, code, text)
        if self._session is not None:
            yield from self._reset()
        return attempt

    def _refused(self, stage: Stage, code: int, text: bytes) -> Attempt:
        refused = 400 <= code < 600
        if code == 421 or not refused:
            self._drop()
        outcome: Outcome = "permanent" if code >= 500 else "transient"
        if stage == "auth" and login_refusals.passes(text.decode("utf-8", "replace")):
            outcome = "transient"
        if not refused and stage == "eod":
            outcome = "uncertain"
        return self._attempt(outcome, stage, _scope(stage, code, refused), code, text)

    def _lost(self, stage: Stage, error: Exception, outcome: Outcome = "transient") -> Attempt:
        """The connection is gone or never was; an error that is none of the network's is this mailbox's alone."""
        self._drop()
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, OSError):
            frames = "".join(traceback.format_tb(error.__traceback__))  # without the error itself: it may quote a login
            log.error("%s, %s: %s\n%s", self._access.address, stage, self._access.public_text(text), frames)
            return self._attempt(outcome, stage, "mailbox", None, text)
        if outcome == "transient" and is_lasting_fault(error):
            outcome = "permanent"
        return self._attempt(outcome, stage, "host", None, text)

    def _lapsed(self) -> Attempt:
        """Hang up: without its final dot the server has no message (RFC 5321 4.1.1.4)."""
        self._drop()
        return self._attempt("transient", "data", "message", None, LEASE_ENDED)

    def _misconfigured(self, stage: Stage, text: str) -> Attempt:
        return self._attempt("permanent", stage, "host", None, text)

    def _attempt(self, outcome: Outcome, stage: Stage, scope: Scope, code: int | None, text: bytes | str) -> Attempt:
        shown = self._access.public_text(text, self._access_token)
        return Attempt(outcome, stage, scope, code, enhanced_code(code, shown), shown, self._peer)

    def _reset(self) -> Steps[None]:
        if self._session is None:
            return
        session = self._session
        session.wait_at_most(min(RESET_S, self._timeouts.command))
        try:
            session.send("RSET\r\n")
            code, _ = yield from session.reply()
        except OSError:
            code = 0
        except BaseException:
            self._drop()
            raise
        session.wait_at_most(self._timeouts.command)
        if code != 250:
            self._drop()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _is_wanted(code: int, wanted: int) -> bool:
    """250 stands for any 2xx (RFC 5321 4.2.1)."""
    return 200 <= code < 300 if wanted == 250 else code == wanted


def _scope(stage: Stage, code: int, refused: bool) -> Scope:
    if code == 421 or not refused or stage in ("dial", "tls", "ehlo"):
        return "host"
    # MAIL names the sender and the size only; 552 there is about this message's size (RFC 1870 6.1).
    if stage == "auth" or code in _AUTH_CODES or (stage == "mail" and code != 552):
        return "mailbox"
    return "message"


def _wire_form(message: bytes) -> bytes:
    """Dot-stuff (RFC 5321 4.5.2); refuse what a lenient server may take for the end (SMTP smuggling)."""
    *lines, rest = message.split(b"\r\n")
    bare_line_ends = message.count(b"\r") != len(lines) or message.count(b"\n") != len(lines)
    too_long = max(map(len, lines), default=0) > LINE_BYTES
    if rest or bare_line_ends or too_long or not lines or b"\0" in message or not message.isascii():
        raise ValueError("a message must consist of 7-bit lines of at most 998 bytes, each ended by CRLF")
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
