"""What strangers and odd servers do to a mailbox that is read: it costs one message, one folder, one mailbox.

A proxy stands in front of the sandbox's IMAP server where a server has to misbehave.
"""

from __future__ import annotations

import imaplib
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.bots.actions import decide_actions
from emberflow.email_ops.bounded_parser import BoundedParser
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.queue_manager.receiving import mailbox_actions, mailbox_reading, sweep
from emberflow.queue_manager.receiving.sweep import ReadingReport
from emberflow.reporting.doctor import examine
from tests.worlds import PASSWORD, Member, Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}


def lay_in(world: World, member: Member, raw: bytes, folder: str = "INBOX", at: datetime | None = None) -> None:
    """Put a message into a mailbox, with an arrival time of one's choice."""
    address = world.sandbox.address
    context = ssl.create_default_context(cafile=str(address.ca_file))
    with imaplib.IMAP4_SSL(address.host, address.imaps_port, ssl_context=context) as client:
        client.login(member.address, PASSWORD)
        arrived = imaplib.Time2Internaldate(at or world.clock.now())
        assert client.append(folder, "", arrived, raw)[0] == "OK"


def take_out(world: World, member: Member) -> bytes:
    """Return the only message of a mailbox's INBOX and remove it."""
    (mail,) = world.raw_mailbox(member)
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        reader.select("INBOX")
        reader.remove(one.uid for one in world.mailbox(member))
    return mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))


def read(world: World) -> ReadingReport:
    return sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)


def faults(world: World) -> list[Any]:
    return list(world.rows("select * from ops.message_faults order by uid"))


def said_by_doctor(world: World, check: str) -> tuple[str, str | None]:
    finding = next(one for one in examine(world.settings) if one.check == check)
    return finding.result, finding.remedy


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender whose mail to the only bot was sent, and not read yet."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    world.slot()
    assert world.dispatch() == {"sent": 1}
    return world


# Messages


BOMBS = {
    "parameters": b"Content-Type: text/plain" + b"; a=b" * 12_000,
    "fields": b"X: y\r\n" * 10_000,
    "parameters of many fields": b"Content-Type: a/b;;;;;;;;;;\r\n" * 300,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_strangers_bomb_of_before_costs_a_line(world: World, bomb: bytes) -> None:
    """Towards E-F10: what lay in the mailbox before it was added here, and has no token, is not parsed."""
    for _ in range(3):
        lay_in(world, world.bots[0], bomb + b"\r\n\r\nx")
    real = BoundedParser.message
    parsed: list[bytes] = []

    def note(parser: BoundedParser, raw: bytes, **about: Any) -> Any:
        parsed.append(raw)
        return real(parser, raw, **about)

    with patch.object(BoundedParser, "message", note):
        assert read(world).found == {"inbox": 1}
    assert [TOKEN_HEADER.encode() in raw for raw in parsed] == [True]
    assert faults(world) == []


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_with_a_token_is_set_aside_once_and_never_read_again(world: World, bomb: bytes) -> None:
    """Towards E-F10"""
    mark = TOKEN_HEADER.encode() + b": a.b\r\n"
    lay_in(world, world.bots[0], mark + bomb + b"\r\n\r\nx")
    world.slot(gap_s=0)
    world.dispatch()

    assert read(world).found == {"inbox": 2, "quarantined": 1}
    (fault,) = faults(world)
    assert (fault["mailbox_id"], fault["folder"], fault["step"]) == (world.bots[0].mailbox_id, "INBOX", "read")
    assert fault["reason"].startswith("more than")
    assert fault["size"] == len(mark + bomb + b"\r\n\r\nx")
    assert fault["next_try_at"] is None
    world.change("update ops.message_faults set first_at = clock_timestamp(), last_at = clock_timestamp()")
    result, remedy = said_by_doctor(world, "messages set aside")
    assert result == (
        "1 not read, 0 not rescued, 0 not marked or archived, 1 of them given up; bytes of 1 are kept, 1 KiB"
    )
    assert f"{world.bots[0].address}, INBOX, UID {fault['uid']}: more than" in (remedy or "")

    world.change("delete from ops.imap_cursors")
    world.clock.advance(timedelta(days=2))
    assert read(world).found == {"filed": 2}
    assert len(faults(world)) == 1


class Refusing:
    """Makes a reader refuse to fetch some messages, as a server does whose copy of them is broken."""

    def __init__(self, *uids: int) -> None:
        self.uids = set(uids)
        self._real = ImapReader._fetch

    def __call__(self, reader: ImapReader, uids: Any, items: str) -> Any:
        if self.uids & set(uids):
            return {}, "NO [SERVERBUG] internal error"
        return self._real(reader, uids, items)

    def __get__(self, reader: ImapReader, _: type) -> Callable[[Any, str], Any]:
        return lambda uids, items: self(reader, uids, items)


def test_a_message_that_the_server_refuses_is_tried_again_later_and_hides_no_other(world: World) -> None:
    world.slot(gap_s=0)
    world.dispatch()
    first = world.mailbox(world.bots[0])[0].uid

    with patch.object(ImapReader, "_fetch", Refusing(first)):
        assert read(world).found == {"inbox": 1, "refused": 1}
        (fault,) = faults(world)
        assert (fault["uid"], fault["tries"], fault["reason"]) == (first, 1, "NO [SERVERBUG] internal error")
        assert read(world).found == {}
        world.clock.advance(timedelta(minutes=15))
        assert read(world).found == {"refused": 1}
    world.clock.advance(timedelta(hours=1))
    assert read(world).found == {"inbox": 1}
    assert faults(world) == []


def test_a_message_that_stays_refused_is_given_up(world: World) -> None:
    first = world.mailbox(world.bots[0])[0].uid
    with patch.object(ImapReader, "_fetch", Refusing(first)):
        refused = 0
        for _ in range(12):
            refused += read(world).found["refused"]
            world.clock.advance(timedelta(hours=17))
    assert refused == 5
    (fault,) = faults(world)
    assert (fault["tries"], fault["next_try_at"]) == (5, None)


# Arrival times


@pytest.mark.parametrize("year", [1970, 2000, 2007, 2024, 2037])
def test_an_arrival_is_not_before_its_mail_was_sent_and_not_after_now(world: World, year: int) -> None:
    """A restored mailbox, or a server whose clock is off, tells any year."""
    raw = take_out(world, world.bots[0])
    lay_in(world, world.bots[0], raw, at=datetime(year, 1, 2, tzinfo=UTC))
    world.clock.advance(timedelta(minutes=10))
    assert world.read()["inbox"] == 1
    sent_at = world.value("select submitted_at from ops.slots")
    (placed,) = world.events("placed_inbox")
    assert placed["occurred_at"] == (sent_at if year < 2025 else world.clock.now())


# Message-IDs


def test_a_mail_whose_message_id_a_relay_replaced_is_placed_and_answered_under_it(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B4, B-B8: the signed token decides; a reply names the Message-ID that arrived, and ours."""
    world = a_world(database, sandbox, 1, 1)
    world.slot()
    world.dispatch()
    ours = world.value("select message_id from ops.slots").encode()
    raw = take_out(world, world.bots[0])
    assert ours in raw
    lay_in(world, world.bots[0], raw.replace(ours, b"<of.the.relay@provider.test>"))

    assert world.read() == {"inbox": 1, "replies": 1}
    (placed,) = world.events("placed_inbox")
    assert placed["message_id"] == ours.decode()
    assert placed["details"]["message_id"] == "<of.the.relay@provider.test>"
    for _ in range(3):
        world.clock.sleep(30)
        world.dispatch()
    (reply,) = world.raw_mailbox(world.senders[0])
    assert reply["In-Reply-To"] == "<of.the.relay@provider.test>"
    assert reply["References"].split() == [ours.decode(), "<of.the.relay@provider.test>"]


# Folders


@pytest.mark.parametrize("folder", ["Sent", "Drafts"])
def test_what_lies_under_sent_or_drafts_makes_no_event(world: World, folder: str) -> None:
    """E-B4: genuine mail, in the mailboxes of both sides; in INBOX the same mail is believed."""
    raw = take_out(world, world.bots[0])
    for member in (world.senders[0], world.bots[0]):
        lay_in(world, member, raw, folder)
    before = world.rows("select * from ops.mail_events")
    for _ in range(2):
        assert read(world).found == {}
    assert world.rows("select * from ops.mail_events") == before

    lay_in(world, world.bots[0], raw)
    assert read(world).found == {"inbox": 1}


def test_junk_that_cannot_be_opened_leaves_the_inbox_to_be_read(world: World) -> None:
    real = ImapReader._select

    def refuse_junk(reader: ImapReader, folder: str) -> int:
        if folder == "Junk":
            raise ImapError("imap_select", "NO [CANNOT] permission denied")
        return real(reader, folder)

    with patch.object(ImapReader, "_select", refuse_junk):
        report = read(world)
    assert report.found == {"inbox": 1}
    assert f"{world.bots[0].address}: Junk: imap_select: NO [CANNOT] permission denied" in report.unreadable
    assert "permission denied" in world.value(
        "select problem from ops.mailbox_readings where mailbox_id = :id", id=world.bots[0].mailbox_id
    )
    assert world.read() == {}
    assert world.value("select count(*) from ops.mailbox_readings where problem is not null") == 0


def test_a_rescue_that_fails_leaves_the_placement_recorded_and_later_mail_read(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B5: a mailbox over its quota cannot take a copy; it is tried again, and given up in the end."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    world.slot()
    world.dispatch()
    full = ImapError("imap_command", "NO [OVERQUOTA] mailbox is full")
    with patch.object(ImapReader, "move", side_effect=full):
        assert read(world).found == {"junk": 1, "rescue_failed": 1}
        world.slot(gap_s=0)
        world.clock.sleep(30)
        world.dispatch()
        assert read(world).found == {"junk": 1, "rescue_failed": 1}
        assert [fault["step"] for fault in faults(world)] == ["rescue", "rescue"]
        tried = 0
        for _ in range(12):
            world.clock.advance(timedelta(hours=17))
            tried += read(world).found["rescue_failed"]
    assert tried == 8
    assert {fault["next_try_at"] for fault in faults(world)} == {None}
    assert len(world.events("placed_junk")) == 2
    assert world.events("rescued") == []


def test_a_mail_that_cannot_be_decided_about_is_set_aside_and_the_others_are_decided(
    database: Engine, sandbox: Sandbox
) -> None:
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    odd, good = world.slot(), world.slot(gap_s=0)
    world.dispatch()
    world.clock.sleep(30)
    world.dispatch()

    def fail(mails: Any, *numbers: Any) -> Any:
        if odd in set(mails["slot_id"]):
            raise KeyError("script")
        return decide_actions(mails, *numbers)

    with patch.object(mailbox_actions, "decide_actions", fail):
        assert read(world).found == {"inbox": 2, "refused": 1}
        assert [event["slot_id"] for event in world.events("acted")] == [good]
        (fault,) = faults(world)
        assert (fault["step"], fault["reason"]) == ("read", "KeyError: 'script'")
        assert read(world).found == {}
        world.clock.advance(timedelta(minutes=15))
        assert read(world).found == {"refused": 1}
        assert [fault["tries"] for fault in faults(world)] == [2]
    world.clock.advance(timedelta(hours=1))
    assert read(world).found == {}
    assert {event["slot_id"] for event in world.events("acted")} == {odd, good}
    assert faults(world) == []


def test_a_mailbox_without_a_junk_folder_is_read_and_reported(world: World) -> None:
    with patch.object(ImapReader, "_folders", return_value=[]):
        assert read(world).found == {"inbox": 1}
    assert world.events("placed_inbox")[0]["details"]["junk_folder"] == "none"
    result, remedy = said_by_doctor(world, "Junk folders")
    assert result == "2 mailboxes show none"
    assert "looks better than it is" in (remedy or "")
    world.read()
    assert said_by_doctor(world, "Junk folders") == ("0 mailboxes show none", None)


def test_the_junk_folder_that_was_looked_into_is_in_the_evidence(world: World) -> None:
    world.read()
    assert world.events("placed_inbox")[0]["details"]["junk_folder"] == "Junk"


# Mailboxes


@pytest.mark.parametrize("fault", [TypeError("odd"), UnicodeError("odd"), AssertionError("odd"), OSError("odd")])
def test_a_mailbox_that_raises_anything_leaves_the_others_to_be_read(
    database: Engine, sandbox: Sandbox, fault: Exception
) -> None:
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    world.slot()
    world.dispatch()
    real = ImapReader._folders

    def fail(reader: ImapReader) -> Any:
        if reader._access.address == world.senders[0].address:
            raise fault
        return real(reader)

    with patch.object(ImapReader, "_folders", fail):
        report = read(world)
    assert report.found == {"inbox": 1}
    assert report.unreadable == [f"{world.senders[0].address}: {type(fault).__name__}: odd"]
    result, remedy = said_by_doctor(world, "inbox reading")
    assert result == "1 mailboxes read, 1 not"
    assert f"{world.senders[0].address}: {type(fault).__name__}: odd" in (remedy or "")
    assert world.read() == {}
    assert said_by_doctor(world, "inbox reading") == ("2 mailboxes read, 0 not", None)


def test_a_host_that_is_none_leaves_the_other_mailboxes_to_be_read(world: World) -> None:
    world.change(
        "update ops.mailboxes set imap_host = 'mail..north.test' where id = :id", id=world.senders[0].mailbox_id
    )
    report = read(world)
    assert report.found == {"inbox": 1}
    assert len(report.unreadable) == 1
    assert world.senders[0].address in report.unreadable[0]


def test_mailboxes_that_a_run_does_not_reach_come_first_in_the_next(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_world(database, sandbox, 1, 3, a_policy(**SILENT, inbox={"shards": 1, "readers": 1}))
    now = 0.0
    reached: list[str] = []
    real = mailbox_reading.MailboxReading.read

    def take_two_minutes(reading: Any, turn: Any, *arguments: Any) -> Any:
        nonlocal now
        now += 120.0
        reached.append(turn.address)
        return real(reading, turn, *arguments)

    monkeypatch.setattr(mailbox_reading.MailboxReading, "read", take_two_minutes)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report = read(world)
    assert (len(reached), report.found["not_reached"]) == (3, 1)
    assert "1 were not reached in time" in report.unreadable[0]
    left = {member.address for member in (*world.senders, *world.bots)} - set(reached)
    world.clock.advance(timedelta(minutes=5))
    read(world)
    assert {reached[3]} == left
