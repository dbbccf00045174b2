"""Mails that were accepted, whose answer was lost, and that no search finds in time: never is there a second copy.

The judge is the receiving server: what it holds back, and what it stored for anybody's eyes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from emberflow.clock import SystemClock
from emberflow.domain.slot import Slot
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.tokens import sign
from emberflow.queue_manager import pre_send, slot_store, tasks
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.slot_store import End
from tests.worlds import SEED, Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, 1, 2, a_policy(**SILENT), checks=False)


def an_accepted_mail(world: World) -> tuple[Slot, bytes]:
    """A slot whose server has taken the mail with a 250 that was lost on the way; the server holds the mail."""
    world.slot(gap_s=0)
    (slot,) = world.claim()
    with world.engine.begin() as connection:
        pre_send.submit(connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED)
        assert slot_store.finish(connection, [End(slot, "uncertain", "eod connection lost")]) == {slot.id}
    assert slot.bot_id is not None
    held = build(
        OutgoingMessage(
            message_id=slot.message_id,
            from_address=world.senders[0].address,
            from_name="Ann",
            to_address=world.bots[0].address,
            subject="Soup",
            body="Hello\n",
            date=slot.target_time,
            in_reply_to=None,
            references=(),
            token=sign(world.settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id, slot.turn),
            auto_reply=False,
        )
    )
    return slot, held


def reconciled(world: World, times: int = 6) -> None:
    """Reconcile and send what is due, again and again, for days."""
    pause = reconcile.settle_time(world.policy) + timedelta(seconds=1)
    for _ in range(times):
        world.clock.advance(pause)
        reconcile.run(world.engine, clock=world.clock, settings=world.settings)
        world.dispatch()
        pause *= 2


def test_a_mail_that_its_server_delivers_long_after_the_settle_time_is_there_once(world: World) -> None:
    """Q-F5: I1. No settle time is as long as a server may hold a mail."""
    slot, held = an_accepted_mail(world)
    reconciled(world)
    assert world.deliveries() == []
    world.submit(world.senders[0], world.bots[0], held)

    assert world.read()["resolved"] == 1
    assert [delivery.message_id for delivery in world.deliveries()] == [slot.message_id]
    assert world.statuses() == {"sent": 1}


def test_a_mail_in_a_quarantine_that_imap_does_not_show_gets_no_second_copy(world: World) -> None:
    """Q-F5: I1. The server has it already; every delivery would be another one."""
    an_accepted_mail(world)
    reconciled(world)

    assert world.deliveries() == []
    slot = world.row("select status, unresolved_at, reason from ops.slot_states")
    assert (slot["status"], slot["unresolved_at"] is not None) == ("uncertain", True)
    assert "looked for in INBOX, Junk, Sent of its sender, INBOX, Archive" in slot["reason"]


BOUNCES: dict[str, str] = {
    "qmail": (
        "Hi. This is the qmail-send program at mx.south.test.\r\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\r\n"
        "This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n"
        "<bo@south.test>:\r\nSorry, no mailbox here by that name. (#5.1.1)\r\n\r\n"
        "--- Below this line is a copy of the message.\r\n\r\n"
    ),
    "Exim": (
        "This message was created automatically by mail delivery software.\r\n\r\n"
        "A message that you sent could not be delivered to one or more of its\r\n"
        "recipients. This is a permanent error. The following address(es) failed:\r\n\r\n"
        "  bo@south.test\r\n    Unrouteable address\r\n\r\n"
        "------ This is a copy of your message, including all the headers. ------\r\n\r\n"
    ),
}


@pytest.mark.parametrize("server", BOUNCES)
def test_a_mail_that_comes_back_in_words_alone_has_failed_and_is_not_sent_again(world: World, server: str) -> None:
    """Q-F5: I1. It did leave, so it stays counted."""
    slot, held = an_accepted_mail(world)
    bounce = (
        f"From: Mail Delivery System <MAILER-DAEMON@mx.south.test>\r\nTo: {world.senders[0].address}\r\n"
        "Subject: failure notice\r\nMessage-ID: <bounce@mx.south.test>\r\nContent-Type: text/plain\r\n\r\n"
    )
    world.submit(world.bots[1], world.senders[0], (bounce + BOUNCES[server]).encode() + held)
    reconciled(world)

    assert [delivery.recipient for delivery in world.deliveries()] == [world.senders[0].address]
    assert world.row("select status, left(reason, 8) as reason from ops.slots where id = :id", id=slot.id) == {
        "status": "failed",
        "reason": "returned",
    }
    assert world.value("select sum(warmup_sent) from ops.sender_days") == 1


def test_a_reconciling_host_whose_clock_is_ahead_waits_as_long_as_any_other(
    database: Engine, sandbox: Sandbox, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-F5: I1. The settle time runs by the database's clock: the mail is under way for seconds, not for a day."""
    policy = a_policy(**SILENT, reconcile={"settle_s": 60})
    world = a_world(database, sandbox, 1, 2, policy, checks=False, start=SystemClock().now())
    configure(**world.variables())
    slot, held = an_accepted_mail(world)
    with monkeypatch.context() as ahead:
        ahead.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(days=1))
        assert tasks.uncertain_shards() == []
        assert tasks.reconcile_shard(0) == {"shard": 0, "waiting": 0, "reasons": [], "not_reached": []}

    assert world.dispatch() == {}
    world.submit(world.senders[0], world.bots[0], held)
    assert [delivery.message_id for delivery in world.deliveries()] == [slot.message_id]
    assert world.row("select status, unresolved_at from ops.slot_states") == {
        "status": "uncertain",
        "unresolved_at": None,
    }
