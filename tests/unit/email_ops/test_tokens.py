"""B-B4: a warm-up message is recognised by its signed token."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer
from pydantic import SecretStr

from emberflow.email_ops.tokens import TokenError, WarmupToken, sign, verify
from emberflow.errors import ConfigurationError

OLD, NEW = SecretStr("old key"), SecretStr("new key")


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=4, max_size=4))
def test_a_token_says_what_was_signed_and_fits_a_header(numbers: list[int]) -> None:
    token = sign([NEW], *numbers)
    assert verify([NEW], token) == WarmupToken(*numbers)
    assert len(token) < 200
    assert token.isascii()
    assert token.isprintable()


def test_a_token_is_what_the_serializer_writes() -> None:
    """So that a token of any version is verified by any other."""
    signer = URLSafeSerializer(
        NEW.get_secret_value(),
        salt="emberflow.warmup-token",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )
    assert sign([NEW, OLD], 12, 3, 456_789, 1) == signer.dumps([12, 3, 456_789, 1])


def test_the_first_key_signs_and_all_keys_verify() -> None:
    assert verify([NEW, OLD], sign([OLD], 1, 2, 3, 4)).slot_id == 1
    rotated = sign([NEW, OLD], 1, 2, 3, 4)
    assert verify([NEW], rotated).turn == 4
    with pytest.raises(TokenError):
        verify([OLD], rotated)


def test_a_token_signed_by_somebody_else_is_forged() -> None:
    """B-B4"""
    with pytest.raises(TokenError) as caught:
        verify([NEW], sign([SecretStr("stranger")], 1, 2, 3, 4))
    assert caught.value.reason == "forged"


def test_an_altered_token_is_forged() -> None:
    """B-B4"""
    payload, _, signature = sign([NEW], 1, 2, 3, 4).rpartition(".")
    other, _, _ = sign([NEW], 1, 2, 4, 4).rpartition(".")
    assert payload != other
    with pytest.raises(TokenError) as caught:
        verify([NEW], f"{other}.{signature}")
    assert caught.value.reason == "forged"


@pytest.mark.parametrize("token", ["", "abc", "é.é", "a" * 1000 + ".b"])
def test_what_is_no_token_is_malformed(token: str) -> None:
    """B-B4"""
    with pytest.raises(TokenError) as caught:
        verify([NEW], token)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("payload", [[1, 2, 3], [1, 2, 3, "4"], {"slot": 1}, [1, 2, 3, True], [1, 2, 3, 4.0], 7])
def test_a_signature_over_something_else_is_malformed(payload: object) -> None:
    signer = sign.__globals__["_serializer"]([NEW])
    assert isinstance(signer, URLSafeSerializer)
    with pytest.raises(TokenError) as caught:
        verify([NEW], str(signer.dumps(payload)))
    assert caught.value.reason == "malformed"


@settings(deadline=None)
@given(st.text(max_size=60))
@example("..")
@example(".")
def test_no_text_makes_verification_fail_in_another_way(text: str) -> None:
    with pytest.raises(TokenError):
        verify([NEW, OLD], text)


def test_without_keys_nothing_is_signed_or_believed() -> None:
    with pytest.raises(ConfigurationError, match="EMBERFLOW_TOKEN_KEYS"):
        sign([], 1, 2, 3, 4)
    with pytest.raises(ConfigurationError):
        verify([], "a.b")
