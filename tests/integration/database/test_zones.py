"""One zone database decides: Python and PostgreSQL name the same day; a zone that is not known holds one mailbox."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import Engine, text

from emberflow.clock import known_zones, local_day
from emberflow.errors import ImportRejectedError
from emberflow.operations import mailboxes
from emberflow.queue_manager.receiving import sweep
from emberflow.reporting import doctor, why_not
from tests.worlds import (
    NOON,
    OPERATOR,
    WHOLE_WINDOWS,
    Command,
    Sandbox,
    World,
    a_file,
    a_policy,
    a_real_policy,
    a_row,
    a_world,
    shown_bots,
    shown_senders,
    some_settings,
)  # fmt: skip

NOWHERE = "Atlantis/Capital"


def test_the_database_and_python_name_the_same_day_in_every_zone(database: Engine) -> None:
    """Around every midnight of some thirty nights, among them those of clock changes."""
    nights = [datetime(2026, month, day, tzinfo=UTC) for month in (1, 3, 6, 10, 11) for day in (1, 8, 25, 29)]
    instants = [night + timedelta(hours=2 * step, minutes=31) for night in nights for step in range(12)]
    query = text("""
        select name, array_agg(ops.local_day(instant, name) order by instant) as days
        from ops.zones
        cross join unnest(cast(:instants as timestamptz[])) as instants (instant)
        group by name
    """)
    with database.connect() as connection:
        found = {row.name: row.days for row in connection.execute(query, {"instants": instants})}
    assert found.keys() == known_zones()
    wrong = [zone for zone, days in found.items() if days != [local_day(instant, zone) for instant in sorted(instants)]]
    assert wrong == []


def test_a_zone_whose_name_is_also_an_abbreviation_has_its_summer_time(database: Engine, sandbox: Sandbox) -> None:
    """CET, half past midnight of a summer night: to PostgreSQL that name means UTC+1 all year."""
    all_day = {"window_start": time(0), "window_end": time(0), "weekdays": tuple(range(7))}
    policy = a_real_policy(
        pacing=WHOLE_WINDOWS | all_day, bots={"wake_start": time(0), "wake_end": time(0)}, dispatch={"shards": 1}
    )
    start = datetime(2025, 6, 2, 22, 5, tzinfo=UTC)
    world = a_world(database, sandbox, 40, 40, policy, zones=("CET",), checks=False, start=start)
    assert world.plan().slots > 0
    days = world.rows("select distinct local_day from ops.sender_days")
    assert [row["local_day"] for row in days] == [local_day(start, "CET")] == [datetime(2025, 6, 3, tzinfo=UTC).date()]
    for _ in range(12):
        assert "refused" not in world.dispatch()
        world.clock.advance(timedelta(minutes=5))


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=4, policy=a_policy())


def lose_the_zone(world: World, mailbox_id: int) -> None:
    world.change("update ops.mailboxes set zone = :zone where id = :id", zone=NOWHERE, id=mailbox_id)


def test_a_sender_whose_zone_is_not_known_is_not_planned_for_and_the_others_are(world: World) -> None:
    lost, sound = world.senders
    lose_the_zone(world, lost.mailbox_id)
    assert world.plan().slots > 0
    assert {row["sender_id"] for row in world.rows("select sender_id from ops.slots")} == {sound.id}


def test_a_bot_whose_zone_is_not_known_gets_nothing_and_the_others_do(world: World) -> None:
    lose_the_zone(world, world.bots[0].mailbox_id)
    assert world.plan().slots > 0
    planned = {row["bot_id"] for row in world.rows("select bot_id from ops.slots")}
    assert planned
    assert world.bots[0].id not in planned


@pytest.mark.parametrize("role", ["senders", "bots"])
def test_planned_mail_of_a_mailbox_whose_zone_was_lost_does_not_leave_and_the_rest_does(
    world: World, role: str
) -> None:
    lost = world.slot(world.senders[0], world.bots[0])
    sound = world.slot(world.senders[1], world.bots[1])
    lose_the_zone(world, getattr(world, role)[0].mailbox_id)
    world.dispatch()
    found = {
        row["id"]: (row["status"], row["reason"]) for row in world.rows("select id, status, reason from ops.slots")
    }
    assert found == {lost: ("cancelled", f"zone_unknown: {NOWHERE}"), sound: ("sent", None)}


def test_the_other_mailboxes_are_read_when_the_zone_of_one_is_lost(world: World) -> None:
    for place in (0, 1):
        world.slot(world.senders[place], world.bots[place])
    world.dispatch()
    lose_the_zone(world, world.bots[0].mailbox_id)
    world.clock.advance(timedelta(minutes=20))
    unreadable: list[str] = []
    for shard in range(2):
        report = sweep.read_shard(world.engine, shard, clock=world.clock, settings=world.settings)
        unreadable += report.unreadable
    assert f"{world.bots[0].address} is in zone '{NOWHERE}'" in unreadable[0]
    placed = world.events("placed_inbox")
    assert [event["mailbox_id"] for event in placed] == [world.bots[1].mailbox_id]


def test_a_lost_zone_is_shown_wherever_the_mailbox_is(run: Command, world: World) -> None:
    for lost in (world.senders[0], world.bots[0]):
        lose_the_zone(world, lost.mailbox_id)
    senders = {row["address"]: row["state_reason"] for row in shown_senders(world.engine)}
    assert "time zone is not known" in senders[world.senders[0].address]
    assert senders[world.senders[1].address] is None
    bots = {row["address"]: row["status_reason"] for row in shown_bots(world.engine)}
    assert "time zone is not known" in bots[world.bots[0].address]
    (finding,) = [finding for finding in doctor.examine(world.settings) if finding.check == "time zones"]
    assert NOWHERE in finding.result
    assert "--zone" in (finding.remedy or "")
    with world.engine.connect() as connection:
        found = why_not.why_not(connection, world.senders[0].address, NOON, now=NOON)
    assert NOWHERE in found.answer
    (result,) = mailboxes.check(
        world.engine, OPERATOR, world.settings, ids=[world.senders[0].mailbox_id], reason="a test"
    )
    assert (result.stage, NOWHERE in (result.text or "")) == ("zone", True)


def test_a_zone_that_the_database_does_not_know_yet_is_refused_on_import(database: Engine, sandbox: Sandbox) -> None:
    """The program is newer than the last migration."""
    with database.begin() as connection:
        connection.execute(text("delete from ops.zones where name = 'Europe/Kyiv'"))
    rows = [a_row("ann@north.test", sandbox), a_row("bob@north.test", sandbox, zone="Europe/Kyiv")]
    with pytest.raises(ImportRejectedError) as caught:
        mailboxes.import_senders(
            database,
            OPERATOR,
            a_file(sandbox.directory, rows),
            some_settings(database, sandbox),
            reason="a test",
        )
    (problem,) = caught.value.problems
    assert (problem.row, problem.column) == (3, "zone")
    assert "emberflow database migrate" in problem.reason


def test_a_name_that_only_this_machine_knows_is_no_zone() -> None:
    assert not known_zones() & {"localtime", "posixrules", "right/UTC", "posix/UTC"}


def test_the_machines_own_zone_files_are_not_looked_at() -> None:
    assert zoneinfo.TZPATH == ()
