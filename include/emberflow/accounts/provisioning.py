"""Bots on the operator's own mail server: their addresses, their passwords, and how they are made there (B-B1)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import Connection, select

from emberflow.accounts import imports, keys_in_force
from emberflow.accounts.import_files import BotRow
from emberflow.accounts.imports import Attestation
from emberflow.database.secrets import SecretBox
from emberflow.database.tables import mailboxes
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.provisioning import provision
from emberflow.errors import ConfigurationError
from emberflow.settings import Settings

Create = Callable[[str, str], None]

_PASSWORD_BYTES = 24
_NAMES = (
    "Ada Lindqvist", "Bruno Keller", "Carla Mendes", "David Okafor", "Elena Petrova", "Felix Braun",
    "Greta Olsen", "Hugo Marchand", "Ines Carvalho", "Jonas Weber", "Katja Novak", "Liam Byrne",
    "Mira Kaplan", "Noah Fischer", "Olga Ivanova", "Pavel Dvorak", "Rosa Alvarez", "Sven Larsen",
    "Tara Singh", "Ugo Ferrari", "Vera Lang", "Wim de Vries", "Yara Haddad", "Zoe Martin",
)  # fmt: skip


@dataclass(frozen=True)
class Servers:
    """Where provisioned mailboxes are reached; the same for all of them."""

    smtp_host: str
    smtp_port: int
    smtp_tls: TlsMode
    imap_host: str
    imap_port: int
    imap_tls: TlsMode


def by_command(settings: Settings) -> Create:
    """Return what creates a mailbox by the operator's own command, ``EMBERFLOW_PROVISION_COMMAND``.

    Raises:
        ConfigurationError: there is none.
    """
    command = settings.provision_command
    if command is None:
        raise ConfigurationError(
            "bots are created on your own mail server only: set EMBERFLOW_PROVISION_COMMAND to the command that "
            "creates a mailbox there, for instance 'docker exec -i mailserver create-mailbox {address}'"
        )

    def create(address: str, password: str) -> None:
        provision(command, address, SecretStr(password))

    return create


def fresh_addresses(connection: Connection, domain: str, count: int, settings: Settings) -> list[tuple[str, str]]:
    """Return ``count`` unused (address, display name) pairs; refuse a machine with other keys before one is made."""
    keys_in_force.require(connection, settings, keys_in_force.at_hand(settings))
    in_use = select(mailboxes.c.address).where(mailboxes.c.removed_at.is_(None))
    return list(_fresh(domain, count, set(connection.execute(in_use).scalars())))


def new_password() -> SecretStr:
    """Return a password that nobody knows yet."""
    return SecretStr(secrets.token_urlsafe(_PASSWORD_BYTES))


def register(connection: Connection, row: BotRow, servers: Servers, settings: Settings, actor: str) -> int:
    """Register a mailbox that was created as a bot; return its mailbox id."""
    attestation = Attestation(actor, f"provisioned by Emberflow on {servers.smtp_host}")
    by_id = imports.add_mailboxes(connection, "bot", [row], SecretBox(settings.secret_keys))
    imports.add_bots(connection, by_id, attestation, "provisioned", actor)
    return next(iter(by_id))


def person(number: int) -> str:
    """Return the ``number``-th name of an invented person; the list starts over at its end."""
    return _NAMES[number % len(_NAMES)]


def _fresh(domain: str, count: int, taken: set[str]) -> Iterator[tuple[str, str]]:
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
