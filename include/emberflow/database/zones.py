"""Our zone database inside PostgreSQL, so that ``ops.local_day`` and Python name the same day.

PostgreSQL has zone files of its own, of another age, and takes names such as ``CET`` for fixed abbreviations; no
statement of ours asks it about a zone. Instead ``ops.zones`` holds the offsets of the pinned wheel.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from importlib.metadata import version

from sqlalchemy import Connection, select

from emberflow.clock import known_zones, offsets_of
from emberflow.database.tables import zones

_SINCE, _UNTIL = datetime(2015, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)


def synchronise(connection: Connection) -> None:
    """Write the offsets of all zones, unless those of this release of the wheel are there."""
    if edition(connection) == version("tzdata"):
        return
    rows = []
    for name in sorted(known_zones()):
        changes, offsets = zip(*offsets_of(name, _SINCE, _UNTIL), strict=True)
        rows.append({"name": name, "changes": list(changes), "offsets_s": list(offsets), "edition": version("tzdata")})
    connection.execute(zones.delete())
    connection.execute(zones.insert(), rows)


def edition(connection: Connection) -> str | None:
    """Return the release of ``tzdata`` that the database's zones are from; None while there are none."""
    found: str | None = connection.execute(select(zones.c.edition).limit(1)).scalar_one_or_none()
    return found


def unknown(connection: Connection, names: Collection[str]) -> set[str]:
    """Return those zones that this program or the database does not know: no day can be told for them."""
    there: set[str] = set(connection.execute(select(zones.c.name).where(zones.c.name.in_(names))).scalars())
    return set(names) - (there & known_zones())
