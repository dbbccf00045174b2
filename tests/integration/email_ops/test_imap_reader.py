"""The IMAP reader against the mail sandbox: what SMTP put in comes out, once, and is moved and marked as asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from emberflow.email_ops.imap import Cursor, ImapReader
from emberflow.email_ops.mailbox import MailboxAccess, TlsMode
from emberflow.email_ops.message import OutgoingMessage, build, message_id_for
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.sandbox import SandboxAddress, create_accounts, running_sandbox

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def sandbox(directory: Path) -> Iterator[SandboxAddress]:
    shares = {"default": 0, "junk.test": 100}
    (directory / "rules.json").write_text(json.dumps({"junk_percent": shares}))
    create_accounts(directory, {"ann@north.test": "secret", "eve@junk.test": "secret"})
    with running_sandbox(directory) as address:
        yield address


def an_access(sandbox: SandboxAddress, address: str) -> MailboxAccess:
    return MailboxAccess(
        mailbox_id=1,
        address=address,
        smtp_host=sandbox.host,
        smtp_port=sandbox.smtp_port,
        smtp_tls="starttls",
        imap_host=sandbox.host,
        imap_port=sandbox.imap_port,
        imap_tls="starttls",
        username=address,
        password=SecretStr("secret"),
    )


@pytest.fixture
def bot(sandbox: SandboxAddress, directory: Path) -> str:
    """A mailbox of its own for every test, so that tests run in any order."""
    address = f"bot{next(NUMBERS)}@south.test"
    create_accounts(directory, {address: "secret"})
    return address


def a_reader(sandbox: SandboxAddress, address: str) -> ImapReader:
    return ImapReader(an_access(sandbox, address), "sandbox", {sandbox.host: sandbox.ca_file})


def send(sandbox: SandboxAddress, bot: str, *keys: str, sender: str = "ann@north.test", body: str = "Hi.\n") -> None:
    access = an_access(sandbox, sender)
    with SmtpConnection(access, "sandbox", {sandbox.host: sandbox.ca_file}) as connection:
        for key in keys:
            wire = build(
                OutgoingMessage(
                    message_id=an_id(bot, key),
                    from_address=sender,
                    from_name="Ann Lee",
                    to_address=bot,
                    subject=f"Grüße {key}",
                    body=body,
                    date=datetime(2026, 11, 23, 12, tzinfo=UTC),
                    in_reply_to="<parent@south.test>",
                    references=("<root@south.test>", "<parent@south.test>"),
                    token="a.b",
                    auto_reply=False,
                )
            )
            assert connection.deliver(wire, sender, bot, before_data=lambda: 3600.0).outcome == "sent"


def an_id(bot: str, key: str) -> str:
    return message_id_for(f"{bot}|{key}", "north.test", b"key")


def where_is(reader: ImapReader, message_id: str) -> list[str]:
    return [folder for folder in reader.folders() if reader.find_by_message_id([message_id], folder)]


def flags(reader: ImapReader, uid: int) -> bytes:
    _, data = reader._client.uid("FETCH", str(uid), "(FLAGS)")
    return bytes(data[0])


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_what_was_sent_is_read_with_everything_that_was_put_in(sandbox: SandboxAddress, bot: str, tls: TlsMode) -> None:
    """E-B5: Message-ID, thread and token are there to match replies by."""
    send(sandbox, bot, "one")
    port = sandbox.imap_port if tls == "starttls" else sandbox.imaps_port
    access = replace(an_access(sandbox, bot), imap_tls=tls, imap_port=port)
    with ImapReader(access, "sandbox", {sandbox.host: sandbox.ca_file}) as reader:
        (message,), _ = reader.new_messages("INBOX", None)
        assert b"\\Seen" not in flags(reader, message.uid)
    assert message.message_id == an_id(bot, "one")
    assert message.in_reply_to == "<parent@south.test>"
    assert message.references == ("<root@south.test>", "<parent@south.test>")
    assert (message.from_address, message.to_address) == ("ann@north.test", bot)
    assert (message.subject, message.body_text) == ("Grüße one", "Hi.\n")
    assert (message.token, message.warmup_label, message.auto_submitted) == ("a.b", True, None)
    assert message.date == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert message.internal_date is not None
    assert message.size > 300


def test_every_message_is_seen_exactly_once(sandbox: SandboxAddress, bot: str) -> None:
    """E-B3"""
    with a_reader(sandbox, bot) as reader:
        nothing, cursor = reader.new_messages("INBOX", None)
        assert nothing == []
        seen = []
        for round_ in range(3):
            send(sandbox, bot, f"{round_}a", f"{round_}b")
            messages, cursor = reader.new_messages("INBOX", cursor)
            seen += [message.message_id for message in messages]
            assert reader.new_messages("INBOX", cursor) == ([], cursor)
    assert seen == [an_id(bot, f"{round_}{letter}") for round_ in range(3) for letter in "ab"]


def test_a_renumbered_folder_is_read_again(sandbox: SandboxAddress, bot: str) -> None:
    """E-B3, case 35: numbers of another UIDVALIDITY say nothing."""
    send(sandbox, bot, "one", "two")
    with a_reader(sandbox, bot) as reader:
        _, cursor = reader.new_messages("INBOX", None)
        messages, again = reader.new_messages("INBOX", Cursor(cursor.uidvalidity + 1, 10_000))
    assert len(messages) == 2
    assert again == cursor


def test_junk_is_found_and_rescued(sandbox: SandboxAddress, bot: str) -> None:
    """B-B5"""
    send(sandbox, bot, "one", sender="eve@junk.test")
    with a_reader(sandbox, bot) as reader:
        junk = reader.find_folder("\\Junk")
        assert junk is not None
        (message,), cursor = reader.new_messages(junk, None)
        reader.move([message.uid], "INBOX")
        assert reader.new_messages(junk, cursor)[0] == []
        (rescued,), _ = reader.new_messages("INBOX", None)
        assert rescued.message_id == message.message_id == an_id(bot, "one")
        reader.mark_seen([rescued.uid])
        assert b"\\Seen" in flags(reader, rescued.uid)
        assert where_is(reader, an_id(bot, "one")) == ["INBOX"]


def test_marking_and_moving_leave_other_peoples_marks_alone(sandbox: SandboxAddress, bot: str) -> None:
    """imap-tools' flag() and delete() would expunge the first message as well."""
    send(sandbox, bot, "one", "two", "three")
    with a_reader(sandbox, bot) as reader:
        (one, two, three), _ = reader.new_messages("INBOX", None)
        reader._client.uid("STORE", str(one.uid), "+FLAGS", "(\\Deleted)")
        reader._client.create("Warm-up")
        reader.mark_seen([two.uid])
        reader.move([three.uid], "Warm-up")
        left, _ = reader.new_messages("INBOX", None)
    assert [message.uid for message in left] == [one.uid, two.uid]


def test_an_oversized_message_is_read_as_far_as_its_header(sandbox: SandboxAddress, bot: str) -> None:
    """Towards E-F10"""
    send(sandbox, bot, "big", body="0123456789abcdef\n" * 80_000)
    with a_reader(sandbox, bot) as reader:
        (message,), _ = reader.new_messages("INBOX", None)
    assert message.oversized
    assert message.message_id == an_id(bot, "big")
    assert message.body_text is None
    assert message.size > 1024 * 1024


def test_a_message_is_looked_up_by_its_id(sandbox: SandboxAddress, bot: str) -> None:
    """Q-F5"""
    send(sandbox, bot, "one", "two")
    with a_reader(sandbox, bot) as reader:
        found = reader.find_by_message_id([an_id(bot, "two"), an_id(bot, "three")], "INBOX")
        messages, _ = reader.new_messages("INBOX", None)
        ids = {message.uid: message.message_id for message in messages}
        assert {wanted: [ids[uid] for uid in uids] for wanted, uids in found.items()} == {
            an_id(bot, "two"): [an_id(bot, "two")]
        }
        assert reader.find_by_message_id([an_id(bot, "two")], "Junk") == {}


def test_a_message_is_looked_up_by_its_token(sandbox: SandboxAddress, bot: str) -> None:
    """Q-F5: for providers that rewrite the Message-ID."""
    send(sandbox, bot, "one")
    with a_reader(sandbox, bot) as reader:
        ((uid,),) = reader.find_by_header("X-Emberflow-Token", ["a."], "INBOX").values()
        raw = reader.raw_message("INBOX", uid)
        assert raw is not None
        assert an_id(bot, "one").encode() in raw
        assert b"\\Seen" not in flags(reader, uid)
        assert reader.raw_message("INBOX", uid + 1) is None
        assert reader.find_by_header("X-Emberflow-Token", ["b."], "INBOX") == {}


def test_every_folder_is_listed_with_the_inbox_first(sandbox: SandboxAddress, bot: str) -> None:
    """Q-F5"""
    with a_reader(sandbox, bot) as reader:
        reader._client.create("Another")
        assert reader.folders() == ["INBOX", "Another", "Archive", "Drafts", "Junk", "Sent", "Trash"]
