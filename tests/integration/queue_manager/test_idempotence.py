"""Any step, any number of times, in any order, at once, or cut off: each mail reaches its recipient at most once.

The judge is the sandbox's log of deliveries. Airflow may retry, clear or backfill any task at any moment, so the
steps are run here as no scheduler should.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.clock import HOUR, ManualClock
from emberflow.queue_manager import event_log, pre_send, slot_store
from emberflow.queue_manager.receiving import mailbox_reading, sweep
from emberflow.queue_manager.sending import dispatcher
from tests.worlds import FILED, NOON, Sandbox, World, a_policy, a_world

pytestmark = pytest.mark.long(seconds=30)


class PowerCut(BaseException):
    """Not an Exception, as a signal is not."""


def forget_cursors(world: World) -> None:
    world.change("delete from ops.imap_cursors")


def copies(world: World) -> Counter[str]:
    return Counter(delivery.message_id for delivery in world.deliveries())


def in_mailboxes(world: World) -> Counter[str]:
    return Counter(
        str(mail.message_id)
        for member in (*world.senders, *world.bots)
        for folder in ("INBOX", "Junk", FILED)
        for mail in world.mailbox(member, folder)
    )


def assert_sent_is_delivered_once(world: World) -> None:
    """Every sent slot's mail was accepted once and lies in one mailbox, and nothing else does."""
    sent = {row["message_id"] for row in world.rows("select message_id from ops.slots where status = 'sent'")}
    assert copies(world) == dict.fromkeys(sent, 1)
    assert in_mailboxes(world) == copies(world)
    events = [event["message_id"] for event in world.events("sent")]
    assert sorted(events) == sorted(sent)


def finish(world: World) -> None:
    """Let everything that is still open come to its end."""
    for _ in range(12):
        world.lapse_leases()
        world.dispatch()
        world.read()
        world.clock.sleep(35)
        if not world.rows("select from ops.slots where status in ('planned', 'leased', 'submitting', 'uncertain')"):
            world.read()
            return
    raise AssertionError(f"not finished: {world.statuses()}")


def test_every_step_twice_and_interleaved_changes_no_delivery(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3"""
    world = a_world(database, sandbox, senders=3, bots=5, policy=a_policy(ramp={"start": 3}))
    sandbox.file_to_junk(world.senders[0].address.partition("@")[2], 50)
    for _ in range(6):
        for step in (world.plan, world.dispatch, world.plan, world.read, world.dispatch, world.read, world.dispatch):
            step()
    assert world.statuses().keys() == {"sent"}
    assert_sent_is_delivered_once(world)
    events = world.rows("select event_type, natural_key from ops.mail_events")
    before = copies(world)

    for _ in range(3):
        forget_cursors(world)
        world.plan()
        world.read()
        world.dispatch()
    assert copies(world) == before
    assert world.rows("select event_type, natural_key from ops.mail_events") == events


def test_a_backfill_of_past_hours_sends_nothing(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3, towards Q-F4"""
    world = a_world(database, sandbox, senders=2, bots=4)
    outcomes = {world.plan(NOON - ago * HOUR).outcome for ago in range(1, 25)}
    assert outcomes == {"past"}
    # Not one row is left that a later dispatch, release or new plan of a lost mail could still pick up.
    assert world.rows("select from ops.scheduled_tasks") == []
    assert world.rows("select from ops.sender_days") == []
    assert world.dispatch() == {}
    assert world.deliveries() == []


def test_a_backfill_of_a_past_hour_after_the_present_one_sends_nothing_more(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3"""
    world = a_world(database, sandbox, senders=2, bots=4, policy=a_policy(replies={"rate": 0.0}))
    world.plan()
    world.dispatch()
    before = copies(world)
    world.clock.sleep(2 * 3600)
    for hour in (NOON, NOON - HOUR, NOON + HOUR):
        world.plan(hour)
        world.dispatch()
    assert copies(world) == before


def test_all_steps_at_once_on_several_workers_change_no_delivery(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3, Q-B4, case 3: every step twice in the same second."""
    policy = a_policy(ramp={"start": 3}, dispatch={"shards": 2}, inbox={"shards": 2})
    world = a_world(database, sandbox, senders=3, bots=4, policy=policy)

    def dispatch(shard: int) -> None:
        dispatcher.dispatch_shard(database, shard, clock=ManualClock(world.clock.now()), settings=world.settings)

    def read(shard: int) -> None:
        sweep.read_shard(database, shard, clock=world.clock, settings=world.settings)

    steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (world.plan, ()), (dispatch, (0,)), (read, (0,)), (dispatch, (1,)), (read, (1,)),
    ]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for future in [pool.submit(step, *arguments) for step, arguments in steps * 2]:
                future.result()
            world.clock.sleep(20)
    finish(world)
    assert world.statuses().keys() == {"sent"}
    assert_sent_is_delivered_once(world)


@pytest.mark.parametrize("seed", range(4))
def test_steps_in_any_order_with_crashes_lost_cursors_and_lapsed_leases_duplicate_nothing(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Q-B3, Q-F5: a power cut at any of the places where a worker may stop."""
    world = a_world(
        database, sandbox, senders=2, bots=["bot1", "bot2", "bot3", "lost1"], policy=a_policy(ramp={"start": 3})
    )
    draw = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    places = [
        (pre_send, "submit"), (slot_store, "finish"), (event_log, "record"),
        (event_log, "record_event"), (mailbox_reading, "_move_cursor"),
    ]  # fmt: skip

    def crash() -> None:
        """Run one step that is cut off at a place, at once or a little later."""
        module, name = draw.choice(places)
        real, calls_left = getattr(module, name), draw.randint(0, 3)

        def until_the_cut(*arguments: Any, **named: Any) -> Any:
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                raise PowerCut
            return real(*arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(module, name, until_the_cut)
            try:
                draw.choice([world.dispatch, world.read])()
            except PowerCut:
                return

    steps: list[Callable[[], Any]] = [
        world.plan, world.dispatch, world.read, world.lapse_leases, lambda: forget_cursors(world),
        lambda: world.clock.sleep(draw.randint(1, 40)), crash, crash,
    ]  # fmt: skip
    world.plan()
    for _ in range(25):
        draw.choice(steps)()
        assert max(copies(world).values(), default=1) == 1
    finish(world)
    assert world.statuses().keys() == {"sent"}
    assert_sent_is_delivered_once(world)


def test_an_hour_planned_again_after_its_mails_left_plans_nothing_more(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3, S-B5: not even when the hour's row is asked for from another hour of the same day."""
    world = a_world(database, sandbox, senders=2, bots=6, policy=a_policy(ramp={"start": 2}, replies={"rate": 0.0}))
    world.plan()
    world.dispatch()
    sent = len(world.deliveries())
    for _ in range(3):
        world.clock.advance(timedelta(hours=1))
        world.plan()
        world.dispatch()
    assert len(world.deliveries()) == sent == 4
