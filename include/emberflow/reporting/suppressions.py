"""Who gets no mail, as the operator sees it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, text

_LISTED = text("""
    select
        case kind when 'domain' then '@' || value else value end as target, kind, value, reason, added_by, added_at
    from ops.suppressions
    order by added_at desc, id desc
    limit :limit
""")


def listed(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Return the newest entries: target (as it is written), kind, value, reason, added_by and added_at."""
    return connection.execute(_LISTED, {"limit": limit}).mappings().all()
