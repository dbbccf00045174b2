"""imaplib on connections of our own making: vetted, under TLS, and with a bound on what a server can send."""

from __future__ import annotations

import imaplib
import ssl
from contextlib import suppress

from imap_tools.mailbox import BaseMailBox

from emberflow.email_ops.egress import Mode, dial
from emberflow.email_ops.mailbox import MailboxAccess


class Client(imaplib.IMAP4):
    """A connection that is under TLS before any login; a literal over ``literal_limit`` bytes ends it."""

    def __init__(
        self,
        access: MailboxAccess,
        mode: Mode,
        context: ssl.SSLContext,
        timeout: float,
        *,
        literal_limit: int,
    ) -> None:
        self._access = access
        self._literal_limit = literal_limit
        self._mode = mode
        self._context = context
        self._timeout = timeout
        super().__init__(access.imap_host, access.imap_port, timeout)
        if access.imap_tls == "starttls":
            try:
                self.starttls(ssl_context=context)
            except BaseException:
                self.shutdown()
                raise

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = dial(self._mode, host, port, self._timeout)
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
        return super().read(size)


class Box(BaseMailBox):
    """imap-tools on our own client."""

    def __init__(self, client: imaplib.IMAP4) -> None:
        self._own_client = client
        super().__init__()

    def _get_mailbox_client(self) -> imaplib.IMAP4:
        return self._own_client
