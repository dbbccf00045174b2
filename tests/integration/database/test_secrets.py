"""Passwords at rest and on their way: ciphertext in one table, and nothing to read anywhere else (S-B2)."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Sequence

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from emberflow.accounts.mailboxes import open_mailboxes
from emberflow.database.secrets import SecretBox, generate_key
from emberflow.email_ops.check import check_mailbox
from emberflow.errors import ConfigurationError, ImportRejectedError, MailboxCheckError, SecretError
from emberflow.operations import mailboxes
from tests.worlds import (
    OPERATOR,
    PASSWORD,
    Sandbox,
    World,
    a_file,
    a_row,
    a_world,
    shown_bots,
    shown_senders,
    some_settings,
)

OLD, NEW = SecretStr(generate_key()), SecretStr(generate_key())


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=1, checks=False)


def dump(engine: Engine) -> str:
    """Every row of every table and view, as PostgreSQL shows it."""
    with engine.connect() as connection:
        relations: Sequence[str] = connection.execute(
            text("select oid::regclass::text from pg_class where relnamespace = 'ops'::regnamespace "
                 "and relkind in ('r', 'v')")
        ).scalars().all()  # fmt: skip
        rows: list[Sequence[str]] = [
            connection.execute(text(f"select everything::text from {relation} as everything")).scalars().all()  # noqa: S608
            for relation in relations
        ]
    return "\n".join(row for table in rows for row in table)


def forms_of(password: str) -> list[str]:
    """The password as it is, as base64, and as PostgreSQL spells bytes."""
    return [password, base64.b64encode(password.encode()).decode(), password.encode().hex()]


def test_a_stored_password_comes_back(world: World) -> None:
    """S-B2"""
    assert world.access(world.senders[0]).password.get_secret_value() == PASSWORD


def test_no_table_view_log_or_representation_shows_a_password(
    database: Engine, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """S-B2: through import, checks that pass and fail, planning, sending, reading and answering."""
    caplog.set_level(logging.DEBUG)
    world = a_world(database, sandbox, senders=1, bots=["bot1", "reject1"])
    wrong = "Wrong-And-Not-To-Be-Shown"
    file = a_file(
        sandbox.directory, [a_row(f"wrong@{world.senders[0].address.partition('@')[2]}", sandbox, password=wrong)]
    )
    (bad_id,) = mailboxes.import_senders(database, OPERATOR, file, world.settings, reason="a test")
    (failed,) = mailboxes.check(database, OPERATOR, world.settings, ids=[bad_id], reason="a test")
    world.plan()
    world.talk(2)
    with database.connect() as connection:
        boxes = open_mailboxes(connection, world.settings, [bad_id]).boxes
    box = SecretBox(world.settings.secret_keys)
    shown = [repr(world.settings), str(world.settings), world.settings.model_dump_json(), repr(boxes), repr(box)]
    shown += [str(failed), str(shown_senders(database)), str(shown_bots(database))]

    assert failed.stage == "smtp_auth"
    assert len(world.deliveries()) > 0
    everywhere = "\n".join([dump(database), caplog.text, *capsys.readouterr(), *shown])
    assert "smtp_auth" in everywhere
    assert [form for password in (PASSWORD, wrong) for form in forms_of(password) if form in everywhere] == []


def test_a_refused_file_does_not_repeat_the_passwords_in_it(database: Engine, sandbox: Sandbox) -> None:
    """S-B2"""
    rows = [a_row("not-an-address", sandbox), a_row("ann@north.test", sandbox, smtp_port=PASSWORD)]
    with pytest.raises(ImportRejectedError) as caught:
        mailboxes.import_senders(
            database, OPERATOR, a_file(sandbox.directory, rows), some_settings(database, sandbox), reason="a test"
        )
    assert len(caught.value.problems) == 2
    assert PASSWORD not in str(caught.value)


def test_a_failed_check_does_not_repeat_the_password(world: World, sandbox: Sandbox) -> None:
    """S-B2"""
    with pytest.raises(MailboxCheckError) as caught:
        check_mailbox(world.access(world.senders[0]), "sandbox", {})
    assert PASSWORD not in str(caught.value) + repr(caught.value)


def test_a_ciphertext_copied_to_another_mailbox_does_not_decrypt(world: World) -> None:
    """S-B2"""
    first, second = world.senders
    world.change(
        "update ops.mailbox_secrets as victim set key_id = other.key_id, nonce = other.nonce, "
        "ciphertext = other.ciphertext from ops.mailbox_secrets as other "
        "where victim.mailbox_id = :victim and other.mailbox_id = :other",
        victim=first.mailbox_id, other=second.mailbox_id,
    )  # fmt: skip
    with pytest.raises(SecretError, match=f"password of {first.address} was altered or belongs to another one"):
        world.access(first)
    assert world.access(second).password.get_secret_value() == PASSWORD


def test_an_altered_ciphertext_does_not_decrypt(world: World) -> None:
    """S-B2"""
    world.change("update ops.mailbox_secrets set ciphertext = set_byte(ciphertext, 3, get_byte(ciphertext, 3) # 1)")
    with pytest.raises(SecretError, match="altered"):
        world.access(world.senders[0])


def test_equal_passwords_have_different_ciphertexts(world: World) -> None:
    """S-B2"""
    stored = world.rows("select nonce, ciphertext from ops.mailbox_secrets")
    assert len({bytes(row["nonce"]) for row in stored}) == len(stored) == 3
    assert len({bytes(row["ciphertext"]) for row in stored}) == 3


def test_a_password_under_a_key_that_is_not_configured_is_refused(world: World) -> None:
    """S-B2"""
    box = SecretBox({"another": NEW})
    expected = re.escape(
        f"{world.senders[0].address} is encrypted with key 'first', which EMBERFLOW_SECRET_KEYS does not list"
    )
    with world.engine.connect() as connection, pytest.raises(SecretError, match=expected):
        box.read(connection, world.senders[0].mailbox_id)


def test_a_wrong_key_of_the_right_name_is_refused(world: World) -> None:
    """S-B2"""
    with world.engine.connect() as connection, pytest.raises(SecretError, match="altered"):
        SecretBox({"first": NEW}).read(connection, world.senders[0].mailbox_id)


def test_a_mailbox_without_a_password_says_so(world: World) -> None:
    """S-B2"""
    world.change("delete from ops.mailbox_secrets")
    with pytest.raises(SecretError, match=f"^{world.senders[0].address} has no stored password"):
        world.access(world.senders[0])


def test_a_key_is_rotated_by_putting_a_new_one_in_front(world: World) -> None:
    """S-B2"""
    mailbox_id = world.senders[0].mailbox_id
    with world.engine.begin() as connection:
        SecretBox({"old": OLD}).store(connection, mailbox_id, SecretStr("one"))
        assert SecretBox({"new": NEW, "old": OLD}).read(connection, mailbox_id).get_secret_value() == "one"
        SecretBox({"new": NEW, "old": OLD}).store(connection, mailbox_id, SecretStr("two"))
        assert SecretBox({"new": NEW}).read(connection, mailbox_id).get_secret_value() == "two"


@pytest.mark.parametrize("key", ["", "short", "not base64!", base64.b64encode(b"x" * 31).decode()])
def test_a_key_that_is_not_256_bits_of_base64_is_refused(key: str) -> None:
    """S-B2"""
    with pytest.raises(ConfigurationError, match="key number 1 is not 32 bytes of base64") as caught:
        SecretBox({"main": SecretStr(key)})
    assert not key or key not in str(caught.value)


def test_without_a_key_nothing_is_imported_or_sent(world: World, sandbox: Sandbox) -> None:
    """S-B2: there is no plaintext fallback."""
    keyless = some_settings(world.engine, sandbox, secret_keys={})
    file = a_file(sandbox.directory, [a_row("new@north.test", sandbox)])
    with pytest.raises(ConfigurationError, match="no key for mailbox passwords: set EMBERFLOW_SECRET_KEYS"):
        mailboxes.import_senders(world.engine, OPERATOR, file, keyless, reason="a test")
    assert world.value("select count(*) from ops.mailboxes") == 3

    world.slot()
    world.settings = keyless
    with pytest.raises(ConfigurationError, match="no key for mailbox passwords"):
        world.dispatch()
    assert world.deliveries() == []
