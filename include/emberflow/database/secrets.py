"""Mailbox passwords, and bytes of strangers' mail, at rest: AES-256-GCM, keys named by an id.

The associated data, of a password the mailbox id, binds a ciphertext to its row: copied to another it no longer
decrypts. Keys come
from ``EMBERFLOW_SECRET_KEYS``; the first one encrypts and every listed one decrypts, so a key is rotated by
putting a new one in front. Without a key nothing is stored: there is no plaintext fallback.
"""

from __future__ import annotations

import base64
import secrets as entropy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr
from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert

from emberflow.database.tables import mailbox_secrets, mailboxes
from emberflow.errors import ConfigurationError, SecretError

_NONCE_BYTES = 12  # NIST SP 800-38D, 5.2.1.1: 96-bit nonces are the recommended length
_KEY_BYTES = 32


@dataclass(frozen=True)
class Sealed:
    """Encrypted bytes, and the id of the key that opens them."""

    key_id: str
    nonce: bytes
    ciphertext: bytes


class SecretBox:
    """Encrypts, stores and reads mailbox passwords, and encrypts other bytes, with one set of keys."""

    def __init__(self, keys: Mapping[str, SecretStr]) -> None:
        """Take ``{key id: base64 key}``, the encrypting key first.

        Raises:
            ConfigurationError: there is no key, or one is not 32 bytes of base64.
        """
        if not keys:
            raise ConfigurationError(
                "no key for mailbox passwords: set EMBERFLOW_SECRET_KEYS, or let `./emberflow up` generate one"
            )
        self._ciphers = {
            key_id: AESGCM(_decode(number, key)) for number, (key_id, key) in enumerate(keys.items(), start=1)
        }
        self._current = next(iter(keys))

    def store(self, connection: Connection, mailbox_id: int, password: SecretStr) -> None:
        """Encrypt ``password`` and write it as the secret of ``mailbox_id``, replacing an earlier one."""
        self.store_all(connection, {mailbox_id: password})

    def store_all(self, connection: Connection, passwords: Mapping[int, SecretStr]) -> None:
        """Encrypt passwords and write them as the secrets of their mailbox ids, replacing earlier ones."""
        statement = insert(mailbox_secrets)
        columns = ("key_id", "nonce", "ciphertext")
        newer = {name: statement.excluded[name] for name in columns}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["mailbox_id"], set_=newer),
            [self._encrypt(mailbox_id, password) for mailbox_id, password in passwords.items()],
        )

    @property
    def current_key_id(self) -> str:
        """Return the id of the key that encrypts."""
        return self._current

    def seal(self, plain: bytes, associated: bytes) -> Sealed:
        """Encrypt ``plain`` with the current key, bound to ``associated``."""
        nonce = entropy.token_bytes(_NONCE_BYTES)
        return Sealed(self._current, nonce, self._ciphers[self._current].encrypt(nonce, plain, associated))

    def open(self, sealed: Sealed, associated: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SecretError: its key is not configured, or it was altered or bound to something else.
        """
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise SecretError(f"encrypted with key {sealed.key_id!r}, which EMBERFLOW_SECRET_KEYS does not list")
        try:
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, associated)
        except InvalidTag:
            raise SecretError("altered, or moved to another row") from None

    def _encrypt(self, mailbox_id: int, password: SecretStr) -> dict[str, Any]:
        sealed = self.seal(password.get_secret_value().encode(), _associated(mailbox_id))
        return {"mailbox_id": mailbox_id} | vars(sealed)

    def read(self, connection: Connection, mailbox_id: int) -> SecretStr:
        """Return the password of ``mailbox_id``.

        Raises:
            SecretError: there is none, its key is not configured, or the row was altered or moved.
        """
        secret = self.read_all(connection, [mailbox_id])[mailbox_id]
        if isinstance(secret, SecretError):
            raise secret
        return secret

    def read_all(self, connection: Connection, mailbox_ids: Iterable[int]) -> dict[int, SecretStr | SecretError]:
        """Return the password of each mailbox, or why it has none, in one query."""
        wanted = set(mailbox_ids)
        query = select(mailboxes.c.id, mailboxes.c.address, mailbox_secrets).outerjoin(mailbox_secrets)
        stored = {row.id: self._decrypt(row) for row in connection.execute(query.where(mailboxes.c.id.in_(wanted)))}
        return {one: stored.get(one) or SecretError(f"there is no mailbox with the number {one}") for one in wanted}

    def _decrypt(self, row: Row[Any]) -> SecretStr | SecretError:
        if row.mailbox_id is None:
            return SecretError(f"{row.address} has no stored password; set it with `emberflow secrets set`")
        cipher = self._ciphers.get(row.key_id)
        if cipher is None:
            return SecretError(
                f"{row.address} is encrypted with key {row.key_id!r}, which EMBERFLOW_SECRET_KEYS does not list"
            )
        try:
            plain = cipher.decrypt(bytes(row.nonce), bytes(row.ciphertext), _associated(row.mailbox_id))
        except InvalidTag:
            return SecretError(
                f"the stored password of {row.address} was altered or belongs to another one; "
                "set it with `emberflow secrets set`"
            )
        return SecretStr(plain.decode())

    def rotate(self, connection: Connection) -> int:
        """Encrypt every password that is under an older key with the current one; return how many there were.

        Raises:
            SecretError: one cannot be decrypted; the caller's transaction must not be committed.
        """
        stale = select(mailbox_secrets.c.mailbox_id).where(mailbox_secrets.c.key_id != self._current)
        ids: list[int] = list(connection.execute(stale.with_for_update()).scalars())
        for mailbox_id in ids:
            self.store(connection, mailbox_id, self.read(connection, mailbox_id))
        return len(ids)


def generate_key() -> str:
    """Return a fresh key in the form that ``EMBERFLOW_SECRET_KEYS`` takes."""
    return base64.b64encode(entropy.token_bytes(_KEY_BYTES)).decode()


def _decode(number: int, key: SecretStr) -> bytes:
    try:
        raw = base64.b64decode(key.get_secret_value(), validate=True)
    except ValueError:  # binascii.Error, or a letter that is not ASCII
        raw = b""
    if len(raw) != _KEY_BYTES:
        # Not by its id: where id and key were swapped, the message would show the key.
        raise ConfigurationError(f"EMBERFLOW_SECRET_KEYS: key number {number} is not {_KEY_BYTES} bytes of base64")
    return raw


def _associated(mailbox_id: int) -> bytes:
    return f"mailbox:{mailbox_id}".encode()
