"""A restored database does not know what left after its backup: nothing more leaves until somebody has looked.

That it was restored is noticed without being told, in three ways:

1. *Identity.* ``database_identity`` holds what a dump does not carry over: the object ids of the database and of that
   table, and the transaction that wrote the row. A database that was loaded from a dump, or copied, has others.
2. *High water.* Before each DATA a machine notes outside the database which slot it submits, and as which attempt. A
   database that does not know of that attempt is behind, also if its files were put back or a standby took over. A note
   that was itself put back, with the whole home, proves nothing and is taken for the same.
3. *Evidence.* The inbox meets a genuine mail of a slot that was never submitted as far as the database knows, or a
   message that names its Message-ID.

From then on a row of ``restores`` is open. While it is, every claim and every pre-send check refuses, nothing is
planned, read or looked for, no reply is scheduled. ``restore_settlement`` closes it, by the command
``emberflow database restored``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from emberflow import private_files
from emberflow.clock import SystemClock
from emberflow.domain.slot import Slot
from emberflow.errors import WorkerRefusedError
from emberflow.settings import home

log = logging.getLogger(__name__)

REMEDY = "run `emberflow database restored`: it looks for what left after the backup, and lets mail go on"
_MARKS = "high_water"
_WRITING_S = (
    600  # between noting the time and the kernel's stamp of it: a process that stood still, a file server's clock
)

_THIS_DATABASE = """
    select
        (select oid::bigint from pg_database where datname = current_database()) as database_oid,
        'ops.database_identity'::regclass::oid::bigint as table_oid
"""

_IDENTIFY = text(f"""
    insert into ops.database_identity (database_oid, table_oid, made_in)
    select database_oid, table_oid, pg_current_xact_id()::text::bigint % 4294967296
    from ({_THIS_DATABASE}) as present
    on conflict do nothing
""")  # noqa: S608 - made of this module's own constants

_IDENTIFY_ANEW = text(f"""
    insert into ops.database_identity as known (database_oid, table_oid, made_in)
    select database_oid, table_oid, pg_current_xact_id()::text::bigint % 4294967296
    from ({_THIS_DATABASE}) as present
    on conflict (is_only) do update
    set database_oid = excluded.database_oid, table_oid = excluded.table_oid, made_in = excluded.made_in
""")  # noqa: S608 - made of this module's own constants

_IS_ANOTHER = text(f"""
    select (known.database_oid, known.table_oid, known.made_in)
        is distinct from (present.database_oid, present.table_oid, known.xmin::text::bigint)
    from ops.database_identity as known
    cross join ({_THIS_DATABASE}) as present
""")  # noqa: S608 - made of this module's own constants

_LINEAGE = text(f"""
    select concat_ws(' ', database_oid, (select min(valid_from) from ops.policies))
    from ({_THIS_DATABASE}) as present
""")  # noqa: S608 - made of this module's own constants

_IS_KNOWN = text("""
    select exists (
        select
        from ops.scheduled_tasks as tasks
        inner join ops.slot_states as states on states.slot_id = tasks.id
        where tasks.message_id = :message_id and states.attempts >= :attempts
    )
""")

# Submissions are the one trace that nobody leaves before a loaded dump is noticed. In any other case this database may
# have sent since it was put back, so that nothing tells its backup's age: then it is taken for as old as can be.
_NEWEST = text(f"""
    select coalesce(
        (select max(submitted_at) from ops.slot_states where ({_IS_ANOTHER.text.strip()})),
        least((select min(created_at) from ops.mailboxes), (select min(valid_from) from ops.policies))
    )
""")  # noqa: S608 - made of this module's own constants

_OPEN = text("""
    insert into ops.restores (noticed_at, why, newest_at)
    values (clock_timestamp(), :why, coalesce(:newest_at, clock_timestamp()))
    on conflict do nothing
""")


@dataclass(frozen=True)
class Restore:
    """One time that the database was restored; no mail leaves until it is settled.

    ``newest_at``: the backup knows all mail that left before; the beginning of all records if nothing tells its age.
    """

    id: int
    noticed_at: datetime
    why: str
    newest_at: datetime

    def __str__(self) -> str:
        return f"the database was restored ({self.why}; noticed at {self.noticed_at:%Y-%m-%d %H:%M:%S} UTC): {REMEDY}"


class DatabaseBehindError(WorkerRefusedError):
    """Evidence was met that the database does not know of mail that left."""


def identify(connection: Connection) -> None:
    """Remember which database this is, unless it is remembered."""
    connection.execute(_IDENTIFY)


def notice(engine: Engine) -> Restore | None:
    """Return the restore that is not settled yet, if the database was restored; remember it for all machines."""
    with engine.begin() as connection:
        identify(connection)
        found = unsettled(connection)
        if found is not None:
            return found
        why = evidence(connection)
    return None if why is None else declare(engine, why)


def declare(engine: Engine, why: str) -> Restore:
    """Hold all mail of all machines from now on, because the database was restored; return the restore."""
    with engine.begin() as connection:
        newest: datetime | None = connection.execute(_NEWEST).scalar_one()
        connection.execute(_OPEN, {"why": why, "newest_at": newest})
        found = unsettled(connection)
    if found is None:
        raise RuntimeError("a restore was settled while it was being declared")
    log.error("all mail is held: %s", found)
    return found


def unsettled(connection: Connection) -> Restore | None:
    """Return the restore that is not settled yet."""
    query = text("select id, noticed_at, why, newest_at from ops.restores where settled_at is null")
    row = connection.execute(query).one_or_none()
    return None if row is None else Restore(row.id, row.noticed_at, row.why, row.newest_at)


def last_settled_at(connection: Connection) -> datetime | None:
    """Return until when mail may have left, or an answer may have, of which the database does not know."""
    moment: datetime | None = connection.execute(text("select max(settled_at) from ops.restores")).scalar_one()
    return moment


def perhaps_answered(connection: Connection, slot_ids: Sequence[int]) -> set[int]:
    """Return the mails that left before the last restore was settled and have no answer on record.

    One may have left after the backup, and its key would not tell: it is not there any more.
    """
    settled_at = last_settled_at(connection)
    if settled_at is None or not slot_ids:
        return set()
    query = text("""
        select states.slot_id
        from ops.slot_states as states
        where states.slot_id = any(:ids)
            and states.sent_at <= :settled_at
            and not exists (select from ops.scheduled_tasks as tasks where tasks.parent_slot_id = states.slot_id)
    """)
    return set(connection.execute(query, {"ids": list(slot_ids), "settled_at": settled_at}).scalars())


def evidence(connection: Connection) -> str | None:
    """Return what shows that the database was restored and not settled since; nothing is written."""
    if connection.execute(_IS_ANOTHER).scalar_one_or_none():
        return "it was loaded from a dump or copied"
    settled_at = last_settled_at(connection)
    for mark in _marks(connection):
        if settled_at is not None and datetime.fromisoformat(mark["at"]) <= settled_at:
            continue
        if mark["was_put_back"]:
            return f"{mark['file']} was put back or copied, so this machine's notes may be as old as the database"
        if not connection.execute(_IS_KNOWN, mark).scalar_one():
            return f"this machine submitted {mark['message_id']} at {mark['at']}, of which it does not know"
    return None


def settled(connection: Connection, restore: Restore, *, by: str, outcome: str) -> None:
    """Let mail go on; the caller has settled what had left."""
    connection.execute(_IDENTIFY_ANEW)
    connection.execute(
        text(
            "update ops.restores set settled_at = clock_timestamp(), settled_by = :by, "
            "outcome = cast(:outcome as jsonb) where id = :id and settled_at is null"
        ),
        {"id": restore.id, "by": by, "outcome": outcome},
    )


class HighWater:
    """Where one shard of this machine notes, outside the database, what it submitted last."""

    def __init__(self, connection: Connection, shard: int) -> None:
        directory = _directory(connection)
        private_files.make_directory(directory)
        self._file = os.open(directory / f"shard-{shard}.json", os.O_WRONLY | os.O_CREAT, 0o600)
        self._writing = threading.Lock()

    def rise(self, slot: Slot, at: datetime) -> None:
        """Note that ``slot`` is being submitted once more; call it after that is committed and before DATA."""
        mark = {"message_id": slot.message_id, "attempts": slot.attempts + 1, "at": at.isoformat()}
        with self._writing:
            line = json.dumps(mark | {"written_s": SystemClock().now().timestamp()}).encode()
            os.pwrite(self._file, line, 0)
            os.ftruncate(self._file, len(line))

    def close(self) -> None:
        """Close the file; what it says stays."""
        os.close(self._file)


def _marks(connection: Connection) -> list[dict[str, Any]]:
    marks = []
    for file in sorted(_directory(connection).glob("*.json")):
        if not file.stat().st_size:
            continue  # of a shard that has submitted nothing yet
        try:
            mark = json.loads(file.read_text())
            known = {name: mark[name] for name in ("message_id", "attempts", "at")}
            # No copy carries st_ctime over: whatever puts a file back leaves a later one than our own writing did.
            put_back = file.stat().st_ctime - mark.get("written_s", math.inf) > _WRITING_S
            marks.append(known | {"file": file, "was_put_back": put_back})
        except (ValueError, KeyError):
            log.warning("%s says nothing of what was submitted last", file)
    return marks


def _directory(connection: Connection) -> Path:
    lineage: str = connection.execute(_LINEAGE).scalar_one()
    return home() / _MARKS / hashlib.sha256(lineage.encode()).hexdigest()[:16]
