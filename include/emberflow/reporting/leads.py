"""Leads and the files that brought them in, as the operator sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from emberflow.email_ops.addresses import normalise
from emberflow.errors import EmberflowError

_LISTED = text("""
    select address, zone, country, source, lawful_basis, import_id, created_at, updated_at
    from ops.leads
    where (cast(:batch as bigint) is null or import_id = :batch)
    order by id desc
    limit :limit
""")
_SHOWN = text("""
    select id, address, zone, country, source, lawful_basis, fields, import_id, created_at, updated_at
    from ops.leads
    where address = :address
""")
_ROWS_OF_LEAD = text("""
    select import_id, row_number, verdict, before
    from ops.lead_import_rows
    where lead_id = :id
    order by import_id desc
""")
_IMPORTS = text("""
    select
        id, file_name, mode, rows, added, filled, replaced, duplicate, suppressed, invalid, imported_by, reason,
        imported_at, undone_at, undone_by
    from ops.lead_imports
    where (cast(:batch as bigint) is null or id = :batch)
    order by id desc
    limit :limit
""")
_UNUSED = text("""
    select row_number, verdict, column_name, reason
    from ops.lead_import_rows
    where import_id = :batch and reason is not null
    order by row_number
    limit :limit
""")


def listed(connection: Connection, batch: int | None, limit: int) -> Sequence[RowMapping]:
    """Return the newest leads, or those that an import added, without their custom fields."""
    return connection.execute(_LISTED, {"batch": batch, "limit": limit}).mappings().all()


def shown(connection: Connection, address: str) -> dict[str, Any]:
    """Return all that is known of a lead; ``imports`` are the rows of files that added or changed it, newest first.

    Raises:
        EmberflowError: there is none with this address.
    """
    normal = normalise(address)
    row = connection.execute(_SHOWN, {"address": normal}).mappings().one_or_none()
    if row is None:
        raise EmberflowError(f"{normal} is no lead; `emberflow leads list` shows them")
    imports = connection.execute(_ROWS_OF_LEAD, {"id": row["id"]}).mappings().all()
    return {**row, "imports": [dict(one) for one in imports]}


def imports(connection: Connection, limit: int, batch: int | None = None) -> Sequence[RowMapping]:
    """Return the newest imports, or one, with their counts by verdict."""
    return connection.execute(_IMPORTS, {"batch": batch, "limit": limit}).mappings().all()


def unused_rows(connection: Connection, batch: int, limit: int) -> Sequence[RowMapping]:
    """Return the rows of an import that brought nothing: row_number, verdict, column_name and reason."""
    return connection.execute(_UNUSED, {"batch": batch, "limit": limit}).mappings().all()
