"""Importing senders and bots from files.

A file is imported as a whole or not at all: every row is validated first, and every problem is reported with
its row, column and reason. Imported bots are mailboxes that the operator attests to own (B-B1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, func, select, text

from emberflow.accounts import keys_in_force, lifecycle, returning_mailboxes
from emberflow.accounts.import_files import BotRow, MailboxRow, MxHosts, SenderRow, read_rows
from emberflow.accounts.lifecycle import MailboxKind
from emberflow.database import restores, zones
from emberflow.database.json_rows import rows_as_json
from emberflow.database.secrets import SecretBox
from emberflow.database.tables import mailboxes
from emberflow.email_ops.addresses import domain_of
from emberflow.errors import ConfigurationError, ImportRejectedError, RowProblem
from emberflow.policy import versions
from emberflow.settings import Settings

_ROWS_AT_ONCE = 2000
_COLUMNS = frozenset(mailboxes.c.keys()) & frozenset(MailboxRow.model_fields)
_ADD_MAILBOXES = text("""
    insert into ops.mailboxes (
        address, display_name, provider, owner, zone, smtp_host, smtp_port, smtp_tls, imap_host, imap_port, imap_tls,
        username, auth_method
    )
    select
        address, display_name, provider, owner, zone, smtp_host, smtp_port, smtp_tls, imap_host, imap_port, imap_tls,
        username, auth_method
    from jsonb_populate_recordset(cast(null as ops.mailboxes), cast(:rows as jsonb))
    returning id, address
""")
# Held until the commit: the second of two imports of the same address finds the row of the first.
_ONE_IMPORT = text("select pg_advisory_xact_lock(hashtext('emberflow.import'))")


@dataclass(frozen=True)
class Attestation:
    """Who declares that the operator owns the mailboxes, and how that is known."""

    who: str
    how: str


@dataclass(frozen=True)
class Reading:
    """How a file is read: its ``encoding`` (None: told by its bytes), and who is told how far it is and what is odd.

    ``mx_hosts`` looks up the mail servers of a domain whose provider is not known by name.
    """

    encoding: str | None = None
    progress: Callable[[int, int], None] = lambda _done, _total: None
    tell: Callable[[str], None] = lambda _: None
    mx_hosts: MxHosts | None = None


@dataclass(frozen=True)
class ImportFile:
    """A file whose rows are valid by themselves, with the number of each row."""

    name: str
    rows: Sequence[tuple[int, MailboxRow]]
    progress: Callable[[int, int], None]


def read_senders(file: Path, reading: Reading = Reading()) -> ImportFile:
    """Read a CSV file of senders.

    Raises:
        ImportRejectedError: a row is invalid or repeated.
    """
    return _read(file, SenderRow, reading)


def read_bots(file: Path, reading: Reading = Reading()) -> ImportFile:
    """Read a CSV file of mailboxes that the operator attests to own.

    Raises:
        ImportRejectedError: a row is invalid or repeated.
    """
    return _read(file, BotRow, reading)


def import_senders(connection: Connection, file: ImportFile, settings: Settings, actor: str) -> list[int]:
    """Register all of a file as senders; return their mailbox ids.

    Raises:
        ImportRejectedError: an address is already known; nothing was written.
    """

    def add(by_id: Mapping[int, MailboxRow]) -> None:
        rows = [{"mailbox_id": mailbox_id, "profile": row.profile} for mailbox_id, row in by_id.items()]
        lifecycle.admit(connection, "sender", rows, actor)

    return _import(connection, "sender", file, settings, add)


def import_bots(
    connection: Connection, file: ImportFile, attestation: Attestation, settings: Settings, actor: str
) -> list[int]:
    """Register all of a file as bots; return their mailbox ids.

    Raises:
        ImportRejectedError: an address is already known; nothing was written.
        ConfigurationError: the attestation is empty.
    """
    if not attestation.who.strip() or not attestation.how.strip():
        raise ConfigurationError(
            "bots must be mailboxes that you own: say who attests it (--attested-by) and how it is known (--how)"
        )

    def add(by_id: Mapping[int, MailboxRow]) -> None:
        add_bots(connection, by_id, attestation, "imported", actor)

    return _import(connection, "bot", file, settings, add)


def add_mailboxes(
    connection: Connection, kind: MailboxKind, rows: Sequence[MailboxRow], box: SecretBox
) -> dict[int, MailboxRow]:
    """Write mailboxes with their secrets; return them by id, in the order in which they came."""
    by_address = {row.address: row for row in rows}
    columns = [columns_of(row) for row in rows]
    found = returning_mailboxes.take_up(connection, kind, columns)
    written = rows_as_json(row for row in columns if row["address"] not in found)
    found |= {row.address: row.id for row in connection.execute(_ADD_MAILBOXES, {"rows": written})}
    returning_mailboxes.wait_for_others(connection, by_address)
    by_id = {found[address]: row for address, row in by_address.items()}
    box.store_all(connection, {mailbox_id: row.password for mailbox_id, row in by_id.items()})
    return by_id


def add_bots(
    connection: Connection,
    by_id: Mapping[int, MailboxRow],
    attestation: Attestation,
    source: Literal["imported", "provisioned"],
    actor: str,
) -> None:
    """Register mailboxes as bots, born now where their rows say nothing else."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    rows = [
        {
            "mailbox_id": mailbox_id,
            "source": source,
            "attested_by": attestation.who,
            "attestation": attestation.how,
            "attested_at": now,
            "profile": row.profile,
            "interaction_limits": getattr(row, "interaction_limits", None),
            "born_at": getattr(row, "born_at", None) or now,
        }
        for mailbox_id, row in by_id.items()
    ]
    lifecycle.admit(connection, "bot", rows, actor)


def columns_of(row: MailboxRow) -> dict[str, Any]:
    """Return the values of ``ops.mailboxes`` that a row gives, defaults included."""
    values = row.model_dump(include=set(_COLUMNS))
    values["username"] = row.username or row.address
    values["display_name"] = row.display_name or row.address.partition("@")[0]
    values["provider"] = row.provider or domain_of(row.address)
    return values


def unknown_profiles(connection: Connection, names: Collection[str | None]) -> dict[str, str]:
    """Return what is wrong with those of ``names`` that are no profiles, by name; None is the document's own numbers.

    The profiles stay until the transaction ends.
    """
    named = {name for name in names if name is not None}
    if not named:
        return {}
    unknown, known = versions.hold_profiles(connection, named)
    there_are = f"which has {', '.join(known)}" if known else "which has none"
    return {name: f"{name!r} is no profile of the policy in force, {there_are}" for name in unknown}


def _read(file: Path, model: type[MailboxRow], reading: Reading) -> ImportFile:
    rows = read_rows(
        file, model,
        encoding=reading.encoding, progress=reading.progress, tell=reading.tell, mx_hosts=reading.mx_hosts,
    )  # fmt: skip
    return ImportFile(str(file), rows, reading.progress)


def _import(
    connection: Connection,
    kind: MailboxKind,
    file: ImportFile,
    settings: Settings,
    add: Callable[[Mapping[int, MailboxRow]], None],
) -> list[int]:
    box = SecretBox(settings.secret_keys)
    keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
    restores.identify(connection)
    connection.execute(_ONE_IMPORT)
    problems = [
        problem
        for problems_of in (_registered, _unknown_zones, _unknown_profiles)
        for problem in problems_of(connection, file.rows)
    ]
    if problems:
        raise ImportRejectedError(file.name, problems)
    ids: list[int] = []
    for start in range(0, len(file.rows), _ROWS_AT_ONCE):
        by_id = add_mailboxes(connection, kind, [row for _, row in file.rows[start : start + _ROWS_AT_ONCE]], box)
        add(by_id)
        ids += by_id
        file.progress(len(ids), len(file.rows))
    return ids


def _registered(connection: Connection, rows: Sequence[tuple[int, MailboxRow]]) -> list[RowProblem]:
    query = text("select address from ops.mailboxes where address = any(:addresses) and removed_at is null")
    known: set[str] = set(connection.execute(query, {"addresses": [row.address for _, row in rows]}).scalars())
    return [
        RowProblem(number, "address", f"{row.address} is already registered")
        for number, row in rows
        if row.address in known
    ]


def _unknown_zones(connection: Connection, rows: Sequence[tuple[int, MailboxRow]]) -> list[RowProblem]:
    unknown = zones.unknown(connection, {row.zone for _, row in rows})
    return [
        RowProblem(number, "zone", f"the database does not know {row.zone}: run `emberflow database migrate`")
        for number, row in rows
        if row.zone in unknown
    ]


def _unknown_profiles(connection: Connection, rows: Sequence[tuple[int, MailboxRow]]) -> list[RowProblem]:
    reasons = unknown_profiles(connection, {row.profile for _, row in rows})
    return [
        RowProblem(number, "profile", reasons[row.profile])
        for number, row in rows
        if row.profile is not None and row.profile in reasons
    ]
