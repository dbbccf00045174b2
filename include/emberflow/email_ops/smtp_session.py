"""smtplib on a connection that is already open, with replies read strictly and within bounds.

smtplib itself takes a line that was cut in the middle for a reply, turns an overlong line into a 500 (which
after the final dot would read as "not sent"), collects continuation lines without end, and lets a server that
says one byte a minute keep it waiting for hours. Here whatever is not a complete reply (RFC 5321 4.2) in time
closes the connection and raises SMTPServerDisconnected.

Reading never blocks: :meth:`Session.reply` is a generator that yields whenever it has to wait for the server. Whoever
leads one dialogue runs it with :func:`run`; whoever leads many waits for all of their sockets at once.
"""

from __future__ import annotations

import math
import re
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")
# What a dialogue yields: until when (``time.monotonic``) it waits for the server, or None to ask for permission to send
# DATA, which is answered with the seconds for which it is given.
Steps = Generator[float | None, float | None, _T]

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_REPLY_LINE_BYTES = 4096
_REPLY_LINES = 200
_REPLY_BYTES = 65_536
_WRITE_BYTES = 16_384  # one TLS record


class Session(smtplib.SMTP):
    """An SMTP session over ``connection``, which may be TLS already; ``host`` is what STARTTLS verifies.

    A write, and the whole of a reply, may each take as long as the last :meth:`wait_at_most` said, and nothing goes on
    after the moment that :meth:`end_by` named. What has arrived is read before any time is looked at: a process that
    was stopped past its deadline finds the answer that came meanwhile.
    """

    def __init__(self, connection: socket.socket, host: str, local_hostname: str) -> None:
        super().__init__(local_hostname=local_hostname)
        self._host = host
        self._patience = 0.0
        self._over_at = math.inf
        self._received = bytearray()
        self.sock: socket.socket | None = connection

    def wait_at_most(self, seconds: float) -> None:
        self._patience = seconds

    def end_by(self, moment: float | None) -> None:
        """Give up whatever goes on at ``moment`` (``time.monotonic``), however lively the server is; None: no limit."""
        self._over_at = math.inf if moment is None else moment

    def require_silence(self) -> None:
        """Hang up if the server has said more than it was asked: the next reply would be another command's.

        Raises:
            SMTPServerDisconnected: it has, or it has hung up.
        """
        self._received += self._receive() or b""
        if self._received:
            raise self._broken(f"the server spoke out of turn: {bytes(self._received[:80])!r}")

    def starttls(self, *, context: ssl.SSLContext) -> tuple[int, bytes]:  # type: ignore[override]
        """Go on under TLS if the server agrees; what it said before counts for nothing (RFC 3207 4.2)."""
        code, text = self.docmd("STARTTLS")
        if code == 220 and self.sock is not None:
            # Replies that were put in front of the handshake would be read as if they had come under TLS.
            self.require_silence()
            self.sock.settimeout(self._left_s(self._give_up_at()))
            self.sock = context.wrap_socket(self.sock, server_hostname=self._host)
            self.ehlo_resp = None
            self.esmtp_features = {}
            self.does_esmtp = False
        return code, text

    def send(self, s: bytes | str) -> None:  # type: ignore[override]
        if self.sock is None:
            raise self._broken("not connected")
        give_up_at = self._give_up_at()
        left = memoryview(s.encode("ascii") if isinstance(s, str) else s)
        try:
            while left:
                # Not sendall: under TLS it would grant the whole time to every record.
                self.sock.settimeout(self._left_s(give_up_at))
                left = left[self.sock.send(left[:_WRITE_BYTES]) :]
        except OSError as error:
            raise self._broken(f"connection lost: {error}") from error

    def getreply(self) -> tuple[int, bytes]:
        return run(self.reply(), self)

    def reply(self) -> Steps[tuple[int, bytes]]:
        """Read one reply, whole."""
        give_up_at = self._give_up_at()
        lines: list[bytes] = []
        size = 0
        for _ in range(_REPLY_LINES):
            line = yield from self._read_line(give_up_at)
            reply = _REPLY_LINE.fullmatch(line)
            if reply is None:
                raise self._broken(f"not an SMTP reply: {line[:80]!r}")
            code, separator, text = reply.groups()
            lines.append(text or b"")
            size += len(line)
            if size > _REPLY_BYTES:
                raise self._broken(f"a reply of more than {_REPLY_BYTES} bytes")
            if separator != b"-":
                return int(code), b"\n".join(lines)
        raise self._broken(f"a reply of more than {_REPLY_LINES} lines")

    def wait_until(self, moment: float) -> None:
        """Wait until the server says something, or until ``moment`` (``time.monotonic``)."""
        if self.sock is not None:
            waiting = select.poll()
            waiting.register(self.sock, select.POLLIN)
            waiting.poll(max(moment - time.monotonic(), 0.0) * 1000)

    def _read_line(self, give_up_at: float) -> Steps[bytes]:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > _REPLY_LINE_BYTES:
                raise self._broken(f"an endless line: {bytes(self._received[:80])!r}")
            piece = self._receive()
            if piece is not None:
                self._received += piece
            elif time.monotonic() >= give_up_at:
                raise self._broken("connection lost: timed out")
            else:
                yield give_up_at
        line = bytes(self._received[:end]).rstrip(b"\r")
        del self._received[: end + 1]
        return line

    def _receive(self) -> bytes | None:
        """Return what has come in; None if that is nothing."""
        if self.sock is None:
            raise self._broken("not connected")
        self.sock.settimeout(0)
        try:
            piece = self.sock.recv(_REPLY_LINE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise self._broken(f"connection lost: {error}") from error
        if not piece:
            raise self._broken(f"connection closed or reply cut after {bytes(self._received[:80])!r}")
        return piece

    def _give_up_at(self) -> float:
        return min(time.monotonic() + self._patience, self._over_at)

    def _left_s(self, moment: float) -> float:
        """Return the seconds until ``moment``.

        Raises:
            TimeoutError: there are none.
        """
        left_s = moment - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    def _broken(self, reason: str) -> smtplib.SMTPServerDisconnected:
        self.close()
        return smtplib.SMTPServerDisconnected(reason)


def run(steps: Steps[_T], session: Session, permit: Callable[[], float] | None = None) -> _T:
    """Lead one dialogue to its end, waiting whenever it waits; ``permit`` is called when it asks for permission."""
    try:
        until = next(steps)
        while True:
            if until is not None:
                session.wait_until(until)
                until = steps.send(None)
            elif permit is None:
                raise RuntimeError("nobody is there to give permission")
            else:
                try:
                    owned_s = permit()
                except BaseException as refusal:
                    until = steps.throw(refusal)
                else:
                    until = steps.send(owned_s)
    except StopIteration as end:
        result: _T = end.value
        return result
