"""The senders as the operator sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, RowMapping, text

NO_ZONE: Final = "its time zone is not known: nothing is sent from it or to it"

_LISTED = text("""
    select today.*, senders.state_remedy, senders.profile, mailboxes.provider, mailboxes.zone,
        mailboxes.check_stage, mailboxes.check_text,
        coalesce(senders.state_reason, case when zones.name is null then :no_zone end) as state_reason
    from ops.senders_today as today
    inner join ops.senders using (id)
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    left join ops.zones on zones.name = mailboxes.zone
    order by today.address
""")


def listed(connection: Connection) -> Sequence[RowMapping]:
    """Return one row per sender with today's quota, count and score, ordered by address."""
    return connection.execute(_LISTED, {"no_zone": NO_ZONE}).mappings().all()
