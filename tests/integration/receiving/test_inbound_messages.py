"""What comes back to our mailboxes and carries no token: recorded once, tied to its mail, and read within bounds."""

from __future__ import annotations

import imaplib
import json
import ssl
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.database.migrate import downgrade, upgrade
from emberflow.email_ops.bounded_parser import BoundedParser
from emberflow.email_ops.evidence import Evidence
from emberflow.email_ops.imap import ImapReader
from emberflow.operations import leads
from emberflow.operations.actor import Actor
from emberflow.queue_manager.receiving import stranger_reading
from emberflow.reporting.doctor import examine
from tests.unit.email_ops.returned_mail import a_feedback_report, a_message, a_recipient, a_report
from tests.worlds import NOON, PASSWORD, Command, Member, Sandbox, World, a_policy, a_world

REWIND = "update ops.imap_cursors set next_uid = 1, strangers_next_uid = 1 where strangers_next_uid is not null"
SILENT = {"replies": {"rate": 0.0}}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender whose mail to the only bot was sent and read; its own mailbox was read too."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    world.slot()
    assert world.dispatch() == {"sent": 1}
    assert world.read() == {"inbox": 1}
    world.clock.sleep(60)
    return world


def lay_in(world: World, member: Member, *messages: bytes, folder: str = "INBOX") -> None:
    """Put messages into a mailbox; they arrive now."""
    address = world.sandbox.address
    context = ssl.create_default_context(cafile=str(address.ca_file))
    with imaplib.IMAP4_SSL(address.host, address.imaps_port, ssl_context=context) as client:
        client.login(member.address, PASSWORD)
        arrived = imaplib.Time2Internaldate(world.clock.now())
        for raw in messages:
            assert client.append(folder, "", arrived, raw)[0] == "OK"


def a_letter(number: int = 1, body: str = "Hello\r\n", **changes: Any) -> bytes:
    fields = {"Message-ID": f"<letter.{number}@far.test>"} | changes.pop("fields", {})
    return a_message(body, **({"sender": "Eve <eve@far.test>", "subject": "News"} | changes), fields=fields)


def an_answer(world: World, body: str = "Thank you.\r\n", **changes: Any) -> bytes:
    sent = world.row("select message_id from ops.slots where turn = 1")
    fields = {"In-Reply-To": sent["message_id"]} | changes.pop("fields", {})
    conversation = world.row("select subject from ops.conversations")
    subject = f"Re: {conversation['subject']}"
    given = {"sender": f"Bo <{world.bots[0].address}>", "to": world.senders[0].address, "subject": subject}
    return a_letter(7, body, **(given | changes), fields=fields)


def a_dsn(world: World, original: str | None = None, recipient: str | None = None) -> bytes:
    """A report that the sender's mail could not be delivered, and returns its header."""
    (mail,) = world.raw_mailbox(world.bots[0])
    header = "".join(f"{name}: {value}\r\n" for name, value in mail.items() if name != "Received")
    return a_report(
        a_recipient(recipient or world.bots[0].address),
        original=header if original is None else original,
        to=world.senders[0].address,
    )


def inbound(world: World) -> list[Any]:
    return list(world.rows("select * from ops.inbound_messages order by id"))


def everything_else(world: World) -> dict[str, Any]:
    tables = ("mail_events", "slots", "conversations", "bot_sender_interactions", "suppressions", "senders", "bots")
    return {table: world.rows(f"select * from ops.{table} order by 1") for table in tables}  # noqa: S608


def read(world: World) -> dict[str, int]:
    """What was found, apart from what was filed and deleted meanwhile."""
    return {kind: count for kind, count in world.read().items() if kind not in ("filed", "deleted")}


# What it is, and which mail it is about


def test_a_strangers_newsletter_is_recorded_and_nothing_follows_from_it(world: World) -> None:
    """E-B6"""
    before = everything_else(world)
    lay_in(world, world.senders[0], a_letter(fields={"List-Id": "<news.far.test>"}, subject="x" * 300))
    assert read(world) == {"came_other": 1}
    (row,) = inbound(world)
    assert (row["mailbox_id"], row["kind"], row["auto"]) == (world.senders[0].mailbox_id, "other", True)
    assert (row["slot_id"], row["matched_by"], row["bounce_action"]) == (None, None, None)
    assert (row["from_address"], row["message_id"]) == ("eve@far.test", "<letter.1@far.test>")
    assert row["subject"] == "x" * 200
    assert row["evidence"][0] == {"where": "header List-Id", "says": "<news.far.test>"}
    assert row["arrived_at"] == world.clock.now()
    assert everything_else(world) == before
    assert world.mailbox(world.senders[0])[0].subject == "x" * 300
    assert read(world) == {}


def test_what_an_erased_person_writes_later_is_recorded_without_them(world: World) -> None:
    """C-F10: an erasure holds for what comes after it."""
    leads.erase(world.engine, Actor("eva"), "eve@far.test", world.settings, reason="a request")
    lay_in(world, world.senders[0], a_letter(sender="Eve <EVE@far.test>"), a_letter(2, sender="Bob <bob@far.test>"))
    assert sum(read(world).values()) == 2
    erased, other = inbound(world)
    assert (erased["from_address"], erased["subject"], erased["message_id"], erased["evidence"]) == (
        None, None, None, [],
    )  # fmt: skip
    assert (other["from_address"], other["subject"]) == ("bob@far.test", "News")
    assert read(world) == {}


MATCHES: dict[str, tuple[dict[str, str], str]] = {
    "by what it answers": ({}, "in_reply_to"),
    "by its thread": ({"In-Reply-To": "<lost@far.test>", "References": "{} <lost@far.test>"}, "references"),
    "by people and subject": ({"In-Reply-To": "<lost@far.test>"}, "from_to_subject"),
}


@pytest.mark.parametrize("how", MATCHES)
def test_a_persons_answer_to_a_warm_up_mail_is_tied_to_it_and_the_way_is_stored(world: World, how: str) -> None:
    """E-B5"""
    fields, method = MATCHES[how]
    slot = world.row("select id, message_id from ops.slots")
    fields = {name: value.format(slot["message_id"]) for name, value in fields.items()}
    lay_in(world, world.senders[0], an_answer(world, fields=fields))
    assert read(world) == {"came_human_reply": 1}
    (row,) = inbound(world)
    assert (row["slot_id"], row["matched_by"], row["counts"], row["auto"]) == (slot["id"], method, True, False)
    assert {"where": "what was sent", "says": f"matched by {method}"} in row["evidence"]


def test_people_and_subject_tie_for_thirty_days(world: World) -> None:
    """E-B5"""
    world.clock.advance(timedelta(days=31))
    lay_in(world, world.senders[0], an_answer(world, fields={"In-Reply-To": "<lost@far.test>"}))
    assert read(world) == {"came_human_reply": 1}
    assert inbound(world)[0]["slot_id"] is None


def test_an_answer_to_a_bots_mail_is_tied_to_it_by_people_and_subject(database: Engine, sandbox: Sandbox) -> None:
    """E-B5"""
    world = a_world(database, sandbox, 1, 1)
    world.slot()
    world.talk(1)
    for _ in range(3):
        world.clock.sleep(60)
        world.dispatch()
    reply = world.row("select id, status from ops.slots where turn = 2")
    assert reply["status"] == "sent"
    subject = world.value("select subject from ops.conversations")
    letter = a_letter(sender=world.senders[0].address, to=world.bots[0].address, subject=f"AW: {subject}")
    lay_in(world, world.bots[0], letter)
    world.read()
    (row,) = inbound(world)
    assert (row["kind"], row["slot_id"], row["matched_by"]) == ("human_reply", reply["id"], "from_to_subject")


def test_an_out_of_office_is_known_by_its_header_and_tells_when_its_author_is_back(world: World) -> None:
    """E-B6"""
    away = "I am out of the office until 16 June 2025.\r\n"
    lay_in(world, world.senders[0], an_answer(world, away, fields={"Auto-Submitted": "auto-replied"}))
    assert read(world) == {"came_out_of_office": 1}
    (row,) = inbound(world)
    assert (row["return_date"], row["auto"], row["matched_by"]) == (date(2025, 6, 16), True, "in_reply_to")
    assert row["evidence"][0]["where"] == "header Auto-Submitted"


@pytest.mark.parametrize("kind", ["complaint", "opt_out", "auto_reply"])
def test_complaints_opt_outs_and_acknowledgements_are_told_apart(world: World, kind: str) -> None:
    """E-B6"""
    mail = world.raw_mailbox(world.bots[0])[0]
    header = "".join(f"{name}: {value}\r\n" for name, value in mail.items() if name != "Received")
    raw = {
        "complaint": lambda: a_feedback_report(original=header),
        "opt_out": lambda: an_answer(world, "Please unsubscribe me.\r\n\r\n> Hello\r\n"),
        "auto_reply": lambda: an_answer(world, "We got it.\r\n", fields={"Auto-Submitted": "auto-replied"}),
    }[kind]()
    lay_in(world, world.senders[0], raw)
    assert read(world) == {f"came_{kind}": 1}
    (row,) = inbound(world)
    assert (row["counts"], row["slot_id"]) == (True, world.value("select id from ops.slots"))


def test_a_bounce_of_our_mail_counts_and_names_it(world: World) -> None:
    """E-B6"""
    before = everything_else(world)
    lay_in(world, world.senders[0], a_dsn(world))
    assert read(world) == {"came_bounce": 1, "returned": 1}
    (row,) = inbound(world)
    assert (row["counts"], row["slot_id"]) == (True, world.value("select id from ops.slots"))
    assert (row["bounce_action"], row["bounce_severity"], row["bounce_status"]) == ("failed", "hard", "5.1.1")
    assert (row["bounce_recipient"], row["matched_by"]) == (world.bots[0].address, "in_reply_to")
    assert everything_else(world) | {"mail_events": before["mail_events"]} == before
    world.change("update ops.inbound_messages set recorded_at = clock_timestamp()")
    finding = next(one for one in examine(world.settings) if one.check == "mail that came back")
    assert finding.result.startswith("1 bounces that count within 7 days, 1 of them hard, 0 complaints; 0 ")


def test_a_bounce_whose_message_id_was_replaced_counts_by_its_token(world: World) -> None:
    """E-B5"""
    message_id = world.value("select message_id from ops.slots").encode()
    report = a_dsn(world).replace(message_id, b"<of.the.relay@provider.test>")
    world.clock.advance(timedelta(days=31))  # people and subject find nothing any more
    lay_in(world, world.senders[0], report)
    world.read()
    (row,) = inbound(world)
    assert (row["counts"], row["matched_by"]) == (True, "token")


FORGED = {
    "about nothing": (
        "From: a@b.test\r\nTo: c@d.test\r\nSubject: Hi\r\nMessage-ID: <no.such@mail.test>\r\n",
        None,
        "it is about no mail",
    ),
    "about another recipient": (None, "someone@else.test", "that mail went to"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_bounce_is_recorded_and_counts_for_nothing(world: World, how: str) -> None:
    """E-B6"""
    original, recipient, why = FORGED[how]
    before = everything_else(world)
    lay_in(world, world.senders[0], a_dsn(world, original, recipient))
    assert read(world) == {"came_bounce": 1}
    (row,) = inbound(world)
    assert row["counts"] is False
    assert row["evidence"][-1]["says"].startswith(why)
    assert everything_else(world) == before


def test_a_true_bounce_in_another_mailbox_counts_for_nothing(world: World) -> None:
    """E-B6"""
    lay_in(world, world.bots[0], a_dsn(world))
    world.read()
    (row,) = inbound(world)
    assert (row["counts"], row["slot_id"]) == (False, world.value("select id from ops.slots"))


def test_words_that_no_database_holds_are_recorded_without_them(world: World) -> None:
    real = BoundedParser.classify

    def odd(parser: BoundedParser, raw: bytes, **about: Any) -> Any:
        return replace(real(parser, raw, **about), evidence=(Evidence("the text", "a\0b\ud800c"),))

    lay_in(world, world.senders[0], a_letter())
    with patch.object(BoundedParser, "classify", odd):
        assert read(world) == {"came_other": 1}
    assert inbound(world)[0]["evidence"] == [{"where": "the text", "says": "ab?c"}]


# Within bounds


def test_a_bomb_without_a_token_is_set_aside_once_and_the_mailbox_goes_on(world: World) -> None:
    """E-F10"""
    bomb = b"Content-Type: text/plain" + b"; a=b" * 12_000 + b"\r\n\r\nx"
    lay_in(world, world.bots[0], bomb, a_letter())
    assert read(world) == {"quarantined": 1, "came_other": 1}
    (fault,) = world.rows("select * from ops.message_faults")
    assert (fault["step"], fault["next_try_at"], fault["tries"]) == ("read", None, 1)
    world.change(REWIND)
    world.clock.advance(timedelta(days=2))
    assert read(world) == {}
    assert len(inbound(world)) == 1


def test_five_hundred_strangers_keep_no_warm_up_mail_waiting_and_the_next_runs_read_the_rest(world: World) -> None:
    """E-F10"""
    lay_in(world, world.bots[0], *(a_letter(number) for number in range(500)))
    for _ in range(3):
        world.slot(gap_s=0)
    while world.statuses()["planned"]:
        world.dispatch()
        world.clock.sleep(30)
    lay_in(world, world.bots[0], a_letter(500))
    assert read(world) == {"inbox": 3, "came_other": 200}
    assert read(world) == {"came_other": 200}
    assert read(world) == {"came_other": 101}
    assert read(world) == {}
    assert {row["message_id"] for row in inbound(world)} == {f"<letter.{number}@far.test>" for number in range(501)}


def test_warm_up_mail_of_both_folders_is_read_before_any_stranger(world: World) -> None:
    """E-F10"""
    lay_in(world, world.bots[0], a_letter(1), folder="Junk")
    world.slot(gap_s=0)
    world.dispatch()
    parsed: list[str] = []
    real = {name: getattr(BoundedParser, name) for name in ("message", "classify")}

    def noting(name: str) -> Any:
        def note(parser: BoundedParser, raw: bytes, **about: Any) -> Any:
            parsed.append(name)
            return real[name](parser, raw, **about)

        return note

    with patch.multiple(BoundedParser, message=noting("message"), classify=noting("classify")):
        assert read(world) == {"inbox": 1, "came_other": 1}
    assert parsed == ["message", "message", "classify"]


def test_when_the_time_for_strangers_is_over_the_next_run_goes_on(world: World) -> None:
    lay_in(world, world.bots[0], a_letter(1), a_letter(2))
    with patch.object(stranger_reading, "_MAILBOX_S", 0.0):
        assert read(world) == {}
    with patch.multiple(stranger_reading, _MAILBOX_BYTES=1, _AT_ONCE=1):
        assert read(world) == {"came_other": 1}
    assert read(world) == {"came_other": 1}


def test_no_more_than_256_kib_of_a_message_are_read(world: World) -> None:
    lay_in(world, world.bots[0], a_letter(1, "x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * 10_000))
    sizes: list[int] = []
    real = BoundedParser.classify

    def note(parser: BoundedParser, raw: bytes, **about: Any) -> Any:
        sizes.append(len(raw))
        return real(parser, raw, **about)

    with patch.object(BoundedParser, "classify", note):
        assert read(world) == {"came_other": 1}
    assert sizes == [256 * 1024]


def test_a_message_that_the_server_refuses_is_recorded_when_it_gives_it(world: World) -> None:
    lay_in(world, world.bots[0], a_letter(1), a_letter(2))
    uid = world.mailbox(world.bots[0])[-1].uid
    real = ImapReader._fetch

    def refuse(reader: ImapReader, uids: Any, items: str) -> Any:
        if uid in uids and "BODY.PEEK[]" in items:
            return {}, "NO [SERVERBUG] internal error"
        return real(reader, uids, items)

    with patch.object(ImapReader, "_fetch", refuse):
        assert read(world) == {"refused": 1, "came_other": 1}
    world.clock.advance(timedelta(minutes=15))
    assert read(world) == {"came_other": 1}
    assert world.rows("select * from ops.message_faults") == []


# Once


def renumber(world: World) -> None:
    world.change(
        "update ops.imap_cursors set uidvalidity = uidvalidity + 1, strangers_uidvalidity = uidvalidity + 1 "
        "where strangers_uidvalidity is not null"
    )
    world.change("update ops.inbound_messages set uidvalidity = uidvalidity + 1")


def rewind(world: World) -> None:
    world.change(REWIND)


def come_back(world: World) -> None:
    world.change("delete from ops.imap_cursors")
    world.change("update ops.mailboxes set created_at = :at", at=NOON)
    world.change("update ops.inbound_messages set uidvalidity = null, uid = null")


@pytest.mark.parametrize("disturb", [renumber, rewind, come_back])
def test_reading_again_adds_no_row(world: World, disturb: Any) -> None:
    """E-B3, of what has a Message-ID and what has none."""
    nameless = a_letter().replace(b"Message-ID: <letter.1@far.test>\r\n", b"")
    lay_in(world, world.senders[0], a_letter(), nameless, a_dsn(world))
    assert read(world) == {"came_other": 2, "came_bounce": 1, "returned": 1}
    before = inbound_identities(world)
    disturb(world)
    with patch.object(BoundedParser, "classify", autospec=True, side_effect=BoundedParser.classify) as parsed:
        assert read(world) == {}
    assert parsed.call_count == 3
    assert inbound_identities(world) == before


def inbound_identities(world: World) -> list[Any]:
    return [(row["id"], row["fingerprint"], row["kind"]) for row in inbound(world)]


def test_a_message_that_its_owner_moves_stays_one(world: World) -> None:
    lay_in(world, world.senders[0], a_letter(), folder="Junk")
    assert read(world) == {"came_other": 1}
    lay_in(world, world.senders[0], a_letter())
    assert read(world) == {}
    assert [row["folder"] for row in inbound(world)] == ["Junk"]


@pytest.mark.parametrize("folder", ["Sent", "Drafts"])
def test_what_lies_under_sent_or_drafts_is_no_inbound_message(world: World, folder: str) -> None:
    """E-B4; in INBOX the same message is recorded."""
    for member in (world.senders[0], world.bots[0]):
        lay_in(world, member, a_letter(), an_answer(world), folder=folder)
    assert read(world) == {}
    assert inbound(world) == []
    lay_in(world, world.senders[0], an_answer(world))
    assert read(world) == {"came_human_reply": 1}


def test_of_a_mailbox_read_for_the_first_time_only_what_came_since_it_was_added_is_recorded(
    database: Engine, sandbox: Sandbox
) -> None:
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT))
    world.change("update ops.mailboxes set created_at = :at", at=NOON)
    world.clock.advance(timedelta(days=-3))
    lay_in(world, world.senders[0], a_letter(1))
    world.clock.advance(timedelta(days=3))
    lay_in(world, world.senders[0], a_letter(2))
    assert read(world) == {"came_other": 1}
    assert [row["message_id"] for row in inbound(world)] == ["<letter.2@far.test>"]
    assert read(world) == {}


def test_a_mailbox_with_warm_up_mail_alone_is_asked_for_nothing_more(world: World) -> None:
    world.slot(gap_s=0)
    world.dispatch()
    with patch.object(ImapReader, "strangers", autospec=True, side_effect=ImapReader.strangers) as asked:
        assert read(world) == {"inbox": 1}
        assert asked.call_count == 0
        lay_in(world, world.bots[0], a_letter())
        assert read(world) == {"came_other": 1}
        assert asked.call_count == 1
        assert read(world) == {}
        assert asked.call_count == 1


# Where it is seen


def test_inbox_list_tells_kind_mail_and_evidence(world: World, run: Command) -> None:
    lay_in(world, world.senders[0], a_letter(), a_dsn(world))
    world.read()
    (row,) = json.loads(run("inbox", "list", "--kind", "bounce", "--json").stdout)
    assert (row["kind"], row["counts"], row["mailbox"]) == ("bounce", True, world.senders[0].address)
    assert row["says"] == f"hard failed 5.1.1 {world.bots[0].address}"
    assert "a mail that this mailbox sent to that recipient" in row["evidence"]
    assert "2 messages" in run("inbox", "list").stdout


def test_the_migration_goes_down_and_up_over_rows_and_reads_on_from_where_it_is(world: World) -> None:
    """D-B5"""
    lay_in(world, world.senders[0], a_letter())
    assert read(world) == {"came_other": 1}
    downgrade(world.engine, "0025")
    upgrade(world.engine)
    assert inbound(world) == []
    assert read(world) == {}
    lay_in(world, world.senders[0], a_letter(2))
    assert read(world) == {"came_other": 1}
