"""The rows of circuit breakers (`delivery.breakers`): ``ops.host_breakers``.

An absent row is a closed breaker. Rows are locked in the order of their keys, each function in the caller's
transaction, which should be short: other workers wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row, text

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery import breakers
from emberflow.delivery.breakers import Blocked, Breaker, BreakerPolicy, Keys, Outcome
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot

_READ = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[])) and open_until is not null
""")

_READ_FAILING = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[])) and (failures > 0 or open_until is not null)
""")

_LOCK = text("""
    select key, failures, open_until, probe_until, reason
    from ops.host_breakers
    where key = any(cast(:keys as text[]))
    order by key
    for update
""")

# One statement adds what is missing and locks what is there, in the order of the keys; it writes nothing else.
_LOCK_OR_ADD = text("""
    insert into ops.host_breakers (key)
    select key from unnest(cast(:keys as text[])) as wanted (key)
    order by key
    on conflict (key) do update set key = excluded.key where false
""")

_STORE = text("""
    update ops.host_breakers
    set failures = changed.failures, open_until = changed.open_until, probe_until = changed.probe_until,
        reason = changed.reason, changed_at = :now
    from jsonb_to_recordset(cast(:rows as jsonb)) as changed (
        key text, failures integer, open_until timestamptz, probe_until timestamptz, reason text
    )
    where host_breakers.key = changed.key
""")


def keys_of(slot: Slot, route: Route) -> tuple[str, ...]:
    """Return the keys of the circuit breakers that this mail passes."""
    return breakers.keys_of(
        smtp_host=route.smtp_host,
        mailbox_id=slot.from_mailbox_id,
        sender_domain=route.sender_domain,
        egress_address=route.egress_address,
        recipient_provider=route.recipient_provider,
    )


def admit(
    connection: Connection, wanted: Mapping[int, Keys], now: datetime, policy: BreakerPolicy
) -> dict[int, Blocked]:
    """Return which of the slots ``wanted`` (slot id -> its keys) must not connect now (`delivery.breakers.admit`)."""
    keys = _all_keys(wanted.values())
    known = _breakers(connection.execute(_READ, {"keys": keys}))
    half_open = [key for key in keys if key in known and known[key].phase(now) == "half_open"]
    if half_open:
        known |= _breakers(connection.execute(_LOCK, {"keys": half_open}))
    blocked, probed = breakers.admit(wanted, known, now, policy)
    _store(connection, probed, now)
    return blocked


def record(
    connection: Connection, outcomes: Sequence[Outcome], now: datetime, policy: BreakerPolicy
) -> dict[str, Breaker]:
    """Take in what came of connections (`delivery.breakers.take_in`). Cost where all is well: one SELECT.

    Returns:
        The breakers that opened, or stay open for longer, because of these outcomes.
    """
    read = prepared.rows_of(
        connection, "read_failing_breakers", _READ_FAILING, {"keys": _all_keys(keys for keys, _ in outcomes)}
    )
    touched = sorted(breakers.failing(outcomes) | _breakers(read).keys())
    if not touched:
        return {}
    connection.execute(_LOCK_OR_ADD, {"keys": touched})
    known = _breakers(connection.execute(_LOCK, {"keys": touched}))
    changed = breakers.take_in(outcomes, known, now, policy)
    _store(connection, changed, now)
    return {key: breaker for key, breaker in changed.items() if breaker.phase(now) == "open"}


def _all_keys(groups: Iterable[Iterable[str]]) -> list[str]:
    return sorted({key for keys in groups for key in keys})


def _breakers(rows: Iterable[Row[tuple[str, int, datetime | None, datetime | None, str | None]]]) -> dict[str, Breaker]:
    return {row.key: Breaker(row.failures, row.open_until, row.probe_until, row.reason) for row in rows}


def _store(connection: Connection, changed: Mapping[str, Breaker], now: datetime) -> None:
    if changed:
        rows = [{"key": key, **vars(breaker)} for key, breaker in sorted(changed.items())]
        connection.execute(_STORE, {"rows": rows_as_json(rows), "now": now})
