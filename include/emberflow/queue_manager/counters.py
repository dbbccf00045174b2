"""What was sent, counted in the database: ``ops.send_counters``, one row for every counter of ``delivery.caps``.

Whoever counts holds the rows under lock until its transaction ends, in the order of their keys: two workers neither
overshoot a cap together nor deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.clock import floor_hour
from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery.caps import HOURS_KEPT, CounterKey, Counters

_OPEN = text("""
    insert into ops.send_counters (scope, key, hour, per_hour)
    select scope, key, :hour, array_fill(0, array[:kept])
    from jsonb_to_recordset(cast(:keys as jsonb)) as wanted (scope text, key text)
    order by scope, key
    on conflict do nothing
""")

_LOCK = text("""
    select scope, key, hour, per_hour
    from ops.send_counters
    inner join jsonb_to_recordset(cast(:keys as jsonb)) as wanted (scope text, key text) using (scope, key)
    order by scope, key
    for update of send_counters
""")

_STORE = text("""
    update ops.send_counters
    set hour = :hour, per_hour = counted.per_hour
    from jsonb_to_recordset(cast(:rows as jsonb)) as counted (scope text, key text, per_hour integer[])
    where send_counters.scope = counted.scope and send_counters.key = counted.key
""")


def lock(connection: Connection, keys: Iterable[CounterKey], now: datetime) -> Counters:
    """Lock the counters ``keys`` until the transaction ends and return them as of ``now``."""
    distinct = sorted(set(keys))
    wanted = rows_as_json(key._asdict() for key in distinct)
    rows = prepared.rows_of(connection, "lock_counters", _LOCK, {"keys": wanted})
    if len(rows) < len(distinct):
        connection.execute(_OPEN, {"keys": wanted, "hour": floor_hour(now), "kept": HOURS_KEPT})
        rows = prepared.rows_of(connection, "lock_counters", _LOCK, {"keys": wanted})
    return Counters.as_of(now, {CounterKey(row.scope, row.key): (row.hour, row.per_hour) for row in rows})


def store(connection: Connection, counters: Counters) -> None:
    """Write what was changed; the rows are still locked by this transaction."""
    rows = [{**key._asdict(), "per_hour": per_hour} for key, per_hour in counters.changed.items()]
    if rows:
        prepared.rows_of(connection, "store_counters", _STORE, {"rows": rows_as_json(rows), "hour": counters.hour})
