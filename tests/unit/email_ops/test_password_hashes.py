"""Towards B-B1: passwords as a mail server stores them. What Dovecot makes of them is in ``tests/mail_servers``."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from emberflow.email_ops.password_hashes import hashed, is_of

PASSWORD = SecretStr("Sörbet, not salt")


def test_a_hash_names_its_scheme_and_is_of_its_password_alone() -> None:
    stored = hashed(PASSWORD)
    assert stored.startswith("{ARGON2ID}$argon2id$v=19$m=")
    assert ",p=1$" in stored
    assert PASSWORD.get_secret_value() not in stored
    assert is_of(stored, PASSWORD)
    assert is_of(stored.removeprefix("{ARGON2ID}"), PASSWORD)
    assert not is_of(stored, SecretStr("another"))


def test_the_same_password_is_never_hashed_alike() -> None:
    assert hashed(PASSWORD) != hashed(PASSWORD)


@pytest.mark.parametrize(
    "stored", ["", "{PLAIN}Sörbet, not salt", "{SHA512-CRYPT}$6$a$b", "{ARGON2ID}", "{ARGON2ID}$argon2id$v=19$m=a"]
)
def test_what_was_hashed_elsewhere_is_of_no_password_of_ours(stored: str) -> None:
    assert not is_of(stored, PASSWORD)
