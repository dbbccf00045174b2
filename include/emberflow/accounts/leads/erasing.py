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


def lock(connection: Connection) -> None:
    """Wait until no import is under way, and let none begin before the commit."""
    connection.execute(ONE_AT_A_TIME)


def erase(connection: Connection, address: str) -> bool:
    """Remove the lead with this address, under :func:`lock`, and say whether there was one."""
    connection.execute(_FORGET_ROWS, {"address": address})
    return bool(connection.execute(_REMOVE, {"address": address}).rowcount)
