"""The audit log, read: what people did, and whether anybody has altered it since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from emberflow.domain import audit_chain

_NEWEST = text("select * from ops.audit_log order by id desc limit :limit")
_ALL = text("select * from ops.audit_log order by id")
_AT_ONCE = 1000


@dataclass(frozen=True)
class Verdict:
    """How many rows the log has and the hash of the last that fits; the first row that does not, and why."""

    rows: int
    last_hash: str
    misfit: int | None
    why: str | None


def listed(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Return the newest rows, the newest first."""
    return connection.execute(_NEWEST, {"limit": limit}).mappings().all()


def verify(connection: Connection) -> Verdict:
    """Compute every hash again, from the first row to the last or to the first that does not fit."""
    rows, last_hash = 0, audit_chain.BEGINNING

    def seen() -> Iterator[Mapping[str, Any]]:
        nonlocal rows, last_hash
        for row in connection.execute(_ALL, execution_options={"yield_per": _AT_ONCE}).mappings():
            yield dict(row)
            rows += 1
            last_hash = row["hash"]

    found = audit_chain.first_misfit(seen())
    return Verdict(rows, last_hash, *(found or (None, None)))
