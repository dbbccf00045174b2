"""Mailboxes as the mail drivers need them: address, servers, and the decrypted password or refresh token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from emberflow.clock import known_zones
from emberflow.database.secrets import SecretBox
from emberflow.database.tables import egress_ips, mailbox_secrets, mailboxes
from emberflow.email_ops.addresses import normalise
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.oauth import replaced_refresh_tokens
from emberflow.errors import EmberflowError, SecretError
from emberflow.settings import Settings


@dataclass(frozen=True)
class Mailbox:
    """One mailbox of the operator. ``zone`` is an IANA name; ``egress_ip_id`` is that of the address it sends from."""

    access: MailboxAccess
    display_name: str
    provider: str
    zone: str
    egress_ip_id: int | None = None


@dataclass(frozen=True)
class Opened:
    """Mailboxes by id, and why others of those asked for cannot be used: one bad secret or zone stops no other."""

    boxes: Mapping[int, Mailbox]
    unreadable: Mapping[int, str]


def open_mailboxes(connection: Connection, settings: Settings, ids: Iterable[int]) -> Opened:
    """Return the mailboxes with these ids, with their secrets decrypted.

    A mailbox that logs in with XOAUTH2 needs its provider's entry in ``Settings.oauth_clients``.
    """
    boxes: dict[int, Mailbox] = {}
    unreadable: dict[int, str] = {}
    wanted = set(ids)
    if not wanted:
        return Opened(boxes, unreadable)
    secrets = SecretBox(settings.secret_keys).read_all(connection, wanted)
    egress = egress_ips.c.address.label("source_address")
    query = select(mailboxes, egress).outerjoin(egress_ips, egress_ips.c.id == mailboxes.c.egress_ip_id)
    for row in connection.execute(query.where(mailboxes.c.id.in_(wanted))):
        if row.zone not in known_zones():
            unreadable[row.id] = (
                f"{row.address} is in zone {row.zone!r}, which is not a known IANA time zone: correct it with "
                f"`emberflow senders set` or `emberflow bots set`"
            )
            continue
        password = secrets[row.id]
        if isinstance(password, SecretError):
            unreadable[row.id] = str(password)
            continue
        oauth = settings.oauth_clients.get(row.provider) if row.auth_method == "xoauth2" else None
        if row.auth_method == "xoauth2" and oauth is None:
            unreadable[row.id] = (
                f"{row.address} logs in with XOAUTH2 and EMBERFLOW_OAUTH_CLIENTS has no client for its provider "
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
            source_address=row.source_address,
        )
        boxes[row.id] = Mailbox(access, row.display_name, row.provider, row.zone, row.egress_ip_id)
    return Opened(boxes, unreadable)


def keep_replaced_refresh_tokens(connection: Connection, settings: Settings) -> None:
    """Store the refresh tokens that providers have replaced since they were read, unless an operator set another.

    Every run that has logged in calls this at its end: Microsoft replaces the token at each use, and the one that is
    stored ends after about 90 days.
    """
    box = SecretBox(settings.secret_keys)
    for replaced in replaced_refresh_tokens():
        secret = select(mailbox_secrets.c.mailbox_id).join(mailboxes, mailboxes.c.id == mailbox_secrets.c.mailbox_id)
        row = secret.where(mailboxes.c.id == replaced.mailbox_id, mailboxes.c.auth_method == "xoauth2")
        known = connection.execute(row.with_for_update(of=mailbox_secrets)).one_or_none() is not None
        if known and box.read(connection, replaced.mailbox_id) in replaced.earlier:
            box.store(connection, replaced.mailbox_id, replaced.newest)


def ids_of(connection: Connection, addresses: Sequence[str]) -> list[int]:
    """Return the mailbox ids of these addresses.

    Raises:
        EmberflowError: one of them is not an address or not registered.
    """
    wanted = [normalise(address) for address in addresses]
    rows = connection.execute(
        select(mailboxes.c.address, mailboxes.c.id).where(
            mailboxes.c.address.in_(wanted), mailboxes.c.removed_at.is_(None)
        )
    )
    found = {row.address: row.id for row in rows}
    unknown = [address for address in wanted if address not in found]
    if unknown:
        raise EmberflowError(f"not registered: {', '.join(unknown)}")
    return [found[address] for address in wanted]
