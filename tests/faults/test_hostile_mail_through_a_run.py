"""E-F10 through a run of the sweep: a hostile message or answer costs itself, in time, memory and rows.

One mailbox lies on a server whose messages are the test's; a second one on the sandbox holds a warm-up mail.
"""

from __future__ import annotations

import json
import socket
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.email_ops.bounded_parser import BoundedParser
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.queue_manager.receiving import sweep
from emberflow.queue_manager.receiving.sweep import ReadingReport
from tests.faults.kit.hostile_mailbox import Message, hostile_mailbox
from tests.unit.email_ops.fake_mail_servers import close
from tests.unit.email_ops.test_received import BOMBS, nested
from tests.worlds import Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}
LETTER = Message(b"From: Eve <eve@far.test>\r\nMessage-ID: <letter@far.test>\r\nSubject: News\r\n\r\nHello\r\n")
MIB = 1024 * 1024


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """A bot without mail, and one whose mail was not read yet."""
    world = a_world(database, sandbox, 1, 2, a_policy(**SILENT, inbox={"shards": 1, "fresh_s": 604_800, "readers": 1}))
    world.slot(bot=world.bots[1])
    assert world.dispatch() == {"sent": 1}
    return world


def read(world: World) -> ReadingReport:
    report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert report.unreadable == []
    return report


def faults(world: World) -> list[Any]:
    return list(
        world.rows(
            "select faults.*, octets from ops.message_faults as faults "
            "left join ops.quarantined_bytes on fault_id = id order by uid"
        )
    )


DEEP = "3,000 nested multiparts"
HUGE = "50 MB"
QUARANTINED = {
    "10,000 parameters": BOMBS["10,000 parameters"] + b"\r\n\r\nx",
    DEEP: nested(3_000, b"multipart"),
    "3,000 nested messages": nested(3_000, b"rfc822"),
    "blocks of a delivery status": BOMBS["half a million blocks of a delivery status"],
    HUGE: BOMBS["40,000 parameters"] + b"\r\n\r\nx",
}


@pytest.mark.parametrize(
    ("name", "has_token"), [*((name, False) for name in QUARANTINED), ("10,000 parameters", True), (DEEP, True)]
)
def test_a_hostile_message_is_kept_once_and_the_next_message_and_mailbox_are_read(
    world: World, tmp_path: Path, name: str, has_token: bool
) -> None:
    """E-F10. With a token only the header is read: what a body holds harms nobody, and the token is forged."""
    bomb = QUARANTINED[name]
    size = 50 * MIB if name == HUGE else len(bomb)
    messages = {5: Message(bomb, size=size, has_token=has_token), 6: LETTER}
    with hostile_mailbox(world, world.bots[0], tmp_path, messages) as server:
        found = read(world).found
        if not has_token or name != DEEP:
            assert found == {"inbox": 1, "came_other": 1, "quarantined": 1}
            (fault,) = faults(world)
            assert (fault["uid"], fault["size"], fault["next_try_at"]) == (5, size, None)
            assert 0 < fault["octets"] <= 256 * 1024
        else:
            assert found == {"inbox": 1, "came_other": 1, "rejected": 1}
        del server.commands[:]
        world.clock.advance(timedelta(days=3))
        world.change("update ops.imap_cursors set next_uid = 5, strangers_next_uid = 5 where folder = 'INBOX'")
        read(world)
    if faults(world):
        assert 5 not in server.bodies_asked_for()


def test_what_no_count_foresees_ends_at_the_limit_of_processor_time_and_stops_nothing_else(
    world: World, tmp_path: Path
) -> None:
    """E-F10: the parsing process gets more than it can do in a second, which a message in bounds may hold as well."""
    costly = b"Subject: costly\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    whole = {"uid": 5, "folder": "", "size": 0, "internal_date": None, "oversized": False, "with_body": True}
    real = BoundedParser._exchange

    def longer(parser: BoundedParser, request: bytes, raw: bytes) -> bytes | None:
        if raw != costly:
            return real(parser, request, raw)
        return real(parser, json.dumps({"what": "message", **whole}).encode(), raw + b"a\r\n" * 5_000_000)

    with (
        hostile_mailbox(world, world.bots[0], tmp_path, {5: Message(costly), 6: LETTER}),
        patch.object(BoundedParser, "_exchange", longer),
    ):
        assert read(world).found == {"inbox": 1, "came_other": 1, "quarantined": 1}
    (fault,) = faults(world)
    assert (fault["uid"], fault["next_try_at"], fault["octets"]) == (5, None, len(costly))
    assert "more than 1 s of processor time" in fault["reason"]


def test_of_50_megabytes_the_first_256_kib_are_read_and_classified(world: World, tmp_path: Path) -> None:
    """E-F10: size alone sets nothing aside; neither we nor the server hold more than that."""
    large = Message(b"From: a@far.test\r\nSubject: big\r\n\r\n" + b"x" * 300_000, size=50 * MIB)
    with hostile_mailbox(world, world.bots[0], tmp_path, {5: large, 6: LETTER}) as server:
        tracemalloc.start()
        try:
            assert read(world).found == {"inbox": 1, "came_other": 2}
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()
    assert faults(world) == []
    assert [command for command in server.commands if "FETCH" in command and "BODY.PEEK[]" in command] == [
        "UID FETCH 5,6 (UID BODY.PEEK[]<0.262144>)"
    ]


def literal_of(announced: int) -> Callable[[socket.socket], None]:
    """Announce a message of so many bytes and hang up."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"* 5 FETCH (UID 5 BODY[]<0> {%d}\r\n" % announced)
        close(connection)

    return answer


@pytest.mark.parametrize(("announced", "has_token"), [(50 * MIB, True), (4_000_000_000, False)])
def test_a_huge_literal_costs_its_message_a_day_of_tries_and_nothing_else(
    world: World, tmp_path: Path, announced: int, has_token: bool
) -> None:
    """E-F10: as a server does that ignores how much was asked for. It is never allocated, and given up in the end."""
    messages = {5: Message(literal_of(announced), has_token=has_token), 6: LETTER}
    with hostile_mailbox(world, world.bots[0], tmp_path, messages) as server:
        tracemalloc.start()
        try:
            assert read(world).found == {"inbox": 1, "came_other": 1, "refused": 1}
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()
        refused = 0
        for _ in range(8):
            world.clock.advance(timedelta(hours=17))
            refused += read(world).found["refused"]
        assert refused == 4
        (fault,) = faults(world)
        assert (fault["uid"], fault["next_try_at"], fault["octets"]) == (5, None, None)
        assert f"literal of {announced} bytes" in fault["reason"]
        del server.commands[:]
        assert read(world).found == {}
        assert server.bodies_asked_for() == []


def test_a_token_field_beyond_all_bounds_breaks_no_connection(world: World, tmp_path: Path) -> None:
    """E-F10: a stranger makes it longer than any literal that is taken; whether it is there is all that is asked."""
    token = b"x" * 2_000_000
    forged = b"From: Eve <eve@far.test>\r\nX-Emberflow-Token: %s\r\n\r\nx\r\n" % token
    messages = {uid: Message(forged, has_token=True, token=token) for uid in (5, 6, 7, 8)} | {9: LETTER}
    with hostile_mailbox(world, world.bots[0], tmp_path, messages) as server:
        assert read(world).found == {"inbox": 1, "came_other": 1, "rejected": 1}
    assert server.connections == 1


def test_more_messages_at_which_the_server_hangs_up_than_a_session_reconnects_do_not_end_the_reading(
    world: World, tmp_path: Path
) -> None:
    """E-F10: a server that dies of some messages is not asked for them again at once, so that each run gets on."""
    messages = {uid: Message(close) for uid in range(5, 15)} | {15: LETTER}
    with hostile_mailbox(world, world.bots[0], tmp_path, messages):
        came = 0
        for _ in range(12):
            report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
            came += report.found["came_other"]
            world.clock.advance(timedelta(minutes=5))
    assert came == 1


def test_a_message_at_whose_move_the_server_hangs_up_keeps_no_inbox_from_being_read(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B5: its placement is recorded, and it is moved, or given up, by itself."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 0)
    world.slot(gap_s=0)
    world.clock.sleep(30)
    world.dispatch()
    lost = ImapError("imap_command", "abort: socket error: EOF", is_lost=True)
    with patch.object(ImapReader, "move", side_effect=lost):
        first = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
        assert first.found == {"junk": 1, "rescue_failed": 1}
        assert read(world).found == {"inbox": 1}
    world.clock.advance(timedelta(minutes=20))
    assert read(world).found == {"rescued": 1}


def test_a_folder_that_its_server_numbers_anew_adds_no_event_and_no_row(world: World, tmp_path: Path) -> None:
    """E-B3: a forged token, a letter and a bomb are known again under their new numbers."""
    bomb = QUARANTINED["10,000 parameters"]
    forged = b"From: Eve <eve@far.test>\r\nX-Emberflow-Token: a.b\r\nSubject: hello\r\n\r\nx\r\n"
    messages = [Message(forged, has_token=True), LETTER, Message(bomb)]

    def recorded() -> list[Any]:
        events = world.rows("select * from ops.mail_events order by id")
        return [*events, *world.rows("select id, fingerprint from ops.inbound_messages")]

    with hostile_mailbox(world, world.bots[0], tmp_path, dict(enumerate(messages, start=5))) as server:
        assert read(world).found == {"inbox": 1, "rejected": 1, "came_other": 1, "quarantined": 1}
        before = recorded()
        server.uidvalidity, server.messages = 8, dict(enumerate(reversed(messages), start=1))
        assert +read(world).found == {"quarantined": 1}
        assert recorded() == before
        (fault,) = faults(world)
        assert (fault["uidvalidity"], fault["uid"]) == (8, 1)
        assert read(world).found == {}
