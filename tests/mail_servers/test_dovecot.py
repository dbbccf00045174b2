"""The IMAP reader against Dovecot: what a real server does that the sandbox does not."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops.imap import ImapError, ImapReader, OwnFolder
from emberflow.email_ops.imap_session import folder_name
from emberflow.email_ops.mailbox import MailboxAccess
from tests.mail_servers.dovecot import WITHOUT_MOVE, WITHOUT_UIDPLUS, Dovecot

PASSWORD = "secret"
numbers = itertools.count(1)
Read = Callable[..., ImapReader]


@pytest.fixture
def bot(dovecot: Dovecot) -> str:
    """A mailbox in a domain of its own."""
    address = f"bot@bot{next(numbers)}.test"
    dovecot.create_accounts({address: PASSWORD})
    return address


@pytest.fixture
def read(dovecot: Dovecot, bot: str) -> Read:
    """Return what reads the mailbox."""
    access = MailboxAccess(
        1, bot, "localhost", 1, "starttls", "localhost", dovecot.imaps_port, "implicit", bot, SecretStr(PASSWORD)
    )

    def reader(**changes: Any) -> ImapReader:
        changed = replace(access, **changes)
        return ImapReader(changed, "sandbox", {changed.imap_host: dovecot.ca_file})

    return reader


def a_message(key: str, body: bytes = b"Hi.\r\n", *more: bytes) -> bytes:
    lines = [b"From: ann@north.test", b"To: bot@south.test", b"Subject: " + key.encode(), *more]
    return b"\r\n".join([*lines, b"Message-ID: " + an_id(key).encode(), b"", body])


def an_id(key: str) -> str:
    return f"<{key}@north.test>"


def deliver(dovecot: Dovecot, bot: str, *keys: str) -> None:
    for key in keys:
        dovecot.deliver(a_message(key), "ann@north.test", bot)


def test_a_renumbered_folder_is_read_again_and_nothing_is_missed(dovecot: Dovecot, bot: str, read: Read) -> None:
    """E-B3, case 35: Dovecot's own new UIDVALIDITY, not one that a test made up."""
    deliver(dovecot, bot, "one", "two", "three")
    with read() as reader:
        messages, cursor = reader.new_messages("INBOX", None)
        assert len(messages) == 3
        reader.move([messages[0].uid], "Trash")
    dovecot.renumber(bot)
    deliver(dovecot, bot, "four")
    with read() as reader:
        again, renumbered = reader.new_messages("INBOX", cursor)
        assert renumbered.uidvalidity != cursor.uidvalidity
        assert {message.message_id for message in again} == {an_id(key) for key in ("two", "three", "four")}
        assert reader.new_messages("INBOX", renumbered) == ([], renumbered)


def test_a_full_mailbox_is_read_in_portions_of_which_none_is_lost(dovecot: Dovecot, bot: str, read: Read) -> None:
    """E-B3: 600 messages are two portions; the first reading of a mailbox takes the newest 500."""
    deliver(dovecot, bot, "first")
    with read() as reader:
        _, cursor = reader.new_messages("INBOX", None)
        dovecot.put(bot, [a_message(f"{number}") for number in range(600)])
        seen: list[str | None] = []
        lengths = []
        is_last = False
        while not is_last:
            portion = reader.next_portion("INBOX", cursor, having="Message-ID")
            seen += [message.message_id for message in portion.messages]
            lengths.append(len(portion.messages))
            cursor, is_last = portion.cursor, portion.is_last
        assert len(reader.new_messages("INBOX", None)[0]) == 500
    assert lengths == [500, 100]
    assert sorted(map(str, seen)) == sorted(an_id(f"{number}") for number in range(600))


def test_a_server_without_move_is_left_with_one_copy(dovecot: Dovecot, bot: str, read: Read) -> None:
    """B-B5: a copy is made and the original removed, without what others had marked as deleted."""
    deliver(dovecot, bot, "one", "two")
    with read(imap_host=WITHOUT_MOVE) as reader:
        assert {"MOVE", "UIDPLUS"} & set(reader._client.capabilities) == {"UIDPLUS"}
        one, two = reader.new_messages("INBOX", None)[0]
        reader._client.uid("STORE", str(two.uid), "+FLAGS", "(\\Deleted)")
        reader.move([one.uid], "Archive")
    assert dovecot.message_ids(bot, "Archive") == [an_id("one")]
    assert dovecot.message_ids(bot) == [an_id("two")]


def test_a_server_without_uidplus_keeps_the_original_marked_as_deleted(dovecot: Dovecot, bot: str, read: Read) -> None:
    """B-B5: the only command that would remove it there removes what others had marked as well."""
    deliver(dovecot, bot, "one", "two")
    with read(imap_host=WITHOUT_UIDPLUS) as reader:
        assert not {"MOVE", "UIDPLUS"} & set(reader._client.capabilities)
        (one, two), cursor = reader.new_messages("INBOX", None)
        reader._client.uid("STORE", str(two.uid), "+FLAGS", "(\\Deleted)")
        reader.move([one.uid], "Archive")
        assert reader.new_messages("INBOX", cursor)[0] == []
        assert reader._search("DELETED") == [one.uid, two.uid]
    assert dovecot.message_ids(bot, "Archive") == [an_id("one")]
    assert len(dovecot.message_ids(bot)) == 2


def test_without_uidplus_a_folder_is_expunged_only_while_nobody_else_has_marked_anything(
    dovecot: Dovecot, bot: str, read: Read
) -> None:
    """B-B9"""
    deliver(dovecot, bot, "one", "two", "three")
    with read(imap_host=WITHOUT_UIDPLUS) as reader:
        one, two, three = reader.new_messages("INBOX", None)[0]
        assert reader.remove([one.uid])
        reader._client.uid("STORE", str(two.uid), "+FLAGS", "(\\Deleted)")
        assert not reader.remove([three.uid])
        assert reader._search("DELETED") == [two.uid, three.uid]
    assert sorted(dovecot.message_ids(bot)) == [an_id("three"), an_id("two")]


def test_a_folder_of_our_own_is_made_inside_of_inbox_where_all_folders_are(dovecot: Dovecot, read: Read) -> None:
    """B-B9: as Courier and Cyrus have it, and Dovecot as many hosters configure it (RFC 2342)."""
    address = f"bot@inside{next(numbers)}.test"
    inside = ("userdb_namespace/inbox/prefix=INBOX.", "userdb_namespace/inbox/separator=.")
    dovecot.create_accounts({address: PASSWORD}, *inside)
    dovecot.deliver(a_message("one"), "ann@north.test", address)
    with read(username=address) as reader:
        assert reader.find_folder("\\Junk") == "INBOX.Junk"
        own = reader.own_folder("Wärme")
        assert own == OwnFolder("INBOX.Wärme", exists=False)
        reader.make_folder(own.name)
        assert reader.own_folder("Wärme") == OwnFolder("INBOX.Wärme", exists=True)
        (message,), _ = reader.new_messages("INBOX", None)
        assert reader.move([message.uid], own.name)
        assert [one.message_id for one in reader.new_messages(own.name, None)[0]] == [an_id("one")]
        assert any(b"INBOX.W&AOQ-rme" in line for line in reader._client.lsub()[1])
        with pytest.raises(ImapError, match="separates levels"):
            reader.own_folder("a.b")
        with pytest.raises(ImapError, match="another use"):
            reader.own_folder("Junk")


def test_lines_and_headers_of_any_length_are_read(dovecot: Dovecot, bot: str, read: Read) -> None:
    """Towards E-F10"""
    long_line = a_message("long-line", b"x" * 300_000 + b"\r\n")
    long_header = a_message("long-header", b"Hi.\r\n", b"X-Long: " + b"y" * 200_000)
    many_headers = a_message("many-headers", b"Hi.\r\n", *(b"X-Many: %d" % number for number in range(900)))
    for message in (long_line, long_header, many_headers, a_message("short")):
        dovecot.deliver(message, "ann@north.test", bot)
    with read() as reader:
        portion = reader.next_portion("INBOX", None)
    subjects = {message.subject for message in portion.messages}
    assert portion.unread == []
    assert subjects == {"long-line", "long-header", "many-headers", "short"}


def test_a_message_of_20_megabytes_costs_its_header(dovecot: Dovecot, bot: str, read: Read) -> None:
    """Towards E-F10"""
    dovecot.deliver(a_message("huge", b"0123456789abcdef\r\n" * 1_100_000), "ann@north.test", bot)
    deliver(dovecot, bot, "small")
    with read() as reader:
        huge, small = reader.new_messages("INBOX", None)[0]
        assert reader.find_by_message_id([an_id("huge")], "INBOX") == {an_id("huge"): [huge.uid]}
    assert (huge.oversized, huge.message_id, huge.body_text) == (True, an_id("huge"), None)
    assert huge.size > 18 * 1024 * 1024
    assert small.body_text == "Hi.\n"


def test_flags_that_others_change_meanwhile_are_no_messages(dovecot: Dovecot, bot: str, read: Read) -> None:
    """E-B3: Dovecot tells of every change in an untagged FETCH of its own, between those that were asked for."""
    dovecot.deliver(a_message("first"), "ann@north.test", bot)
    with read() as reader:
        reader.new_messages("INBOX", None)
        dovecot.put(bot, [a_message(f"{number}") for number in range(150)])
        done = threading.Event()

        def others() -> None:
            with read() as other:
                other.select("INBOX")
                for flag in itertools.cycle(("$NotJunk", "warmed", "\\Flagged")):
                    other._client.uid("STORE", "1:*", "+FLAGS", f"({flag})")
                    other._client.uid("STORE", "1:*", "-FLAGS", f"({flag})")
                    if done.is_set():
                        return

        storm = threading.Thread(target=others)
        storm.start()
        try:
            portion = reader.next_portion("INBOX", None)
        finally:
            done.set()
            storm.join()
    assert portion.unread == []
    assert len({message.uid for message in portion.messages}) == len(portion.messages) == 151
    assert {message.message_id for message in portion.messages} == {
        an_id(key) for key in ("first", *map(str, range(150)))
    }


def test_a_folder_that_only_looks_like_junk_is_not_taken_for_it(dovecot: Dovecot, bot: str, read: Read) -> None:
    """B-B5"""
    with read() as reader:
        for name in ("Archive/Junk", "Spam", "INBOX/Spam", "Training/Junk"):
            status, said = reader._client.create(folder_name(name))
            assert status == "OK", said
        assert reader.find_folder("\\Junk") == "Junk"


def test_a_name_on_the_disk_that_is_no_text_hides_no_other_folder(dovecot: Dovecot, bot: str, read: Read) -> None:
    """E-B3: a migration left names in Latin-1 and in broken UTF-7."""
    with read() as reader:
        reader._client.create(folder_name("Gelöscht"))
    for name in (b"B\xe4der", b"broken&AOQ", b"two\nlines", b"&-&-"):
        dovecot.make_folder(bot, name, a_message("old"))
    deliver(dovecot, bot, "one")
    with read() as reader:
        assert {"INBOX", "Junk", "Gelöscht"} <= set(reader.folders())
        assert reader.find_folder("\\Junk") == "Junk"
        assert reader.find_by_message_id([an_id("one")], "INBOX")


def test_a_folder_that_may_only_be_read_is_read(dovecot: Dovecot, bot: str, read: Read) -> None:
    """Q-F5: imaplib takes [READ-ONLY] for a failure, and a shared folder would put all uncertain mail in doubt."""
    with read() as reader:
        reader.select("INBOX")
    dovecot.make_folder(bot, b"Shared", a_message("one"), read_only=True)
    deliver(dovecot, bot, "two")
    with read() as reader:
        (message,), _ = reader.new_messages("Shared", None)
        assert message.message_id == an_id("one")
        with pytest.raises(ImapError) as refused:
            reader.move([message.uid], "INBOX")
        assert refused.value.stage == "imap_command"
        (message,), _ = reader.new_messages("INBOX", None)
        reader.mark_seen([message.uid])


def test_a_message_that_is_gone_meanwhile_keeps_no_other_back(dovecot: Dovecot, bot: str, read: Read) -> None:
    """E-B3: the file is there when it is listed, and is not when it is read."""
    deliver(dovecot, bot, "one", "two", "three")
    with read() as reader:
        messages, cursor = reader.new_messages("INBOX", None)
        with read() as other:
            other.select("INBOX")
            other.move([messages[1].uid], "Trash")
        found, unread = reader.read_again("INBOX", cursor.uidvalidity, [message.uid for message in messages])
    assert [message.message_id for message in found] == [an_id("one"), an_id("three")]
    assert unread == []
