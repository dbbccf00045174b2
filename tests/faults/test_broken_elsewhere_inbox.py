"""What broke in other mail queues, done to this one: receiving.

Each test names its case in the table "What broke elsewhere" of docs/guarantees.md. That nothing is sent because of
what was received is judged by what the receiving server stored.
"""

from __future__ import annotations

import imaplib
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.email_ops import imap
from emberflow.email_ops.header_fields import TOKEN_HEADER, WARMUP_HEADER
from emberflow.email_ops.imap import ImapReader
from emberflow.email_ops.message import WARMUP_LABEL
from emberflow.queue_manager import event_log, pre_send, slot_store
from emberflow.queue_manager.receiving import mailbox_reading, reconcile
from emberflow.queue_manager.slot_store import End
from tests.worlds import NOON, PASSWORD, SEED, Member, Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}


class PowerCut(BaseException):
    """Not an Exception, as a signal is not."""


def copies(world: World) -> Counter[str]:
    """How many copies the servers stored, by Message-ID."""
    return Counter(delivery.message_id for delivery in world.deliveries())


@contextmanager
def any_mail_program(world: World, member: Member) -> Iterator[imaplib.IMAP4_SSL]:
    at = world.sandbox.address
    context = ssl.create_default_context(cafile=str(at.ca_file))
    with imaplib.IMAP4_SSL(at.host, at.imaps_port, ssl_context=context) as client:
        client.login(member.address, PASSWORD)
        yield client


def lay_in(world: World, member: Member, raw: bytes, folder: str = "INBOX") -> None:
    """Put a message into a mailbox, as a server does with one that came from anywhere."""
    with any_mail_program(world, member) as client:
        assert client.append(folder, "", imaplib.Time2Internaldate(world.clock.now()), raw)[0] == "OK"


def lines(*written: str) -> bytes:
    return "".join(f"{line}\r\n" for line in written).encode()


def strangers(world: World) -> dict[str, Any]:
    """What no received mail may change: who may send, who is suppressed, and how much is planned."""
    return {
        "senders": [row["state"] for row in world.rows("select state from ops.senders order by id")],
        "bots": [row["status"] for row in world.rows("select status from ops.bots order by id")],
        "suppressions": world.value("select count(*) from ops.suppressions"),
        "slots": world.value("select count(*) from ops.scheduled_tasks"),
    }


# Answers that machines give


def automatic_answers(to: Member, original: bytes, message_id: str) -> dict[str, bytes]:
    """What comes back of a mail without anybody having read it; ``original`` is its header."""
    about = (f"To: {to.address}", f"In-Reply-To: {message_id}", f"References: {message_id}", "MIME-Version: 1.0")
    report = (
        *about,
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"',
        "",
        "--b",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; mx.test",
        "",
        f"Final-Recipient: rfc822; {to.address}",
        "Action: failed",
        "Status: 5.4.6",
        "Diagnostic-Code: smtp; 550 5.4.6 Loop detected",
        "",
        "--b",
        "Content-Type: text/rfc822-headers",
        "",
    )
    return {
        "an out-of-office note": lines(
            *about, "From: away@else.test", "Auto-Submitted: auto-replied", "Message-ID: <away@else.test>",
            "Subject: Out of office", "", "I am away and will not read: please do not unsubscribe me.",
        ),
        "an acknowledgement of a no-reply address": lines(
            *about, "From: no-reply@else.test", "Auto-Submitted: auto-generated", "Message-ID: <ack@else.test>",
            "Subject: We have received your message", "", "Do not answer.",
        ),
        "a bounce": b"".join(
            [
                lines("Return-Path: <>", "From: mailer-daemon@else.test", "Message-ID: <bounce@else.test>", *report),
                original,
                lines("--b--"),
            ]
        ),
        "a bounce of a bounce": b"".join(
            [
                lines("Return-Path: <>", "From: mailer-daemon@x.test", "Subject: Loop detected", *report),
                lines("Return-Path: <>", "Message-ID: <bounce@else.test>", "Subject: Undeliverable"),
                original,
                lines("--b--"),
            ]
        ),
        "a copy that a mailing list passed on": lines(
            *about, "From: list@else.test", "Precedence: list", "List-Id: <list.else.test>",
            "List-Unsubscribe: <mailto:leave@else.test>", "Message-ID: <list@else.test>", "Subject: Re: soup", "", "x",
        ),
    }  # fmt: skip


ANSWERS = {
    "an out-of-office note": "out_of_office",
    "an acknowledgement of a no-reply address": "auto_reply",
    "a bounce": "bounce",
    "a bounce of a bounce": "bounce",
    "a copy that a mailing list passed on": "other",
}


@pytest.mark.parametrize("has_token", [False, True], ids=["", "with our own token"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_machine_answers_is_never_answered_and_never_makes_us_send_again(
    database: Engine, sandbox: Sandbox, kind: str, has_token: bool
) -> None:
    """B-B4, B-B8, cases 20, 21 and 23: into both mailboxes, where every genuine mail would be answered."""
    world = a_world(database, sandbox, 1, 1, a_policy(), checks=False)
    world.slot()
    world.talk(6)
    ours = world.raw_mailbox(world.bots[0])[0]
    original = lines(*(f"{name}: {value}" for name, value in ours.items()))
    marks = lines(f"{TOKEN_HEADER}: {ours[TOKEN_HEADER]}", f"{WARMUP_HEADER}: {WARMUP_LABEL}") if has_token else b""
    before, sent = strangers(world), copies(world)
    assert sent.total() == 3

    for member in (world.senders[0], world.bots[0]):
        lay_in(world, member, marks + automatic_answers(member, original, ours["Message-ID"])[kind])
    assert world.read() == ({"rejected": 2} if has_token else {f"came_{ANSWERS[kind]}": 2})
    for _ in range(4):
        world.clock.sleep(1800)
        world.dispatch()
        reconcile.run(database, clock=world.clock, settings=world.settings)
        assert world.read() == {}
    assert copies(world) == sent
    assert strangers(world) == before


OUT_OF_OFFICE = {
    "a note": ("Content-Type: text/plain", "", "I am away."),
    "a note in the form of a report": (
        'Content-Type: multipart/report; report-type=disposition-notification; boundary="b"',
        "", "--b", "Content-Type: message/disposition-notification", "",
        "Final-Recipient: rfc822; lead@customer.test", "Original-Message-ID: {id}",
        "Disposition: automatic-action/MDN-sent-automatically; deleted", "",
        "--b", "Content-Type: text/rfc822-headers", "", "Message-ID: {id}", "", "--b--",
    ),
    "a notice of delay": (
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"',
        "", "--b", "Content-Type: message/delivery-status", "", "Reporting-MTA: dns; mx.test", "",
        "Final-Recipient: rfc822; lead@customer.test", "Action: delayed", "Status: 4.4.1", "",
        "--b", "Content-Type: text/rfc822-headers", "", "Message-ID: {id}", "", "--b--",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUT_OF_OFFICE)
def test_an_automatic_note_about_a_mail_in_doubt_is_no_bounce_of_it(
    database: Engine, sandbox: Sandbox, kind: str
) -> None:
    """Q-F5, E-B6, case 23: it neither fails nor is it sent again; it is in doubt until a person decides."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    world.cold_slot("lead@customer.test")
    (slot,) = world.claim()
    with database.begin() as connection:
        pre_send.submit(connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED)
        assert slot_store.finish(connection, [End(slot, "uncertain", "no answer")]) == {slot.id}
    written = [line.replace("{id}", slot.message_id) for line in OUT_OF_OFFICE[kind]]
    heads = ("From: lead@customer.test", "Auto-Submitted: auto-replied", f"In-Reply-To: {slot.message_id}")
    lay_in(world, world.senders[0], lines(*heads, "MIME-Version: 1.0", *written))

    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    report = reconcile.run(database, clock=world.clock, settings=world.settings)
    assert (report.ends, report.waiting) == ({"unresolved": 1}, {})
    assert world.dispatch() == {}
    assert world.statuses() == {"uncertain": 1}


@pytest.mark.parametrize("bot", ["reject1", "full1", "grey1", "busy1", "spam1", "drop1"])
def test_an_address_that_the_server_refuses_for_good_is_not_chosen_again(
    database: Engine, sandbox: Sandbox, bot: str
) -> None:
    """Towards C-B7, case 33: not by the mailbox whose server refused it; for others one server's word changes nothing.

    A full mailbox, a busy server or a lost line is no refusal for good.
    """
    world = a_world(database, sandbox, 1, [bot, "bot2", "bot3", "bot4"], a_policy(**SILENT), checks=False)
    world.slot()
    world.dispatch()
    assert world.value("select status from ops.bots where id = :id", id=world.bots[0].id) == "active"
    refused = [row["recipient"] for row in world.rows("select recipient from ops.recipient_refusals")]
    assert refused == ([world.bots[0].address] if bot == "reject1" else [])
    if not refused:
        return
    asked = len(world.events("attempt"))
    planned = 0
    for _ in range(3):
        world.clock.advance(timedelta(days=1))
        planned += world.plan().slots
        for _ in range(3):
            world.dispatch()
            world.clock.sleep(20)
    tried = [event["bot_id"] for event in world.events("attempt")[asked:]]
    assert len(tried) == planned > 0
    assert world.bots[0].id not in tried


# Reading


PLACES = [*(("record_event", number) for number in range(6)), ("record_acted", 0), ("mark_seen", 0)]


@pytest.mark.parametrize(("place", "number"), PLACES)
def test_a_reader_that_dies_at_any_mail_again_and_again_takes_each_in_once(
    database: Engine, sandbox: Sandbox, place: str, number: int
) -> None:
    """B-B8, I6, case 34: three runs die at the same place, a fourth gets through, a fifth finds nothing."""
    world = a_world(database, sandbox, 3, 1, a_policy(bots={"daily_reply_cap": 20}), checks=False)
    for sender in world.senders:
        world.slot(sender, gap_s=0)
    assert world.dispatch() == {"sent": 3}
    owner: Any = ImapReader if place == "mark_seen" else event_log
    real = getattr(owner, place)

    for _ in range(3):
        calls_left = number

        def until_the_cut(*arguments: Any, **named: Any) -> Any:
            nonlocal calls_left
            if calls_left == 0:
                raise PowerCut
            calls_left -= 1
            return real(*arguments, **named)

        with patch.object(owner, place, until_the_cut), pytest.raises(PowerCut):
            world.read()
    world.read()
    assert world.read() == {}
    assert len(world.events("placed_inbox")) == len(world.events("replied")) == 3

    for _ in range(4):
        world.clock.sleep(20)
        world.dispatch()
    assert sorted(copies(world).values()) == [1] * 6
    assert len({row["parent_slot_id"] for row in world.rows("select parent_slot_id from ops.scheduled_tasks")}) == 4


def test_a_folder_that_was_made_anew_is_read_from_its_first_mail_on(database: Engine, sandbox: Sandbox) -> None:
    """E-B3, case 35: its numbers start over, below those that were read, under another UIDVALIDITY."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    bot = world.bots[0]
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 100)
    for number in range(3):
        world.slot(gap_s=0, target_time=NOON + timedelta(milliseconds=number))
    assert world.dispatch() == {"sent": 3}
    assert world.read() == {"junk": 3, "rescued": 3}
    known = world.row("select * from ops.imap_cursors where folder = 'Junk' and mailbox_id = :id", id=bot.mailbox_id)

    with any_mail_program(world, bot) as client:
        assert client.delete("Junk")[0] == "OK"
    world.clock.sleep(60)
    world.slot(gap_s=0)
    assert world.dispatch() == {"sent": 1}
    (new,) = world.mailbox(bot, "Junk")
    assert new.uid < known["next_uid"]

    assert world.read() == {"junk": 1, "rescued": 1}
    assert world.read() == {}
    assert len(world.events("placed_junk")) == len(world.events("rescued")) == 4


def test_a_mail_without_a_message_id_is_judged_once_and_hides_no_other(database: Engine, sandbox: Sandbox) -> None:
    """B-B4, E-B3, case 35: however often its folder is read from the start."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    bot = world.bots[0]
    world.slot()
    assert world.dispatch() == {"sent": 1}
    (ours,) = world.raw_mailbox(bot)
    for subject in ("one", "two"):
        lay_in(world, bot, lines(f"{TOKEN_HEADER}: {ours[TOKEN_HEADER]}", f"Subject: {subject}", "", "x"))
    lay_in(world, bot, lines("Subject: nothing of ours", "", "x"))

    assert world.read() == {"inbox": 1, "rejected": 2}
    for _ in range(2):
        world.change("delete from ops.imap_cursors")
        assert world.read() == {}
    assert len(world.events("token_rejected")) == 2


def test_pages_full_of_other_peoples_mail_do_not_end_the_reading(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B3, case 12: a page of which nothing is ours is not the last page."""
    monkeypatch.setattr(imap, "MESSAGES_PER_CALL", 2)
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    bot = world.bots[0]
    assert world.read() == {}
    for number in range(5):
        lay_in(world, bot, lines(f"Message-ID: <{number}@else.test>", "Subject: not ours", "", "x"))
    world.slot()
    assert world.dispatch() == {"sent": 1}

    monkeypatch.setattr(mailbox_reading, "_PORTIONS", 1)
    found = [world.read() for _ in range(4)]
    assert found == [{"came_other": 5}, {}, {"inbox": 1}, {}]


def test_a_forwarded_mail_that_comes_back_to_its_sender_starts_no_loop(database: Engine, sandbox: Sandbox) -> None:
    """B-B4, case 20: a rule of the bot's owner sends everything back, with every header and one more Received."""
    world = a_world(database, sandbox, 1, 1, a_policy(), checks=False)
    sender, bot = world.senders[0], world.bots[0]
    world.slot()
    passed_on = 0
    for _ in range(6):
        world.dispatch()
        for mail in world.raw_mailbox(bot)[passed_on:]:
            hop = lines("Received: from bots.test by senders.test; Mon, 2 Jun 2025 12:00:00 +0000")
            lay_in(world, sender, hop + mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998)))
            passed_on += 1
        world.read()
        world.clock.sleep(30)
    assert passed_on == 2
    assert sorted(copies(world).values()) == [1, 1, 1]
    assert {event["details"]["reason"] for event in world.events("token_rejected")} == {"unknown"}
    assert len(world.events("token_rejected")) == 2
