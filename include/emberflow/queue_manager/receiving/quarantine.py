"""The bytes of messages that broke a limit of the parser, kept for a time so that somebody can look into them.

They are what a stranger wrote to somebody: they are encrypted with the keys of the mailboxes' passwords, so that no
backup of the database shows them, and they go after ``inbox.quarantine_days``. A flood does not fill the database: of a
message 256 KiB are kept, of a mailbox 50 messages and 2 MiB, of all mailboxes 256 MiB, compressed. What was kept first
stays, and what finds no room has its row in ``ops.message_faults`` all the same. Shards that keep messages at the same
moment do not see each other's: each may go beyond the bound of all mailboxes by that of one.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text

from emberflow.database.secrets import Sealed, SecretBox
from emberflow.email_ops.classify import READ_BYTES
from emberflow.errors import EmberflowError, SecretError
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.settings import Settings

if TYPE_CHECKING:  # commands that show what is kept load no mail client
    from emberflow.email_ops.imap import ImapError, Unread

MAILBOX_MESSAGES = 50
MAILBOX_BYTES = 2 * 1024 * 1024
ALL_BYTES = 256 * 1024 * 1024

_USED = text("""
    select
        count(*) filter (where mailbox_id = :mailbox_id) as messages,
        coalesce(sum(octet_length(ciphertext)) filter (where mailbox_id = :mailbox_id), 0) as octets,
        coalesce(sum(octet_length(ciphertext)), 0) as octets_of_all
    from ops.quarantined_bytes
    inner join ops.message_faults as faults on faults.id = fault_id
""")
# The same message, before its folder was numbered anew: nothing has that number any more.
_SUPERSEDE = text("""
    delete from ops.message_faults as faults
    using ops.quarantined_bytes as kept
    where kept.fault_id = faults.id and kept.sha256 = :sha256
        and faults.mailbox_id = :mailbox_id and faults.folder = :folder and faults.uidvalidity <> :uidvalidity
""")
_KEEP = text("""
    insert into ops.quarantined_bytes (fault_id, octets, sha256, key_id, nonce, ciphertext, kept_at)
    select id, :octets, :sha256, :key_id, :nonce, :ciphertext, :at
    from ops.message_faults
    where mailbox_id = :mailbox_id and folder = :folder and uidvalidity = :uidvalidity and uid = :uid and step = 'read'
    on conflict (fault_id) do nothing
""")
_PURGE = text("delete from ops.quarantined_bytes where kept_at <= :before")
_ONE = text("""
    select faults.mailbox_id, kept.fault_id, kept.octets, kept.sha256, kept.key_id, kept.nonce, kept.ciphertext
    from ops.message_faults as faults
    left join ops.quarantined_bytes as kept on kept.fault_id = faults.id
    where faults.id = :fault_id
""")
_UNDER_OTHER_KEYS = text("select fault_id from ops.quarantined_bytes where key_id <> :key_id for update")
_RESEAL = text("""
    update ops.quarantined_bytes
    set key_id = :key_id, nonce = :nonce, ciphertext = :ciphertext
    where fault_id = :fault_id
""")
_DROP = text("delete from ops.quarantined_bytes where fault_id = :fault_id")


class NotKeptError(EmberflowError):
    """The bytes of this message are not here."""


class Quarantine:
    """Sets messages aside that could not be read, and keeps the bytes of those that never will be."""

    def __init__(self, settings: Settings, days: int) -> None:
        self._box = SecretBox(settings.secret_keys)
        self._days = days

    def note(self, connection: Connection, place: Place, faults: Sequence[Unread], at: datetime) -> None:
        """Record one more failure of each message, as ``message_faults.note`` does, and keep what was read of it."""
        message_faults.note(connection, place, "read", faults, at)
        hostile = [(fault, hashlib.sha256(fault.raw).digest()) for fault in faults if fault.is_final and fault.raw]
        if not hostile or not self._days:
            return
        connection.execute(_SUPERSEDE, [vars(place) | {"sha256": digest} for _, digest in hostile])
        used = connection.execute(_USED, {"mailbox_id": place.mailbox_id}).one()
        messages = MAILBOX_MESSAGES - used.messages
        octets = min(MAILBOX_BYTES - used.octets, ALL_BYTES - used.octets_of_all)
        for fault, digest in hostile:
            if messages <= 0 or octets <= 0:
                return
            raw = fault.raw[:READ_BYTES]
            sealed = self._box.seal(zlib.compress(raw), _bound_to(place.mailbox_id, digest))
            if len(sealed.ciphertext) > octets:
                continue
            kept = {"uid": fault.uid, "octets": len(raw), "sha256": digest, "at": at}
            if connection.execute(_KEEP, vars(place) | kept | vars(sealed)).rowcount:
                messages -= 1
                octets -= len(sealed.ciphertext)


def unread_of(error: ImapError) -> list[Unread]:
    """Return the messages at which the connection broke: each is tried again later, as what a server refuses."""
    from emberflow.email_ops.imap import Unread  # noqa: PLC0415 - as above

    return [Unread(uid, None, reason, is_final=False) for uid, reason in error.ended_by.items()]


@dataclass(frozen=True)
class Rotated:
    """How many messages were encrypted anew, and how many are gone because no key opens them."""

    messages: int = 0
    lost: int = 0


def purge(connection: Connection, days: int, now: datetime) -> int:
    """Delete what was kept for ``days``; return of how many messages."""
    return connection.execute(_PURGE, {"before": now - timedelta(days=days)}).rowcount


def raw(connection: Connection, settings: Settings, fault_id: int) -> bytes:
    """Return what is kept of a message that was set aside.

    Raises:
        NotKeptError: nothing of it is kept, or it was not set aside.
        SecretError: no key opens it.
    """
    row = connection.execute(_ONE, {"fault_id": fault_id}).one_or_none()
    if row is None:
        raise NotKeptError(f"no message with the number {fault_id} is set aside: see `emberflow inbox quarantined`")
    if row.fault_id is None:
        raise NotKeptError(
            f"no bytes of message {fault_id} are kept: they are kept of what broke a limit of the parser, while there "
            "is room and for `inbox.quarantine_days`; look at it with a mail program"
        )
    try:
        return zlib.decompress(_opened(SecretBox(settings.secret_keys), row))
    except SecretError as error:
        raise SecretError(f"message {fault_id} cannot be opened: {error}") from None


def rotate(connection: Connection, settings: Settings) -> Rotated:
    """Encrypt with the current key what is kept under another one; what no key opens is deleted."""
    box = SecretBox(settings.secret_keys)
    ids: Sequence[int] = connection.execute(_UNDER_OTHER_KEYS, {"key_id": box.current_key_id}).scalars().all()
    lost = 0
    for fault_id in ids:
        row = connection.execute(_ONE, {"fault_id": fault_id}).one()
        try:
            plain = _opened(box, row)
        except SecretError:
            connection.execute(_DROP, {"fault_id": fault_id})
            lost += 1
        else:
            sealed = box.seal(plain, _bound_to(row.mailbox_id, bytes(row.sha256)))
            connection.execute(_RESEAL, {"fault_id": fault_id} | vars(sealed))
    return Rotated(len(ids) - lost, lost)


def _opened(box: SecretBox, row: Row[Any]) -> bytes:
    sealed = Sealed(row.key_id, bytes(row.nonce), bytes(row.ciphertext))
    return box.open(sealed, _bound_to(row.mailbox_id, bytes(row.sha256)))


def _bound_to(mailbox_id: int, digest: bytes) -> bytes:
    return f"quarantine:{mailbox_id}:{digest.hex()}".encode()
