"""Who gets no mail, as the operator sees it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, RowMapping, text

_TARGET = "case kind when 'domain' then '@' || value when 'hash' then 'hash:' || value else value end"
_LISTED = text(f"""
    select {_TARGET} as target, kind, value, cause, reason, added_by, added_at
    from ops.suppressions
    order by added_at desc, id desc
    limit :limit
""")  # noqa: S608 - a constant
_EXPORTED = text(f"""
    select
        {_TARGET} as address, cause, reason, added_by,
        to_char(added_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as added_at
    from ops.suppressions
    order by id
""")  # noqa: S608 - a constant


def listed(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Return the newest entries: target (as it is written), kind, value, cause, reason, added_by and added_at."""
    return connection.execute(_LISTED, {"limit": limit}).mappings().all()


def exported(connection: Connection) -> Sequence[Row[tuple[str, str, str, str, str]]]:
    """Return all entries as a file of them has it, the oldest first."""
    return connection.execute(_EXPORTED).all()
