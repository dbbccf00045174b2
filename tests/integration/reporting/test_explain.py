"""Why a slot is what it is: the stored decision, the attempts and the events of one mail (Q-F2)."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from emberflow.errors import EmberflowError
from emberflow.reporting.slot import Explanation, explain, planned_hours, slots_of_hour
from tests.worlds import NOON, Command, Sandbox, World, a_policy, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    world = a_world(database, sandbox, senders=2, bots=6, policy=a_policy(ramp={"start": 2}))
    world.plan()
    return world


def explained(world: World, slot_id: int) -> Explanation:
    with world.engine.connect() as connection:
        return explain(connection, slot_id)


def test_a_planned_slot_explains_how_its_bot_was_chosen(world: World) -> None:
    """Q-F2, Q-B7, towards U-F1"""
    for slot in world.rows("select id, bot_id, payload from ops.slots"):
        explanation = explained(world, slot["id"])
        evidence = explanation.evidence
        assert evidence is not None
        assert explanation.is_replayed
        assert (evidence.bot_id, evidence.tier) == (slot["bot_id"], slot["payload"]["tier"])
        assert evidence.asked_tier == slot["payload"]["asked_tier"]
        assert evidence.draw is not None
        assert evidence.weight is not None
        assert evidence.weight == pytest.approx(math.prod(evidence.terms.values()))
        assert evidence.key == pytest.approx(-math.log(evidence.draw) / evidence.weight)
        assert all(other["key"] >= evidence.key for other in evidence.runners_up)
        assert explanation.asked_at == world.bots[0].address.partition("@")[2]
        named = {slot["bot_id"], *(other["bot_id"] for other in evidence.runners_up)}
        assert set(explanation.bot_addresses) == named
        assert set(explanation.bot_addresses.values()) <= {bot.address for bot in world.bots}
        assert explanation.slot["bot_address"] == explanation.bot_addresses[slot["bot_id"]]
        assert explanation.slot["sender_address"] in {sender.address for sender in world.senders}
        plan = explanation.slot
        assert (plan["policy_name"], plan["seed"], plan["hour"]) == ("demo", 1, NOON)
        assert list(explanation.events) == []


def test_the_events_of_a_sent_and_answered_slot_are_listed_in_order(world: World) -> None:
    """Q-F2, towards D-F3"""
    world.talk(3)
    slot_id = world.value("select min(id) from ops.slots")
    explanation = explained(world, slot_id)
    kinds = [event["event_type"] for event in explanation.events]
    assert kinds[:2] == ["attempt", "sent"]
    assert set(kinds) == {"attempt", "sent", "placed_inbox", "replied", "acted"}
    assert all(
        earlier["occurred_at"] <= later["occurred_at"]
        for earlier, later in zip(explanation.events, explanation.events[1:], strict=False)
    )


def test_a_reply_has_no_selection_to_explain(world: World) -> None:
    """Q-F2"""
    world.talk(1)
    explanation = explained(world, world.value("select min(id) from ops.slots where task_type = 'reply'"))
    assert (explanation.evidence, explanation.bot_addresses) == (None, {})
    assert explanation.slot["hour"] is None


def test_cold_mail_is_explained_without_a_bot(world: World, run: Command) -> None:
    """Q-F2: also while nobody can write it, and why."""
    slot_id = world.cold_slot("lead@customer.test")
    world.dispatch()
    explanation = explained(world, slot_id)
    assert (explanation.evidence, explanation.slot["bot_address"]) == (None, None)
    assert explanation.slot["from_address"] == world.senders[0].address
    assert explanation.slot["recipient_address"] == "lead@customer.test"
    shown = " ".join(run("explain", str(slot_id)).output.split())
    assert "planned: no builder for cold mail in this version" in shown
    assert "This is cold mail to an address: it needs no bot." in shown
    listed = " ".join(run("queue", "list", "--status", "planned").output.split())
    assert "no builder for cold mail in this version" in listed


def test_an_unknown_slot_is_an_error_that_says_where_to_look(world: World) -> None:
    """Q-F2"""
    with pytest.raises(EmberflowError, match="there is no slot 4711; `emberflow plan show` lists the slots"):
        explained(world, 4711)


def test_the_planned_hours_are_listed_newest_first_with_their_slots(world: World) -> None:
    world.plan(NOON - timedelta(hours=1))
    with world.engine.connect() as connection:
        latest, past = planned_hours(connection)
        assert len(planned_hours(connection, limit=1)) == 1
        slots = slots_of_hour(connection, NOON)
        assert slots_of_hour(connection, NOON - timedelta(hours=1)) == []
    assert (latest["hour"], latest["outcome"], latest["policy_name"]) == (NOON, "planned", "demo")
    assert past["outcome"] == "past"
    assert len(slots) == latest["slots"] == 4
    times = [slot["target_time"] for slot in slots]
    assert times == sorted(times)
    assert {slot["tier"] for slot in slots} == {"virgin"}
