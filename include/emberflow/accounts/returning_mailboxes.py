"""An import of the address of a removed mailbox takes its row up again, so that no cap begins anew.

What it sent and received today still counts, and so do its pause, its rolling caps and its pairs. It is read from the
beginning, because it may lie on another server. Where only a mailbox of the other kind had the address, the row is a
new one, on which nothing of that is counted: it sends nothing for so long that it would not count any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Table, select, text

from emberflow.accounts import zone_moves
from emberflow.database.json_rows import rows_as_json
from emberflow.database.tables import bots, mailboxes, senders

_MEMBERS: Mapping[str, Table] = {"sender": senders, "bot": bots}

_TAKE_UP = text("""
    update ops.mailboxes
    set display_name = given.display_name,
        provider = given.provider,
        owner = given.owner,
        zone = given.zone,
        smtp_host = given.smtp_host,
        smtp_port = given.smtp_port,
        smtp_tls = given.smtp_tls,
        imap_host = given.imap_host,
        imap_port = given.imap_port,
        imap_tls = given.imap_tls,
        username = given.username,
        auth_method = given.auth_method,
        check_passed = null,
        check_stage = null,
        check_text = null,
        checked_at = null,
        removed_at = null
    from jsonb_populate_recordset(cast(null as ops.mailboxes), cast(:rows as jsonb)) as given
    where mailboxes.id = given.id
""")

_READ_ANEW = (
    text("delete from ops.imap_cursors where mailbox_id = any(:ids)"),
    text("delete from ops.message_faults where mailbox_id = any(:ids)"),
    text("delete from ops.mailbox_readings where mailbox_id = any(:ids)"),
    # Its server may be another one, which numbers other messages so.
    text("""
        update ops.inbound_messages
        set uidvalidity = null, uid = null
        where mailbox_id = any(:ids) and uid is not null
    """),
)

# It waits 25 hours: the longest local day, and as far back as rolling caps count.
_WAIT_FOR_OTHERS = text("""
    update ops.mailboxes
    set next_send_at = greatest(mailboxes.next_send_at, others.until)
    from (
        select address, max(next_send_at) + interval '25 hours' as until
        from ops.mailboxes as removed
        where removed_at is not null
            and address = any(:addresses)
            and (
                exists (select from ops.send_counters where scope = 'sender' and key = cast(removed.id as text))
                or exists (
                    select
                    from ops.bots
                    inner join ops.bot_days on bot_days.bot_id = bots.id
                    where bots.mailbox_id = removed.id and bot_days.reply_sent > 0
                )
            )
        group by address
    ) as others
    where mailboxes.address = others.address and mailboxes.removed_at is null
""")


def take_up(
    connection: Connection, kind: Literal["sender", "bot"], rows: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Give removed mailboxes of this kind the values of ``rows`` (columns of ``mailboxes``); return them by address.

    Whether they are in use is written by the caller, as for a new mailbox.
    """
    given = {row["address"]: row for row in rows}
    members = _MEMBERS[kind]
    query = select(mailboxes).join(members, members.c.mailbox_id == mailboxes.c.id)
    query = query.where(mailboxes.c.address.in_(given), mailboxes.c.removed_at.is_not(None))
    before = {row.address: row for row in connection.execute(query.order_by(mailboxes.c.removed_at))}
    for address, row in before.items():
        zone = given[address]["zone"]
        # A sender that has never sent has no day to keep.
        if zone != row.zone and (kind == "bot" or row.next_send_at is not None):
            zone_moves.keep_caps(connection, kind, row.id, row.zone, zone)
    taken_up = {address: row.id for address, row in before.items()}
    written = rows_as_json({"id": number, **given[address]} for address, number in taken_up.items())
    connection.execute(_TAKE_UP, {"rows": written})
    for forget in _READ_ANEW:
        connection.execute(forget, {"ids": list(taken_up.values())})
    return taken_up


def wait_for_others(connection: Connection, addresses: Iterable[str]) -> None:
    """Let mailboxes wait until nothing counts any more that removed ones of the same addresses have sent."""
    connection.execute(_WAIT_FOR_OTHERS, {"addresses": list(addresses)})
