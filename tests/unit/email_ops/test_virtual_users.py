"""B-B1: mailboxes as rows of the mail server's own table. SQLite stands for its database here."""

from __future__ import annotations

import sqlite3
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops import virtual_users
from emberflow.email_ops.password_hashes import hashed, is_of
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.settings import ProvisionSql

PASSWORD = SecretStr("a new password")
INSERT = """
    insert into users (email, home, password)
    select :address, domains.root || '/' || :local_part, :password_hash from domains where domains.name = :domain
"""
SELECT = "select password from users where email = :address"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "mail.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table domains (name text primary key, root text)")
        connection.execute("create table users (email text primary key, home text, password text not null)")
        connection.execute("insert into domains values ('own.test', '/mail/own')")
        connection.execute("insert into users values ('ann@own.test', '/mail/own/ann', '{PLAIN}hers')")
    return file


@pytest.fixture
def place(database: Path) -> ProvisionSql:
    return ProvisionSql(url=SecretStr(f"sqlite:///{database}"), insert=INSERT, select=SELECT)


def rows(database: Path) -> dict[str, tuple[str, str]]:
    with sqlite3.connect(database) as connection:
        return {email: (home, password) for email, home, password in connection.execute("select * from users")}


def test_a_mailbox_is_inserted_with_the_hash_of_its_password(place: ProvisionSql, database: Path) -> None:
    """B-B1"""
    assert not virtual_users.has(place, "sandbox", "bob@own.test")
    virtual_users.create(place, "sandbox", " Bob@Own.test", PASSWORD)
    assert virtual_users.has(place, "sandbox", "bob@own.test")
    home, stored = rows(database)["bob@own.test"]
    assert home == "/mail/own/bob"
    assert is_of(stored, PASSWORD)


def test_what_an_earlier_run_has_made_is_made_once(place: ProvisionSql, database: Path) -> None:
    """B-B1"""
    virtual_users.create(place, "sandbox", "bob@own.test", PASSWORD)
    before = rows(database)
    virtual_users.create(place, "sandbox", "bob@own.test", PASSWORD)
    assert rows(database) == before


def test_a_mailbox_of_somebody_is_left_alone(place: ProvisionSql, database: Path) -> None:
    """B-B1"""
    before = rows(database)
    with pytest.raises(MailboxTakenError, match=r"has ann@own\.test already, with another password"):
        virtual_users.create(place, "sandbox", "ann@own.test", PASSWORD)
    assert rows(database) == before


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_row_that_comes_between_look_and_insert_is_judged_alike(
    place: ProvisionSql, database: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """B-B1: the table's key refuses the insert, and a second look says whose the row is."""
    stored = hashed(PASSWORD if is_ours else SecretStr("theirs"))
    look, looks = virtual_users._stored, count()

    def first_in_vain(*arguments: Any) -> str | None:
        return None if next(looks) == 0 else look(*arguments)

    monkeypatch.setattr(virtual_users, "_stored", first_in_vain)
    with sqlite3.connect(database) as connection:
        connection.execute("insert into users values ('bob@own.test', '', ?)", [stored])
    if is_ours:
        virtual_users.create(place, "sandbox", "bob@own.test", PASSWORD)
    else:
        with pytest.raises(MailboxTakenError):
            virtual_users.create(place, "sandbox", "bob@own.test", PASSWORD)
    assert rows(database)["bob@own.test"] == ("", stored)


def test_a_domain_that_the_server_does_not_have_is_told(place: ProvisionSql, database: Path) -> None:
    before = rows(database)
    with pytest.raises(
        ProvisioningError, match=r"bob@other.test made no row; does the server have its domain"
    ) as error:
        virtual_users.create(place, "sandbox", "bob@other.test", PASSWORD)
    assert error.value.is_certain
    assert rows(database) == before


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"url": SecretStr("nonsense")}, ConfigurationError, "url is no URL"),
        ({"url": SecretStr("nosuch://u:hush@localhost/x")}, ConfigurationError, "there is no driver for nosuch"),
        ({"url": SecretStr("sqlite:////nowhere/mail.db")}, ProvisioningError, "cannot be reached"),
        ({"select": "select password from people"}, ProvisioningError, "no such table: people"),
        ({"insert": "insert into users values (:address)"}, ProvisioningError, "did not insert bob@own.test"),
        ({"insert": "insert into users values (:name)"}, ConfigurationError, "asks for :name; known are :address"),
    ],
)
def test_a_wrong_setting_is_named_and_shows_no_secret(
    place: ProvisionSql, database: Path, changes: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        virtual_users.create(place.model_copy(update=changes), "sandbox", "bob@own.test", PASSWORD)
    shown = f"{raised.value} {raised.value.__cause__}"
    assert "hush" not in shown
    assert "argon2id" not in shown
    assert "bob@own.test" not in rows(database)


def test_sandbox_mode_connects_to_no_other_machine(place: ProvisionSql) -> None:
    """The database's driver has sockets of its own, which the loopback guard does not see."""
    far = place.model_copy(update={"url": SecretStr("postgresql+psycopg2://u:hush@192.0.2.1/mail")})
    with pytest.raises(EgressRefusedError):
        virtual_users.create(far, "sandbox", "bob@own.test", PASSWORD)
