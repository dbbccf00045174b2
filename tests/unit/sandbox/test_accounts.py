"""Accounts of the mail sandbox: reserved domains only, visible at once, cheap to check (E-B10)."""

from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emberflow.errors import ConfigurationError
from emberflow.sandbox.accounts import Accounts, create_accounts


def test_a_created_account_opens_with_its_password_only(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"Alice@North.test": "pässword"})
    accounts = Accounts(tmp_path)
    assert accounts.exists("alice@north.TEST")
    assert accounts.verify("ALICE@north.test", "pässword")
    assert not accounts.verify("alice@north.test", "password")
    assert not accounts.verify("bob@north.test", "pässword")


def test_a_reader_sees_accounts_made_later_without_a_restart(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)
    assert not accounts.serves("anyone@north.test")
    for number in range(50):
        create_accounts(tmp_path, {f"user{number}@north.test": "x"})
        assert accounts.verify(f"user{number}@north.test", "x")
    assert accounts.serves("anyone@north.test")
    assert not accounts.serves("anyone@sub.north.test")


@pytest.mark.parametrize("address", ["a@north.test", "a@x.example", "a@b.invalid", "a@localhost", "a@b.localhost"])
def test_every_reserved_domain_may_have_accounts(tmp_path: Path, address: str) -> None:
    create_accounts(tmp_path, {address: "x"})
    assert Accounts(tmp_path).serves(address)


@pytest.mark.parametrize("address", ["a@example.com", "a@test.org", "a@nottest", "a@.test", "test", "a b@c.test"])
def test_an_address_that_could_be_somebodys_is_refused_and_nothing_is_created(tmp_path: Path, address: str) -> None:
    """E-B10"""
    with pytest.raises(ConfigurationError, match="sandbox account"):
        create_accounts(tmp_path, {"good@north.test": "x", address: "x"})
    assert not Accounts(tmp_path).exists("good@north.test")


def test_creating_accounts_again_changes_nothing_but_a_new_password(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"a@north.test": "one", "b@north.test": "two"})
    before = (tmp_path / "accounts.json").read_bytes()
    create_accounts(tmp_path, {"a@north.test": "one"})
    assert (tmp_path / "accounts.json").read_bytes() == before
    create_accounts(tmp_path, {"a@north.test": "three"})
    accounts = Accounts(tmp_path)
    assert accounts.verify("a@north.test", "three")
    assert not accounts.verify("a@north.test", "one")
    assert accounts.verify("b@north.test", "two")


def test_passwords_are_salted_and_the_file_is_private(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"a@north.test": "secret-1", "b@north.test": "secret-1"})
    path = tmp_path / "accounts.json"
    hashes = [line for line in path.read_text().splitlines() if "@" in line]
    assert len({line.partition(":")[2].strip(",") for line in hashes}) == 2
    assert "secret-1" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_concurrent_creators_lose_no_account(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as creators:
        list(creators.map(lambda n: create_accounts(tmp_path, {f"user{n}@north.test": "x"}), range(64)))
    accounts = Accounts(tmp_path)
    assert all(accounts.exists(f"user{number}@north.test") for number in range(64))


def test_a_login_among_two_thousand_accounts_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    create_accounts(tmp_path, {f"user{number}@north.test": "x" for number in range(2000)})
    accounts = Accounts(tmp_path)
    begin = time.process_time()
    assert all(accounts.verify(f"user{number}@north.test", "x") for number in range(1000))
    assert time.process_time() - begin < 1


def test_an_unreadable_file_is_named_at_the_start_and_ignored_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "accounts.json"
    create_accounts(tmp_path, {"a@north.test": "x"})
    accounts = Accounts(tmp_path)
    path.write_text("{}")
    assert accounts.verify("a@north.test", "x")
    assert accounts.verify("a@north.test", "x")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(ConfigurationError, match=r"accounts\.json"):
        Accounts(tmp_path)
