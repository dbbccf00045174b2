"""Erasing a lead: its row, and what imports keep of it for undoing."""

from __future__ import annotations

from sqlalchemy import Connection, text

from emberflow.accounts.leads.importing import ONE_AT_A_TIME

_FORGET_ROWS = text("""
    update ops.lead_import_rows as taken
    set lead_id = null, before = null
    from ops.leads
    where taken.lead_id = leads.id and leads.address = :address
""")
_REMOVE = text("delete from ops.leads where address = :address")


def erase(connection: Connection, address: str) -> bool:
    """Remove the lead with this address and say whether there was one; an import under way ends before."""
    connection.execute(ONE_AT_A_TIME)
    connection.execute(_FORGET_ROWS, {"address": address})
    return bool(connection.execute(_REMOVE, {"address": address}).rowcount)
