"""What people do with senders and bots: bring them in, check them, correct them, take them out of service and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from sqlalchemy import Engine

from emberflow.accounts import imports, keys_in_force, lifecycle, mailbox_changes, mailboxes, provisioning
from emberflow.accounts.import_files import TLS_OF_PORT, BotRow
from emberflow.accounts.imports import Attestation, Reading
from emberflow.accounts.lifecycle import MailboxKind
from emberflow.accounts.mailbox_changes import Changed
from emberflow.accounts.provisioning import MailboxTakenError, ProvisioningError, Servers, Unfinished, Way, WayName
from emberflow.accounts.switches import enter_mail_mode
from emberflow.database.secrets import SecretBox
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.cancellation import cancel_of_mailbox
from emberflow.settings import Settings

_MOST_TAKEN = 100  # addresses that the server has already; a domain with more is not one for invented names

# By whether it was asked for now or by an earlier run.
_IF_IT_IS_YOURS: Mapping[bool, str] = {
    True: "If it is yours, bring it in with `emberflow bots import`.",
    False: "It does not take the password that is registered: give it another one there and store that with "
    "`emberflow secrets set {address}`, or take it out with `emberflow bots remove {address}`.",
}

if TYPE_CHECKING:
    from emberflow.accounts.checks import CheckResult as CheckResult  # noqa: PLC0414 - named by commands

__all__ = [
    "Attestation",
    "Changed",
    "MailboxKind",
    "Reading",
    "Servers",
    "Way",
    "WayName",
    "change",
    "check",
    "create_bots",
    "import_bots",
    "import_senders",
    "pause",
    "remove",
    "resume",
    "retire_bot",
    "servers_at",
    "set_password",
    "stop_sender",
    "way_name",
]


def import_senders(
    engine: Engine, actor: Actor, file: Path, settings: Settings, reading: Reading | None = None, *, reason: str
) -> list[int]:
    """Import a CSV file of senders, all rows or none; return their mailbox ids.

    Raises:
        ImportRejectedError: a row is invalid, repeated, or already known; nothing was written.
    """
    found = imports.read_senders(file, _with_lookup(reading, settings))
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
    found = imports.read_bots(file, _with_lookup(reading, settings))
    with doing(
        engine, actor, "bots.import", str(file), reason, attested_by=attestation.who, how=attestation.how
    ) as deed:
        ids = imports.import_bots(deed.connection, found, attestation, settings, actor.name)
        slot_store.move_days(deed.connection, ids)  # of those that come back
        deed.details["imported"] = len(ids)
    return ids


def _with_lookup(reading: Reading | None, settings: Settings) -> Reading:
    from emberflow.accounts import mail_servers

    reading = reading or Reading()
    return replace(reading, mx_hosts=reading.mx_hosts or mail_servers.lookup(settings))


def servers_at(smtp_host: str, smtp_port: int, imap_host: str, imap_port: int) -> Servers:
    """Return servers with the TLS modes that are usual on their ports."""
    return Servers(
        smtp_host, smtp_port, TLS_OF_PORT.get(smtp_port, "starttls"),
        imap_host, imap_port, TLS_OF_PORT.get(imap_port, "implicit"),
    )  # fmt: skip


def way_name(text: str) -> WayName:
    """Return the way of creating mailboxes that a person names.

    Raises:
        ConfigurationError: there is none of this name.
    """
    for name in provisioning.WAYS:
        if name == text:
            return name
    raise ConfigurationError(f"there is no way {text!r} to create mailboxes; there are {', '.join(provisioning.WAYS)}")


def create_bots(
    engine: Engine,
    actor: Actor,
    domain: str,
    count: int,
    servers: Servers,
    *,
    reason: str,
    settings: Settings,
    via: Way | WayName = "command",
    zone: str = "UTC",
    provider: str = "",
    progress: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[int]:
    """Create ``count`` mailboxes on the operator's own mail server and register them as bots; return their mailbox ids.

    Each is registered, with an audit row of its own, before it is made, so that no interruption leaves a mailbox whose
    password nobody knows. Those of the domain that an earlier run left unfinished come first: one that can be logged in
    to was made, any other is made now. ``tell`` is told of addresses that were left alone because the server has them.

    Raises:
        ConfigurationError: there is no way to create a mailbox.
        ProvisioningError: one was not created, or nobody knows whether it was; those before it stay registered, and in
            the latter case it does as well.
    """
    with engine.begin() as connection:
        addresses = provisioning.fresh_addresses(connection, domain, settings)
        left = provisioning.unfinished(connection, domain, settings)[:count]
        if isinstance(via, str):
            via = provisioning.way(via, enter_mail_mode(connection, settings), settings)
    creation = _Creation(engine, actor, via, settings, reason, tell)
    created: list[int] = []
    for one in left:
        if _can_be_logged_in_to(engine, settings, one) or creation.make(one, is_new=False):
            tell(f"{one.address} was begun before and is finished now")
            created.append(one.mailbox_id)
            progress(one.address)
    taken = 0
    while len(created) < count:
        address, display_name = next(addresses)
        if via.has(address):
            tell(f"{address} is on the server already, and was left alone")
        else:
            row = BotRow(
                address=address,
                password=provisioning.new_password(),
                display_name=display_name,
                provider=provider or domain,
                zone=zone,
                **vars(servers),
            )
            mailbox_id = creation.register(row)
            if creation.make(Unfinished(mailbox_id, address, row.password), is_new=True):
                created.append(mailbox_id)
                progress(address)
                continue
        taken += 1
        if taken > _MOST_TAKEN:
            raise ProvisioningError(
                f"{taken} addresses of {domain} are taken on the server: import mailboxes that are yours with "
                "`emberflow bots import`"
            )
    if created:
        time.sleep(via.noticed_within_s)  # whoever logs in before is refused, for the password
    return created


@dataclass(frozen=True)
class _Creation:
    """One run of :func:`create_bots`."""

    engine: Engine
    actor: Actor
    way: Way
    settings: Settings
    reason: str
    tell: Callable[[str], None]

    def register(self, row: BotRow) -> int:
        """Register a bot whose mailbox is made next."""
        with doing(
            self.engine, self.actor, "bots.create", row.address, self.reason, smtp_host=row.smtp_host, by=self.way.name
        ) as deed:
            mailbox_id = provisioning.register(deed.connection, row, self.way, self.settings, self.actor.name)
            slot_store.move_days(deed.connection, [mailbox_id])  # if it comes back
        return mailbox_id

    def make(self, bot: Unfinished, *, is_new: bool) -> bool:
        """Make the mailbox of a registered bot; False if the server has one of this address already.

        What was certainly not made is not registered any longer, if this was the first try. After an earlier one the
        mailbox may be there, whatever is said now, so its password is kept.

        Raises:
            ProvisioningError: as in :func:`create_bots`.
        """
        try:
            self.way.create(bot.address, bot.password)
        except EmberflowError as error:
            # What is none of provisioning's errors is of the configuration, the address, the mail mode.
            is_open = not is_new or (isinstance(error, ProvisioningError) and not error.is_certain)
            if is_open:
                with self.engine.begin() as connection:
                    provisioning.perhaps_made(connection, bot.mailbox_id, str(error), self.actor.name)
            else:
                self._take_back(bot.address, str(error))
            if isinstance(error, MailboxTakenError):
                self.tell(f"{error}: left alone. {_IF_IT_IS_YOURS[is_new].format(address=bot.address)}")
                return False
            if not is_open:
                raise
            raise ProvisioningError(
                f"{error}\nNobody knows whether {bot.address} was made. It is registered, with its password: "
                "run the same command again, which goes on with it first.",
                is_certain=False,
            ) from error
        return True

    def _take_back(self, address: str, why: str) -> None:
        told = f"not created: {why}"
        with doing(self.engine, self.actor, "bots.remove", address, told) as deed:
            provisioning.not_made(deed.connection, address, told, self.actor.name)


def _can_be_logged_in_to(engine: Engine, settings: Settings, one: Unfinished) -> bool:
    from emberflow.accounts import checks

    (result,) = checks.run(engine, settings, ids=[one.mailbox_id])
    if result.stage in (None, "smtp_auth", "imap_auth"):
        return result.stage is None
    raise ProvisioningError(
        f"{one.address} may have been made before, and cannot be asked: {result.stage}: {result.text}\n"
        f"Correct its servers with `emberflow bots set {one.address}`, or wait until they answer, then run the same "
        f"command again; or take it out with `emberflow bots remove {one.address}`.",
        is_certain=False,
    )


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
