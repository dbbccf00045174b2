"""Mailboxes as the mail drivers need them: address, servers, and the decrypted password."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from emberflow.database.secrets import SecretBox
from emberflow.database.tables import mailboxes
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.errors import SecretError


@dataclass(frozen=True)
class Mailbox:
    """One mailbox of the operator. ``zone`` is an IANA name."""

    access: MailboxAccess
    display_name: str
    provider: str
    zone: str


@dataclass(frozen=True)
class Opened:
    """Mailboxes by id, and why others of those asked for cannot be used: one bad secret stops no other mailbox."""

    boxes: Mapping[int, Mailbox]
    unreadable: Mapping[int, str]


def open_mailboxes(connection: Connection, box: SecretBox, ids: Iterable[int]) -> Opened:
    """Return the mailboxes with these ids, with their passwords decrypted."""
    boxes: dict[int, Mailbox] = {}
    unreadable: dict[int, str] = {}
    for row in connection.execute(select(mailboxes).where(mailboxes.c.id.in_(set(ids)))):
        try:
            password = box.read(connection, row.id)
        except SecretError as error:
            unreadable[row.id] = str(error)
            continue
        access = MailboxAccess(
            mailbox_id=row.id,
            address=row.address,
            smtp_host=row.smtp_host,
            smtp_port=row.smtp_port,
            smtp_tls=row.smtp_tls,
            imap_host=row.imap_host,
            imap_port=row.imap_port,
            imap_tls=row.imap_tls,
            username=row.username,
            password=password,
        )
        boxes[row.id] = Mailbox(access, row.display_name, row.provider, row.zone)
    return Opened(boxes, unreadable)
