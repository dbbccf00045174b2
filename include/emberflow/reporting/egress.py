"""The source addresses that mail leaves from, as the operator sees them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, func, select

from emberflow.accounts.egress import is_of_this_machine
from emberflow.database.tables import egress_ips, mailboxes

__all__ = ["is_of_this_machine", "listed"]


def listed(connection: Connection) -> Sequence[RowMapping]:
    """Return every address with its state, its caps, and how many mailboxes it has."""
    assigned = select(mailboxes.c.egress_ip_id, func.count().label("mailboxes")).group_by(mailboxes.c.egress_ip_id)
    numbers = assigned.subquery()
    query = (
        select(egress_ips, func.coalesce(numbers.c.mailboxes, 0).label("mailboxes"))
        .outerjoin(numbers, numbers.c.egress_ip_id == egress_ips.c.id)
        .order_by(egress_ips.c.id)
    )
    return connection.execute(query).mappings().all()
