"""The conversation scripts in use, as rows of ``ops.script_sets``: content that never changes, under its hash.

A slot names the set that it was planned with (``payload.script_set``), and an answer the set of its thread. So every
worker writes and answers a mail in the same words, whatever folder its machine has and whatever is in force by then. A
slot from before sets were stored names none; it means the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from emberflow.database.tables import script_sets
from emberflow.email_ops.content import BUILT_IN, Scripts, load_scripts
from emberflow.settings import Settings

PAYLOAD_KEY = "script_set"


@dataclass(frozen=True)
class ScriptSet:
    """A stored set and when it was stored."""

    id: int
    scripts: Scripts
    created_at: datetime


def configured(settings: Settings | None) -> Scripts:
    """Return what a new database begins with: the scripts that this machine is set to, or the built-in ones.

    Raises:
        ConfigurationError: as in ``content.load_scripts``.
    """
    return load_scripts((settings and settings.scripts_dir) or BUILT_IN)


def digest(scripts: Scripts) -> str:
    """Return the SHA-256 of the content: equal scripts, equal digests."""
    return hashlib.sha256(json.dumps(scripts.document(), sort_keys=True).encode()).hexdigest()


def store(connection: Connection, scripts: Scripts) -> int:
    """Store a set of scripts, once, and return its id."""
    row = {"content": scripts.document(), "sha256": digest(scripts)}
    connection.execute(insert(script_sets).values(row).on_conflict_do_nothing(index_elements=["sha256"]))
    known = select(script_sets.c.id).where(script_sets.c.sha256 == row["sha256"])
    return int(connection.execute(known).scalar_one())


def load(connection: Connection, set_id: int) -> ScriptSet:
    """Return a stored set."""
    row = connection.execute(select(script_sets).where(script_sets.c.id == set_id)).one()
    return ScriptSet(row.id, Scripts.of(row.content), row.created_at)


@dataclass
class ScriptLibrary:
    """The stored sets that one run needs, each read once. It is not thread-safe."""

    _by_id: dict[int, Scripts] = field(default_factory=dict)
    _first_id: int | None = None

    def fetch(self, connection: Connection, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Read the sets that these slots name, unless they are here already."""
        if self._first_id is None:
            self._first_id = connection.execute(select(func.min(script_sets.c.id))).scalar_one()
        wanted = {payload.get(PAYLOAD_KEY, self._first_id) for payload in payloads} - self._by_id.keys()
        for row in connection.execute(select(script_sets).where(script_sets.c.id.in_(wanted))) if wanted else ():
            self._by_id[row.id] = Scripts.of(row.content)

    def of(self, payload: Mapping[str, Any]) -> Scripts:
        """Return the set of a slot whose payload was fetched.

        Raises:
            KeyError: there is no such set.
        """
        return self._by_id[payload.get(PAYLOAD_KEY, self._first_id)]
