"""Mailboxes as the mail drivers need them: address, servers, and the decrypted password or refresh token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Connection, select

from emberflow.database.secrets import SecretBox
from emberflow.database.tables import mailboxes
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.errors import SecretError
from emberflow.settings import OAuthClient


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


def open_mailboxes(
    connection: Connection,
    box: SecretBox,
    ids: Iterable[int],
    oauth_clients: Mapping[str, OAuthClient] = MappingProxyType({}),
) -> Opened:
    """Return the mailboxes with these ids, with their secrets decrypted.

    A mailbox that logs in with XOAUTH2 needs its provider's entry in ``oauth_clients`` (``Settings.oauth_clients``).
    """
    boxes: dict[int, Mailbox] = {}
    unreadable: dict[int, str] = {}
    for row in connection.execute(select(mailboxes).where(mailboxes.c.id.in_(set(ids)))):
        try:
            password = box.read(connection, row.id)
        except SecretError as error:
            unreadable[row.id] = str(error)
            continue
        oauth = oauth_clients.get(row.provider) if row.auth_method == "xoauth2" else None
        if row.auth_method == "xoauth2" and oauth is None:
            unreadable[row.id] = (
                f"mailbox {row.id} logs in with XOAUTH2 and EMBERFLOW_OAUTH_CLIENTS has no client for its provider "
                f"{row.provider!r}"
            )
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
            oauth=oauth,
        )
        boxes[row.id] = Mailbox(access, row.display_name, row.provider, row.zone)
    return Opened(boxes, unreadable)
