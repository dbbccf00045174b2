"""Uncertain mails against the real mail sandbox: every kind of evidence, every doubt, and everybody at once."""

from __future__ import annotations

import imaplib
import ssl
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from threading import Barrier
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, RowMapping, text
from sqlalchemy.exc import OperationalError

from emberflow.bots.policy import Rests
from emberflow.domain.attempt import Attempt
from emberflow.domain.slot import Slot
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.tokens import sign
from emberflow.errors import EmberflowError
from emberflow.queue_manager import event_log, pre_send, slot_store
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.receiving.mail_search import Finding, MailSearch
from emberflow.queue_manager.receiving.reconcile import ReconcileReport
from emberflow.queue_manager.sending import dispatcher
from emberflow.sandbox import create_accounts
from tests.worlds import PASSWORD, SEED, Member, Sandbox, World, a_policy, a_world

Counted = tuple[int, int, int]


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """Two senders and three bots; of each bot's name, the sandbox makes what ``sandbox.faults`` says."""
    return a_world(database, sandbox, 2, ["ann", "lost1", "drop1"], a_policy_with(), checks=False)


def a_policy_with(**dispatch: Any) -> Any:
    """Attempts are few, and retries do not wait long."""
    return a_policy(dispatch={"shards": 1, "maximum_attempts": 2, "retry_s": 1} | dispatch)


def a_policy_within(run_s: int) -> Any:
    return a_policy(dispatch={"shards": 1}, reconcile={"run_s": run_s})


def settled(world: World) -> ReconcileReport:
    """Let the settle time pass and reconcile."""
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    return run(world)


def run(world: World, **options: Any) -> ReconcileReport:
    return reconcile.run(world.engine, clock=world.clock, settings=world.settings, **options)


def said_not_sent(world: World, slot_id: int) -> str:
    """Settle a slot as `queue settle --not-sent` does."""
    with world.engine.begin() as connection:
        return reconcile.settle(
            connection, slot_id, is_sent=False, by="eva", why="asked", now=world.clock.now(), policy=world.policy
        )


def an_uncertain(world: World, sender: Member | None = None, bot: Member | None = None, **changes: Any) -> Slot:
    """A slot whose worker died after the pre-send check; nothing was transmitted unless the test does it."""
    return left_in_doubt(world, world.slot(sender, bot, gap_s=0, **changes))


def left_in_doubt(world: World, slot_id: int) -> Slot:
    (slot,) = (slot for slot in world.claim() if slot.id == slot_id)
    with world.engine.begin() as connection:
        said = pre_send.submit(connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED)
    assert said[slot.id].refusal is None
    world.change(
        "update ops.slot_states set status = 'uncertain', lease_token = null, lease_until = null where slot_id = :id",
        id=slot.id,
    )
    return slot


def a_cold_uncertain(world: World) -> Slot:
    return left_in_doubt(world, world.cold_slot("lead@customer.example", gap_s=0))


def a_message(world: World, slot: Slot, **changes: Any) -> bytes:
    """The mail of ``slot``, as its worker would have built it."""
    assert slot.bot_id is not None
    values: dict[str, Any] = {
        "message_id": slot.message_id,
        "from_address": world.senders[0].address,
        "from_name": "Ann",
        "to_address": world.bots[0].address,
        "subject": "Soup",
        "body": "Hello\n",
        "date": slot.target_time,
        "in_reply_to": None,
        "references": (),
        "token": sign(world.settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id, slot.turn),
        "auto_reply": False,
    }
    return build(OutgoingMessage(**(values | changes)))


def a_notification(message_id: str) -> bytes:
    return (
        "From: postmaster@elsewhere.example\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n"
        "Final-Recipient: rfc822; x@y.test\r\nAction: failed\r\nStatus: 5.2.2\r\n\r\n"
        f"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {message_id}\r\n\r\n--b--\r\n"
    ).encode()


@contextmanager
def any_mail_program(world: World, member: Member) -> Any:
    at = world.sandbox.address
    context = ssl.create_default_context(cafile=str(at.ca_file))
    with imaplib.IMAP4_SSL(at.host, at.imaps_port, ssl_context=context) as client:
        client.login(member.address, PASSWORD)
        yield client


def file_under_sent(world: World, message: bytes) -> None:
    """As providers do with what they accept for submission."""
    with any_mail_program(world, world.senders[0]) as client:
        assert client.append("Sent", "", imaplib.Time2Internaldate(world.clock.now()), message)[0] == "OK"


def move(world: World, member: Member, source: str, target: str) -> None:
    with any_mail_program(world, member) as client:
        client.create(f'"{target}"')
    with ImapReader(world.access(member), "sandbox", world.settings.ca_files) as reader:
        uids = [message.uid for message in reader.new_messages(source, None)[0]]
        reader.move(uids, target)


def the_slot(world: World, slot: Slot | int) -> RowMapping:
    number = slot if isinstance(slot, int) else slot.id
    return world.row("select * from ops.slots where id = :id", id=number)


def the_state(world: World, slot: Slot | int) -> RowMapping:
    number = slot if isinstance(slot, int) else slot.id
    return world.row("select * from ops.slot_states where slot_id = :id", id=number)


def counted(world: World) -> Counted:
    """What today's counters hold: the sender's warm-up, the bots' inbound, everything in 24 hours."""
    return (
        world.value("select coalesce(sum(warmup_sent), 0) from ops.sender_days"),
        world.value("select coalesce(sum(inbound_sent), 0) from ops.bot_days"),
        world.value(
            "select coalesce(sum(sent), 0) from ops.send_counters, unnest(per_hour) as sent where scope = 'all'"
        ),
    )


# Found


def test_a_mail_that_was_stored_before_its_answer_was_lost_is_sent_with_all_that_follows(world: World) -> None:
    """Q-F5"""
    slot_id = world.slot(bot=world.bots[1])
    assert world.dispatch() == {"uncertain": 1}
    before = counted(world)

    assert settled(world) == ReconcileReport(Counter({"sent": 1}), {})

    slot = the_slot(world, slot_id)
    assert (slot["status"], slot["sent_at"]) == ("sent", slot["submitted_at"])
    assert slot["reason"] == "found in INBOX of its recipient"
    (sent,), (reconciled,) = world.events("sent"), world.events("reconciled")
    assert sent["occurred_at"] == slot["submitted_at"]
    assert reconciled["details"] == {"found": "present", "by": "reconcile", "where": "in INBOX of its recipient"}
    conversation = world.row("select * from ops.conversations")
    assert (conversation["id"], conversation["subject"]) == (
        slot["conversation_id"],
        world.mailbox(world.bots[1])[0].subject,
    )
    assert world.value("select sent_count from ops.bot_sender_interactions") == 1
    assert counted(world) == before == (1, 1, 1)
    assert world.read() == {"inbox": 1, "replies": 1}


@pytest.mark.parametrize("folder", ["Junk", "Archive", "Trash", "Somebody's own"])
def test_a_mail_is_found_wherever_filters_and_people_have_moved_it(world: World, folder: str) -> None:
    """Q-F5"""
    slot = an_uncertain(world)
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))
    move(world, world.bots[0], "INBOX", folder)

    assert settled(world).ends == {"sent": 1}
    assert the_slot(world, slot)["reason"] == f"found in {folder} of its recipient"


def test_a_mail_is_found_when_its_provider_wrote_another_message_id(world: World) -> None:
    """Q-F5: sending it again would be a second copy."""
    slot = an_uncertain(world)
    world.submit(world.senders[0], world.bots[0], a_message(world, slot, message_id="<rewritten@provider.example>"))

    assert settled(world).ends == {"sent": 1}


def test_a_mail_that_moves_while_it_is_looked_for_is_found(world: World) -> None:
    """Q-F5: from a folder that is searched later into one that was searched already."""
    slot = an_uncertain(world)
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))
    move(world, world.bots[0], "INBOX", "Trash")
    search = ImapReader.find_by_message_id

    def somebody_moves_it(reader: ImapReader, message_ids: Any, folder: str) -> Any:
        found = search(reader, message_ids, folder)
        if folder == "INBOX" and world.mailbox(world.bots[0], "Trash"):
            move(world, world.bots[0], "Trash", "INBOX")
        return found

    with patch.object(ImapReader, "find_by_message_id", somebody_moves_it):
        assert settled(world).ends == {"sent": 1}


def test_a_mail_that_a_zombie_sent_late_is_found_and_not_sent_again(world: World) -> None:
    """Q-F5: the recipient's copy decides, whatever the worker could not say any more."""
    slot = an_uncertain(world)
    world.clock.advance(timedelta(seconds=world.policy.dispatch.write_within_s))
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))

    assert settled(world).ends == {"sent": 1}
    assert world.dispatch() == {}
    assert len(world.deliveries()) == 1


def test_a_copy_under_sent_says_that_the_sending_server_took_it(world: World) -> None:
    """Q-F5: it may still be under way; it is not absent."""
    slot = an_uncertain(world)
    file_under_sent(world, a_message(world, slot))

    assert settled(world).ends == {"sent": 1}
    assert the_slot(world, slot)["reason"] == "found in Sent of its sender"


# Found nowhere


def test_a_mail_that_is_found_nowhere_is_unresolved_and_neither_sent_again_nor_uncounted(world: World) -> None:
    """Q-F5: absence of evidence is no proof that it did not leave."""
    slot_id = world.slot(bot=world.bots[2])
    assert world.dispatch() == {"uncertain": 1}

    assert settled(world) == ReconcileReport(Counter({"unresolved": 1}), {})

    assert the_slot(world, slot_id)["status"] == "uncertain"
    state = the_state(world, slot_id)
    where = "INBOX, Junk, Sent of its sender, INBOX, Archive, Drafts, Junk, Sent, Trash of its recipient"
    assert state["reason"] == f"unresolved, it is neither sent again nor uncounted: looked for in {where}"
    assert state["unresolved_at"] == world.clock.now()
    assert counted(world) == (1, 1, 1)
    (reconciled,) = world.events("reconciled")
    assert reconciled["details"] == {"found": "nowhere", "by": "reconcile", "where": where}
    assert world.dispatch() == {}
    assert (world.deliveries(), world.events("sent")) == ([], [])


def test_an_unresolved_mail_is_looked_for_with_growing_pauses_and_no_more_after_the_look_back(world: World) -> None:
    """Q-F5: after five days no server tries any more."""
    slot = an_uncertain(world)
    submitted_at = the_slot(world, slot)["submitted_at"]
    assert settled(world).ends == {"unresolved": 1}
    looked = []
    for _ in range(24 * 7):
        world.clock.advance(timedelta(hours=1))
        if run(world) == ReconcileReport(Counter({"not_found_again": 1}), {}):
            looked.append((world.clock.now() - submitted_at) / timedelta(hours=1))

    assert looked == sorted(looked)
    assert 6 <= len(looked) <= 12
    assert 120 <= looked[-1] <= 122
    pauses = [later - earlier for earlier, later in pairwise(looked[:-1])]
    assert pauses == sorted(pauses)
    assert the_state(world, slot)["look_again_at"] is None
    assert len(world.events("reconciled")) == 1
    # A person can have it looked for all the same.
    assert run(world, is_asked_for=True).ends == {"not_found_again": 1}


def in_the_inbox(world: World, slot: Slot) -> None:
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))


def under_sent(world: World, slot: Slot) -> None:
    file_under_sent(world, a_message(world, slot))


def as_a_bounce(world: World, slot: Slot) -> None:
    world.submit(world.bots[0], world.senders[0], a_notification(slot.message_id))


@pytest.mark.parametrize(("appear", "status"), [(in_the_inbox, "sent"), (under_sent, "sent"), (as_a_bounce, "failed")])
def test_what_appears_late_settles_an_unresolved_mail(world: World, appear: Any, status: str) -> None:
    """Q-F5: a server may have held it."""
    slot = an_uncertain(world)
    assert settled(world).ends == {"unresolved": 1}
    appear(world, slot)
    assert run(world) == ReconcileReport()  # not at every run
    world.clock.advance(timedelta(hours=2))

    assert run(world).ends == {status: 1}
    state = the_state(world, slot)
    assert (state["status"], state["unresolved_at"], state["look_again_at"]) == (status, None, None)
    assert counted(world) == (1, 1, 1)


def test_the_inbox_reader_settles_an_unresolved_mail_however_late_it_comes(world: World) -> None:
    """Q-F5: and it is answered like any other."""
    slot = an_uncertain(world)
    assert settled(world).ends == {"unresolved": 1}
    world.clock.advance(timedelta(seconds=2 * world.policy.reconcile.look_back_s))
    in_the_inbox(world, slot)

    assert world.read() == {"inbox": 1, "replies": 1, "resolved": 1}
    assert the_slot(world, slot)["status"] == "sent"


@pytest.fixture
def talk(database: Engine, sandbox: Sandbox) -> World:
    """A bot's reply to a sender whose server takes mail without answering is in doubt."""
    world = a_world(database, sandbox, ["drop1"], ["ann"], a_policy_with(), checks=False)
    world.slot()
    world.talk(1)
    world.clock.advance(timedelta(seconds=60))
    assert world.dispatch() == {"uncertain": 1}
    assert settled(world).ends == {"unresolved": 1}
    return world


def test_nothing_waits_for_an_unresolved_reply(talk: World) -> None:
    """Q-F5: its conversation is over; the reply stays counted."""
    assert talk.row("select thread_status, next_action_time from ops.conversations") == {
        "thread_status": "closed",
        "next_action_time": None,
    }
    assert talk.value("select sum(reply_sent) from ops.bot_days") == 1


def test_a_conversation_goes_on_when_its_unresolved_reply_is_found(talk: World) -> None:
    """Q-F5"""
    reply = Slot.of({**talk.row("select * from ops.slots where turn = 2"), "lease_token": ""})
    copy = a_message(talk, reply, from_address=talk.bots[0].address, to_address=talk.senders[0].address)
    with any_mail_program(talk, talk.senders[0]) as client:
        assert client.append("INBOX", "", imaplib.Time2Internaldate(talk.clock.now()), copy)[0] == "OK"
    talk.clock.advance(timedelta(hours=2))

    assert run(talk).ends == {"sent": 1}
    conversation = talk.row("select thread_status, turn from ops.conversations")
    assert conversation == {"thread_status": "awaiting_reply", "turn": 2}


def test_a_conversation_waits_again_for_a_reply_that_a_person_found_not_sent(talk: World) -> None:
    """Q-F5, Q-B8: it is owed however late it is, until its attempts are used up."""
    (slot_id,) = (row["id"] for row in talk.rows("select id from ops.slots where status = 'uncertain'"))
    talk.clock.advance(timedelta(seconds=talk.policy.queue.overdue_s))
    assert said_not_sent(talk, slot_id) == "planned"
    assert talk.value("select sum(reply_sent) from ops.bot_days") == 0
    assert talk.value("select thread_status from ops.conversations") == "reply_scheduled"

    dispatcher.due_shards(talk.engine, clock=talk.clock)  # spreads what is overdue
    talk.clock.advance(timedelta(seconds=talk.policy.queue.spread_s))
    assert talk.dispatch() == {"uncertain": 1}
    assert said_not_sent(talk, slot_id) == "failed"
    assert the_slot(talk, slot_id)["reason"] == "not sent in 2 attempts"
    assert talk.value("select thread_status from ops.conversations") == "closed"


def test_a_warmup_mail_that_is_overdue_when_a_person_found_it_not_sent_expires(world: World) -> None:
    """Q-B8: the next plan makes up for it."""
    slot = an_uncertain(world)
    world.clock.advance(timedelta(seconds=world.policy.queue.overdue_s + 1))

    assert said_not_sent(world, slot.id) == "expired"
    assert counted(world) == (0, 0, 0)


def test_a_copy_of_another_slot_or_with_a_forged_token_is_no_evidence(world: World) -> None:
    """Q-F5, B-B4"""
    slot = an_uncertain(world)
    other = replace(slot, id=slot.id + 1000)
    for token in (
        sign([SecretStr("another key")], slot.id, slot.sender_id, slot.bot_id or 0, slot.turn),
        sign(world.settings.require_token_keys(), other.id, other.sender_id, other.bot_id or 0, other.turn),
    ):
        copy = a_message(world, slot, message_id="<made.by.hand@senders.test>", token=token)
        world.submit(world.senders[0], world.bots[0], copy)

    assert settled(world).ends == {"unresolved": 1}


# The server's own answer, heard too late


def heard_too_late(world: World, slot: Slot, outcome: Any, *, stage: Any = "eod", code: int | None = 451) -> None:
    """What a worker records that had its answer when its lease had lapsed (see the dispatcher)."""
    attempt = Attempt(outcome, stage, "message", code, None, "4.3.0 said the server")
    now = world.clock.now()
    with world.engine.begin() as connection:
        event_log.record(
            connection, tried=[event_log.Tried(slot, attempt, now)], fenced=[event_log.Late(slot, now)], rests=Rests(0)
        )


@pytest.mark.parametrize("outcome", ["transient", "permanent"])
def test_a_refusal_that_was_heard_too_late_proves_that_the_mail_was_not_taken(world: World, outcome: str) -> None:
    """Q-F5: it is uncounted, and planned again until its attempts are used up."""
    slot = an_uncertain(world)
    heard_too_late(world, slot, outcome)

    assert settled(world).ends == {"planned": 1}
    assert counted(world) == (0, 0, 0)
    (reconciled,) = world.events("reconciled")
    assert reconciled["details"] == {"found": "not_sent", "by": "reconcile", "answer": "451 4.3.0 said the server"}


def test_an_acknowledgement_that_was_heard_too_late_proves_that_it_was_taken(world: World) -> None:
    """Q-F5: even if it is nowhere to be seen."""
    slot = an_uncertain(world)
    heard_too_late(world, slot, "sent", code=250)

    assert settled(world).ends == {"sent": 1}
    assert the_slot(world, slot)["reason"] == "the server had answered: 250 4.3.0 said the server"
    assert counted(world) == (1, 1, 1)


def test_what_lies_in_a_mailbox_outweighs_what_a_server_said(world: World) -> None:
    """Q-F5: some refuse a mail and deliver it all the same."""
    slot = an_uncertain(world)
    heard_too_late(world, slot, "permanent")
    in_the_inbox(world, slot)

    assert settled(world).ends == {"sent": 1}


@pytest.mark.parametrize(
    "heard",
    [
        {"outcome": "uncertain"},
        {"outcome": "transient", "stage": "rcpt"},  # another worker's, whose claim lapsed before DATA
        {"outcome": "transient", "attempts": 1},
    ],
)
def test_an_answer_to_another_attempt_or_none_at_all_proves_nothing(world: World, heard: dict[str, Any]) -> None:
    slot = an_uncertain(world)
    earlier = replace(slot, attempts=heard.get("attempts", 0))
    heard_too_late(world, earlier, heard["outcome"], stage=heard.get("stage", "eod"))

    assert settled(world).ends == {"unresolved": 1}


# Returned


def test_a_mail_that_came_back_has_failed_and_stays_counted(world: World) -> None:
    """Q-F5, case 33: it did leave."""
    slot = an_uncertain(world)
    world.submit(world.bots[0], world.senders[0], a_notification(slot.message_id))

    assert settled(world).ends == {"failed": 1}
    assert the_slot(world, slot)["reason"] == "returned: 5.2.2"
    assert counted(world) == (1, 1, 1)
    (reconciled,) = world.events("reconciled")
    assert reconciled["details"] == {"found": "returned", "by": "reconcile", "why": "5.2.2"}


def test_a_bounce_of_a_mail_that_its_provider_renamed_is_known_by_its_token(world: World) -> None:
    """Q-F5"""
    slot = an_uncertain(world)
    token = sign(world.settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id or 0, slot.turn)
    bounce = a_notification("<rewritten@provider.example>").replace(
        b"\r\n\r\n--b--", f"\r\nX-Emberflow-Token: {token}\r\n\r\n--b--".encode()
    )
    world.submit(world.bots[0], world.senders[0], bounce)

    assert settled(world).ends == {"failed": 1}


def test_a_bounce_with_a_forged_token_is_no_evidence(world: World) -> None:
    """B-B4: a stranger can write to the sender's mailbox, but knows none of our secrets."""
    slot = an_uncertain(world)
    forged = sign([SecretStr("another key")], slot.id, slot.sender_id, slot.bot_id or 0, slot.turn)
    bounce = a_notification("<made.by.hand@senders.test>").replace(
        b"\r\n\r\n--b--", f"\r\nX-Emberflow-Token: {forged}\r\n\r\n--b--".encode()
    )
    world.submit(world.bots[0], world.senders[0], bounce)

    assert settled(world).ends == {"unresolved": 1}


def test_a_notification_about_another_mail_is_no_evidence(world: World) -> None:
    """case 33: a bounce says something about the mail that it names, and of no other."""
    an_uncertain(world)
    world.submit(world.bots[0], world.senders[0], a_notification("<another@senders.test>"))

    assert settled(world).ends == {"unresolved": 1}


# Cold mail


def test_a_cold_mail_is_found_under_sent(world: World) -> None:
    """Q-F5"""
    slot = a_cold_uncertain(world)
    file_under_sent(world, f"Message-ID: {slot.message_id}\r\n\r\nhi\r\n".encode())

    assert settled(world).ends == {"sent": 1}
    assert len(world.events("sent")) == 1
    assert world.row("select bot_id, to_address, root_message_id from ops.conversations") == {
        "bot_id": None, "to_address": "lead@customer.example", "root_message_id": slot.message_id,
    }  # fmt: skip


def test_a_cold_mail_that_came_back_has_failed_even_if_it_lies_under_sent(world: World) -> None:
    """Q-F5"""
    slot = a_cold_uncertain(world)
    world.submit(world.bots[0], world.senders[0], a_notification(slot.message_id))
    file_under_sent(world, f"Message-ID: {slot.message_id}\r\n\r\nhi\r\n".encode())

    assert settled(world).ends == {"failed": 1}


def test_a_cold_mail_without_a_trace_waits_for_a_person(world: World) -> None:
    """Q-F5: nobody can look into a stranger's mailbox, and a second copy hurts more than a lost one."""
    slot = a_cold_uncertain(world)

    assert settled(world) == ReconcileReport(Counter({"unresolved": 1}), {})
    assert the_slot(world, slot)["status"] == "uncertain"
    assert "INBOX, Junk, Sent of its sender; its recipient's mailbox is not ours" in the_slot(world, slot)["reason"]


# Doubt


def paused(world: World) -> Any:
    world.change("update ops.bots set status = 'paused', status_reason = 'a test' where id = :id", id=world.bots[0].id)


def unchecked(world: World) -> Any:
    world.change("update ops.mailboxes set check_passed = false where id = :id", id=world.bots[0].mailbox_id)


def without_secret(world: World) -> Any:
    world.change("delete from ops.mailbox_secrets where mailbox_id = :id", id=world.bots[0].mailbox_id)


def locked_out(world: World) -> Any:
    create_accounts(world.sandbox.directory, {world.bots[0].address: "changed at the server"})


def sender_locked_out(world: World) -> Any:
    create_accounts(world.sandbox.directory, {world.senders[0].address: "changed at the server"})


def unreachable(world: World) -> Any:
    world.change("update ops.mailboxes set imap_port = 1 where id = :id", id=world.bots[0].mailbox_id)


def with_a_folder_that_cannot_be_read(world: World) -> Any:
    select = ImapReader.select

    def refusing(reader: ImapReader, folder: str) -> tuple[int, int]:
        if folder == "Archive":
            raise ImapError("imap_select", "NO permission denied")
        return select(reader, folder)

    return patch.object(ImapReader, "select", refusing)


def without_junk(world: World) -> Any:
    with any_mail_program(world, world.bots[0]) as client:
        assert client.delete("Junk")[0] == "OK"


DOUBTS: dict[str, tuple[Callable[[World], Any], str]] = {
    "the bot is paused": (paused, "not active"),
    "the mailbox failed its check": (unchecked, "connection check"),
    "the secret is missing": (without_secret, "secret"),
    "the password is wrong": (locked_out, "imap_auth"),
    "the sender's password is wrong": (sender_locked_out, "imap_auth"),
    "the server is away": (unreachable, "imap_connect"),
    "a folder cannot be read": (with_a_folder_that_cannot_be_read, "folder Archive cannot be read"),
    "Junk is not shown": (without_junk, "no Junk folder"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_with_any_doubt_a_slot_stays_uncertain_and_says_why(world: World, doubt: str) -> None:
    """Q-F5: what was not looked for everywhere waits."""
    make, why = DOUBTS[doubt]
    slot, other = an_uncertain(world), an_uncertain(world, world.senders[1], world.bots[1])
    disturbed = make(world)

    with disturbed or nullcontext():
        report = settled(world)

    assert why in report.waiting[slot.id]
    row = the_slot(world, slot)
    assert (row["status"], row["reason"]) == ("uncertain", f"not settled: {report.waiting[slot.id]}")
    assert PASSWORD not in row["reason"]
    assert slot.id not in {event["slot_id"] for event in world.events("reconciled")}
    assert the_state(world, slot)["unresolved_at"] is None
    # Nobody else has to wait because of it, unless the doubt is about every mailbox.
    assert (the_state(world, other)["unresolved_at"] is None) == ("folder" in doubt)


@pytest.mark.parametrize("folder", ["INBOX", "Junk"])
def test_what_was_found_before_or_after_an_unreadable_folder_is_found(world: World, folder: str) -> None:
    """Q-F5"""
    slot, missing = an_uncertain(world), an_uncertain(world)
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))
    move(world, world.bots[0], "INBOX", folder)

    with with_a_folder_that_cannot_be_read(world):
        report = settled(world)

    assert (report.ends, list(report.waiting)) == ({"sent": 1}, [missing.id])


def test_a_doubt_that_is_over_settles_the_slot(world: World) -> None:
    slot = an_uncertain(world)
    paused(world)
    in_the_inbox(world, slot)
    assert list(settled(world).waiting) == [slot.id]
    world.change("update ops.bots set status = 'active', status_reason = null")
    world.clock.advance(timedelta(hours=1))

    assert run(world).ends == {"sent": 1}


def test_evidence_at_the_sender_settles_a_mail_whose_recipient_cannot_be_asked(world: World) -> None:
    """Q-F5"""
    slot = an_uncertain(world)
    paused(world)
    as_a_bounce(world, slot)

    assert settled(world).ends == {"failed": 1}


def test_a_doubt_that_outlasts_the_look_back_is_unresolved_and_says_so(world: World) -> None:
    """Q-F5: a person is asked in the end."""
    slot = an_uncertain(world)
    paused(world)
    assert list(settled(world).waiting) == [slot.id]
    world.clock.advance(timedelta(seconds=world.policy.reconcile.look_back_s))

    assert run(world) == ReconcileReport(Counter({"unresolved": 1}), {})
    assert "never looked for everywhere: " in the_slot(world, slot)["reason"]
    assert "is not active" in the_slot(world, slot)["reason"]
    world.clock.advance(timedelta(days=30))
    assert run(world) == ReconcileReport()


def test_a_mailbox_that_raises_what_nobody_expects_costs_only_its_own_mails(world: World) -> None:
    """Q-F5"""
    slot, other = an_uncertain(world), an_uncertain(world, world.senders[1], world.bots[1])
    folders = ImapReader.folders

    def broken(reader: ImapReader) -> list[str]:
        if reader._access.address == world.bots[0].address:
            raise LookupError("nobody catches this")
        return folders(reader)

    with patch.object(ImapReader, "folders", broken):
        report = settled(world)

    assert (report.ends, list(report.waiting)) == ({"unresolved": 1}, [slot.id])
    assert the_state(world, other)["unresolved_at"] is not None


# One after another


_TASK_S = 30 * 60  # after which Airflow ends the task


class TaskTimeoutError(BaseException):
    """As Airflow raises it in the task."""


class Dripping:
    """Mailboxes whose server keeps a session busy for as long as it may last; ``seconds`` is the time by then."""

    def __init__(self, *members: Member) -> None:
        self._addresses = [member.address for member in members]
        self.seconds = 0.0
        self.sessions: list[str] = []

    @contextmanager
    def in_place(self) -> Any:
        list_folders = ImapReader.folders

        def folders(reader: ImapReader) -> list[str]:
            if reader._access.address not in self._addresses:
                return list_folders(reader)
            self.sessions.append(reader._access.address)
            self.seconds += reader._limits.seconds
            if self.seconds >= _TASK_S:
                raise TaskTimeoutError
            raise ImapError("imap_command", "the session took too long", transient=True, is_lost=True)

        with (
            patch.object(ImapReader, "folders", folders),
            patch("emberflow.queue_manager.receiving.mail_search.monotonic", lambda: self.seconds),
        ):
            yield


def test_mailboxes_that_drip_do_not_keep_anothers_mail_from_being_settled(database: Engine, sandbox: Sandbox) -> None:
    """In the same run, and before the task is ended from outside."""
    world = a_world(database, sandbox, 1, 7, a_policy_with(), checks=False)
    slots = [an_uncertain(world, bot=bot) for bot in world.bots]
    world.submit(world.senders[0], world.bots[4], a_message(world, slots[4], to_address=world.bots[4].address))

    with Dripping(*world.bots[:4], *world.bots[5:]).in_place():
        report = settled(world)

    assert (report.ends, report.not_reached) == ({"sent": 1}, [])
    assert list(report.waiting) == [slot.id for slot in slots if slot != slots[4]]


def test_a_mail_is_settled_before_the_next_mailbox_is_searched(world: World) -> None:
    """A run that is ended from outside has settled what it came to."""
    slot = an_uncertain(world)
    an_uncertain(world, world.senders[1], world.bots[1])
    in_the_inbox(world, slot)
    list_folders = ImapReader.folders

    def stopped(reader: ImapReader) -> list[str]:
        if reader._access.address == world.bots[1].address:
            raise TaskTimeoutError
        return list_folders(reader)

    with patch.object(ImapReader, "folders", stopped), pytest.raises(TaskTimeoutError):
        settled(world)

    assert the_slot(world, slot)["status"] == "sent"


def test_mails_that_were_not_reached_in_time_come_first_the_next_time(database: Engine, sandbox: Sandbox) -> None:
    """Whatever the mailboxes before them do, everyone's turn comes."""
    world = a_world(database, sandbox, 1, 3, a_policy_within(30))
    slots = [an_uncertain(world, bot=bot) for bot in world.bots]
    world.submit(world.senders[0], world.bots[2], a_message(world, slots[2]))
    dripping = Dripping(*world.bots[:2])

    with dripping.in_place():
        reports = [settled(world), run(world), run(world)]

    assert dripping.sessions == [bot.address for bot in world.bots[:2]]
    assert [list(report.waiting) for report in reports] == [[slots[0].id], [slots[1].id], []]
    assert [report.not_reached for report in reports] == [
        [world.bots[1].address, world.bots[2].address],
        [world.bots[2].address],
        [],
    ]
    assert [report.ends for report in reports] == [{}, {}, {"sent": 1}]
    assert "its sender's mailbox was not reached in time" in the_slot(world, slots[0])["reason"]


def test_a_person_who_asks_has_all_mails_looked_for_however_long_it_takes(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, 1, 2, a_policy_within(30))
    slots = [an_uncertain(world, bot=bot) for bot in world.bots]
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))

    with Dripping(*world.bots).in_place():
        report = run(world, is_asked_for=True)

    assert (list(report.waiting), report.not_reached) == ([slot.id for slot in slots], [])


def test_an_error_of_one_mail_in_the_database_stays_with_it(world: World) -> None:
    """It waits with the reason, nothing of it is half done, and the others are settled."""
    slot, other = an_uncertain(world), an_uncertain(world)
    in_the_inbox(world, slot)
    world.submit(world.senders[0], world.bots[0], a_message(world, other))
    world.change(
        f"create function ops.refuses() returns trigger language plpgsql as $$ begin "
        f"if new.slot_id = {slot.id} then raise exception 'this row is odd'; end if; return new; end $$"
    )
    world.change("create trigger refuses before insert on ops.mail_events for each row execute function ops.refuses()")

    report = settled(world)

    assert (report.ends, list(report.waiting)) == ({"sent": 1}, [slot.id])
    assert "this row is odd" in report.waiting[slot.id]
    row = the_slot(world, slot)
    assert (row["status"], row["reason"]) == ("uncertain", f"not settled: {report.waiting[slot.id]}"[:300])
    assert the_state(world, slot)["look_again_at"] > world.clock.now()
    assert the_slot(world, other)["status"] == "sent"


def test_a_database_that_is_away_ends_the_run(world: World) -> None:
    an_uncertain(world)
    gone = OperationalError("update", {}, RuntimeError("server closed the connection"), connection_invalidated=True)

    with patch.object(slot_store, "lock", side_effect=gone) as lock, pytest.raises(OperationalError):
        settled(world)

    assert lock.call_count == 1


# When


def test_nothing_is_looked_for_before_the_settle_time(world: World) -> None:
    """Q-F5: a server on the way may hold the mail."""
    an_uncertain(world)
    world.clock.advance(reconcile.settle_time(world.policy) - timedelta(seconds=1))
    assert run(world) == ReconcileReport()
    assert run(world, is_asked_for=True) == ReconcileReport()


def test_a_mail_that_nobody_looked_for_in_all_the_look_back_is_looked_for_once(world: World) -> None:
    """Q-F5: reconciling may have been off for long."""
    slot, found = an_uncertain(world), an_uncertain(world)
    in_the_inbox(world, found)
    world.clock.advance(timedelta(seconds=2 * world.policy.reconcile.look_back_s))

    assert run(world).ends == {"unresolved": 1, "sent": 1}
    assert the_state(world, slot)["look_again_at"] is None


def test_every_uncertain_slot_belongs_to_one_shard_and_only_shards_with_one_are_due(world: World) -> None:
    slots = [an_uncertain(world, bot=bot) for bot in world.bots] + [a_cold_uncertain(world)]
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    with world.engine.connect() as connection:
        due = reconcile.due_shards(connection, now=world.clock.now(), policy=world.policy, shards=64)
    assert due == sorted({world.senders[0].mailbox_id % 64, *(bot.mailbox_id % 64 for bot in world.bots)})

    reports = [run(world, shard=shard, shards=64) for shard in due]

    assert sum(sum(report.ends.values()) + len(report.waiting) for report in reports) == len(slots)


def test_a_mailbox_is_logged_in_to_once_for_all_of_its_mails(world: World) -> None:
    for _ in range(3):
        an_uncertain(world)
    enter = ImapReader.__enter__
    logins: list[str] = []

    def counting(reader: ImapReader) -> ImapReader:
        logins.append(reader._access.address)
        return enter(reader)

    with patch.object(ImapReader, "__enter__", counting):
        assert settled(world).ends == {"unresolved": 3}
    assert logins == [world.bots[0].address, world.senders[0].address]


# At the same time


def everything(world: World) -> list[Any]:
    tables = ("mail_events", "slots", "sender_days", "bot_days", "send_counters", "bot_sender_interactions")
    return [world.rows(f"select * from ops.{table} order by 1, 2") for table in tables]  # noqa: S608


def some_of_each(world: World) -> None:
    """Two mails that arrived, two that did not."""
    for number, sender in enumerate([*world.senders, *world.senders]):
        slot = an_uncertain(world, sender)
        if number < 2:
            world.submit(sender, world.bots[0], a_message(world, slot, from_address=sender.address))


def test_reconciling_again_changes_nothing(world: World) -> None:
    """Q-F5"""
    some_of_each(world)
    assert settled(world).ends == {"sent": 2, "unresolved": 2}
    before = everything(world)

    assert run(world) == ReconcileReport()
    assert everything(world) == before


def test_two_reconciles_at_once_settle_each_slot_once(world: World) -> None:
    """Q-F5"""
    some_of_each(world)
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    look, both_have_looked = MailSearch.look_for, Barrier(2, timeout=60)

    def together(search: Any, *arguments: Any) -> Any:
        findings = list(look(search, *arguments))
        both_have_looked.wait()
        return findings

    with patch.object(MailSearch, "look_for", together), ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: run(world), range(2))

    ends = first.ends + second.ends
    assert (ends["sent"], ends["unresolved"]) == (2, 2)
    assert (ends["settled_meanwhile"], ends["not_found_again"]) == (2, 2)
    assert world.statuses() == {"sent": 2, "uncertain": 2}
    assert (len(world.events("reconciled")), len(world.events("sent"))) == (4, 2)
    assert counted(world) == (4, 4, 4)


def test_a_slot_that_the_inbox_reader_resolves_meanwhile_stays_as_it_left_it(world: World) -> None:
    """Q-F5: even if the search had missed the mail."""
    slot = an_uncertain(world)
    world.submit(world.senders[0], world.bots[0], a_message(world, slot))

    def missed(*_: Any) -> list[dict[int, Finding]]:
        assert world.read() == {"inbox": 1, "replies": 1, "resolved": 1}
        return [{slot.id: Finding("not_found", "neither mailbox")}]

    with patch.object(MailSearch, "look_for", missed):
        assert settled(world).ends == {"settled_meanwhile": 1}

    assert the_slot(world, slot)["status"] == "sent"
    (reconciled,) = world.events("reconciled")
    assert reconciled["details"] == {"found": "present", "by": "inbox", "where": "in INBOX of its recipient"}
    assert counted(world) == (1, 1, 1)


def test_reconcile_and_inbox_reader_at_once_agree(world: World) -> None:
    """Q-F5"""
    slots = []
    for sender in [*world.senders, *world.senders]:
        slots.append(an_uncertain(world, sender))
        world.submit(sender, world.bots[0], a_message(world, slots[-1], from_address=sender.address))
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))

    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(world.read)
        reconciling = threads.submit(run, world)
        found, report = reading.result(), reconciling.result()

    assert world.statuses()["sent"] == 4
    assert len(world.events("sent")) == len(world.events("reconciled")) == 4
    assert found["resolved"] + report.ends["sent"] == 4
    assert {event["slot_id"] for event in world.events("placed_inbox")} <= {slot.id for slot in slots}


def test_a_finding_about_an_earlier_attempt_decides_nothing(world: World) -> None:
    """Q-F5: meanwhile the slot was settled, sent again, and is uncertain again."""
    slot = an_uncertain(world)

    def slow(*_: Any) -> list[dict[int, Finding]]:
        world.change("update ops.slot_states set attempts = attempts + 1")
        return [{slot.id: Finding("not_found", "neither mailbox")}]

    with patch.object(MailSearch, "look_for", slow):
        assert settled(world).ends == {"settled_meanwhile": 1}
    assert the_slot(world, slot)["status"] == "uncertain"
    assert counted(world) == (1, 1, 1)


def test_reconcile_gives_way_to_whoever_holds_the_row(world: World) -> None:
    slot = an_uncertain(world)
    with world.engine.begin() as connection:
        connection.execute(text("select from ops.slot_states for update"))
        report = settled(world)

    assert report == ReconcileReport(Counter(), {slot.id: "others are writing to its row right now"})
    assert run(world).ends == {"unresolved": 1}


# A person's answer


def test_a_person_may_say_that_it_was_sent(world: World) -> None:
    """Q-F5"""
    slot = a_cold_uncertain(world)
    with world.engine.begin() as connection:
        status = reconcile.settle(
            connection, slot.id, is_sent=True, by="eva", why="they answered", now=world.clock.now(), policy=world.policy
        )

    assert status == the_slot(world, slot)["status"] == "sent"
    (reconciled,) = world.events("reconciled")
    assert reconciled["details"] == {"found": "present", "by": "eva", "why": "they answered"}


def test_a_person_may_say_that_it_was_not_sent(world: World) -> None:
    """Q-F5: then it is uncounted and sent again."""
    slot = a_cold_uncertain(world)
    assert settled(world).ends == {"unresolved": 1}

    assert said_not_sent(world, slot.id) == the_slot(world, slot)["status"] == "planned"
    assert world.value("select sum(cold_sent) from ops.sender_days") == 0
    _, reconciled = world.events("reconciled")
    assert reconciled["details"] == {"found": "not_sent", "by": "eva", "why": "asked"}
    assert the_state(world, slot)["unresolved_at"] is None


def test_only_an_uncertain_slot_can_be_settled(world: World) -> None:
    slot_id = world.slot()
    refused = pytest.raises(EmberflowError, match=f"slot {slot_id} is not uncertain")

    with refused, world.engine.begin() as connection:
        reconcile.settle(
            connection, slot_id, is_sent=True, by="eva", why="-", now=world.clock.now(), policy=world.policy
        )
