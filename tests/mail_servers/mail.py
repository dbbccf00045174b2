"""Logins and messages of the tests with mail servers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from emberflow.domain.attempt import Attempt
from emberflow.email_ops.imap import ImapReader
from emberflow.email_ops.mailbox import MailboxAccess, TlsMode
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.smtp import SmtpConnection
from tests.worlds import Sandbox

PASSWORD = "Sörbet, not salt"
numbers = itertools.count(1)


@dataclass(frozen=True)
class User:
    """Somebody with a mailbox on some servers."""

    servers: Sandbox
    address: str

    def access(self, *, tls: TlsMode = "starttls", password: str = PASSWORD) -> MailboxAccess:
        """Return the servers and the login."""
        at = self.servers.address
        ports = (at.smtp_port, at.imap_port) if tls == "starttls" else (at.smtps_port, at.imaps_port)
        return MailboxAccess(
            1, self.address, at.host, ports[0], tls, at.host, ports[1], tls, self.address, SecretStr(password)
        )

    def reader(self, **access: Any) -> ImapReader:
        """Return a reader of the mailbox, to be entered."""
        return ImapReader(self.access(**access), "sandbox", self._ca_files)

    def connection(self, **access: Any) -> SmtpConnection:
        """Return a submission, to be entered."""
        return SmtpConnection(self.access(**access), "sandbox", self._ca_files)

    def send(self, recipient: str, key: str = "one", **changes: Any) -> Attempt:
        """Send a mail, and wait until it is where it ends."""
        with self.connection() as connection:
            wire = build(a_mail(self.address, recipient, key, **changes))
            attempt = connection.deliver(wire, self.address, recipient, before_data=lambda: 3600.0)
        self.servers.settle()
        return attempt

    @property
    def domain(self) -> str:
        """The domain of its address."""
        return self.address.partition("@")[2]

    @property
    def _ca_files(self) -> dict[str, Path]:
        return {self.servers.address.host: self.servers.address.ca_file}


def a_user(servers: Sandbox, name: str) -> User:
    """Make a mailbox in a domain of its own, so that tests run in any order and Dovecot knows it at once."""
    address = f"{name}@{name}{next(numbers)}.test"
    servers.create_accounts({address: PASSWORD})
    return User(servers, address)


def an_id(recipient: str, key: str = "one") -> str:
    """Return the Message-ID of the mail that ``key`` names."""
    return f"<{key}.to.{recipient.replace('@', '.at.')}@north.test>"


def a_mail(sender: str, recipient: str, key: str = "one", **changes: Any) -> OutgoingMessage:
    """Return a message of a thread."""
    values: dict[str, Any] = {
        "message_id": an_id(recipient, key),
        "from_address": sender,
        "from_name": "Ann Lee",
        "to_address": recipient,
        "subject": f"Grüße {key}",
        "body": "Hi.\n",
        "date": datetime(2026, 11, 23, 12, tzinfo=UTC),
        "in_reply_to": "<parent@south.test>",
        "references": ("<root@south.test>", "<parent@south.test>"),
        "token": "a.b",
        "auto_reply": False,
    }
    return OutgoingMessage(**(values | changes))
