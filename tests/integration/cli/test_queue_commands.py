"""The operator's view of the queue and of suppressions, on a real database and the real mail sandbox."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import Result

from emberflow.clock import SystemClock
from emberflow.queue_manager.receiving import reconcile
from emberflow.reporting.queue import Waiting, listed, shape
from tests.worlds import Command, Sandbox, World, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=["lost1", "drop1", "bot1"], checks=False)


@pytest.fixture
def queue(run: Command) -> Command:
    return partial(run, "queue")


@pytest.fixture
def suppressions(run: Command) -> Command:
    return partial(run, "suppressions")


def status_of(world: World, slot_id: int) -> str:
    return str(world.value("select status from ops.slots where id = :id", id=slot_id))


def words(result: Result) -> str:
    """What was printed, without the lines and folds of tables."""
    return " ".join("".join(character for character in result.output if character.isprintable()).split())


def a_parked_slot(world: World, **changes: Any) -> int:
    reason = "its lease lapsed 3 times before DATA"
    return world.slot(status="parked", lapses=3, reason=reason, **changes)


def an_uncertain_slot(world: World, submitted_ago: timedelta, bot: int = 2) -> int:
    moment = SystemClock().now() - submitted_ago
    return world.slot(
        bot=world.bots[bot], status="uncertain", attempts=1, submitted_at=moment, reason="eod connection lost"
    )


# queue list


def test_what_needs_a_person_is_listed_with_reason_and_remedy(queue: Command, world: World) -> None:
    """Q-F5"""
    world.slot()
    old, new = an_uncertain_slot(world, timedelta(days=1)), an_uncertain_slot(world, timedelta(minutes=1))
    hindered = an_uncertain_slot(world, timedelta(days=1))
    parked = a_parked_slot(world)
    world.change("update ops.slot_states set unresolved_at = submitted_at where slot_id = :id", id=old)
    world.change("update ops.slot_states set look_again_at = submitted_at where slot_id = :id", id=hindered)

    shown = queue("list")

    assert shown.exit_code == 0
    in_doubt = "mails in doubt: 1 unresolved, 2 waiting to be looked for, the oldest for 1.0 d"
    assert f"4 slots: uncertain, parked; {in_doubt}" in words(shown)
    assert "unresolved" in shown.output
    assert f"queue settle {old}" in words(shown)
    assert f"queue settle {hindered}" in words(shown)
    assert f"queue settle {new}" not in words(shown)
    assert "wait until" in words(shown)
    assert f"queue release {parked}" in words(shown)


def test_slots_of_one_status_are_listed_on_demand(queue: Command, world: World) -> None:
    planned = world.slot()
    a_parked_slot(world)

    shown = queue("list", "--status", "planned")

    assert "1 slots: planned" in shown.output
    assert str(planned) in shown.output


def test_a_slot_says_what_it_is_from_whom_and_since_when(world: World) -> None:
    slot_id = world.slot(binding_cap="cold_24h:1 30/30", reason="cold_cap")
    with world.engine.connect() as connection:
        (one,) = listed(connection, ["planned"], 10, now=world.clock.now())

    assert one == Waiting(
        id=slot_id,
        status="planned",
        what="warmup, turn 1",
        from_address=world.senders[0].address,
        to_address=world.bots[0].address,
        since=world.clock.now(),
        reason="cold_cap; cold_24h:1 30/30",
        remedy=None,
    )


# queue settle, release, reconcile


@pytest.mark.parametrize(("answer", "status"), [("--sent", "sent"), ("--not-sent", "expired")])
def test_a_persons_answer_is_recorded_with_name_and_reason(
    queue: Command, world: World, answer: str, status: str
) -> None:
    """Q-F5: a warm-up mail that is overdue is not sent late."""
    slot_id = world.slot()
    world.claim()
    world.change("update ops.slot_states set status = 'uncertain', attempts = 1, submitted_at = target_time")
    world.change("update ops.sender_days set warmup_sent = 1")

    result = queue("settle", slot_id, answer, "--by", "eva", "--why", "the owner looked")

    assert result.output == f"slot {slot_id} is {status}\n"
    assert status_of(world, slot_id) == status
    (event,) = world.events("reconciled")
    assert (event["details"]["by"], event["details"]["why"]) == ("eva", "the owner looked")


def test_an_answer_needs_a_side_and_a_reason(queue: Command, world: World) -> None:
    slot_id = an_uncertain_slot(world, timedelta(days=1))

    assert queue("settle", slot_id, "--why", "no side").exit_code == 2
    assert queue("settle", slot_id, "--sent").exit_code == 2
    assert status_of(world, slot_id) == "uncertain"


def test_a_slot_that_is_not_uncertain_cannot_be_settled(queue: Command, world: World) -> None:
    slot_id = world.slot()

    result = queue("settle", slot_id, "--sent", "--why", "a mistake")

    assert result.exit_code == 1
    assert f"slot {slot_id} is not uncertain" in str(result.exception)
    assert status_of(world, slot_id) == "planned"


def test_a_released_slot_is_due_now_with_its_lapses_forgotten(queue: Command, world: World) -> None:
    """case 17: what is stuck is freed by a command, not by SQL."""
    target = world.clock.now()
    slot_id = a_parked_slot(world, target_time=target)
    before = SystemClock().now()

    assert queue("release", slot_id).exit_code == 0

    row = world.row("select * from ops.slots where id = :id", id=slot_id)
    assert (row["status"], row["lapses"], row["due_since"]) == ("planned", 0, target)
    assert before <= row["target_time"] <= SystemClock().now()
    assert row["local_day"] in (before.date(), SystemClock().now().date())
    assert queue("release", slot_id).exit_code == 1


def test_reconcile_settles_what_it_can_and_names_what_it_cannot(queue: Command, world: World) -> None:
    """Q-F5"""
    found, paused = world.slot(bot=world.bots[0]), world.slot(world.senders[1], world.bots[1])
    assert world.dispatch() == {"uncertain": 2}
    submitted_at = SystemClock().now() - reconcile.settle_time(world.policy) - timedelta(minutes=1)
    world.change("update ops.slot_states set submitted_at = :moment", moment=submitted_at)
    world.change("update ops.bots set status = 'paused' where id = :id", id=world.bots[1].id)

    shown = queue("reconcile")

    assert "looked for: 1 sent; waiting: 1" in shown.output
    assert f"{world.bots[1].address} is not active" in words(shown)
    assert (status_of(world, found), status_of(world, paused)) == ("sent", "uncertain")
    world.change("update ops.bots set status = 'active'")
    assert "looked for: 1 unresolved; waiting: 0" in queue("reconcile").output
    assert "looked for: 1 not found again; waiting: 0" in queue("reconcile").output


def test_several_slots_are_settled_at_once_or_none_of_them(queue: Command, world: World) -> None:
    """Q-F5: a server that fails leaves many mails in doubt."""
    first, second = (an_uncertain_slot(world, timedelta(days=1)) for _ in range(2))
    planned = world.slot()

    assert queue("settle", first, planned, "--sent", "--why", "a mistake").exit_code == 1
    assert status_of(world, first) == "uncertain"
    assert queue("settle", first, second, "--sent", "--why", "in the server's log").exit_code == 0
    assert (status_of(world, first), status_of(world, second)) == ("sent", "sent")


# queue shape


def test_the_shape_of_the_queue_shows_where_and_how_long_mail_waits(world: World) -> None:
    now = world.clock.now()
    sender, other = world.senders
    minutes = [0, 4, 5, 39, 40, 2000]
    for waited in minutes:
        world.slot(sender, target_time=now - timedelta(minutes=waited))
    world.slot(other, target_time=now + timedelta(hours=3), due_since=now - timedelta(minutes=100))
    world.slot(other, target_time=now + timedelta(minutes=1))
    a_parked_slot(world, target_time=now)
    world.cold_slot("lead@customer.test", other)
    bots, senders = (member.address.partition("@")[2] for member in (world.bots[0], sender))

    with world.engine.connect() as connection:
        by_recipient = shape(connection, "recipient", now=now)
        by_sender = shape(connection, "sender", now=now)

    assert list(by_recipient.items()) == [
        ("TOTAL", [3, 1, 0, 1, 1, 1, 0, 0, 0, 1]),
        (bots, [2, 1, 0, 1, 1, 1, 0, 0, 0, 1]),
        ("customer.test", [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]
    assert by_sender == {"TOTAL": by_recipient["TOTAL"], senders: by_recipient["TOTAL"]}


def test_the_shape_is_a_table_with_the_longest_row_first(queue: Command, world: World) -> None:
    world.slot(target_time=SystemClock().now() - timedelta(minutes=7))

    shown = queue("shape", "--by", "sender")

    assert "1 due slots" in shown.output
    assert "<1280" in shown.output
    assert f"{world.senders[0].address.partition('@')[2]} │ 1 │ 0 │ 1 │" in " ".join(shown.output.split())
    assert queue("shape", "--by", "nobody").exit_code == 2


def test_an_empty_queue_has_no_shape(queue: Command) -> None:
    assert "0 due slots" in queue("shape").output


# suppressions


def test_suppressions_are_added_listed_and_removed(suppressions: Command, world: World) -> None:
    """Towards U-B5"""
    slot_id = world.slot()
    bot = world.bots[0].address

    added = suppressions("add", bot.upper(), "--reason", "asked us", "--by", "eva")
    again = suppressions("add", bot, "--reason", "again", "--by", "ann")
    suppressions("add", "@customer.test", "--reason", "a customer", "--by", "ann")
    shown = suppressions("list")

    assert words(added) == f"{bot} is suppressed; 1 planned mails cancelled"
    assert words(again) == f"{bot} was suppressed before; nothing changed"
    assert status_of(world, slot_id) == "cancelled"
    assert all(
        text in shown.output for text in (bot, "asked us", "eva", "@customer.test", "a customer", "2 suppressions")
    )

    assert suppressions("remove", "@CUSTOMER.test").exit_code == 0
    assert "@customer.test" not in suppressions("list").output
    assert suppressions("remove", "@customer.test").exit_code == 1


def test_a_file_of_suppressions_is_imported_all_or_none(suppressions: Command, world: World, tmp_path: Path) -> None:
    slot_id = world.slot()
    file = tmp_path / "list.csv"
    domain = world.bots[0].address.partition("@")[2]
    file.write_text(f"address,reason\n@{domain},\nlead@customer.test,left\nnobody,\n")
    assert suppressions("import", file).exit_code == 1
    assert "0 suppressions" in suppressions("list").output

    file.write_text(f"address,reason\n@{domain},\nlead@customer.test,left\n")
    result = suppressions("import", file, "--reason", "old list")

    assert words(result) == "2 of 2 entries were new; 1 planned mails cancelled"
    assert "old list" in suppressions("list").output
    assert status_of(world, slot_id) == "cancelled"
