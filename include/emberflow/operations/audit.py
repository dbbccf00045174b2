"""The audit log: what a person does is one transaction, and one row of it says who did what to whom, and why.

The chain has no fork: rows are appended one transaction at a time, and no hash has two successors. The row is appended
last, so that nobody waits for another's work but for its commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, text

from emberflow.database.json_rows import rows_as_json
from emberflow.domain import audit_chain
from emberflow.errors import ConfigurationError
from emberflow.operations.actor import Actor

_ONE_AT_A_TIME = text("select pg_advisory_xact_lock(hashtext('emberflow.audit_log'))")
_NEXT = text("""
    select
        nextval(pg_get_serial_sequence('ops.audit_log', 'id')) as id,
        clock_timestamp() as at,
        (select hash from ops.audit_log order by id desc limit 1) as previous_hash
""")
_APPEND = text("""
    insert into ops.audit_log (id, at, actor, role, action, subject, reason, details, previous_hash, hash)
    overriding system value
    select id, at, actor, role, action, subject, reason, details, previous_hash, hash
    from jsonb_populate_recordset(cast(null as ops.audit_log), cast(:rows as jsonb))
""")


@dataclass
class Deed:
    """What is being done in one transaction; ``subject`` and ``details`` may be filled in while it is."""

    connection: Connection
    subject: str
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def doing(engine: Engine, actor: Actor, action: str, subject: str, reason: str, **details: Any) -> Iterator[Deed]:
    """Open the one transaction of what a person does, and append its row when the block ends without an error.

    Raises:
        ConfigurationError: there is no reason.
    """
    if not reason.strip():
        raise ConfigurationError(f"{action} needs a reason: nothing was changed")
    with engine.begin() as connection:
        deed = Deed(connection, subject, details)
        yield deed
        _append(connection, actor, action, deed, reason.strip())


def announce(engine: Engine, actor: Actor, action: str, subject: str, reason: str, **details: Any) -> None:
    """Append the row of what takes more than one transaction, before the first of them: none goes without a row."""
    with doing(engine, actor, action, subject, reason, **details):
        pass


def _append(connection: Connection, actor: Actor, action: str, deed: Deed, reason: str) -> None:
    connection.execute(_ONE_AT_A_TIME)
    place = connection.execute(_NEXT).mappings().one()
    row: dict[str, Any] = {
        "id": place["id"],
        "at": place["at"],
        "actor": actor.name,
        "role": actor.role,
        "action": action,
        "subject": deed.subject,
        "reason": reason,
        "details": audit_chain.plain(deed.details),
    }
    previous = place["previous_hash"] or audit_chain.BEGINNING
    chained = {"previous_hash": previous, "hash": audit_chain.digest(row, previous)}
    written = row | chained | {"at": place["at"].isoformat()}
    connection.execute(_APPEND, {"rows": rows_as_json([written])})
