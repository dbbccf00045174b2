"""Undoing an import of leads: what it added goes, and what it changed is as before.

It is refused once there is mail for a lead of it, because who was written to, and why, must stay known; and where a
later import changed one of its leads, because nobody could tell what was before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from emberflow.accounts.leads.importing import ONE_AT_A_TIME
from emberflow.errors import EmberflowError

_BATCH = text("select id, imported_at, undone_at, undone_by from ops.lead_imports where id = :batch for update")

# Mail that was planned since the import and may still leave, or was tried. What was cancelled before any try is none.
_MAIL = text("""
    select count(distinct leads.id) as leads, min(slots.id) as slot
    from ops.lead_import_rows as taken
    inner join ops.leads on leads.id = taken.lead_id
    inner join ops.scheduled_tasks as slots on slots.to_address = leads.address
    inner join ops.slot_states as states on states.slot_id = slots.id
    where
        taken.import_id = :batch
        and slots.created_at >= :imported_at
        and not (states.status in ('cancelled', 'expired') and states.attempts = 0)
""")
_LATER = text("""
    select later.import_id, count(distinct later.lead_id) as leads
    from ops.lead_import_rows as taken
    inner join ops.lead_import_rows as later on later.lead_id = taken.lead_id and later.import_id > taken.import_id
    where taken.import_id = :batch
    group by later.import_id
    order by later.import_id desc
    limit 1
""")
_PUT_BACK = text("""
    update ops.leads
    set zone = taken.before ->> 'zone',
        country = taken.before ->> 'country',
        source = taken.before ->> 'source',
        lawful_basis = taken.before ->> 'lawful_basis',
        fields = taken.before -> 'fields',
        updated_at = clock_timestamp()
    from ops.lead_import_rows as taken
    where taken.import_id = :batch and taken.lead_id = leads.id and taken.verdict in ('filled', 'replaced')
""")
_REMOVE = text("""
    delete from ops.leads
    using ops.lead_import_rows as taken
    where taken.import_id = :batch and taken.lead_id = leads.id and taken.verdict = 'added'
""")
_FORGET = text("""
    update ops.lead_import_rows set lead_id = null, before = null where import_id = :batch and lead_id is not null
""")
_UNDONE = text("update ops.lead_imports set undone_at = clock_timestamp(), undone_by = :by where id = :batch")


@dataclass(frozen=True)
class Undone:
    """How many leads were removed, and how many are as they were before."""

    removed: int
    restored: int


def undo(connection: Connection, batch: int, *, by: str) -> Undone:
    """Undo an import; the verdicts of its rows stay on record.

    Raises:
        EmberflowError: there is no such import, it is undone already, mail was planned for or sent to a lead of it
            since, or a later import changed one.
    """
    connection.execute(ONE_AT_A_TIME)
    row = connection.execute(_BATCH, {"batch": batch}).one_or_none()
    if row is None:
        raise EmberflowError(f"there is no import {batch}; `emberflow leads imports` lists them")
    if row.undone_at is not None:
        raise EmberflowError(f"import {batch} was undone at {row.undone_at:%Y-%m-%d %H:%M} UTC by {row.undone_by}")
    _require_no_mail(connection, batch, row.imported_at)
    later = connection.execute(_LATER, {"batch": batch}).one_or_none()
    if later is not None:
        raise EmberflowError(
            f"import {later.import_id} changed {later.leads} of its leads afterwards: undo that one first"
        )
    restored = connection.execute(_PUT_BACK, {"batch": batch}).rowcount
    removed = connection.execute(_REMOVE, {"batch": batch}).rowcount
    connection.execute(_FORGET, {"batch": batch})
    connection.execute(_UNDONE, {"batch": batch, "by": by})
    return Undone(removed, restored)


def _require_no_mail(connection: Connection, batch: int, imported_at: datetime) -> None:
    mail: Any = connection.execute(_MAIL, {"batch": batch, "imported_at": imported_at}).one()
    if mail.leads:
        raise EmberflowError(
            f"import {batch} is not undone: since then mail was planned for or sent to {mail.leads} of its leads, "
            f"for instance slot {mail.slot} (`emberflow explain {mail.slot}`)"
        )
