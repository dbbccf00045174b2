"""Many rows as one parameter of a statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_json


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as one parameter for ``jsonb_to_recordset``; instants and days become ISO 8601 text."""
    return to_json(list(rows)).decode()
