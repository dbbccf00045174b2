"""What the product expects of mail servers, asked of the sandbox and of Postfix with Dovecot alike.

A test that only the sandbox passes shows where the sandbox flatters; one that only the others pass shows where the demo
proves nothing.
"""

from __future__ import annotations

import imaplib
from datetime import UTC, datetime, timedelta

import pytest

from emberflow.email_ops.imap import Cursor, ImapError, ImapReader, OwnFolder
from emberflow.email_ops.imap_session import folder_name
from emberflow.email_ops.mailbox import TlsMode
from emberflow.email_ops.message import build
from tests.mail_servers.mail import User, a_mail, a_user, an_id
from tests.worlds import Sandbox

BOTH_WAYS = pytest.mark.parametrize("tls", ["starttls", "implicit"])


@pytest.fixture
def ann(servers: Sandbox) -> User:
    return a_user(servers, "ann")


@pytest.fixture
def bob(servers: Sandbox) -> User:
    return a_user(servers, "bob")


def flags(reader: ImapReader, uid: int) -> bytes:
    _, data = reader._client.uid("FETCH", str(uid), "(FLAGS)")
    return bytes(data[0])


# Login


@BOTH_WAYS
def test_a_login_works_with_either_kind_of_tls(ann: User, tls: TlsMode) -> None:
    """S-B1"""
    with ann.connection(tls=tls) as connection:
        assert connection.open() is None
    with ann.reader(tls=tls) as reader:
        assert reader.new_messages("INBOX", None)[0] == []


@BOTH_WAYS
def test_a_wrong_password_is_the_logins_fault_and_lasts(ann: User, tls: TlsMode) -> None:
    """S-B1: nothing of it is taken for a fault of the host, which would pass."""
    with ann.connection(tls=tls, password="wrong") as connection:
        failed = connection.open()
    assert failed is not None
    assert (failed.outcome, failed.stage, failed.scope, failed.reply_code) == ("permanent", "auth", "mailbox", 535)
    with pytest.raises(ImapError) as refused, ann.reader(tls=tls, password="wrong"):
        pass
    assert (refused.value.stage, refused.value.transient) == ("imap_auth", False)


# Delivery


def test_what_was_sent_arrives_with_everything_that_was_put_in(ann: User, bob: User) -> None:
    """Towards E-B5: Message-ID, thread and token are there to match replies by."""
    assert ann.send(bob.address).outcome == "sent"
    with bob.reader() as reader:
        (message,), _ = reader.new_messages("INBOX", None)
        assert b"\\Seen" not in flags(reader, message.uid)
    assert message.message_id == an_id(bob.address)
    assert (message.in_reply_to, message.references) == (
        "<parent@south.test>",
        ("<root@south.test>", "<parent@south.test>"),
    )
    assert (message.from_address, message.to_address) == (ann.address, bob.address)
    assert (message.subject, message.body_text) == ("Grüße one", "Hi.\n")
    assert (message.token, message.warmup_label, message.auto_submitted) == ("a.b", True, None)
    assert message.date == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert message.internal_date is not None
    assert message.size > 300


def test_several_messages_go_over_one_connection(ann: User, bob: User) -> None:
    """E-B2"""
    with ann.connection() as connection:
        for key in ("one", "two", "three"):
            wire = build(a_mail(ann.address, bob.address, key))
            attempt = connection.deliver(wire, ann.address, bob.address, before_data=lambda: 3600.0)
            assert attempt.outcome == "sent"
    ann.servers.settle()
    with bob.reader() as reader:
        found = {message.message_id for message in reader.new_messages("INBOX", None)[0]}
    assert found == {an_id(bob.address, key) for key in ("one", "two", "three")}


@pytest.mark.parametrize(
    ("name", "outcome", "stage", "code"),
    [
        ("reject", "permanent", "rcpt", 550),
        ("full", "transient", "rcpt", 452),
        ("grey", "transient", "rcpt", 451),
        ("busy", "transient", "rcpt", 421),
        ("spam", "permanent", "eod", 554),
    ],
)
def test_a_refusal_is_told_as_what_it_is(ann: User, bob: User, name: str, outcome: str, stage: str, code: int) -> None:
    """E-B2: permanent or not, at which command, and after it the next message goes out."""
    attempt = ann.send(f"{name}.somebody@{bob.domain}")
    assert (attempt.outcome, attempt.stage, attempt.reply_code) == (outcome, stage, code)
    assert attempt.enhanced_code is not None
    assert ann.send(bob.address).outcome == "sent"


def test_nobody_sends_in_another_name_or_to_elsewhere(ann: User, bob: User) -> None:
    with ann.connection() as connection:
        wire = build(a_mail(bob.address, bob.address))
        forged = connection.deliver(wire, bob.address, bob.address, before_data=lambda: 3600.0)
    assert (forged.outcome, forged.reply_code) == ("permanent", 553)
    relayed = ann.send("somebody@elsewhere.invalid")
    assert (relayed.outcome, relayed.reply_code) == ("permanent", 550)


# Reading


def test_every_message_is_seen_exactly_once(ann: User, bob: User) -> None:
    """E-B3"""
    with bob.reader() as reader:
        nothing, cursor = reader.new_messages("INBOX", None)
        assert nothing == []
        seen = []
        for number in range(3):
            assert ann.send(bob.address, f"{number}").outcome == "sent"
            portion = reader.next_portion("INBOX", cursor)
            assert (portion.unread, portion.is_last) == ([], True)
            seen += [message.message_id for message in portion.messages]
            cursor = portion.cursor
            assert reader.new_messages("INBOX", cursor) == ([], cursor)
    assert seen == [an_id(bob.address, f"{number}") for number in range(3)]


def test_numbers_of_another_uidvalidity_say_nothing(ann: User, bob: User) -> None:
    """E-B3, case 35"""
    assert ann.send(bob.address, "one").outcome == "sent"
    assert ann.send(bob.address, "two").outcome == "sent"
    with bob.reader() as reader:
        _, cursor = reader.new_messages("INBOX", None)
        messages, again = reader.new_messages("INBOX", Cursor(cursor.uidvalidity + 1, 10_000))
    assert len(messages) == 2
    assert again == cursor


def test_special_use_folders_are_found_and_listed_with_the_inbox_first(bob: User) -> None:
    """Q-F5, B-B5"""
    with bob.reader() as reader:
        assert reader.find_folder("\\Junk") == "Junk"
        assert reader.find_folder("\\Sent") == "Sent"
        assert reader.folders() == ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]


def test_junk_is_found_and_rescued(servers: Sandbox, bob: User) -> None:
    """B-B5"""
    eve = a_user(servers, "eve")
    servers.file_to_junk(eve.domain, 100)
    assert eve.send(bob.address).outcome == "sent"
    with bob.reader() as reader:
        assert reader.new_messages("INBOX", None)[0] == []
        (message,), cursor = reader.new_messages("Junk", None)
        reader.move([message.uid], "INBOX")
        assert reader.new_messages("Junk", cursor)[0] == []
        (rescued,), _ = reader.new_messages("INBOX", None)
        assert rescued.message_id == message.message_id == an_id(bob.address)
        reader.mark_seen([rescued.uid])
        assert b"\\Seen" in flags(reader, rescued.uid)


def test_what_a_person_sent_lately_is_read_by_its_headers_and_stays_unread(ann: User, bob: User) -> None:
    """Towards S-F7: since a day of a folder that was not read before, and then what is new."""
    today = datetime(2026, 11, 23, 12, tzinfo=UTC)
    with bob.reader() as reader:
        sent = reader.find_folder("\\Sent")
        assert sent == "Sent"

        def file_under_sent(key: str, at: datetime) -> None:
            wire = build(a_mail(bob.address, ann.address, key))
            assert reader._client.append(sent, "", imaplib.Time2Internaldate(at), wire)[0] == "OK"

        file_under_sent("old", today - timedelta(days=5))
        file_under_sent("new", today)
        since = (today - timedelta(days=1)).date()
        first = reader.next_portion(sent, None, since=since, headers_only=True)
        file_under_sent("newer", today)
        then = reader.next_portion(sent, first.cursor, since=since, headers_only=True)
        assert [message.message_id for message in then.messages] == [an_id(ann.address, "newer")]
        (message,) = first.messages
        assert (message.message_id, message.recipients) == (an_id(ann.address, "new"), 1)
        assert (message.internal_date, message.body_text, message.token) == (today, None, "a.b")
        assert b"\\Seen" not in flags(reader, message.uid)


def test_a_message_is_starred_marked_as_important_and_archived(ann: User, bob: User) -> None:
    """B-F2: the flags go with it, the keyword too; the server tells by itself which folder is the archive."""
    for key in ("one", "two"):
        assert ann.send(bob.address, key).outcome == "sent"
    with bob.reader() as reader:
        (one, two), _ = reader.new_messages("INBOX", None)
        archive = reader.find_folders("\\Junk", "\\Archive", "\\All")["\\Archive"]
        assert archive == "Archive"
        assert reader.can_mark_important
        reader.mark_starred([one.uid])
        reader.mark_important([one.uid])
        reader.mark_seen([one.uid])
        assert b"$Important" not in flags(reader, two.uid)
        reader.move([one.uid], archive)
        left, _ = reader.new_messages("INBOX", None)
        ((archived,), _) = reader.new_messages(archive, None)
        kept = flags(reader, archived.uid)
    assert [message.uid for message in left] == [two.uid]
    assert archived.message_id == one.message_id
    for flag in (b"\\Seen", b"\\Flagged", b"$Important"):
        assert flag.lower() in kept.lower()


def test_marking_and_moving_leave_other_peoples_marks_alone(ann: User, bob: User) -> None:
    """B-B5: imap-tools' flag() and delete() would expunge the first message as well."""
    for key in ("one", "two", "three"):
        assert ann.send(bob.address, key).outcome == "sent"
    with bob.reader() as reader:
        (one, two, three), _ = reader.new_messages("INBOX", None)
        reader._client.uid("STORE", str(one.uid), "+FLAGS", "(\\Deleted)")
        reader._client.create("Warm-up")
        reader.mark_seen([two.uid])
        reader.move([three.uid], "Warm-up")
        left, _ = reader.new_messages("INBOX", None)
        moved, _ = reader.new_messages("Warm-up", None)
    assert [message.uid for message in left] == [one.uid, two.uid]
    assert [message.message_id for message in moved] == [three.message_id]


def test_a_folder_of_our_own_is_made_once_and_holds_what_is_moved_until_it_is_removed(ann: User, bob: User) -> None:
    """B-B9: a mail keeps its header wherever it is moved, and only what is named goes."""
    for key in ("one", "two"):
        assert ann.send(bob.address, key).outcome == "sent"
    with bob.reader() as reader:
        own = reader.own_folder("Emberflow")
        assert own == OwnFolder("Emberflow", exists=False)
        reader.make_folder(own.name)
        reader.make_folder(own.name)
        assert reader.own_folder("Emberflow") == OwnFolder("Emberflow", exists=True)
        before, _ = reader.new_messages("INBOX", None)
        assert reader.move([message.uid for message in before], own.name)
        uidvalidity, uids = reader.with_token(own.name, is_unmarked=True)
        after, _ = reader.read_again(own.name, uidvalidity, uids, having="X-Emberflow-Token")
        assert [message.header_digest for message in after] == [message.header_digest for message in before]
        assert reader.field_values("X-Emberflow-Token", uids, own.name) == dict.fromkeys(uids, "a.b")
        reader._client.uid("STORE", str(uids[0]), "+FLAGS", "(\\Deleted)")
        assert reader.with_token(own.name, is_unmarked=True) == (uidvalidity, uids[1:])
        assert reader.with_token(own.name, is_unmarked=False) == (uidvalidity, uids)
        assert reader.remove(uids[1:])
        assert [message.uid for message in reader.new_messages(own.name, None)[0]] == uids[:1]
        assert reader.with_token("INBOX", is_unmarked=False)[1] == []


def test_a_message_is_looked_up_by_its_id_and_by_its_token(ann: User, bob: User) -> None:
    """Q-F5"""
    assert ann.send(bob.address, "one").outcome == "sent"
    assert ann.send(bob.address, "two").outcome == "sent"
    with bob.reader() as reader:
        wanted = [an_id(bob.address, "two"), an_id(bob.address, "three")]
        ((found, uids),) = reader.find_by_message_id(wanted, "INBOX").items()
        assert (found, len(uids)) == (wanted[0], 1)
        assert len(reader.find_by_header("X-Emberflow-Token", ["a."], "INBOX")["a."]) == 2
        assert reader.find_by_message_id(wanted, "Junk") == {}
        raw = reader.raw_message("INBOX", uids[0])
        assert raw is not None
        assert wanted[0].encode() in raw
        assert b"\\Seen" not in flags(reader, uids[0])
        assert reader.raw_message("INBOX", uids[0] + 1) is None


def test_a_message_over_the_limit_is_read_as_far_as_its_header(ann: User, bob: User) -> None:
    """Towards E-F10"""
    assert ann.send(bob.address, body="0123456789abcdef\n" * 80_000).outcome == "sent"
    with bob.reader() as reader:
        (message,), _ = reader.new_messages("INBOX", None)
    assert (message.oversized, message.body_text) == (True, None)
    assert message.message_id == an_id(bob.address)
    assert message.size > 1024 * 1024


def test_a_folder_is_made_found_again_and_read_whatever_its_name(ann: User, bob: User) -> None:
    """B-B5: names cross the wire in modified UTF-7 (RFC 3501 5.1.3)."""
    names = ["Gelöschte & Objekte", "受信箱", 'quo"ted', "back\\slash", "100%", "a b"]
    assert ann.send(bob.address).outcome == "sent"
    with bob.reader() as reader:
        (message,), _ = reader.new_messages("INBOX", None)
        for name in names:
            status, said = reader._client.create(folder_name(name))
            assert status == "OK", said
        assert set(names) <= set(reader.folders())
        for name in names:
            reader.move([message.uid], name)
            (message,), _ = reader.new_messages(name, None)
        assert reader.new_messages("INBOX", None)[0] == []
    assert message.message_id == an_id(bob.address)
