"""The hash chain of the audit log: each row's hash covers what it says and the hash of the row before it.

A row that was altered does not fit its hash; one that was removed or put in leaves a successor that does not fit it.
Only the end of the chain has no successor: rows that are cut off there are missed by whoever noted the last hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

BEGINNING: Final = "0" * 64  # what stands for the hash before the first row
_COVERED: Final = ("id", "at", "actor", "role", "action", "subject", "reason", "details")


def digest(row: Mapping[str, Any], previous: str) -> str:
    """Return the hash of a row that follows on the hash ``previous``."""
    said = {name: row[name] for name in _COVERED}
    at: datetime = said["at"]
    said["at"] = at.astimezone(UTC).isoformat(timespec="microseconds")
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}\n{canonical}".encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return a detail as it comes back from the database: numbers that are not whole, and instants, as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)


def first_misfit(rows: Iterable[Mapping[str, Any]]) -> tuple[int, str] | None:
    """Return the id of the first of ``rows`` (all of them, by id) that does not fit, and why; None if all do."""
    previous = BEGINNING
    for row in rows:
        if row["previous_hash"] != previous:
            return row["id"], "a row before it was removed, put in or altered"
        if digest(row, previous) != row["hash"]:
            return row["id"], "it was altered"
        previous = row["hash"]
    return None
