"""Corrections by the operator: new servers, names, zones or limits of a mailbox, and its removal.

A change is validated exactly as a row of an import file. Other servers or another login make the connection check due
again, and another zone opens no cap anew (``zone_moves``).

A mailbox that is removed keeps its row, because the log names it: its secret is deleted, what is planned is cancelled,
and no list, plan or reader sees it any more until its address is imported again (``returning_mailboxes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, Table, func, select, text, update

from emberflow.accounts import lifecycle, zone_moves
from emberflow.accounts.import_files import TLS_OF_PORT, BotRow, SenderRow, complaints
from emberflow.accounts.imports import columns_of, unknown_profiles
from emberflow.database import zones
from emberflow.database.tables import bots, mailboxes, senders
from emberflow.email_ops.addresses import normalise
from emberflow.errors import ConfigurationError, EmberflowError

Kind = lifecycle.MailboxKind

_MODELS: Mapping[Kind, type[SenderRow] | type[BotRow]] = {"sender": SenderRow, "bot": BotRow}
_TABLES: Mapping[Kind, Table] = {"sender": senders, "bot": bots}
_OWN: Mapping[Kind, tuple[str, ...]] = {"sender": ("profile",), "bot": ("interaction_limits", "born_at", "profile")}
_CHECKED = frozenset(
    {"smtp_host", "smtp_port", "smtp_tls", "imap_host", "imap_port", "imap_tls", "username", "auth_method"}
)


@dataclass(frozen=True)
class Changed:
    """What :func:`change` did: the columns that have another value now, and until when a sender waits for it."""

    mailbox_id: int
    columns: tuple[str, ...]
    check_is_due: bool
    waits_until: datetime | None


def change(connection: Connection, kind: Kind, address: str, values: Mapping[str, Any], actor: str) -> Changed:
    """Give a mailbox new values of import columns; an empty text stands for the column's default.

    A TLS mode that is not named follows a new port whose mode is a standard. Where the connection check has become due,
    an active mailbox is unverified until it has passed. The days of what is planned in another zone are the caller's.

    Raises:
        EmberflowError: there is no such sender or bot.
        ConfigurationError: a value is not what an import would take; nothing was changed.
    """
    before = _locked(connection, kind, address)
    row = _validated(connection, kind, before, values)
    wanted = columns_of(row) | {name: getattr(row, name) for name in _OWN[kind]}
    changed = {name: value for name, value in wanted.items() if value != before[name]}
    own = {name: changed.pop(name) for name in _OWN[kind] if name in changed}
    if own:
        table = _TABLES[kind]
        connection.execute(update(table).where(table.c.mailbox_id == before["id"]).values(own))
    check_is_due = bool(changed.keys() & _CHECKED)
    waits_until = None
    if "zone" in changed:
        waits_until = zone_moves.keep_caps(connection, kind, before["id"], before["zone"], row.zone)
    if changed:
        connection.execute(update(mailboxes).where(mailboxes.c.id == before["id"]).values(changed))
    if check_is_due:
        unchecked = {"check_passed": None, "check_stage": None, "check_text": None, "checked_at": None}
        connection.execute(update(mailboxes).where(mailboxes.c.id == before["id"]).values(unchecked))
        lifecycle.require_check(connection, kind, before["id"], actor)
    return Changed(before["id"], (*changed, *own), check_is_due, waits_until)


def remove(connection: Connection, kind: Kind, address: str, reason: str, actor: str) -> int:
    """Take a mailbox out of use for good; return its id. What is planned from it or to it is the caller's to cancel.

    Raises:
        EmberflowError: there is no such sender or bot.
    """
    mailbox_id: int = _locked(connection, kind, address)["id"]
    lifecycle.remove(connection, kind, address, reason, actor)
    gone = {"removed_at": func.clock_timestamp(), "check_passed": None, "egress_ip_id": None}
    connection.execute(update(mailboxes).where(mailboxes.c.id == mailbox_id).values(gone))
    connection.execute(text("delete from ops.mailbox_secrets where mailbox_id = :id"), {"id": mailbox_id})
    return mailbox_id


def _locked(connection: Connection, kind: Kind, address: str) -> RowMapping:
    table = _TABLES[kind]
    query = (
        select(mailboxes, *(table.c[name] for name in _OWN[kind]))
        .join(table, table.c.mailbox_id == mailboxes.c.id)
        .where(mailboxes.c.address == normalise(address), mailboxes.c.removed_at.is_(None))
        .with_for_update(of=[mailboxes, table])
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise EmberflowError(f"there is no {kind} {address}; `emberflow {kind}s list` shows them all")
    return row


def _validated(connection: Connection, kind: Kind, before: RowMapping, values: Mapping[str, Any]) -> SenderRow | BotRow:
    model = _MODELS[kind]
    present = {name: before[name] for name in model.model_fields if name in before and before[name] is not None}
    for protocol in ("smtp", "imap"):
        port = values.get(f"{protocol}_port")
        if f"{protocol}_tls" not in values and str(port).isdigit() and int(str(port)) in TLS_OF_PORT:
            del present[f"{protocol}_tls"]
    wanted = present | {"password": "unchanged"} | dict(values)
    try:
        row = model.model_validate({name: value for name, value in wanted.items() if str(value).strip()})
    except ValidationError as error:
        reasons = "; ".join(f"{column}: {reason}" for column, reason in complaints(error))
        raise ConfigurationError(f"{before['address']}: nothing was changed: {reasons}") from None
    if zones.unknown(connection, [row.zone]):
        raise ConfigurationError(f"the database does not know {row.zone}: run `emberflow database migrate`")
    if "profile" in values and (wrong := unknown_profiles(connection, {row.profile})):
        raise ConfigurationError(f"{before['address']}: nothing was changed: profile: {'; '.join(wrong.values())}")
    return row
