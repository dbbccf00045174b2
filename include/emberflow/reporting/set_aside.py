"""Messages that were set aside, as the operator sees them, and what is kept of their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, RowMapping, text

from emberflow.errors import EmberflowError
from emberflow.queue_manager.receiving import quarantine
from emberflow.settings import Settings

_COLUMNS = """
    select
        faults.id, address as mailbox, faults.folder, faults.uidvalidity, faults.uid, faults.step, faults.reason,
        faults.size, kept.octets as kept, encode(kept.sha256, 'hex') as sha256, faults.tries, faults.first_at,
        faults.last_at, faults.next_try_at, kept.kept_at
    from ops.message_faults as faults
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    left join ops.quarantined_bytes as kept on kept.fault_id = faults.id
"""
_LISTED = text(f"{_COLUMNS} order by faults.last_at desc, faults.id desc limit :limit")
_ONE = text(f"{_COLUMNS} where faults.id = :fault_id")
_COUNTED = text("""
    select
        count(*) filter (where last_at > clock_timestamp() - interval '7 days') as lately,
        count(*) filter (where step = 'read') as unread,
        count(*) filter (where step = 'rescue') as in_junk,
        count(*) filter (where step not in ('read', 'rescue')) as not_marked,
        count(*) filter (where next_try_at is null) as given_up,
        count(kept.fault_id) as kept,
        coalesce(sum(octet_length(kept.ciphertext)), 0)::bigint as octets,
        (array_agg(address || ', ' || folder || ', UID ' || uid || ': ' || faults.reason order by last_at desc))[1]
            as newest
    from ops.message_faults as faults
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    left join ops.quarantined_bytes as kept on kept.fault_id = faults.id
""")


def listed(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Return the messages that failed last; ``size`` and ``kept`` (what can be shown of it) in bytes."""
    return connection.execute(_LISTED, {"limit": limit}).mappings().all()


def one(connection: Connection, fault_id: int) -> RowMapping:
    """Return what is known of one message.

    Raises:
        EmberflowError: no such message is set aside.
    """
    row = connection.execute(_ONE, {"fault_id": fault_id}).mappings().one_or_none()
    if row is None:
        raise EmberflowError(f"no message with the number {fault_id} is set aside: see `emberflow inbox quarantined`")
    return row


def raw(connection: Connection, settings: Settings, fault_id: int) -> bytes:
    """Return the bytes that are kept of a message; a stranger wrote them.

    Raises:
        NotKeptError, SecretError: as in ``quarantine.raw``.
    """
    return quarantine.raw(connection, settings, fault_id)


def counted(connection: Connection) -> Row[tuple[int, int, int, int, int, int, int, str | None]]:
    """Return how many were set aside within 7 days, in all by step, given up, and kept, and which is the newest."""
    return connection.execute(_COUNTED).one()
