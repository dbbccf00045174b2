"""smtplib on a connection that is already open, with replies read strictly and within bounds.

smtplib itself takes a line that was cut in the middle for a reply, turns an overlong line into a 500 (which
after the final dot would read as "not sent"), and collects continuation lines without end. Here whatever is
not a complete reply (RFC 5321 4.2) closes the connection and raises SMTPServerDisconnected.
"""

from __future__ import annotations

import re
import smtplib
import socket

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_REPLY_LINE_BYTES = 4096
_REPLY_LINES = 200


class Session(smtplib.SMTP):
    """An SMTP session over ``connection``, which may be TLS already; ``host`` is what STARTTLS verifies."""

    def __init__(self, connection: socket.socket, host: str, local_hostname: str) -> None:
        super().__init__(local_hostname=local_hostname)
        self._host = host
        self.sock = connection

    def wait_at_most(self, seconds: float) -> None:
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def getreply(self) -> tuple[int, bytes]:
        lines: list[bytes] = []
        for _ in range(_REPLY_LINES):
            line = self._read_line()
            reply = _REPLY_LINE.fullmatch(line)
            if reply is None:
                raise self._broken(f"not an SMTP reply: {line[:80]!r}")
            code, separator, text = reply.groups()
            lines.append(text or b"")
            if separator != b"-":
                return int(code), b"\n".join(lines)
        raise self._broken(f"a reply of more than {_REPLY_LINES} lines")

    def _read_line(self) -> bytes:
        if self.file is None:
            if self.sock is None:
                raise self._broken("not connected")
            self.file = self.sock.makefile("rb")
        try:
            line = self.file.readline(_REPLY_LINE_BYTES)
        except OSError as error:
            raise self._broken(f"connection lost: {error}") from error
        if not line.endswith(b"\n"):
            raise self._broken(f"connection closed or reply cut after {line[:80]!r}")
        return line.rstrip(b"\r\n")

    def _broken(self, reason: str) -> smtplib.SMTPServerDisconnected:
        self.close()
        return smtplib.SMTPServerDisconnected(reason)
