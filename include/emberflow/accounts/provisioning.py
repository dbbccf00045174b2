"""Bots on the operator's own mail server: their addresses, their passwords, and how they are made there (B-B1).

A bot is registered before its mailbox is made, so that whatever interrupts that, its password is known. What was
interrupted is *unfinished*: a provisioned bot that was never active. It is gone on with when bots of its domain are
created the next time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from pydantic import SecretStr
from sqlalchemy import Connection, text

from emberflow.accounts import imports, keys_in_force, lifecycle, mailbox_changes
from emberflow.accounts.import_files import BotRow
from emberflow.accounts.imports import Attestation
from emberflow.database.secrets import SecretBox
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError, Way, provision
from emberflow.errors import ConfigurationError
from emberflow.settings import Settings

__all__ = [
    "WAYS",
    "MailboxTakenError",
    "ProvisioningError",
    "Servers",
    "Unfinished",
    "Way",
    "WayName",
    "fresh_addresses",
    "new_password",
    "not_made",
    "perhaps_made",
    "person",
    "register",
    "unfinished",
    "way",
]

WayName = Literal["command", "passwd-file", "sql", "mailcow"]

_PASSWORD_BYTES = 24
_NAMES = (
    "Ada Lindqvist", "Bruno Keller", "Carla Mendes", "David Okafor", "Elena Petrova", "Felix Braun",
    "Greta Olsen", "Hugo Marchand", "Ines Carvalho", "Jonas Weber", "Katja Novak", "Liam Byrne",
    "Mira Kaplan", "Noah Fischer", "Olga Ivanova", "Pavel Dvorak", "Rosa Alvarez", "Sven Larsen",
    "Tara Singh", "Ugo Ferrari", "Vera Lang", "Wim de Vries", "Yara Haddad", "Zoe Martin",
)  # fmt: skip


_UNFINISHED = text("""
    select mailboxes.id, mailboxes.address
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    where bots.source = 'provisioned'
        and bots.status = 'unverified'
        and mailboxes.removed_at is null
        and split_part(mailboxes.address, '@', 2) = :domain
        and not exists (
            select from ops.state_changes
            where state_changes.entity_kind = 'bot'
                and state_changes.entity_id = bots.id
                and state_changes.to_state = 'active'
        )
    order by mailboxes.id
""")


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
class Unfinished:
    """A registered bot of which nobody knows whether its mailbox was made."""

    mailbox_id: int
    address: str
    password: SecretStr


def way(name: WayName, mode: Mode, settings: Settings) -> Way:
    """Return how the operator's settings let mailboxes be created by this name.

    Raises:
        ConfigurationError: they do not.
    """
    return _WAYS[name](mode, settings)


def fresh_addresses(connection: Connection, domain: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield unused (address, display name) pairs without end; refuse a machine with other keys before one is made."""
    keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
    taken: set[str] = set(
        connection.execute(text("select address from ops.mailboxes where removed_at is null")).scalars()
    )
    return _fresh(domain, taken)


def unfinished(connection: Connection, domain: str, settings: Settings) -> list[Unfinished]:
    """Return the provisioned bots of a domain that were never active, the earliest first.

    Raises:
        SecretError: the password of one of them cannot be decrypted.
    """
    rows: Sequence[tuple[int, str]] = [
        (row.id, row.address) for row in connection.execute(_UNFINISHED, {"domain": domain.lower()})
    ]
    box = SecretBox(settings.secret_keys)
    return [Unfinished(id_, address, box.read(connection, id_)) for id_, address in rows]


def new_password() -> SecretStr:
    """Return a password that nobody knows yet: 192 random bits, with the kinds of characters that servers ask for."""
    while True:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        if all(any(map(is_kind, password)) for is_kind in (str.islower, str.isupper, str.isdigit, "-_".__contains__)):
            return SecretStr(password)


def register(connection: Connection, row: BotRow, by: Way, settings: Settings, actor: str) -> int:
    """Register a mailbox that is about to be created as a bot; return its mailbox id."""
    attestation = Attestation(actor, f"provisioned by Emberflow on {row.smtp_host}, by {by.name}")
    by_id = imports.add_mailboxes(connection, "bot", [row], SecretBox(settings.secret_keys))
    imports.add_bots(connection, by_id, attestation, "provisioned", actor)
    return next(iter(by_id))


def perhaps_made(connection: Connection, mailbox_id: int, why: str, actor: str) -> None:
    """Say at a bot that nobody knows whether its mailbox was made, and what to do."""
    lifecycle.creation_undecided(connection, mailbox_id, why, actor)


def not_made(connection: Connection, address: str, why: str, actor: str) -> None:
    """Take back the registration of a mailbox that was certainly not made."""
    mailbox_changes.remove(connection, "bot", address, why, actor)


def person(number: int) -> str:
    """Return the ``number``-th name of an invented person; the list starts over at its end."""
    return _NAMES[number % len(_NAMES)]


def _fresh(domain: str, taken: set[str]) -> Iterator[tuple[str, str]]:
    """Yield unused (address, display name) pairs: names of invented people, numbered when they recur."""
    number = 0
    while True:
        name = person(number)
        suffix = "" if number < len(_NAMES) else str(number // len(_NAMES) + 1)
        address = f"{name.lower().replace(' ', '.')}{suffix}@{domain}"
        number += 1
        if address not in taken:
            yield address, name


def _by_command(_mode: Mode, settings: Settings) -> Way:
    command = settings.provision_command
    if command is None:
        raise ConfigurationError(
            "bots are created on your own mail server only: set EMBERFLOW_PROVISION_COMMAND to the command that "
            "creates a mailbox there, for instance 'docker exec -i mailserver create-mailbox {address}', or name "
            "another way with --via"
        )
    return Way("the operator's command", partial(provision, command))


def _by_passwd_file(_mode: Mode, settings: Settings) -> Way:
    from emberflow.email_ops import passwd_file  # noqa: PLC0415 - only who creates mailboxes needs it

    place = settings.provision_passwd_file
    if place is None:
        raise ConfigurationError(
            'set EMBERFLOW_PROVISION_PASSWD_FILE to {"file": ...}, the passwd-file from which your own Dovecot reads '
            "its users"
        )
    if (place.mailbox_map is None) != (place.map_type is None):
        raise ConfigurationError(
            "EMBERFLOW_PROVISION_PASSWD_FILE: mailbox_map and map_type belong together: the list of mailboxes that "
            "Postfix reads, and the type that `postmap` makes of it, such as lmdb or hash"
        )
    return Way(
        f"the passwd-file {place.file}",
        partial(passwd_file.create, place),
        partial(passwd_file.has, place),
        passwd_file.NOTICED_WITHIN_S,
    )


def _by_sql(mode: Mode, settings: Settings) -> Way:
    from emberflow.email_ops import virtual_users  # noqa: PLC0415 - only who creates mailboxes needs it

    place = settings.provision_sql
    if place is None:
        raise ConfigurationError(
            'set EMBERFLOW_PROVISION_SQL to {"url": ..., "insert": ..., "select": ...}, the table from which your own '
            "mail server reads its users"
        )
    return Way(
        "its table of users", partial(virtual_users.create, place, mode), partial(virtual_users.has, place, mode)
    )


def _by_mailcow(mode: Mode, settings: Settings) -> Way:
    from emberflow.email_ops import mailcow  # noqa: PLC0415 - only who creates mailboxes needs it

    place = settings.provision_mailcow
    if place is None:
        raise ConfigurationError('set EMBERFLOW_PROVISION_MAILCOW to {"url": ..., "api_key": ...} of your own mailcow')
    ca_files = settings.ca_files
    return Way(
        f"mailcow at {place.url}",
        partial(mailcow.create, place, mode, ca_files),
        partial(mailcow.has, place, mode, ca_files),
    )


_WAYS: Final[Mapping[WayName, Callable[[Mode, Settings], Way]]] = {
    "command": _by_command,
    "passwd-file": _by_passwd_file,
    "sql": _by_sql,
    "mailcow": _by_mailcow,
}
WAYS: Final = tuple(_WAYS)
