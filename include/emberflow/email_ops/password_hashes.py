"""Passwords as Dovecot stores them: Argon2id with its scheme in front, computed here.

The parameters are the least that OWASP's "Password Storage Cheat Sheet" names. A server spends them at every login, so
many mailboxes that are read often want a cache there (Dovecot's ``auth_cache_size``).
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pydantic import SecretStr

from emberflow.errors import ConfigurationError

_SCHEME = "{ARGON2ID}"
_SALT_BYTES = 16
_HASH_BYTES = 32
_MEMORY_KIB = 19 * 1024
_ITERATIONS = 2


def hashed(password: SecretStr) -> str:
    """Return ``{ARGON2ID}$argon2id$...`` of a password, with a fresh salt.

    Raises:
        ConfigurationError: the machine's OpenSSL is older than 3.2.
    """
    try:
        # One lane: libsodium, by which Dovecot verifies, knows no other number.
        maker = Argon2id(
            salt=os.urandom(_SALT_BYTES),
            length=_HASH_BYTES,
            iterations=_ITERATIONS,
            lanes=1,
            memory_cost=_MEMORY_KIB,
        )
        return _SCHEME + maker.derive_phc_encoded(password.get_secret_value().encode())
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            "passwords cannot be hashed: the package `cryptography` was built against an OpenSSL older than 3.2"
        ) from None


def is_of(stored: str, password: SecretStr) -> bool:
    """Return whether ``stored``, with or without its scheme, is an Argon2id hash of this password."""
    encoded = stored.removeprefix(_SCHEME)
    if not encoded.startswith("$argon2id$"):
        return False
    try:
        Argon2id.verify_phc_encoded(password.get_secret_value().encode(), encoded)
    except (InvalidKey, ValueError):
        return False
    return True
