"""What breaks the parser's limits is kept: encrypted, bounded, for a time, and shown to nobody's terminal."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.database.migrate import downgrade, upgrade
from emberflow.database.secrets import generate_key
from emberflow.email_ops.imap import Cursor, Unread
from emberflow.operations import keys
from emberflow.queue_manager.receiving import message_faults, quarantine
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.queue_manager.receiving.quarantine import Quarantine
from tests.integration.receiving.test_inbound_messages import a_letter, lay_in
from tests.worlds import OPERATOR, Command, Sandbox, World, a_world

BOMB = b"From: Eve <eve@far.test>\r\nContent-Type: text/plain" + b"; a=b" * 12_000 + b"\r\n\r\n\x1b[31mred\r\n"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender and one bot whose mailboxes were read, and hold no mail."""
    world = a_world(database, sandbox, 1, 1)
    assert world.read() == {}
    world.clock.advance(timedelta(minutes=1))
    return world


def kept(world: World) -> list[Any]:
    return list(world.rows("select * from ops.quarantined_bytes order by fault_id"))


def note(world: World, *raws: bytes, uid: int = 1, days: int = 30, at_mailbox: int | None = None) -> None:
    """Set messages aside as a reader does that cannot parse them."""
    place = Place(at_mailbox or world.bots[0].mailbox_id, "INBOX", 7)
    faults = [Unread(uid + n, len(raw), "more than 2000 parameters", True, raw) for n, raw in enumerate(raws)]
    with world.engine.begin() as connection:
        Quarantine(world.settings, days).note(connection, place, faults, world.clock.now())


def raw_of(world: World, fault_id: int) -> bytes:
    with world.engine.connect() as connection:
        return quarantine.raw(connection, world.settings, fault_id)


# What is kept


def test_a_bomb_is_kept_as_it_came_and_no_column_shows_it(world: World) -> None:
    """E-F10: encrypted with the keys of passwords, so that no backup shows what a stranger wrote."""
    lay_in(world, world.bots[0], BOMB, a_letter())
    assert world.read() == {"quarantined": 1, "came_other": 1}
    (row,) = kept(world)
    assert raw_of(world, row["fault_id"]) == BOMB
    assert row["octets"] == len(BOMB)
    assert b"eve@far.test" not in b"".join(value for value in row.values() if isinstance(value, bytes))
    assert len(row["ciphertext"]) < len(BOMB) / 10
    world.clock.advance(timedelta(days=2))
    world.change("update ops.imap_cursors set next_uid = 1, strangers_next_uid = 1 where folder <> 'Sent'")
    assert world.read() == {}
    assert kept(world) == [row]


def test_what_a_server_refuses_has_no_bytes(world: World) -> None:
    with world.engine.begin() as connection:
        fault = Unread(1, 10, "NO [SERVERBUG]", is_final=False)
        Quarantine(world.settings, 30).note(
            connection, Place(world.bots[0].mailbox_id, "INBOX", 7), [fault], world.clock.now()
        )
    assert world.value("select count(*) from ops.message_faults") == 1
    assert kept(world) == []


def test_a_ciphertext_that_was_moved_to_another_mailbox_does_not_open(world: World) -> None:
    note(world, BOMB)
    note(world, BOMB + b"x", at_mailbox=world.senders[0].mailbox_id)
    first, second = kept(world)
    world.change(
        "update ops.quarantined_bytes set nonce = :nonce, ciphertext = :ciphertext where fault_id = :id",
        nonce=first["nonce"], ciphertext=first["ciphertext"], id=second["fault_id"],
    )  # fmt: skip
    with pytest.raises(Exception, match="altered, or moved to another row"):
        raw_of(world, second["fault_id"])


# Bounds


def test_a_flood_fills_neither_a_mailbox_nor_the_database(world: World) -> None:
    """E-F10: random bytes, which nothing compresses; what came first stays, and every message has its row."""
    for number in range(12):
        note(world, os.urandom(300 * 1024), uid=10 + number)
    rows = kept(world)
    assert {row["octets"] for row in rows} == {256 * 1024}
    assert len(rows) == 7  # the eighth would be over 2 MiB by what encryption adds
    assert sum(len(row["ciphertext"]) for row in rows) <= quarantine.MAILBOX_BYTES
    note(world, *([b"x"] * 60), uid=100)
    assert len(kept(world)) == quarantine.MAILBOX_MESSAGES
    assert rows == kept(world)[:7]
    assert world.value("select count(*) from ops.message_faults") == 72

    other = world.senders[0].mailbox_id
    held = sum(len(row["ciphertext"]) for row in kept(world))
    with patch.object(quarantine, "ALL_BYTES", held + 100):
        note(world, os.urandom(200), b"y", at_mailbox=other)
        assert len(kept(world)) == quarantine.MAILBOX_MESSAGES + 1
    assert world.value("select count(*) from ops.message_faults where mailbox_id = :id", id=other) == 2


def test_a_flood_that_was_read_long_ago_is_not_looked_at_in_every_run(world: World) -> None:
    """E-F10: the cursor passed it; only what a reading comes to is passed over by its number."""
    note(world, *([BOMB] * 5))
    mailbox_id = world.bots[0].mailbox_id
    with world.engine.connect() as connection:
        for after, known in ((Cursor(7, 5), {5}), (Cursor(7, 6), set()), (None, {1, 2, 3, 4, 5})):
            found = message_faults.set_aside(connection, mailbox_id, "INBOX", "read", after)
            assert found == {(7, uid) for uid in known}
        assert len(message_faults.set_aside(connection, mailbox_id, "INBOX", "read", Cursor(8, 1))) == 5


def test_bytes_go_after_their_days_and_the_row_stays(world: World) -> None:
    note(world, BOMB)
    world.clock.advance(timedelta(days=29, hours=23))
    assert world.read() == {}
    assert len(kept(world)) == 1
    world.clock.advance(timedelta(hours=2))
    assert world.read() == {}
    assert kept(world) == []
    assert world.value("select count(*) from ops.message_faults") == 1


def test_an_installation_may_keep_none(world: World) -> None:
    note(world, BOMB, days=0)
    assert kept(world) == []
    assert world.value("select count(*) from ops.message_faults") == 1


# Keys


def test_rotated_keys_open_what_is_kept_and_lost_ones_take_it_with_them(world: World) -> None:
    note(world, BOMB)
    old = world.settings.secret_keys
    new = {"second": type(old["first"])(generate_key())}
    world.settings = world.settings.model_copy(update={"secret_keys": new | old})
    keys.rotate(world.engine, OPERATOR, world.settings, reason="a test")
    world.settings = world.settings.model_copy(update={"secret_keys": new})
    (row,) = kept(world)
    assert (row["key_id"], raw_of(world, row["fault_id"])) == ("second", BOMB)

    world.change("update ops.quarantined_bytes set key_id = 'lost'")
    with pytest.raises(Exception, match="EMBERFLOW_SECRET_KEYS does not list"):
        raw_of(world, row["fault_id"])
    keys.rotate(world.engine, OPERATOR, world.settings, reason="a test")
    assert kept(world) == []


# What people do with it


def test_a_developer_gets_the_bytes_and_classifies_them(world: World, run: Command, tmp_path: Path) -> None:
    """E-F10"""
    lay_in(world, world.bots[0], BOMB)
    world.read()
    (listed,) = json.loads(run("inbox", "quarantined", "--json").stdout)
    assert (listed["mailbox"], listed["folder"], listed["step"]) == (world.bots[0].address, "INBOX", "read")
    assert (listed["size_bytes"], listed["kept_bytes"]) == (len(BOMB), len(BOMB))
    assert "2000 parameters" in listed["reason"]
    shown = run("inbox", "quarantined", "show", listed["id"])
    assert "2000 parameters" in shown.stdout
    assert "\x1b[31mred" not in shown.stdout
    as_json = json.loads(run("inbox", "quarantined", "show", listed["id"], "--json").stdout)
    assert (as_json["sha256"], as_json["tries"]) == (hashlib.sha256(BOMB).hexdigest(), 1)
    written = run("inbox", "quarantined", "show", listed["id"], "--raw")
    assert written.stdout_bytes == BOMB
    file = tmp_path / "message.eml"
    file.write_bytes(written.stdout_bytes)
    assert "2000 parameters" in run("classify", file, "--json").output


def test_a_strangers_bytes_are_not_written_to_a_terminal(
    world: World, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(world, BOMB)
    number = kept(world)[0]["fault_id"]
    with patch("emberflow.cli.inbox_commands._is_terminal", return_value=True):
        refused = run("inbox", "quarantined", "show", number, "--raw")
    assert refused.exit_code == 1
    assert "\x1b[31mred" not in refused.output
    assert "not written to a terminal" in str(refused.exception or refused.output)


def test_a_message_gets_another_chance_and_is_set_aside_again_or_read(world: World, run: Command) -> None:
    lay_in(world, world.bots[0], BOMB, a_letter())
    assert world.read() == {"quarantined": 1, "came_other": 1}
    (number,) = (row["fault_id"] for row in kept(world))
    assert run("inbox", "retry", number, "--by", "Ada", "--reason", "a new version").exit_code == 0
    assert world.read() == {"quarantined": 1}
    assert world.read() == {}
    assert [row["fault_id"] for row in kept(world)] == [number]

    run("inbox", "retry", number, "--by", "Ada", "--reason", "a newer version")
    with patch("emberflow.email_ops.message_limits._PARAMETERS", 20_000):
        assert world.read() == {"came_other": 1}
    assert kept(world) == []
    assert world.value("select count(*) from ops.message_faults") == 0
    actions = world.rows("select action, actor, reason from ops.audit_log where action like 'inbox.%' order by id")
    assert [tuple(row.values()) for row in actions] == [
        ("inbox.retry", "Ada", "a new version"), ("inbox.retry", "Ada", "a newer version"),
    ]  # fmt: skip


def test_a_forgotten_message_leaves_nothing_behind_and_is_not_read_again(world: World, run: Command) -> None:
    lay_in(world, world.bots[0], BOMB)
    world.read()
    number = kept(world)[0]["fault_id"]
    assert run("inbox", "forget", number, "--by", "Ada", "--reason", "its author asked for it").exit_code == 0
    assert kept(world) == []
    assert world.value("select count(*) from ops.message_faults") == 0
    assert world.read() == {}
    for command in (["retry"], ["forget"], ["quarantined", "show"]):
        gone = run("inbox", *command, number)
        assert gone.exit_code == 1
        assert f"no message with the number {number}" in str(gone.exception or gone.output)


def test_the_migration_goes_down_and_up_over_rows(world: World) -> None:
    """D-B5"""
    note(world, BOMB, BOMB)
    downgrade(world.engine, "0027")
    upgrade(world.engine)
    assert kept(world) == []
    assert world.value("select count(distinct id) from ops.message_faults") == 2
