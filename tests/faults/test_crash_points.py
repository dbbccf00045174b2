"""A worker process dies at each named point; whoever comes after it finishes the work, and the mail arrives once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.clock import SystemClock
from emberflow.crash_points import CRASH_POINTS, CrashPoint
from emberflow.queue_manager.receiving import reconcile
from tests.faults.kit.processes import Crew
from tests.worlds import Sandbox, World, a_policy, a_world

# What the slot says when the process is gone and its lease has lapsed, and how many mails the server may have taken.
# After the dot both are right: a server may drop what it has read when its client vanishes (RFC 5321 4.1.1.10).
LEFT = {
    "after_claim": ("planned", {0}),
    "before_guard": ("planned", {0}),
    "after_guard": ("uncertain", {0}),
    "after_data": ("uncertain", {0}),
    "before_dot": ("uncertain", {0}),
    "after_dot": ("uncertain", {0, 1}),
    "after_reply": ("uncertain", {1}),
    "before_record_commit": ("uncertain", {1}),
    "after_record_commit": ("sent", {1}),
}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    policy = a_policy(
        replies={"rate": 0.0},
        dispatch={"window_s": 0, "data_start_s": 1, "data_block_s": 1, "end_of_data_s": 3},
        reconcile={"settle_s": 5},
    )
    return a_world(database, sandbox, senders=1, bots=1, policy=policy, checks=False, start=SystemClock().now())


@pytest.fixture
def crew(world: World, tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path, world.settings) as crew:
        yield crew


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_worker_that_dies_anywhere_neither_doubles_nor_loses_its_mail(
    world: World, crew: Crew, point: CrashPoint
) -> None:
    """Q-B4, Q-F5, E-F6, cases 8, 10 and 19: I1 and I2, judged at the receiving server."""
    slot_id = world.slot()
    crew.arm("die", point)
    worker = crew.start()
    crew.await_taken("die", point)
    assert worker.exit_code == -9

    world.lapse_leases()
    successor = crew.start()
    status, accepted = LEFT[point]
    if status == "uncertain":
        crew.await_that(lambda: world.statuses() == {"uncertain": 1})
        assert len(world.deliveries()) in accepted
        world.clock.advance(timedelta(minutes=1))
        reconcile.run(world.engine, clock=world.clock, settings=world.settings)
    else:
        crew.await_that(lambda: world.statuses() == {"sent": 1})

    slot = world.row("select * from ops.slots where id = :id", id=slot_id)
    arrived = [delivery.message_id for delivery in world.deliveries()]
    # Nobody can tell whether a server took what it does not show: that mail stays in doubt, and counted.
    assert slot["status"] == ("sent" if arrived else "uncertain")
    assert arrived in ([], [slot["message_id"]])
    assert world.value("select warmup_sent from ops.sender_days") == 1
    assert len(world.events("sent")) == len(arrived)
    assert successor.terminate()
    assert (world.statuses(), len(world.deliveries())) == ({slot["status"]: 1}, len(arrived))
    assert crew.complaints() == ""
