"""Keyed hashes of addresses: what is left of a person who was erased, and still suppresses.

The value is HMAC-SHA256 (RFC 2104) of the SHA-256 of the normalised address, under a key that this installation makes
for itself. Without a key, a list of hashes of addresses is a list of addresses: all that are likely can be tried. The
inner SHA-256 is what other tools export, so their lists come in without an address being known.

The key is stored in the database, encrypted under EMBERFLOW_SECRET_KEYS like the passwords, and bound to what it is. A
new secret key encrypts it anew and leaves it as it is (`emberflow secrets rotate`), because no hash could be computed
again: the addresses are gone. If the secret keys are lost, so are the hashes. Then mail to people waits, and leads are
not imported, until the keys are back or the hashes are removed: see `BlindError`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets as entropy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, Row, select, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.database.secrets import Sealed, SecretBox
from emberflow.database.tables import suppression_key
from emberflow.errors import ConfigurationError, SecretError

# The fingerprint of the key that hashes are compared by, as part of a query; null: there are no hashes; empty: there
# are some, and the key that is stored, if any, did not make all of them, as after a restore of some tables only. The
# lowest and the highest value are two looks into the unique index, and what both begin with, all do.
KEY_IN_USE: Final = """
    (
        select
            case
                when
                    left(made.lowest, 12) = left(suppression_key.fingerprint, 12)
                    and left(made.highest, 12) = left(suppression_key.fingerprint, 12)
                    then suppression_key.fingerprint
                else ''
            end
        from (
            select min(value) as lowest, max(value) as highest from ops.suppressions where kind = 'hash'
        ) as made
        left join ops.suppression_key on true
        where made.lowest is not null
    )
"""
_IN_USE = text(f"select {KEY_IN_USE}")
_ONE_AT_A_TIME = text("select pg_advisory_xact_lock(hashtext('emberflow.suppression_key'))")
_WHAT: Final = "the key of suppressed hashes"
_SHOWN: Final = 12  # hex digits of the fingerprint in each value

Keys = Mapping[str, SecretStr]


@dataclass(frozen=True)
class Hasher:
    """Makes the values of hashed addresses; it never shows its key."""

    fingerprint: str
    _key: bytes

    def of(self, address: str) -> str:
        """Return the value of an address in normal form."""
        return self.of_digest(hashlib.sha256(address.encode()).digest())

    def of_digest(self, digest: bytes) -> str:
        """Return the value of an address of which only the SHA-256 of its normal form is known."""
        return f"{self.prefix}{hmac.new(self._key, digest, hashlib.sha256).hexdigest()}"

    @property
    def prefix(self) -> str:
        """What every value of this key begins with."""
        return f"{self.fingerprint[:_SHOWN]}:"

    def __repr__(self) -> str:
        return f"Hasher({self.prefix})"


class BlindError(SecretError):
    """There are hashes of suppressed addresses, and this machine cannot compare with them."""


_opened: dict[str, Hasher] = {}  # by fingerprint: a worker asks before every DATA


def opened(connection: Connection, keys: Keys, fingerprint: str | None) -> Hasher | None:
    """Return what compares with hashes under the key of `KEY_IN_USE`; None: there are none.

    Raises:
        BlindError: the key cannot be decrypted here, or is not the one that made the hashes.
    """
    if fingerprint is None:
        return None
    if not fingerprint:
        raise BlindError(
            "suppressed hashes cannot be compared: their key is missing, or made not all of them. Restore "
            "ops.suppression_key and ops.suppressions from one backup, or remove the hashes of another key"
        )
    if fingerprint not in _opened:
        _opened[fingerprint] = _read(connection, keys)
    return _opened[fingerprint]


def in_use(connection: Connection, keys: Keys) -> Hasher | None:
    """Return what compares with the hashes that there are; None: there are none.

    Raises:
        BlindError: as in :func:`opened`.
    """
    return opened(connection, keys, connection.execute(_IN_USE).scalar_one())


def at_hand(connection: Connection, keys: Keys) -> Hasher:
    """Return what makes hashes, with a new key if there is none yet.

    Raises:
        BlindError: there are hashes, and :func:`opened` cannot compare with them.
        ConfigurationError: there is no secret key to encrypt a new one with.
    """
    connection.execute(_ONE_AT_A_TIME)
    found = in_use(connection, keys)
    if found is not None:
        return found
    if connection.execute(select(suppression_key.c.id)).first() is not None:
        try:
            return _read(connection, keys)
        except BlindError:
            pass  # no hash needs it
    key = entropy.token_bytes(32)
    made = _hasher(key)
    row = {"fingerprint": made.fingerprint, **vars(SecretBox(keys).seal(key, _WHAT.encode()))}
    statement = insert(suppression_key).values(id=1, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
    return made


def rotate(connection: Connection, keys: Keys) -> None:
    """Encrypt the key with the first secret key; the hashes stay what they are.

    Raises:
        BlindError: it cannot be decrypted here; the caller's transaction must not be committed.
    """
    row = connection.execute(select(suppression_key).with_for_update()).one_or_none()
    if row is None or row.key_id == next(iter(keys)):
        return
    sealed = SecretBox(keys).seal(_key_of(row, keys), _WHAT.encode())
    connection.execute(suppression_key.update().values(vars(sealed)))


def _read(connection: Connection, keys: Keys) -> Hasher:
    return _hasher(_key_of(connection.execute(select(suppression_key)).one(), keys))


def _key_of(row: Row[Any], keys: Keys) -> bytes:
    try:
        sealed = Sealed(row.key_id, bytes(row.nonce), bytes(row.ciphertext))
        return SecretBox(keys).open(sealed, _WHAT.encode())
    except (SecretError, ConfigurationError) as error:
        raise BlindError(
            f"suppressed hashes cannot be compared: their key is {error}. Put the secret key back, or remove the hashes"
        ) from error


def _hasher(key: bytes) -> Hasher:
    return Hasher(hmac.new(key, b"emberflow.fingerprint:suppressions", hashlib.sha256).hexdigest(), key)
