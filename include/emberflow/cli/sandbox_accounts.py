"""Accounts of the mail sandbox, with the import file that an operator would write for them."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from emberflow.cli.stack import Stack
from emberflow.email_ops.sandbox import create_accounts
from emberflow.queue_manager.registry import person


def write_accounts(
    stack: Stack, file: Path, domains: Iterable[str], per_domain: int, zones: Sequence[str], **more: str
) -> Path:
    """Create accounts on the stack's sandbox and write ``file``, a CSV that ``senders import`` or ``bots import`` take.

    The local parts are the file's name and a number: ``senders.csv`` gives ``sender01``, ``sender02``, ... in every
    domain. ``more`` are further columns with one value for all rows.

    Raises:
        ConfigurationError: a domain is not one of those reserved for tests (RFC 2606).
    """
    servers = vars(stack.sandbox_servers())
    kind = file.stem.removesuffix("s")
    passwords = {
        f"{kind}{number:02d}@{domain}": secrets.token_urlsafe(16)
        for domain in domains
        for number in range(1, per_domain + 1)
    }
    create_accounts(stack.sandbox_directory, passwords)
    file.touch(mode=0o600)
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["address", "password", "display_name", "zone", *servers, *more])
        writer.writeheader()
        for number, (address, password) in enumerate(passwords.items()):
            row = {"address": address, "password": password, "display_name": person(number)}
            writer.writerow(row | {"zone": zones[number % len(zones)]} | servers | more)
    return file
