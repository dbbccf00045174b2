"""The event log keeps what it was told: append-only, and one row per natural key."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from emberflow.domain.events import EventType
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
            event_log.record_sent(connection, [event_log.Sent(slot, NOON, "Soup")], cooldown_s=0)
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
