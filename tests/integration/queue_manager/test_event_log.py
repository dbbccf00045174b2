"""The event log keeps what was recorded: append-only, and one row per natural key."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from emberflow.bots.policy import Rests
from emberflow.domain.events import EventType
from emberflow.domain.mail_kind import Priority
from emberflow.domain.slot import Slot
from emberflow.queue_manager import event_log
from tests.worlds import NOON, Sandbox, World, a_world

KEY = "token_rejected:1:INBOX:1:1"
FIRST = {"reason": "forged", "uid": "INBOX:1:1", "from": "ann@one.test"}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    world = a_world(database, sandbox, senders=1, bots=2, checks=False)
    with database.begin() as connection:
        assert event_log.record_event(
            connection, EventType.TOKEN_REJECTED, KEY, occurred_at=NOON, mailbox_id=1, details=FIRST
        )
    return world


@pytest.mark.parametrize(
    "change",
    [
        "update ops.mail_events set details = '{}'",
        "update ops.mail_events set occurred_at = now() where natural_key = 'token_rejected:1:INBOX:1:1'",
        "delete from ops.mail_events",
        "truncate ops.mail_events",
        "truncate ops.mail_events restart identity cascade",
    ],
)
def test_a_recorded_event_cannot_be_changed_or_removed(world: World, change: str) -> None:
    """D-B1, case 40: what was recorded stays."""
    with pytest.raises(DBAPIError, match="mail_events is append-only: write a correcting row"):
        world.change(change)
    assert world.row("select * from ops.mail_events")["details"] == FIRST


def test_a_natural_key_exists_once(world: World) -> None:
    """D-B1"""
    with world.engine.begin() as connection:
        is_new = event_log.record_event(
            connection,
            EventType.TOKEN_REJECTED,
            KEY,
            occurred_at=NOON,
            mailbox_id=2,
            details=FIRST | {"reason": "reused"},
        )
    assert is_new is False
    assert world.row("select * from ops.mail_events")["details"] == FIRST
    with pytest.raises(IntegrityError, match="uq_mail_events_natural_key"):
        world.change(
            "insert into ops.mail_events (occurred_at, event_type, natural_key, mailbox_id) "
            "values (now(), 'sent', 'token_rejected:1:INBOX:1:1', 1)"
        )


def test_an_event_of_an_unknown_kind_is_refused(world: World) -> None:
    """D-B1"""
    with pytest.raises(IntegrityError, match="ck_mail_events_event_type_known"):
        world.change(
            "insert into ops.mail_events (occurred_at, event_type, natural_key, mailbox_id) "
            "values (now(), 'opened', 'key-2', 1)"
        )


def test_an_event_that_the_catalogue_does_not_allow_is_not_written(world: World) -> None:
    """D-B1"""
    with world.engine.begin() as connection, pytest.raises(ValueError, match="'said' is no detail of it"):
        event_log.record_event(
            connection, EventType.TOKEN_REJECTED, f"{KEY}0", occurred_at=NOON, mailbox_id=1,
            details=FIRST | {"said": "more"},
        )  # fmt: skip
    assert world.value("select count(*) from ops.mail_events") == 1


def test_a_second_sent_for_one_idempotency_key_is_impossible(world: World) -> None:
    """D-B3, case 2: telling it again is no event, and neither a second event nor a second slot can be written."""
    world.slot()
    (slot,) = world.claim()
    for _ in range(3):
        with world.engine.begin() as connection:
            event_log.record_sent(connection, [event_log.Sent(slot, NOON, "Soup")], rests=Rests(0))
    (sent,) = world.events("sent")
    assert sent["natural_key"] == f"sent:{slot.idempotency_key}"
    assert world.row("select * from ops.bot_sender_interactions")["sent_count"] == 1
    assert len(world.rows("select * from ops.conversations")) == 1

    with pytest.raises(IntegrityError, match="uq_mail_events_natural_key"), world.engine.begin() as connection:
        connection.execute(
            text("insert into ops.mail_events (occurred_at, event_type, natural_key, mailbox_id) "
                 "values (now(), 'sent', :key, 1)"),
            {"key": sent["natural_key"]},
        )  # fmt: skip
    with pytest.raises(IntegrityError, match="uq_scheduled_tasks_idempotency_key"):
        world.slot(idempotency_key=slot.idempotency_key)
    with pytest.raises(IntegrityError, match="uq_scheduled_tasks_message_id"):
        world.slot(message_id=slot.message_id)


def test_a_lead_has_a_thread_that_the_next_mail_to_it_goes_on_with(world: World) -> None:
    """The conversation knows its first and its last Message-ID, which a follow-up answers; it has no bot."""
    first = world.cold_slot("lead@customer.test")
    sent(world, first, "Your soup")
    begun = world.row("select * from ops.conversations")
    root = begun["root_message_id"]
    assert {name: begun[name] for name in ("sender_id", "bot_id", "to_address", "script_id", "turn", "subject")} == {
        "sender_id": world.senders[0].id,
        "bot_id": None,
        "to_address": "lead@customer.test",
        "script_id": None,
        "turn": 1,
        "subject": "Your soup",
    }
    assert begun["last_message_id"] == root == message_id_of(world, first)
    assert world.value("select conversation_id from ops.slots where id = :id", id=first) == begun["id"]

    second = world.cold_slot(
        "lead@customer.test", task_type="cold_follow_up", turn=2, conversation_id=begun["id"],
        priority_level=int(Priority.COLD_FOLLOW_UP),
    )  # fmt: skip
    sent(world, second, "Re: Your soup")
    gone_on = world.row("select * from ops.conversations")
    assert (gone_on["turn"], gone_on["root_message_id"]) == (2, root)
    assert gone_on["last_message_id"] == message_id_of(world, second) != root
    assert world.rows("select * from ops.bot_sender_interactions") == []
    assert [event["bot_id"] for event in world.events("sent")] == [None, None]


def test_a_conversation_has_one_counterpart_and_with_a_bot_a_script(world: World) -> None:
    insert = (
        "insert into ops.conversations (sender_id, bot_id, to_address, script_id, thread_status, turn, subject, "
        "root_message_id, last_message_id, started_at) "
        "values (:sender, :bot, :address, :script, 'awaiting_reply', 1, '', '<1@x>', '<1@x>', now())"
    )
    sender, bot = world.senders[0].id, world.bots[0].id
    for refused, address, script, constraint in (
        (bot, "lead@customer.test", "soup-recipe", "one_counterpart"),
        (None, None, "soup-recipe", "one_counterpart"),
        (bot, None, None, "a_bot_follows_a_script"),
    ):
        with pytest.raises(IntegrityError, match=constraint):
            world.change(insert, sender=sender, bot=refused, address=address, script=script)
    world.change(insert, sender=sender, bot=None, address="lead@customer.test", script=None)


def sent(world: World, slot_id: int, subject: str) -> None:
    row = world.row("select * from ops.slots where id = :id", id=slot_id)
    slot = Slot.of({**row, "lease_token": ""})
    with world.engine.begin() as connection:
        event_log.record_sent(connection, [event_log.Sent(slot, NOON, subject)], rests=Rests(0))


def message_id_of(world: World, slot_id: int) -> str:
    return str(world.value("select message_id from ops.slots where id = :id", id=slot_id))


def test_a_mail_is_answered_by_one_slot_at_most(world: World) -> None:
    """B-B8"""
    world.slot(parent_slot_id=7)
    with pytest.raises(IntegrityError, match="uq_scheduled_tasks_answer_once"):
        world.slot(parent_slot_id=7)


def test_a_slot_is_sent_exactly_when_it_says_when(world: World) -> None:
    """D-B3"""
    with pytest.raises(IntegrityError, match="sent_at_iff_sent"):
        world.slot(status="sent")
    with pytest.raises(IntegrityError, match="sent_at_iff_sent"):
        world.slot(sent_at=NOON)
