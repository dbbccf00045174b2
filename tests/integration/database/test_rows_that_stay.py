"""What was planned and sent stays on record: no statement takes a slot, a plan run or an end back."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from emberflow.domain.slot import ENDS, TRANSITIONS, SlotStatus
from tests.worlds import Sandbox, World, a_policy, a_world

SILENT = a_policy(replies={"rate": 0.0})
RECORDS = ("scheduled_tasks", "slot_states", "plan_runs", "conversations")
NAMED = ("mailboxes", "senders", "bots", "policies")


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """An hour is planned and one of its mails has left."""
    world = a_world(database, sandbox, senders=1, bots=3, policy=SILENT, checks=False)
    world.plan()
    world.slot()
    assert world.dispatch()["sent"] >= 1
    return world


@pytest.mark.parametrize("table", [*RECORDS, *NAMED])
def test_records_and_what_they_name_can_neither_be_deleted_nor_truncated(world: World, table: str) -> None:
    """Q-B4, D-B1: a slot that is gone could be planned and sent a second time."""
    before = world.value(f"select count(*) from ops.{table}")  # noqa: S608
    for statement in (f"delete from ops.{table}", f"truncate ops.{table} cascade"):  # noqa: S608
        with pytest.raises(IntegrityError, match="never deleted"):
            world.change(statement)
    assert world.value(f"select count(*) from ops.{table}") == before > 0  # noqa: S608


def test_the_plan_of_a_slot_cannot_be_changed(world: World) -> None:
    """Q-B4"""
    with pytest.raises(IntegrityError, match="scheduled_tasks is append-only"):
        world.change("update ops.scheduled_tasks set message_id = 'another'")


def test_the_database_lets_every_stated_way_pass_and_none_out_of_an_end(world: World) -> None:
    """Q-B4: also a correct statement of SQL cannot make a mail that was sent leave again.

    The slot store takes the stated ways only. The database refuses the ways out of an end; between other states it
    lets pass more than is stated.
    """
    passed = set()
    for before in SlotStatus:
        slot = world.slot(status=before, sent_at=world.clock.now() if before is SlotStatus.SENT else None)
        for after in SlotStatus:
            said = changed(world, slot, after)
            if said is None:
                passed.add((before, after))
            else:
                assert f"slot {slot} is {before}, which is final: it cannot become {after}" in said
    assert passed == {(before, after) for before in SlotStatus for after in SlotStatus if before not in ENDS} | {
        (end, end) for end in ENDS
    }
    assert passed >= {(one.before, one.after) for one in TRANSITIONS if one.before is not None}


def changed(world: World, slot: int, status: SlotStatus) -> str | None:
    """Set a slot's status by SQL, and back again; return what the database said if it refused."""
    with world.engine.connect() as connection:
        try:
            connection.execute(
                text(
                    "update ops.slot_states set status = :status, "
                    "sent_at = case when :status = 'sent' then coalesce(sent_at, clock_timestamp()) end "
                    "where slot_id = :id"
                ),
                {"status": status, "id": slot},
            )
        except IntegrityError as error:
            return str(error)
    return None


def test_when_a_mail_was_sent_stays_as_it_was_recorded(world: World) -> None:
    """Q-B4: figures of a day rest on it."""
    with pytest.raises(DBAPIError, match="which is final"):
        world.change("update ops.slot_states set sent_at = sent_at + interval '1 day' where status = 'sent'")


def test_what_has_not_ended_goes_on_and_an_end_can_still_be_explained(world: World) -> None:
    """The triggers concern ends only: a reason may be written beside one."""
    slot = world.slot()
    for status in ("leased", "submitting", "uncertain", "planned", "cancelled"):
        world.change("update ops.slot_states set status = :status where slot_id = :id", status=status, id=slot)
    world.change("update ops.slot_states set reason = 'by an operator' where slot_id = :id", id=slot)
    assert world.value("select reason from ops.slots where id = :id", id=slot) == "by an operator"


def test_an_end_costs_no_call_of_a_function_where_it_is_reached(world: World) -> None:
    """Every mail writes its state three to five times; the trigger's own condition lets these pass."""
    slot = world.slot()
    with world.engine.begin() as connection:
        connection.execute(text("set local track_functions = 'all'"))
        for status in ("leased", "submitting", "uncertain", "failed"):
            connection.execute(
                text("update ops.slot_states set status = :status where slot_id = :id"), {"status": status, "id": slot}
            )
        calls: int = connection.execute(
            text("select coalesce(sum(calls), 0) from pg_stat_xact_user_functions where funcname = 'refuse_revival'")
        ).scalar_one()
    assert calls == 0
