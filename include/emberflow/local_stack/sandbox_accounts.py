"""Accounts of the mail sandbox, with the import file that an operator would write for them."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from emberflow.accounts.provisioning import person
from emberflow.errors import ConfigurationError
from emberflow.local_stack.stack import Stack
from emberflow.sandbox import create_accounts
from emberflow.sandbox.accounts import Accounts


def write_accounts(
    stack: Stack, file: Path, domains: Iterable[str], per_domain: int, zones: Sequence[str], **more: str
) -> Path:
    """Create accounts on the stack's sandbox and write ``file``, a CSV that ``senders import`` or ``bots import`` take.

    The local parts are the file's name and a number: ``senders.csv`` gives ``sender01``, ``sender02``, ... in every
    domain. ``more`` are further columns with one value for all rows.

    Raises:
        ConfigurationError: a domain is not one of those reserved for tests (RFC 2606); the file's directory is not
            there; or the file or one of the accounts is, whose passwords would be lost. Nothing was changed.
    """
    if not file.parent.is_dir():
        raise ConfigurationError(f"{file.parent} is no directory: {file.name} cannot be written there")
    if file.exists():
        raise ConfigurationError(f"{file} exists, and may hold passwords: choose another name; nothing was changed")
    servers = vars(stack.sandbox_servers())
    kind = file.stem.removesuffix("s")
    passwords = {
        f"{kind}{number:02d}@{domain}": secrets.token_urlsafe(16)
        for domain in domains
        for number in range(1, per_domain + 1)
    }
    accounts = Accounts(stack.sandbox_directory)
    there = [address for address in passwords if accounts.exists(address)]
    if there:
        raise ConfigurationError(
            f"{len(there)} of these accounts exist, for instance {there[0]}: with new passwords, mailboxes that are "
            "registered could not log in any more. Choose another --domain or file name; nothing was changed"
        )
    create_accounts(stack.sandbox_directory, passwords)
    file.touch(mode=0o600)
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["address", "password", "display_name", "zone", *servers, *more])
        writer.writeheader()
        for number, (address, password) in enumerate(passwords.items()):
            row = {"address": address, "password": password, "display_name": person(number)}
            writer.writerow(row | {"zone": zones[number % len(zones)]} | servers | more)
    return file
