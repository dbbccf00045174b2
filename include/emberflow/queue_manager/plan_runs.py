"""Which hours are planned: the rows of ``ops.plan_runs``, one per kind of mail, scope and hour."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, RowMapping, text

_RUN = text("select * from ops.plan_runs where kind = 'warmup' and hour = :hour")


def run_of(connection: Connection, hour: datetime) -> RowMapping | None:
    """Return the row of the hour's warm-up, None while it is not planned."""
    return connection.execute(_RUN, {"hour": hour}).mappings().one_or_none()
