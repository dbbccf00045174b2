"""imaplib on connections of our own making: vetted, under TLS, and with a bound on what a server can send."""

from __future__ import annotations

import imaplib
import io
import ssl
from contextlib import suppress
from typing import Any

from imap_tools.mailbox import BaseMailBox

from emberflow.email_ops.egress import Mode, dial
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.session_budget import BudgetedSocket, SessionBudget

_LINE_BYTES = 4 * 1024 * 1024  # the answer to a SEARCH is one line; imaplib's own bound ends at 100,000 messages


class Client(imaplib.IMAP4):
    """A connection that is under TLS before any login and keeps to ``budget``.

    A literal over ``literal_limit`` bytes ends it.
    """

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        context: ssl.SSLContext,
        budget: SessionBudget,
        *,
        literal_limit: int,
    ) -> None:
        self._access = access
        self._literal_limit = literal_limit
        self._mode = mode
        self._context = context
        self._budget = budget
        self._incoming: tuple[object, io.BufferedReader] | None = None
        super().__init__(access.imap_host, access.imap_port)
        if access.imap_tls == "starttls":
            try:
                self.starttls(ssl_context=context)
            except BaseException:
                self.shutdown()
                raise

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = dial(self._mode, host, port, self._budget.wait_s(), self._access.source_address)
        if self._access.imap_tls == "implicit":
            try:
                self.sock = self._context.wrap_socket(self.sock, server_hostname=host)
            except BaseException:
                self.sock.close()
                raise
        self.file = self.sock.makefile("rb")

    def shutdown(self) -> None:
        # A failed TLS handshake has closed the socket already; that must not hide why.
        with suppress(OSError):
            super().shutdown()

    def read(self, size: int) -> bytes:
        # imaplib would allocate whatever size the server announces (https://github.com/python/cpython/issues/119511).
        if size > self._literal_limit:
            raise self.abort(f"the server announced a literal of {size} bytes, over the limit of {self._literal_limit}")
        self._budget.count_literal()
        return self._reader().read(size)

    def readline(self) -> bytes:
        line = self._reader().readline(_LINE_BYTES + 1)
        if len(line) > _LINE_BYTES:
            raise self.abort(f"the server sent a line of more than {_LINE_BYTES} bytes")
        self._budget.count_line()
        return line

    def send(self, data: bytes) -> None:  # type: ignore[override]
        self.sock.settimeout(self._budget.wait_s())
        super().send(data)

    def _command(self, name: str, *arguments: Any) -> Any:
        self._budget.begin_command()
        return super()._command(name, *arguments)  # type: ignore[misc]

    def _reader(self) -> io.BufferedReader:
        """Return what reads the present socket: STARTTLS puts another in its place, and nothing from before counts."""
        if self._incoming is None or self._incoming[0] is not self.sock:
            self._incoming = (self.sock, io.BufferedReader(BudgetedSocket(self.sock, self._budget)))
        return self._incoming[1]


class Box(BaseMailBox):
    """imap-tools on our own client."""

    def __init__(self, client: imaplib.IMAP4) -> None:
        self._own_client = client
        super().__init__()

    def _get_mailbox_client(self) -> imaplib.IMAP4:
        return self._own_client
