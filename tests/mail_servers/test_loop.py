"""The loop on servers that others wrote: dispatch, Postfix, Dovecot, sweep, reply; judged on Dovecot's disk."""

from __future__ import annotations

import imaplib
import time
from collections import Counter
from datetime import timedelta
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.email_ops.imap import ImapReader
from emberflow.queue_manager import event_log
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.receiving.reconcile import ReconcileReport
from tests.mail_servers.servers import RealServers
from tests.worlds import Member, World, a_policy, a_world, dying_with


def lying_in(world: World, servers: RealServers) -> Counter[tuple[str, str]]:
    """How often each mail of the world lies where: (folder, Message-ID)."""
    members: list[Member] = [*world.senders, *world.bots]
    return Counter(
        (folder, message_id)
        for member in members
        for folder in ("INBOX", "Junk", "Trash", "Emberflow")
        for message_id in servers.dovecot.message_ids(member.address, folder)
    )


def folders(world: World, servers: RealServers) -> Counter[str]:
    return Counter(folder for folder, _ in lying_in(world, servers).elements())


def dispatch_and_lose_the_answer(world: World) -> None:
    """Send what is due; the worker is killed before it has recorded what the server said."""
    with patch.object(event_log, "record", dying_with(SystemExit)), pytest.raises(SystemExit):
        world.dispatch()
    world.sandbox.settle()
    world.lapse_leases()
    world.dispatch()
    assert world.statuses() == {"uncertain": 1}


def reconciled(world: World) -> ReconcileReport:
    """Let the settle time pass and reconcile."""
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    return reconcile.run(world.engine, clock=world.clock, settings=world.settings)


def test_conversations_go_to_and_fro_and_every_mail_arrives_once(database: Engine, real_servers: RealServers) -> None:
    """E-B3, E-B5, B-B4, B-B5: one of two goes through Junk, from where it is rescued."""
    world = a_world(database, real_servers, senders=["ann", "eve"], bots=2)
    eve = world.senders[1]
    real_servers.file_to_junk(eve.address.partition("@")[2], 100)
    for sender, bot in zip(world.senders, world.bots, strict=True):
        world.slot(sender, bot)

    assert world.dispatch() == {"sent": 2}
    assert folders(world, real_servers) == {"Junk": 2}
    assert world.read() == {"junk": 2, "rescued": 2, "replies": 2}
    assert folders(world, real_servers) == {"INBOX": 2}
    for _ in range(4):
        world.clock.advance(timedelta(minutes=20))
        world.dispatch()
        world.read()

    sent = world.rows("select message_id, turn from ops.slots where status = 'sent'")
    assert max(row["turn"] for row in sent) >= 3
    assert Counter(message_id for _, message_id in lying_in(world, real_servers).elements()) == dict.fromkeys(
        (row["message_id"] for row in sent), 1
    )
    placed = world.rows("select message_id from ops.mail_events where event_type in ('placed_inbox', 'placed_junk')")
    assert sorted(row["message_id"] for row in placed) == sorted(row["message_id"] for row in sent)


def test_a_person_who_answers_by_hand_in_dovecot_is_left_alone_and_counted(
    database: Engine, real_servers: RealServers
) -> None:
    """S-F7"""
    world = a_world(database, real_servers, senders=1, bots=1)
    world.change("update ops.mailboxes set created_at = :at", at=world.clock.now() - timedelta(days=7))
    world.slot()
    for _ in range(2):
        world.dispatch()
        assert world.read()["replies"] == 1
        world.clock.advance(timedelta(minutes=1))
    parent = world.value("select message_id from ops.slots where turn = 2")
    answer = (
        f"From: {world.senders[0].address}\r\nTo: {world.bots[0].address}\r\nMessage-ID: <by.hand@person.test>\r\n"
        f"In-Reply-To: {parent}\r\nSubject: Re: x\r\n\r\nI write this myself.\r\n"
    )
    with ImapReader(world.access(world.senders[0]), "sandbox", world.settings.ca_files) as reader:
        stored_at = imaplib.Time2Internaldate(world.clock.now())
        assert reader._client.append("Sent", "", stored_at, answer.encode())[0] == "OK"

    assert world.read() == {"sent_outside": 1, "left_to_a_person": 1}
    assert world.read() == {}
    assert world.dispatch() == {}
    assert world.value("select reason from ops.slots where turn = 3") == "answered_by_hand"
    assert world.value("select sum(recipients) from ops.outside_mails") == 1


def test_handled_mail_is_filed_and_deleted_on_dovecot(database: Engine, real_servers: RealServers) -> None:
    """B-B9: also a mail that a stranger copied stays, because Postfix writes another Received into it."""
    world = a_world(database, real_servers, senders=1, bots=1, policy=a_policy(replies={"rate": 0.0}))
    world.slot()
    world.dispatch()
    assert world.read() == {"inbox": 1}
    (mail,) = world.raw_mailbox(world.bots[0])
    copy = mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))
    world.submit(world.senders[0], world.bots[0], copy)
    world.sandbox.settle()
    assert world.read() == {"rejected": 1}
    world.clock.advance(timedelta(days=2))
    assert world.read() == {"filed": 1}
    assert folders(world, real_servers) == {"INBOX": 1, "Emberflow": 1}
    with ImapReader(world.access(world.bots[0]), "sandbox", world.settings.ca_files) as reader:
        (second,) = reader.new_messages("INBOX", None)[0]
        reader.move([second.uid], "Emberflow")
    world.clock.advance(timedelta(days=30))
    assert world.read() == {"deleted": 1}
    assert folders(world, real_servers) == {"Emberflow": 1}


def test_a_mail_whose_answer_was_lost_is_found_in_dovecot_and_not_sent_again(
    database: Engine, real_servers: RealServers
) -> None:
    """Q-F5"""
    world = a_world(database, real_servers, senders=1, bots=1)
    world.slot()
    dispatch_and_lose_the_answer(world)
    assert reconciled(world).ends == {"sent": 1}
    assert world.dispatch() == {}
    assert folders(world, real_servers) == {"INBOX": 1}


def test_a_mail_that_postfix_gave_back_is_settled_as_failed(database: Engine, real_servers: RealServers) -> None:
    """E-B6, Q-F5: the recipient's account was deleted, so its mailbox cannot be asked; the report decides."""
    world = a_world(database, real_servers, senders=1, bots=1)
    world.slot()
    real_servers.dovecot.remove_account(world.bots[0].address)
    time.sleep(1.1)  # Dovecot looks at its users once a second
    dispatch_and_lose_the_answer(world)
    assert reconciled(world).ends == {"failed": 1}
    assert "5.1.1" in world.value("select reason from ops.slots")
