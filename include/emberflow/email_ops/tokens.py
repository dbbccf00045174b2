"""Signed warm-up tokens: how a bot knows that a message is ours (B-B4).

HMAC-SHA256 over the payload (itsdangerous), carried in the token header. A token names its slot; whether that
slot's token was used before is for the database to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from itsdangerous import BadPayload, BadSignature, Signer, URLSafeSerializer
from itsdangerous.encoding import base64_encode
from pydantic import SecretStr

from emberflow.errors import ConfigurationError, EmberflowError

TOKEN_LIMIT = 512


class TokenError(EmberflowError):
    """A warm-up token is not to be believed: ``forged`` (bad signature) or ``malformed`` (not a token)."""

    def __init__(self, reason: Literal["forged", "malformed"]) -> None:
        super().__init__(f"the warm-up token is {reason}")
        self.reason = reason


@dataclass(frozen=True)
class WarmupToken:
    """What a token says: which slot sent the message, between whom, and which turn of the thread it is."""

    slot_id: int
    sender_id: int
    bot_id: int
    turn: int


def sign(keys: Sequence[SecretStr], slot_id: int, sender_id: int, bot_id: int, turn: int) -> str:
    """Return a URL-safe token of well under 100 characters, signed by the first key.

    Raises:
        ConfigurationError: there is no key.
    """
    signer = _signer_of(_secrets(keys))
    payload = base64_encode(f"[{slot_id},{sender_id},{bot_id},{turn}]")
    return signer.sign(payload).decode()


def verify(keys: Sequence[SecretStr], token: str) -> WarmupToken:
    """Return what ``token`` says if any of ``keys`` signed it.

    Raises:
        TokenError: no key signed it, or it is not a token at all.
        ConfigurationError: there is no key.
    """
    serializer = _serializer(keys)
    if len(token) > TOKEN_LIMIT or not token.isascii() or "." not in token:
        raise TokenError("malformed")
    try:
        payload = serializer.loads(token)
    except BadPayload:
        raise TokenError("malformed") from None
    except BadSignature:
        raise TokenError("forged") from None
    match payload:
        case [int(), int(), int(), int()] if not any(isinstance(number, bool) for number in payload):
            return WarmupToken(*payload)
    raise TokenError("malformed")


def _serializer(keys: Sequence[SecretStr]) -> URLSafeSerializer:
    return _serializer_of(_secrets(keys))


def _secrets(keys: Sequence[SecretStr]) -> tuple[str, ...]:
    if not keys:
        raise ConfigurationError("no key for warm-up tokens: set EMBERFLOW_TOKEN_KEYS")
    return tuple(key.get_secret_value() for key in keys)


@lru_cache(maxsize=4)
def _serializer_of(keys: tuple[str, ...]) -> URLSafeSerializer:
    # itsdangerous signs with the last key of its list; ours signs with the first.
    return URLSafeSerializer(
        list(reversed(keys)),
        salt="emberflow.warmup-token",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )


@lru_cache(maxsize=4)
def _signer_of(keys: tuple[str, ...]) -> Signer:
    """Return what signs as the serializer does; deriving the key and trying to compress cost more than the rest."""
    signer = _serializer_of(keys[:1]).make_signer()
    return Signer(signer.derive_key(), key_derivation="none", digest_method=hashlib.sha256)
