"""Who has a mailbox in the sandbox.

Accounts may only live under the top-level domains that RFC 2606 section 2 and RFC 6761 section 6 reserve:
such an address can never belong to anybody, so a mistake in the configuration cannot reach a person.
A domain is served as soon as one account lives in it.

Passwords are stored as HMAC-SHA256 under a salt of their own. That is deliberately cheap (a login costs
microseconds, and thousands of simulated users log in every minute) and only fit for a server on loopback.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emberflow.errors import ConfigurationError
from emberflow.sandbox.state_files import Watched, locked, replace_file

RESERVED_TLDS = ("test", "example", "invalid", "localhost")

_FILE = "accounts.json"
_ADDRESS = re.compile(r"[a-z0-9!#$%&'*+/=?^_{|}~.-]{1,64}@(?:[a-z0-9-]{1,63}\.)*([a-z0-9-]{1,63})")


def create_accounts(directory: Path, passwords: Mapping[str, str]) -> None:
    """Give every address in ``passwords`` a mailbox; a running sandbox serves it from its next command on.

    Addresses are not case-sensitive. An account that exists keeps its mail and gets the given password.

    Raises:
        ConfigurationError: an address is malformed or outside the reserved domains; nothing was created.
    """
    wanted = {address.lower(): password for address, password in passwords.items()}
    for address in wanted:
        _require_reserved(address)
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "accounts.lock"):
        path = directory / _FILE
        hashes = _parse(path.read_text(encoding="utf-8")).hashes if path.exists() else {}
        new = {
            address: _hash(password)
            for address, password in wanted.items()
            if address not in hashes or not _matches(password, hashes[address])
        }
        if new:
            replace_file(path, json.dumps({"accounts": hashes | new}, indent=0))


class Accounts:
    """The accounts of a state directory as they are now, however they got there."""

    def __init__(self, directory: Path) -> None:
        self._file = Watched(directory / _FILE, _parse, missing=_Register({}, frozenset()))

    def exists(self, address: str) -> bool:
        """Whether ``address`` has a mailbox."""
        return address.lower() in self._file.content().hashes

    def serves(self, address: str) -> bool:
        """Whether the domain of ``address`` is one of the sandbox's own."""
        return address.lower().rpartition("@")[2] in self._file.content().domains

    def verify(self, address: str, password: str) -> bool:
        """Whether ``password`` opens the mailbox ``address``."""
        stored = self._file.content().hashes.get(address.lower())
        return stored is not None and _matches(password, stored)


@dataclass(frozen=True)
class _Register:
    hashes: dict[str, str]
    domains: frozenset[str]


def _parse(text: str) -> _Register:
    match json.loads(text):
        case {"accounts": dict(hashes)}:
            pass
        case _:
            raise ValueError('expected an object {"accounts": {address: hash}}')
    return _Register(hashes, frozenset(address.rpartition("@")[2] for address in hashes))


def _require_reserved(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigurationError(f"sandbox account {address!r} is not an address")
    if match[1] not in RESERVED_TLDS:
        raise ConfigurationError(
            f"sandbox account {address!r} could belong to somebody: use a domain under ." + ", .".join(RESERVED_TLDS)
        )


def _hash(password: str) -> str:
    salt = secrets.token_hex(16)
    return f"{salt}${_digest(salt, password)}"


def _matches(password: str, stored: str) -> bool:
    salt, _, digest = stored.partition("$")
    return hmac.compare_digest(digest, _digest(salt, password))


def _digest(salt: str, password: str) -> str:
    return hmac.new(salt.encode(), password.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
