"""What people do with senders and bots: bring them in, check them, correct them, take them out of service and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from sqlalchemy import Engine

from emberflow.accounts import imports, keys_in_force, lifecycle, mailbox_changes, mailboxes, provisioning
from emberflow.accounts.import_files import BotRow
from emberflow.accounts.imports import Attestation, Reading
from emberflow.accounts.lifecycle import MailboxKind
from emberflow.accounts.mailbox_changes import Changed
from emberflow.accounts.provisioning import Create, Servers
from emberflow.database.secrets import SecretBox
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.cancellation import cancel_of_mailbox
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.accounts.checks import CheckResult as CheckResult  # noqa: PLC0414 - named by commands

__all__ = [
    "Attestation",
    "Changed",
    "MailboxKind",
    "Reading",
    "Servers",
    "change",
    "check",
    "create_bots",
    "import_bots",
    "import_senders",
    "pause",
    "remove",
    "resume",
    "retire_bot",
    "set_password",
    "stop_sender",
]


def import_senders(
    engine: Engine, actor: Actor, file: Path, settings: Settings, reading: Reading | None = None, *, reason: str
) -> list[int]:
    """Import a CSV file of senders, all rows or none; return their mailbox ids.

    Raises:
        ImportRejectedError: a row is invalid, repeated, or already known; nothing was written.
    """
    found = imports.read_senders(file, reading or Reading())
    with doing(engine, actor, "senders.import", str(file), reason) as deed:
        ids = imports.import_senders(deed.connection, found, settings, actor.name)
        slot_store.move_days(deed.connection, ids)  # of those that come back
        deed.details["imported"] = len(ids)
    return ids


def import_bots(
    engine: Engine,
    actor: Actor,
    file: Path,
    attestation: Attestation,
    settings: Settings,
    reading: Reading | None = None,
    *,
    reason: str,
) -> list[int]:
    """Import a CSV file of mailboxes that the operator attests to own, all rows or none; return their mailbox ids.

    Raises:
        ImportRejectedError: as in :func:`import_senders`.
        ConfigurationError: the attestation is empty.
    """
    found = imports.read_bots(file, reading or Reading())
    with doing(
        engine, actor, "bots.import", str(file), reason, attested_by=attestation.who, how=attestation.how
    ) as deed:
        ids = imports.import_bots(deed.connection, found, attestation, settings, actor.name)
        slot_store.move_days(deed.connection, ids)  # of those that come back
        deed.details["imported"] = len(ids)
    return ids


def create_bots(
    engine: Engine,
    actor: Actor,
    domain: str,
    count: int,
    servers: Servers,
    *,
    reason: str,
    settings: Settings,
    create: Create | None = None,
    zone: str = "UTC",
    provider: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> list[int]:
    """Create ``count`` mailboxes on the operator's own mail server and register them as bots; return their mailbox ids.

    ``create(address, password)`` makes one mailbox; by default it is the operator's own command,
    ``EMBERFLOW_PROVISION_COMMAND``. Each mailbox is registered as soon as it exists, with an audit row of its own, so
    that an interruption leaves no mailbox whose password nobody knows.

    Raises:
        ConfigurationError: there is no way to create a mailbox.
        EmberflowError: the operator's command failed; the mailboxes created before stay registered.
    """
    make = create or provisioning.by_command(settings)
    created: list[int] = []
    with engine.begin() as connection:
        fresh = provisioning.fresh_addresses(connection, domain, count, settings)
    for address, display_name in fresh:
        password = provisioning.new_password()
        make(address, password.get_secret_value())
        row = BotRow(
            address=address,
            password=password,
            display_name=display_name,
            provider=provider or domain,
            zone=zone,
            **vars(servers),
        )
        with doing(engine, actor, "bots.create", address, reason, smtp_host=servers.smtp_host) as deed:
            mailbox_id = provisioning.register(deed.connection, row, servers, settings, actor.name)
            slot_store.move_days(deed.connection, [mailbox_id])  # if it comes back
        created.append(mailbox_id)
        progress(address)
    return created


def check(
    engine: Engine,
    actor: Actor,
    settings: Settings,
    *,
    reason: str,
    ids: Sequence[int] | None = None,
    addresses: Sequence[str] | None = None,
    progress: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Run the connection check of the mailboxes with these ids or addresses (default: all); store and return outcomes.

    A passed check makes an unverified sender or bot active, a failed one makes an active one unverified. One that is
    interrupted stores the outcomes that it has.

    Raises:
        EmberflowError: an address is not registered.
    """
    from emberflow.accounts import checks

    if addresses:
        with engine.connect() as connection:
            ids = mailboxes.ids_of(connection, addresses)
    results: list[CheckResult] = []

    def keep(result: CheckResult) -> None:
        results.append(result)
        progress(result)

    try:
        checks.run(engine, settings, ids=ids, progress=keep)
    except KeyboardInterrupt:
        if results:
            _store_checks(engine, actor, settings, results, reason, interrupted=True)
        raise
    _store_checks(engine, actor, settings, results, reason)
    return results


def _store_checks(
    engine: Engine, actor: Actor, settings: Settings, results: Sequence[CheckResult], reason: str, **details: bool
) -> None:
    from emberflow.accounts import checks

    subject = results[0].address if len(results) == 1 else f"{len(results)} mailboxes"
    with doing(engine, actor, "mailboxes.check", subject, reason, **details) as deed:
        checks.store(deed.connection, results, settings, actor.name)
        deed.details["passed"] = sum(result.stage is None for result in results)
        deed.details["failed"] = {result.address: result.stage for result in results if result.stage is not None}


def set_password(
    engine: Engine, actor: Actor, address: str, password: SecretStr, settings: Settings, *, reason: str
) -> int:
    """Store a new password for a registered mailbox and return its id; check it afterwards.

    Raises:
        EmberflowError: it is not registered.
        ConfigurationError: there is no key to encrypt with.
    """
    with doing(engine, actor, "mailboxes.set_password", address, reason) as deed:
        (mailbox_id,) = mailboxes.ids_of(deed.connection, [address])
        keys_in_force.require(deed.connection, settings, keys_in_force.at_hand(settings))
        SecretBox(settings.secret_keys).store(deed.connection, mailbox_id, password)
    return mailbox_id


def change(
    engine: Engine, actor: Actor, kind: MailboxKind, address: str, values: Mapping[str, Any], *, reason: str
) -> Changed:
    """Give a mailbox new values of import columns; an empty text stands for the column's default.

    Raises:
        EmberflowError: there is no such sender or bot.
        ConfigurationError: a value is not what an import would take; nothing was changed.
    """
    with doing(engine, actor, f"{kind}s.set", address, reason, given=values) as deed:
        changed = mailbox_changes.change(deed.connection, kind, address, values, actor.name)
        if "zone" in changed.columns:
            slot_store.move_days(deed.connection, [changed.mailbox_id])
        deed.details["changed"] = changed.columns
    return changed


def remove(engine: Engine, actor: Actor, kind: MailboxKind, address: str, *, reason: str) -> int:
    """Take a mailbox out of use for good; return how many planned mails from it or to it were cancelled.

    Raises:
        EmberflowError: there is no such sender or bot.
    """
    with doing(engine, actor, f"{kind}s.remove", address, reason) as deed:
        mailbox_id = mailbox_changes.remove(deed.connection, kind, address, reason, actor.name)
        cancelled = cancel_of_mailbox(deed.connection, mailbox_id, f"{kind}_removed")
        deed.details["cancelled"] = cancelled
    return cancelled


def pause(engine: Engine, actor: Actor, kind: MailboxKind, address: str, *, reason: str) -> None:
    """Pause a sender, whose ramp position stays, or a bot, which is still read.

    Raises:
        EmberflowError: there is no such sender or bot.
    """
    with doing(engine, actor, f"{kind}s.pause", address, reason) as deed:
        lifecycle.pause(deed.connection, kind, address, reason, actor.name)


def stop_sender(engine: Engine, actor: Actor, address: str, *, reason: str) -> None:
    """Stop a sender: when it is resumed, its ramp starts over.

    Raises:
        EmberflowError: there is no such sender.
    """
    with doing(engine, actor, "senders.stop", address, reason) as deed:
        lifecycle.stop(deed.connection, address, reason, actor.name)


def retire_bot(engine: Engine, actor: Actor, address: str, *, reason: str) -> int:
    """Take a bot out of service, unread from then on; return how many planned mails to it or from it were cancelled.

    Those are cancelled at once, so that the hours to come plan others for them, and their conversations end. What a
    worker holds at this moment is refused by the check before DATA.

    Raises:
        EmberflowError: there is no such bot.
    """
    with doing(engine, actor, "bots.retire", address, reason) as deed:
        mailbox_id = lifecycle.retire(deed.connection, address, reason, actor.name)
        cancelled = cancel_of_mailbox(deed.connection, mailbox_id, "bot_retired")
        deed.details["cancelled"] = cancelled
    return cancelled


def resume(engine: Engine, actor: Actor, kind: MailboxKind, address: str, *, reason: str) -> None:
    """Make a sender or bot active again; one that has not passed its last check stays as it is.

    Raises:
        EmberflowError: there is no such sender or bot, or its connection check has not passed.
    """
    with doing(engine, actor, f"{kind}s.resume", address, reason) as deed:
        lifecycle.resume(deed.connection, kind, address, actor.name)
