"""The operator's mailboxes: importing and creating senders and bots, checking, pausing, listing.

A file is imported as a whole or not at all: every row is validated first, and every problem is reported with
its row, column and reason. A mailbox joins as ``unverified`` and becomes ``active`` only by passing its
connection check (S-B1). Bots come from two sources only (B-B1): mailboxes that the operator attests to own, and
mailboxes provisioned on the operator's own server.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, RowMapping, Table, case, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from emberflow.accounts import keys_in_force, returning_mailboxes
from emberflow.accounts.import_files import BotRow, MailboxRow, SenderRow, read_rows
from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import known_zones
from emberflow.database import restores, zones
from emberflow.database.json_rows import rows_as_json
from emberflow.database.secrets import SecretBox
from emberflow.database.tables import bots, mailboxes, senders
from emberflow.email_ops.addresses import domain_of, normalise
from emberflow.email_ops.check import check_mailbox
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.provisioning import provision
from emberflow.errors import (
    ConfigurationError,
    EgressRefusedError,
    EmberflowError,
    ImportRejectedError,
    MailboxCheckError,
    RowProblem,
)
from emberflow.queue_manager import event_log, slot_store
from emberflow.settings import Settings

Kind = Literal["sender", "bot"]

_MODELS: Mapping[Kind, type[MailboxRow]] = {"sender": SenderRow, "bot": BotRow}
_TABLES: Mapping[Kind, tuple[Table, str]] = {"sender": (senders, "state"), "bot": (bots, "status")}
log = logging.getLogger(__name__)
_IN_USE = mailboxes.c.removed_at.is_(None)
_CHECKS_AT_ONCE = 8
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
_TRY_AGAIN_S = 3.0
_PASSES = "transient, tried twice"
# Of two that bring the same address the second one finds it registered.
_ONE_IMPORT = text("select pg_advisory_xact_lock(hashtext('emberflow.import'))")
_NOT_TRIED = "egress"  # the stage of a check that the mail mode forbids
_NO_ZONE = "its time zone is not known: nothing is sent from it or to it"
_PASSWORD_BYTES = 24
_NAMES = (
    "Ada Lindqvist", "Bruno Keller", "Carla Mendes", "David Okafor", "Elena Petrova", "Felix Braun",
    "Greta Olsen", "Hugo Marchand", "Ines Carvalho", "Jonas Weber", "Katja Novak", "Liam Byrne",
    "Mira Kaplan", "Noah Fischer", "Olga Ivanova", "Pavel Dvorak", "Rosa Alvarez", "Sven Larsen",
    "Tara Singh", "Ugo Ferrari", "Vera Lang", "Wim de Vries", "Yara Haddad", "Zoe Martin",
)  # fmt: skip


@dataclass(frozen=True)
class Attestation:
    """Who declares that the operator owns the mailboxes, and how that is known."""

    who: str
    how: str


@dataclass(frozen=True)
class Reading:
    """How a file is read: its ``encoding`` (None: told by its bytes), and who is told how far it is and what is odd."""

    encoding: str | None = None
    progress: Callable[[int, int], None] = lambda _done, _total: None
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Servers:
    """Where provisioned mailboxes are reached; the same for all of them."""

    smtp_host: str
    smtp_port: int
    smtp_tls: TlsMode
    imap_host: str
    imap_port: int
    imap_tls: TlsMode


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one connection check; ``stage`` and ``text`` are None when it passed.

    Besides the stages of ``MailboxCheckError`` there are ``secret`` (the password cannot be decrypted), ``zone`` (its
    time zone is not known), ``egress`` (the mail mode forbids to connect) and ``check`` (the check itself failed).
    ``transient`` means that the failure proves nothing about the mailbox: it was tried twice, and the mailbox keeps its
    state.
    """

    mailbox_id: int
    address: str
    stage: str | None
    text: str | None
    transient: bool = False


def import_senders(engine: Engine, file: Path, settings: Settings, reading: Reading = Reading()) -> list[int]:
    """Import a CSV file of senders; return their mailbox ids.

    Raises:
        ImportRejectedError: a row is invalid, repeated, or already known; nothing was written.
    """
    return _import(engine, file, "sender", settings, _add_senders, reading)


def import_bots(
    engine: Engine, file: Path, attestation: Attestation, settings: Settings, reading: Reading = Reading()
) -> list[int]:
    """Import a CSV file of mailboxes that the operator attests to own; return their mailbox ids.

    Raises:
        ImportRejectedError: as in :func:`import_senders`.
        ConfigurationError: the attestation is empty.
    """
    if not attestation.who.strip() or not attestation.how.strip():
        raise ConfigurationError(
            "bots must be mailboxes that you own: say who attests it (--attested-by) and how it is known (--how)"
        )

    def add(connection: Connection, by_id: Mapping[int, MailboxRow]) -> None:
        _add_bots(connection, by_id, attestation, "imported")

    return _import(engine, file, "bot", settings, add, reading)


def create_bots(
    engine: Engine,
    domain: str,
    count: int,
    servers: Servers,
    *,
    who: str,
    settings: Settings,
    create: Callable[[str, str], None] | None = None,
    zone: str = "UTC",
    provider: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> list[int]:
    """Create ``count`` mailboxes on the operator's own mail server and register them as bots.

    ``create(address, password)`` makes one mailbox; by default it is the operator's own command,
    ``EMBERFLOW_PROVISION_COMMAND``. Each mailbox is registered as soon as it exists, so that an interruption
    leaves no mailbox whose password nobody knows. Returns the mailbox ids.

    Raises:
        ConfigurationError: there is no way to create a mailbox.
        EmberflowError: the operator's command failed; the mailboxes created before stay registered.
    """
    if create is None:
        command = settings.provision_command
        if command is None:
            raise ConfigurationError(
                "bots are created on your own mail server only: set EMBERFLOW_PROVISION_COMMAND to the command that "
                "creates a mailbox there, for instance 'docker exec -i mailserver create-mailbox {address}'"
            )

        def create(address: str, password: str) -> None:
            provision(command, address, SecretStr(password))

    box = SecretBox(settings.secret_keys)
    attestation = Attestation(who, f"provisioned by Emberflow on {servers.smtp_host}")
    created: list[int] = []
    with engine.begin() as connection:
        keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
        taken: set[str] = set(connection.execute(select(mailboxes.c.address).where(_IN_USE)).scalars())
    for address, display_name in _fresh_addresses(domain, count, taken):
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        create(address, password)
        row = BotRow(
            address=address,
            password=SecretStr(password),
            display_name=display_name,
            provider=provider or domain,
            zone=zone,
            **vars(servers),
        )
        with engine.begin() as connection:
            by_id = _add_mailboxes(connection, "bot", [row], box)
            _add_bots(connection, by_id, attestation, "provisioned")
        created += by_id
        progress(address)
    return created


def check_mailboxes(
    engine: Engine,
    settings: Settings,
    *,
    ids: Iterable[int] | None = None,
    progress: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Run the connection check of the given mailboxes (default: all), store and return the outcomes.

    A passed check makes an unverified sender or bot active; a failed one is stored with its stage and the
    server's text, and an active sender or bot becomes unverified with that reason. A check that fails for a reason that
    passes (a busy server, a closed port, a limit, a name server that does not answer) is tried once more after the
    others; if it fails so again, it is stored as such, and senders and bots stay what they are. Whatever is wrong
    with one mailbox is its own result.
    """
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        wanted = (
            list(ids) if ids is not None else list(connection.execute(select(mailboxes.c.id).where(_IN_USE)).scalars())
        )
        opened = open_mailboxes(connection, settings, wanted)
        columns = select(mailboxes.c.id, mailboxes.c.address, mailboxes.c.zone)
        rows = {row.id: row for row in connection.execute(columns)}
    results = [
        CheckResult(id_, rows[id_].address, "secret" if rows[id_].zone in known_zones() else "zone", reason)
        for id_, reason in opened.unreadable.items()
    ]
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        again = []
        for result in pool.map(lambda mailbox: _check(mailbox, mode, settings), opened.boxes.values()):
            if result.transient:
                again.append(opened.boxes[result.mailbox_id])
            else:
                results.append(result)
                progress(result)
        if again:
            time.sleep(_TRY_AGAIN_S)
        for result in pool.map(lambda mailbox: _check(mailbox, mode, settings), again):
            results.append(result)
            progress(result)
    with engine.begin() as connection:
        for result in results:
            _store_check(connection, result)
        keep_replaced_refresh_tokens(connection, settings)
    return results


def mailbox_ids(engine: Engine, addresses: Sequence[str]) -> list[int]:
    """Return the mailbox ids of these addresses.

    Raises:
        EmberflowError: one of them is not an address or not registered.
    """
    wanted = [normalise(address) for address in addresses]
    with engine.connect() as connection:
        rows = connection.execute(
            select(mailboxes.c.address, mailboxes.c.id).where(mailboxes.c.address.in_(wanted), _IN_USE)
        )
        found = {row.address: row.id for row in rows}
    unknown = [address for address in wanted if address not in found]
    if unknown:
        raise EmberflowError(f"not registered: {', '.join(unknown)}")
    return [found[address] for address in wanted]


def set_password(engine: Engine, address: str, password: SecretStr, settings: Settings) -> int:
    """Store a new password for a registered mailbox and return its id; check it afterwards.

    Raises:
        EmberflowError: it is not registered.
        ConfigurationError: there is no key to encrypt with.
    """
    (mailbox_id,) = mailbox_ids(engine, [address])
    with engine.begin() as connection:
        keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
        SecretBox(settings.secret_keys).store(connection, mailbox_id, password)
    return mailbox_id


def pause_sender(engine: Engine, address: str, reason: str) -> None:
    """Pause a sender; its ramp position stays (S-B10).

    Raises:
        EmberflowError: there is no such sender.
    """
    remedy = f"run `emberflow senders resume {address}` when the reason is gone"
    with engine.begin() as connection:
        _set_state(connection, "sender", address, "paused", reason, remedy)


def stop_sender(engine: Engine, address: str, reason: str) -> None:
    """Stop a sender: when it is resumed, its ramp starts over (S-B10).

    Raises:
        EmberflowError: there is no such sender.
    """
    remedy = f"run `emberflow senders resume {address}` to start again at the first day of the ramp"
    with engine.begin() as connection:
        _set_state(connection, "sender", address, "stopped", reason, remedy)


def resume_sender(engine: Engine, address: str) -> None:
    """Make a paused or stopped sender active again; one that has not passed its last check stays as it is (S-B1).

    Raises:
        EmberflowError: there is no such sender, or its connection check has not passed.
    """
    with engine.begin() as connection:
        _require_passed_check(connection, "sender", address)
        _set_state(connection, "sender", address, "active", None, None)


def pause_bot(engine: Engine, address: str, reason: str) -> None:
    """Pause a bot: it is still read, and nothing is planned for it.

    What is planned to it or from it stays as it is, and is cancelled when it comes due before the bot is resumed.

    Raises:
        EmberflowError: there is no such bot.
    """
    remedy = f"run `emberflow bots resume {address}` when the reason is gone"
    with engine.begin() as connection:
        _set_state(connection, "bot", address, "paused", reason, remedy)


def retire_bot(engine: Engine, address: str, reason: str) -> int:
    """Take a bot out of service, unread from then on; return how many planned mails to it or from it were cancelled.

    Those are cancelled at once, so that the hours to come plan others for them, and their conversations end. What a
    worker holds at this moment is refused by the check before DATA.

    Raises:
        EmberflowError: there is no such bot.
    """
    remedy = f"run `emberflow bots resume {address}` to take it back into service"
    with engine.begin() as connection:
        mailbox_id = _set_state(connection, "bot", address, "retired", reason, remedy)
        cancelled = slot_store.cancel_planned(connection, mailbox_id, "bot_retired")
        for slot in cancelled:
            event_log.close_conversation(connection, slot)
    return len(cancelled)


def resume_bot(engine: Engine, address: str) -> None:
    """Make a paused or retired bot active again; one that has not passed its last check stays as it is (S-B1).

    Raises:
        EmberflowError: there is no such bot, or its connection check has not passed.
    """
    with engine.begin() as connection:
        _require_passed_check(connection, "bot", address)
        _set_state(connection, "bot", address, "active", None, None)


def list_senders(engine: Engine) -> Sequence[RowMapping]:
    """Return one row per sender with today's quota, count and score, ordered by address."""
    query = text("""
        select today.*, senders.state_remedy, mailboxes.provider, mailboxes.zone,
            mailboxes.check_stage, mailboxes.check_text,
            coalesce(senders.state_reason, case when zones.name is null then :no_zone end) as state_reason
        from ops.senders_today as today
        inner join ops.senders using (id)
        inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
        left join ops.zones on zones.name = mailboxes.zone
        order by today.address
    """)
    with engine.connect() as connection:
        return connection.execute(query, {"no_zone": _NO_ZONE}).mappings().all()


def list_bots(engine: Engine) -> Sequence[RowMapping]:
    """Return one row per bot with today's counts, ordered by address."""
    query = text("""
        select bots.id, mailboxes.address, mailboxes.provider, mailboxes.zone, bots.status,
            coalesce(bots.status_reason, case when zones.name is null then :no_zone end) as status_reason,
            bots.status_remedy, bots.source, bots.attested_by, bots.born_at, bots.interaction_limits,
            mailboxes.check_stage, mailboxes.check_text,
            coalesce(days.inbound_sent, 0) as inbound_today, coalesce(days.reply_sent, 0) as replies_today
        from ops.bots
        inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
        left join ops.zones on zones.name = mailboxes.zone
        left join ops.bot_days as days
            on days.bot_id = bots.id
            and days.local_day = ops.local_day(clock_timestamp(), mailboxes.zone)
        where mailboxes.removed_at is null
        order by mailboxes.address
    """)
    with engine.connect() as connection:
        return connection.execute(query, {"no_zone": _NO_ZONE}).mappings().all()


def _import(
    engine: Engine,
    file: Path,
    kind: Kind,
    settings: Settings,
    add: Callable[[Connection, Mapping[int, MailboxRow]], None],
    reading: Reading,
) -> list[int]:
    box = SecretBox(settings.secret_keys)
    rows = read_rows(file, _MODELS[kind], encoding=reading.encoding, progress=reading.progress, tell=reading.tell)
    ids: list[int] = []
    with engine.begin() as connection:
        keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
        restores.identify(connection)
        connection.execute(_ONE_IMPORT)
        problems = _registered(connection, rows) + _unknown_zones(connection, rows)
        if problems:
            raise ImportRejectedError(str(file), problems)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            by_id = _add_mailboxes(connection, kind, [row for _, row in rows[start : start + _ROWS_AT_ONCE]], box)
            add(connection, by_id)
            ids += by_id
            reading.progress(len(ids), len(rows))
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


def _add_mailboxes(
    connection: Connection, kind: Kind, rows: Sequence[MailboxRow], box: SecretBox
) -> dict[int, MailboxRow]:
    """Write mailboxes with their secrets; return them by id, in the order in which they came."""
    by_address = {row.address: row for row in rows}
    columns = [columns_of(row) for row in rows]
    found = returning_mailboxes.take_up(connection, kind, columns)
    slot_store.move_days(connection, found.values())
    written = rows_as_json(row for row in columns if row["address"] not in found)
    found |= {row.address: row.id for row in connection.execute(_ADD_MAILBOXES, {"rows": written})}
    returning_mailboxes.wait_for_others(connection, by_address)
    by_id = {found[address]: row for address, row in by_address.items()}
    box.store_all(connection, {mailbox_id: row.password for mailbox_id, row in by_id.items()})
    return by_id


def columns_of(row: MailboxRow) -> dict[str, Any]:
    """Return the values of ``ops.mailboxes`` that a row gives, defaults included."""
    values = row.model_dump(include=set(_COLUMNS))
    values["username"] = row.username or row.address
    values["display_name"] = row.display_name or row.address.partition("@")[0]
    values["provider"] = row.provider or domain_of(row.address)
    return values


def _add_senders(connection: Connection, by_id: Mapping[int, MailboxRow]) -> None:
    state = _unverified("sender", "state")
    statement = insert(senders)
    # One that was removed: its ramp starts over.
    since = {"state_changed_at": func.clock_timestamp(), "ramp_since": func.clock_timestamp()}
    again = {name: statement.excluded[name] for name in state} | since
    connection.execute(
        statement.on_conflict_do_update(index_elements=["mailbox_id"], set_=again),
        [{"mailbox_id": mailbox_id, **state} for mailbox_id in by_id],
    )


def _add_bots(
    connection: Connection,
    by_id: Mapping[int, MailboxRow],
    attestation: Attestation,
    source: Literal["imported", "provisioned"],
) -> None:
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    given = {
        "source": source,
        "attested_by": attestation.who,
        "attestation": attestation.how,
        "attested_at": now,
        "status_changed_at": now,
        **_unverified("bot", "status"),
    }
    statement = insert(bots)
    # One that was removed keeps its pause.
    again = {name: statement.excluded[name] for name in ("interaction_limits", "born_at", *given)}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["mailbox_id"], set_=again),
        [
            {
                "mailbox_id": mailbox_id,
                "interaction_limits": getattr(row, "interaction_limits", None),
                "born_at": getattr(row, "born_at", None) or now,
                **given,
            }
            for mailbox_id, row in by_id.items()
        ],
    )


def _unverified(kind: Kind, column: str) -> dict[str, str]:
    return {
        column: "unverified",
        f"{column}_reason": "connection not checked yet",
        f"{column}_remedy": f"run `emberflow {kind}s check`",
    }


def _check(mailbox: Mailbox, mode: Mode, settings: Settings) -> CheckResult:
    access = mailbox.access
    try:
        check_mailbox(access, mode, settings.ca_files)
    except MailboxCheckError as error:
        return CheckResult(access.mailbox_id, access.address, error.stage, error.server_text, error.transient)
    except EgressRefusedError as error:
        return CheckResult(access.mailbox_id, access.address, _NOT_TRIED, str(error))
    except Exception as error:  # it is this mailbox's result: the others are checked all the same
        log.exception("the check of %s failed", access.address)
        text = access.public_text(f"{type(error).__name__}: {error}")
        return CheckResult(access.mailbox_id, access.address, "check", text, transient=True)
    return CheckResult(access.mailbox_id, access.address, None, None)


def _store_check(connection: Connection, result: CheckResult) -> None:
    passed = result.stage is None
    passed = result.stage is None
    if result.stage == _NOT_TRIED and _has_passed(connection, result.mailbox_id):
        return
    values: dict[str, Any] = {
        "check_stage": result.stage,
        "check_text": f"{_PASSES}: {result.text}" if result.transient else result.text,
        "checked_at": func.clock_timestamp(),
    }
    if not result.transient:
        values["check_passed"] = passed
    connection.execute(update(mailboxes).where(mailboxes.c.id == result.mailbox_id).values(values))
    if result.transient:
        _store_transient(connection, result)
        return
    for kind, (table, name) in _TABLES.items():
        expected = ["unverified"]
        values = _state(name, "active", None, None)
        if not passed:
            reason = f"connection check failed at {result.stage}: {result.text}"
            remedy = (
                f"correct the server, or the password with `emberflow secrets set`, then run `emberflow {kind}s check`"
            )
            expected.append("active")
            values = _state(name, "unverified", reason, remedy)
        connection.execute(
            update(table).where(table.c.mailbox_id == result.mailbox_id, table.c[name].in_(expected)).values(values)
        )


def _has_passed(connection: Connection, mailbox_id: int) -> bool:
    """Return whether a mailbox has passed its last check; that of a process which may not ask it says nothing new."""
    passed = select(mailboxes.c.check_passed).where(mailboxes.c.id == mailbox_id)
    return bool(connection.execute(passed).scalar_one())


def _store_transient(connection: Connection, result: CheckResult) -> None:
    """Say at what has never passed a check why it still waits; nothing else changes."""
    unchecked = select(mailboxes.c.id).where(mailboxes.c.id == result.mailbox_id, mailboxes.c.check_passed.is_(None))
    reason = f"connection not checked yet, {_PASSES}: {result.stage}: {result.text}"
    for kind, (table, name) in _TABLES.items():
        remedy = f"wait a few minutes, then run `emberflow {kind}s check`"
        connection.execute(
            update(table)
            .where(table.c.mailbox_id.in_(unchecked), table.c[name] == "unverified")
            .values({f"{name}_reason": reason, f"{name}_remedy": remedy})
        )


def _set_state(
    connection: Connection, kind: Kind, address: str, state: str, reason: str | None, remedy: str | None
) -> int:
    """Give a sender or bot a state, whatever it had; return its mailbox id."""
    table, name = _TABLES[kind]
    values = _state(name, state, reason, remedy)
    if kind == "sender":
        starts_over = or_(senders.c.state == "stopped", literal(state == "stopped"))
        values["ramp_since"] = case((starts_over, func.clock_timestamp()), else_=senders.c.ramp_since)
    mailbox_id: int | None = connection.execute(
        update(table)
        .where(table.c.mailbox_id == mailboxes.c.id, mailboxes.c.address == normalise(address), _IN_USE)
        .values(values)
        .returning(table.c.mailbox_id)
    ).scalar_one_or_none()
    if mailbox_id is None:
        raise EmberflowError(f"there is no {kind} {address}; `emberflow {kind}s list` shows them all")
    return mailbox_id


def _require_passed_check(connection: Connection, kind: Kind, address: str) -> None:
    found = connection.execute(
        select(mailboxes.c.check_passed).where(mailboxes.c.address == normalise(address), _IN_USE)
    ).one_or_none()
    if found is not None and not found.check_passed:
        raise EmberflowError(
            f"{address} has not passed its last connection check: run `emberflow {kind}s check {address}` first"
        )


def _state(column: str, state: str, reason: str | None, remedy: str | None) -> dict[str, Any]:
    """Return the values of a state's four columns; ``column`` is its name, ``state`` or ``status``."""
    return {
        column: state,
        f"{column}_reason": reason,
        f"{column}_remedy": remedy,
        f"{column}_changed_at": func.clock_timestamp(),
    }


def person(number: int) -> str:
    """Return the ``number``-th name of an invented person; the list starts over at its end."""
    return _NAMES[number % len(_NAMES)]


def _fresh_addresses(domain: str, count: int, taken: set[str]) -> Iterable[tuple[str, str]]:
    """Yield ``count`` unused (address, display name) pairs: names of invented people, numbered when they recur."""
    number = 0
    found = 0
    while found < count:
        name = person(number)
        suffix = "" if number < len(_NAMES) else str(number // len(_NAMES) + 1)
        address = f"{name.lower().replace(' ', '.')}{suffix}@{domain}"
        number += 1
        if address not in taken:
            found += 1
            yield address, name
