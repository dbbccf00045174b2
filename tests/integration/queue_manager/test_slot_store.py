"""The slot store under hands that reach for the same rows: claims, leases, tokens, and the guard before DATA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.accounts import suppressions, switches
from emberflow.accounts.suppressions import Entry
from emberflow.delivery.guard import Refusal
from emberflow.delivery.routes import server_of
from emberflow.domain.mail_kind import Priority
from emberflow.domain.slot import Slot
from emberflow.domain.suppression import SuppressionCause
from emberflow.operations import mailboxes
from emberflow.queue_manager import cancellation, pre_send, recover, slot_store
from emberflow.queue_manager.slot_store import End
from tests.worlds import (
    NOON,
    OPERATOR,
    SEED,
    Sandbox,
    World,
    a_policy,
    a_real_policy,
    a_world,
)


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=4, checks=False)


def submit(world: World, slot: Slot) -> Refusal | None:
    """Submit one slot; what the refusal says of caps is asked for by ``binding_cap``."""
    refusal = submit_all(world, [slot])[slot.id]
    return None if refusal is None else replace(refusal, binding_cap=None)


def submit_all(world: World, slots: Sequence[Slot]) -> dict[int, Refusal | None]:
    """Submit slots in one transaction, as dialogues do that share a commit."""
    with world.engine.begin() as connection:
        said = pre_send.submit(connection, slots, now=world.clock.now(), policy=world.policy, seed=SEED)
    return {slot: answer.refusal for slot, answer in said.items()}


def binding_cap(world: World, slot: Slot) -> str | None:
    refusal = submit_all(world, [slot])[slot.id]
    return None if refusal is None else refusal.binding_cap


def finish(world: World, *ends: slot_store.End) -> set[int]:
    with world.engine.begin() as connection:
        return slot_store.finish(connection, ends)


def claim(world: World, **changes: Any) -> list[Slot]:
    wanted: dict[str, Any] = {"shard": 0, "shards": 1, "now": world.clock.now(), "limit": 100, "lease_s": 60}
    with world.engine.begin() as connection:
        return slot_store.claim(connection, **(wanted | changes), policy=world.policy.queue)


def tidy(world: World) -> dict[str, int]:
    """What was tidied, without what there was nothing of."""
    with world.engine.begin() as connection:
        tidied = vars(recover.recover(connection, now=world.clock.now(), policy=world.policy.queue))
    return {name: value if isinstance(value, int) else len(value) for name, value in tidied.items() if value}


def counts(world: World) -> tuple[int, int, int, int]:
    """Warm-up and reply mails of senders, inbound and reply mails of bots."""
    sender = world.row(
        "select coalesce(sum(warmup_sent), 0) as w, coalesce(sum(reply_sent), 0) as r from ops.sender_days"
    )
    bot = world.row("select coalesce(sum(inbound_sent), 0) as i, coalesce(sum(reply_sent), 0) as r from ops.bot_days")
    return sender["w"], sender["r"], bot["i"], bot["r"]


def a_claimed(world: World, **changes: Any) -> Slot:
    world.slot(**changes)
    (slot,) = world.claim()
    return slot


def a_reply(world: World) -> dict[str, Any]:
    """What makes a slot the second turn, which goes from bot to sender."""
    sender, bot = world.senders[0], world.bots[0]
    return {
        "task_type": "reply", "priority_level": int(Priority.REPLY), "turn": 2,
        "from_mailbox_id": bot.mailbox_id, "to_mailbox_id": sender.mailbox_id,
    }  # fmt: skip


# Claims


def test_with_capacity_for_some_the_most_urgent_are_claimed(world: World) -> None:
    """Q-B1: replies, cold follow-ups, cold first touches, warm-up; then by target time."""
    priorities = [Priority.WARMUP, Priority.COLD_FIRST_TOUCH, Priority.REPLY, Priority.COLD_FOLLOW_UP]
    early, late = NOON - timedelta(minutes=5), NOON
    ids = {
        (priority, moment): world.slot(priority_level=int(priority), target_time=moment)
        for moment in (late, early)
        for priority in priorities
    }
    expected = [ids[priority, moment] for priority in sorted(priorities) for moment in (early, late)]
    claimed = [slot.id for _ in range(4) for slot in world.claim(limit=2)]
    assert claimed == expected
    assert world.claim() == []


def test_a_slot_is_not_claimed_before_its_time(world: World) -> None:
    world.slot(target_time=NOON + timedelta(seconds=1))
    assert world.claim() == []
    world.clock.sleep(1)
    assert len(world.claim()) == 1


def test_a_shard_claims_only_its_own_mailboxes(world: World) -> None:
    """Q-B4"""
    for sender in world.senders:
        world.slot(sender)
    with world.engine.begin() as connection:
        shards = slot_store.shards_due(connection, 2, NOON)
    claimed = {shard: claim(world, shard=shard, shards=2) for shard in shards}
    assert shards == [0, 1]
    assert {slot.from_mailbox_id % 2 == shard for shard, slots in claimed.items() for slot in slots} == {True}
    assert sum(len(slots) for slots in claimed.values()) == 2


def test_workers_that_claim_at_the_same_moment_never_share_a_slot(world: World) -> None:
    """Q-B4, case 6: each row is one worker's."""
    wanted = {world.slot() for _ in range(60)}
    start = Barrier(6)

    def work(_: int) -> list[int]:
        start.wait()
        mine = []
        while slots := world.claim(limit=3):
            mine += [slot.id for slot in slots]
        return mine

    with ThreadPoolExecutor(6) as pool:
        claimed = [slot for slots in pool.map(work, range(6)) for slot in slots]
    assert sorted(claimed) == sorted(wanted)


def test_a_claim_does_not_wait_for_one_that_is_not_committed_yet(world: World) -> None:
    """Q-B4: FOR UPDATE SKIP LOCKED"""
    for _ in range(4):
        world.slot()
    with world.engine.begin() as first:
        mine = slot_store.claim(first, shard=0, shards=1, now=NOON, limit=2, lease_s=60, policy=world.policy.queue)
        theirs = world.claim()
    assert len(mine) == len(theirs) == 2
    assert {slot.id for slot in mine}.isdisjoint(slot.id for slot in theirs)


# Leases and tokens


def test_a_lease_that_lapses_before_data_is_planned_again_and_the_old_token_is_worth_nothing(world: World) -> None:
    """Q-B4, case 17: what a dead worker held is free again by itself."""
    stale = a_claimed(world)
    world.lapse_leases()
    assert submit(world, stale) == Refusal("lease_lost")
    assert tidy(world) == {"released": 1}
    assert world.value("select reason from ops.slots") == "lease lapsed before DATA"

    (fresh,) = world.claim()
    assert (fresh.id, fresh.lease_token != stale.lease_token) == (stale.id, True)
    assert submit(world, stale) == Refusal("lease_lost")
    assert submit(world, fresh) is None
    for late in (End(stale, "sent", sent_at=NOON), End(stale, "planned", retry_at=NOON), End(stale, "failed")):
        assert finish(world, late) == set()
    assert world.statuses() == {"submitting": 1}
    assert finish(world, End(fresh, "sent", sent_at=NOON)) == {fresh.id}
    assert finish(world, End(fresh, "failed", "again")) == set()
    assert world.statuses() == {"sent": 1}


def test_a_slot_that_its_worker_is_not_through_with_waits_until_it_is(world: World) -> None:
    """Q-B4, case 9: two claims of one slot in one run could not be distinguished."""
    stale = a_claimed(world)
    world.lapse_leases()
    tidy(world)
    other = world.slot(bot=world.bots[1])
    assert [slot.id for slot in claim(world, held={stale.id})] == [other]
    assert [slot.id for slot in claim(world, held={other})] == [stale.id]


def test_a_lease_that_lapses_after_data_began_is_uncertain_and_never_claimed_again(world: World) -> None:
    """Q-B4, Q-F5"""
    slot = a_claimed(world)
    assert submit(world, slot) is None
    world.lapse_leases()
    assert tidy(world) == {"uncertain": 1}
    assert finish(world, End(slot, "sent", sent_at=NOON)) == set()
    for _ in range(3):
        assert world.claim() == []
        assert tidy(world) == {}
    assert world.statuses() == {"uncertain": 1}


def test_a_lease_that_holds_is_left_alone(world: World) -> None:
    """Q-B4: how late it is for the caller's clock does not matter, leases live by the database's."""
    slot = a_claimed(world)
    world.clock.sleep(7 * 86_400)
    assert tidy(world) == {}
    assert world.statuses() == {"leased": 1}
    assert submit(world, slot) != Refusal("lease_lost")


def test_an_overdue_slot_expires_instead_of_being_fired(world: World) -> None:
    """Q-B8"""
    overdue = timedelta(seconds=world.policy.queue.overdue_s)
    world.slot(target_time=NOON - overdue - timedelta(seconds=1))
    punctual = world.slot(target_time=NOON - overdue)
    assert tidy(world)["expired"] == 1
    assert [slot.id for slot in world.claim()] == [punctual]
    assert world.value("select reason from ops.slots where status = 'expired'") == "overdue"


def test_a_slot_cannot_be_submitted_twice(world: World) -> None:
    """Q-B4"""
    slot = a_claimed(world)
    assert submit(world, slot) is None
    assert submit(world, slot) == Refusal("lease_lost")
    assert counts(world) == (1, 0, 1, 0)


# The guard


def stop_sending(world: World) -> None:
    with world.engine.begin() as connection:
        switches.turn(connection, switches.STOP_SENDING, on=True, who="an operator", reason="something is wrong")


def fill_quota(world: World) -> None:
    world.change("update ops.sender_days set warmup_sent = warmup_quota")


def fill_total(world: World) -> None:
    world.change("update ops.sender_days set total_quota = 4, warmup_sent = 1, reply_sent = 2, cold_sent = 1")


def fill_inbound(world: World, mails: int = 40) -> None:
    world.change(
        "insert into ops.bot_days (bot_id, local_day, inbound_sent) select id, :day, :mails from ops.bots",
        day=NOON.date(), mails=mails,
    )  # fmt: skip


def reach_own_limit(world: World) -> None:
    fill_inbound(world, 3)
    world.change("update ops.bots set interaction_limits = 3")


def reach_young_cap(world: World) -> None:
    fill_inbound(world, 5)
    world.change("update ops.bots set born_at = :at", at=NOON)


TOMORROW = NOON + timedelta(hours=12)  # when the window of the demonstration policy opens again
RETRY = timedelta(seconds=30)  # of the demonstration policy
REFUSALS: dict[str, tuple[Callable[[World], Any], Refusal]] = {
    "kill switch": (stop_sending, Refusal("stop_sending_is_on", NOON + RETRY)),
    "paused sender": (
        lambda world: mailboxes.pause(world.engine, OPERATOR, "sender", world.senders[0].address, reason="why"),
        Refusal("sender_paused"),
    ),
    "unverified sender": (
        lambda world: world.change("update ops.senders set state = 'unverified', state_reason = 'why'"),
        Refusal("sender_unverified"),
    ),
    "paused bot": (lambda world: world.change("update ops.bots set status = 'paused'"), Refusal("bot_paused")),
    "retired bot": (lambda world: world.change("update ops.bots set status = 'retired'"), Refusal("bot_retired")),
    "sender's mailbox failed its check": (
        lambda world: world.change("update ops.mailboxes set check_passed = false where address like 'sender%'"),
        Refusal("mailbox_not_checked"),
    ),
    "bot's mailbox was never checked": (
        lambda world: world.change("update ops.mailboxes set check_passed = null where address like 'bot%'"),
        Refusal("mailbox_not_checked"),
    ),
    "gap": (
        lambda world: world.change("update ops.mailboxes set next_send_at = :at", at=NOON + timedelta(seconds=9)),
        Refusal("gap", NOON + timedelta(seconds=9)),
    ),
    "daily quota": (fill_quota, Refusal("sender_daily_quota")),
    "total quota": (fill_total, Refusal("sender_daily_quota")),
    "no quota row": (lambda world: world.change("delete from ops.sender_days"), Refusal("sender_daily_quota")),
    "quota row of another day": (
        lambda world: world.change("update ops.sender_days set local_day = local_day - 1"),
        Refusal("sender_daily_quota"),
    ),
    "bot's inbound cap": (fill_inbound, Refusal("bot_daily_inbound_cap")),
    "bot's own limit": (reach_own_limit, Refusal("bot_daily_inbound_cap")),
    "young bot's cap": (reach_young_cap, Refusal("bot_daily_inbound_cap")),
    "lapsed lease": (lambda world: world.lapse_leases(), Refusal("lease_lost")),
}


@pytest.mark.parametrize("circumstance", REFUSALS)
def test_what_forbids_a_mail_after_it_was_planned_stops_it_before_data(world: World, circumstance: str) -> None:
    """Q-B5, Q-B6, S-B5, S-B6, B-B2, B-B3: and a mail that was stopped is counted nowhere."""
    arrange, expected = REFUSALS[circumstance]
    slot = a_claimed(world)
    arrange(world)
    before = counts(world)
    assert submit(world, slot) == expected
    assert counts(world) == before
    assert world.statuses() == {"leased": 1}


def test_a_bot_beyond_its_reply_cap_replies_on_another_day(world: World) -> None:
    """B-B3"""
    slot = a_claimed(world, **a_reply(world))
    world.change(
        "insert into ops.bot_days (bot_id, local_day, reply_sent) values (:bot, :day, 20)",
        bot=world.bots[0].id, day=NOON.date(),
    )  # fmt: skip
    assert submit(world, slot) == Refusal("bot_daily_reply_cap", TOMORROW)


@pytest.fixture
def resting(database: Engine, sandbox: Sandbox) -> World:
    """Bots pause for a minute after a mail."""
    return a_world(database, sandbox, senders=2, bots=4, policy=a_policy(bots={"cooldown_s": 60}), checks=False)


def rest_until(world: World, until: datetime) -> None:
    world.change("update ops.bots set cooldown_until = :until", until=until)


@pytest.mark.parametrize("task", ["warmup", "reply"])
def test_a_bot_that_rests_gets_its_next_mail_when_it_has_rested(resting: World, task: str) -> None:
    """To the second, and a mail that waits for it stays planned."""
    slot = a_claimed(resting) if task == "warmup" else a_claimed(resting, task_type="reply", turn=3)
    over = NOON + timedelta(seconds=7)
    rest_until(resting, over)
    assert submit(resting, slot) == Refusal("bot_cooldown", over)
    resting.clock.sleep(6.999)
    assert submit(resting, slot) == Refusal("bot_cooldown", over)
    resting.clock.sleep(0.001)
    assert submit(resting, slot) is None
    rested = resting.clock.now() + timedelta(seconds=resting.policy.bots.cooldown_s)
    assert resting.value("select cooldown_until from ops.bots where id = :id", id=resting.bots[0].id) == rested


def test_two_mails_to_one_bot_never_pass_together(resting: World) -> None:
    """In one transaction, from two senders, before either of them has arrived."""
    first, second = resting.slot(resting.senders[0]), resting.slot(resting.senders[1])
    slots = resting.claim()
    assert [slot.id for slot in slots] == [first, second]
    rested = NOON + timedelta(seconds=resting.policy.bots.cooldown_s)
    assert submit_all(resting, slots) == {first: None, second: Refusal("bot_cooldown", rested)}


def test_a_bots_own_replies_do_not_wait_for_its_rest(resting: World) -> None:
    """B-B7: they wait for their drawn delay, and for the gap of its mailbox."""
    slot = a_claimed(resting, **a_reply(resting))
    rest_until(resting, NOON + timedelta(hours=1))
    assert submit(resting, slot) is None
    assert resting.value("select cooldown_until from ops.bots where id = :id", id=resting.bots[0].id) > NOON


def test_a_bot_that_sleeps_gets_nothing(database: Engine, sandbox: Sandbox) -> None:
    """A reply waits until its sender works and the bot is awake, a warm-up mail is made up for."""
    policy = a_policy(bots={"wake_start": "07:00", "wake_end": "22:00"}, pacing={"window_start": "06:00"})
    world = a_world(database, sandbox, senders=1, bots=1, policy=policy, bot_zones=("Asia/Tokyo",), checks=False)
    world.clock.sleep(3600)  # 22:00 in Tokyo
    reply = a_claimed(world, task_type="reply", turn=3)
    # Tokyo wakes at 22:00 UTC, within the sender's window.
    assert submit(world, reply) == Refusal("bot_asleep", NOON + timedelta(hours=10))
    assert submit(world, a_claimed(world)) == Refusal("bot_asleep")


def test_a_rest_that_lasts_beyond_the_window_ends_warmup_and_puts_a_reply_off(
    database: Engine, sandbox: Sandbox
) -> None:
    policy = a_policy(pacing={"window_start": "09:00", "window_end": "12:30"})
    world = a_world(database, sandbox, senders=1, bots=1, policy=policy, checks=False)
    reply = a_claimed(world, task_type="reply", turn=3)
    rest_until(world, NOON + timedelta(minutes=31))
    assert submit(world, reply) == Refusal("bot_cooldown", NOON + timedelta(hours=21))
    assert submit(world, a_claimed(world)) == Refusal("bot_cooldown")


def test_nobody_logs_in_for_a_bot_that_rests(world: World) -> None:
    slot = a_claimed(world)
    over = NOON + timedelta(seconds=7)
    rest_until(world, over)
    with world.engine.begin() as connection:
        said = pre_send.unfit(connection, [slot], now=world.clock.now(), policy=world.policy, seed=SEED)
    assert said == {slot.id: Refusal("bot_cooldown", over)}


@pytest.mark.parametrize("kind", ["quota", "inbound cap"])
def test_a_sender_or_bot_beyond_its_cap_goes_on_with_a_conversation_on_another_day(world: World, kind: str) -> None:
    """S-B5, B-B3"""
    slot = a_claimed(world, task_type="reply", turn=3)
    if kind == "quota":
        fill_total(world)
        assert submit(world, slot) == Refusal("sender_daily_quota", TOMORROW)
    else:
        fill_inbound(world)
        assert submit(world, slot) == Refusal("bot_daily_inbound_cap", TOMORROW)


def test_replies_leave_warmup_its_reserve_of_the_day(world: World) -> None:
    """Q-B2: a fifth of the total of 50; what warm-up has used of it is not kept a second time."""
    reply = a_claimed(world, task_type="reply", turn=3)
    warmup = a_claimed(world, bot=world.bots[1])
    world.change("update ops.sender_days set reply_sent = 40, warmup_sent = 2")
    assert submit(world, reply) == Refusal("sender_daily_quota", TOMORROW)
    world.change("update ops.sender_days set reply_sent = 39, warmup_sent = 10")
    assert submit(world, reply) is None
    world.change("update ops.sender_days set reply_sent = 45, warmup_sent = 2")
    world.clock.sleep(5)
    assert submit(world, warmup) is None


@pytest.mark.parametrize("cap", ["daily_reply_cap", "daily_inbound_cap"])
def test_a_cap_of_zero_or_one_holds_for_the_first_mail_of_a_day(database: Engine, sandbox: Sandbox, cap: str) -> None:
    """B-B3"""
    world = a_world(
        database, sandbox, senders=1, bots=1, checks=False,
        policy=a_policy(bots={"daily_reply_cap": 0, "daily_inbound_cap": 1}),
    )  # fmt: skip
    if cap == "daily_reply_cap":
        assert submit(world, a_claimed(world, **a_reply(world))) == Refusal("bot_daily_reply_cap", TOMORROW)
        return
    assert submit(world, a_claimed(world)) is None
    world.clock.sleep(5)
    assert submit(world, a_claimed(world)) == Refusal("bot_daily_inbound_cap")


def test_every_kind_of_mail_is_counted_where_it_belongs_and_can_be_taken_back(world: World) -> None:
    """S-B5, B-B3"""
    warmup = a_claimed(world)
    assert submit(world, warmup) is None
    assert counts(world) == (1, 0, 1, 0)
    world.clock.sleep(5)
    reply = a_claimed(world, **a_reply(world))
    assert submit(world, reply) is None
    assert counts(world) == (1, 0, 1, 1)
    world.clock.sleep(5)
    answer = a_claimed(world, task_type="reply", turn=3)
    assert submit(world, answer) is None
    assert counts(world) == (1, 1, 2, 1)
    with world.engine.begin() as connection:
        for slot in (warmup, reply, answer):
            pre_send.take_back(connection, slot, submitted_at=world.clock.now(), now=world.clock.now())
    assert counts(world) == (0, 0, 0, 0)


def test_after_a_mail_its_mailbox_pauses_for_the_gap_that_the_slot_carries(world: World) -> None:
    """S-B6"""
    assert submit(world, a_claimed(world, gap_s=700)) is None
    second = a_claimed(world)
    assert submit(world, second) == Refusal("gap", NOON + timedelta(seconds=700))
    world.clock.sleep(699)
    assert submit(world, second) == Refusal("gap", NOON + timedelta(seconds=700))
    world.clock.sleep(1)
    assert submit(world, second) is None


@pytest.mark.parametrize("limit", ["quota", "bot", "gap"])
def test_workers_that_submit_at_the_same_moment_never_overshoot_a_limit(world: World, limit: str) -> None:
    """Q-B5, S-B5, S-B6, B-B3"""
    one, other = world.senders
    if limit == "bot":
        pairs = [(one, world.bots[0]), (other, world.bots[0])]
        world.change("update ops.bots set interaction_limits = 1")
        expected = "bot_daily_inbound_cap"
    else:
        pairs = [(one, world.bots[0]), (one, world.bots[1])]
        expected = "gap" if limit == "gap" else "sender_daily_quota"
    for sender, bot in pairs * 3:
        world.slot(sender, bot, gap_s=600 if limit == "gap" else 0)
    if limit == "quota":
        world.change("update ops.sender_days set warmup_quota = 1")
    slots = world.claim()
    start = Barrier(len(slots))

    def work(slot: Slot) -> str:
        start.wait()
        refusal = submit(world, slot)
        return "submitted" if refusal is None else refusal.reason

    with ThreadPoolExecutor(len(slots)) as pool:
        ends = Counter(pool.map(work, slots))
    assert ends["submitted"] == 1
    assert ends[expected] > 0
    assert world.statuses()["submitting"] == 1


def test_nothing_leaves_outside_the_senders_window_or_the_bots_waking_hours(database: Engine, sandbox: Sandbox) -> None:
    """Q-B5, B-B7: a warm-up mail that missed its window is not sent at all, a reply waits for the next one."""
    saturday_night = NOON + timedelta(days=5, hours=11)
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_real_policy(), start=saturday_night, checks=False)
    monday, sunday = NOON + timedelta(days=7), NOON + timedelta(days=6)
    assert submit(world, a_claimed(world)) == Refusal("outside_window")
    answer = a_claimed(world, task_type="reply", turn=3)
    assert submit(world, answer) == Refusal("outside_window", monday.replace(hour=8, minute=30))
    reply = a_claimed(world, **a_reply(world))
    assert submit(world, reply) == Refusal("outside_window", sunday.replace(hour=7))
    assert counts(world) == (0, 0, 0, 0)


def test_overdue_replies_are_spread_and_never_fired_together(world: World) -> None:
    """Q-B8: given up neither after an hour nor after a day, but planned again, apart by more than their gaps."""
    mine = [world.slot(**a_reply(world), gap_s=100) for _ in range(5)]
    world.clock.sleep(2 * 86_400)
    now = world.clock.now()
    assert tidy(world) == {"planned_again": 5}
    assert claim(world) == []
    rows = world.rows("select id, target_time, due_since, reason from ops.slots order by target_time")
    assert {row["id"] for row in rows} == set(mine)
    assert {row["due_since"] for row in rows} == {NOON}
    assert {row["reason"] for row in rows} == {"overdue: planned again"}
    assert all(later["target_time"] > row["target_time"] for row, later in pairwise(rows))
    assert now <= rows[0]["target_time"] <= rows[-1]["target_time"] < now + timedelta(seconds=1800 + 400)
    assert tidy(world) == {}


# Fairness


def test_warmup_keeps_its_share_of_every_claim(world: World) -> None:
    """Q-B2: and what it leaves unused goes to the others."""
    for _ in range(30):
        world.slot(**a_reply(world))
    warmup = {world.slot() for _ in range(3)}
    first = claim(world, limit=10)
    assert len(warmup & {slot.id for slot in first}) == 2
    assert [slot.task_type for slot in first] == ["reply"] * 8 + ["warmup"] * 2
    second = claim(world, limit=10)
    assert [slot.task_type for slot in second] == ["reply"] * 9 + ["warmup"]
    assert [slot.task_type for slot in claim(world, limit=100)] == ["reply"] * 13


def a_cold_mail(priority: Priority, **changes: Any) -> dict[str, Any]:
    kind = "cold_follow_up" if priority is Priority.COLD_FOLLOW_UP else "cold_first_touch"
    recipient = {"to_mailbox_id": None, "bot_id": None, "to_address": "ann@customer.test"}
    return {"task_type": kind, "priority_level": int(priority)} | recipient | changes


def test_waiting_raises_a_cold_mail_until_it_stands_beside_replies(world: World) -> None:
    """Towards Q-F9: counted from the first target time, however often it was moved."""
    days = timedelta(days=1)
    reply = world.slot(**a_reply(world), target_time=NOON - timedelta(seconds=5))
    new = world.slot(**a_cold_mail(Priority.COLD_FIRST_TOUCH), target_time=NOON - timedelta(hours=2))
    follow_up = world.slot(**a_cold_mail(Priority.COLD_FOLLOW_UP), target_time=NOON - timedelta(hours=1))
    moved = world.slot(
        **a_cold_mail(Priority.COLD_FIRST_TOUCH), target_time=NOON - timedelta(seconds=1), due_since=NOON - days
    )
    old = world.slot(**a_cold_mail(Priority.COLD_FIRST_TOUCH), target_time=NOON - 2 * days)
    assert [slot.id for slot in claim(world)] == [old, reply, follow_up, moved, new]


# Slots that kill their workers


def test_a_slot_whose_lease_lapses_again_and_again_is_parked_with_a_reason(world: World) -> None:
    """Q-B4: it may be what kills its workers; a person decides."""
    poison = world.slot()
    for _ in range(world.policy.queue.maximum_lapses - 1):
        claim(world)
        world.lapse_leases()
        assert tidy(world) == {"released": 1}
    claim(world)
    world.lapse_leases()
    assert tidy(world) == {"parked": 1}
    assert claim(world) == []
    row = world.row("select status, reason, lapses from ops.slots where id = :id", id=poison)
    assert dict(row) == {"status": "parked", "reason": "its lease lapsed 3 times before DATA", "lapses": 3}


def test_a_lease_is_renewed_only_for_its_holder(world: World) -> None:
    """Q-B4, case 9: for as long as the work lasts."""
    mine, lapsed, submitted = (a_claimed(world, gap_s=0) for _ in range(3))
    assert submit(world, submitted) is None
    world.change(
        "update ops.slot_states set lease_until = clock_timestamp() - interval '1 s' where slot_id = :id", id=lapsed.id
    )
    stranger = replace(mine, lease_token="00000000-0000-0000-0000-000000000000")
    before = world.value("select lease_until from ops.slots where id = :id", id=mine.id)
    with world.engine.begin() as connection:
        assert slot_store.renew(connection, [stranger, lapsed, submitted], 999) == set()
        assert slot_store.renew(connection, [mine], 999) == {mine.id}
    after = world.value("select lease_until from ops.slots where id = :id", id=mine.id)
    assert after > before + timedelta(seconds=100)


# Caps beyond the day


ROLLING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sender": ({"sender_24h": 1}, {}, "sender_24h:{sender} 1/1"),
    "its provider": ({"sender_24h_by_provider": {"sandbox": 1}}, {}, "sender_24h:{sender} 1/1"),
    "cold": ({"cold_24h": 1}, a_cold_mail(Priority.COLD_FIRST_TOUCH), "cold_24h:{sender} 1/1"),
    "recipient domain": ({"recipient_domain_24h": 1}, {}, "recipient_domain_24h:{domain} 1/1"),
    "provider": ({"provider_24h": 1}, {}, "provider_24h:{provider} 1/1"),
    "everything": ({"all_24h": 1}, {}, "all_24h: 1/1"),
}


@pytest.mark.parametrize("scope", ROLLING)
def test_a_cap_over_24_hours_binds_across_midnight_and_is_stored(
    database: Engine, sandbox: Sandbox, scope: str
) -> None:
    """Q-F7, towards Q-F6, case 15: the calendar day is new, the rolling day is not."""
    caps, changes, named = ROLLING[scope]
    world = a_world(
        database, sandbox, senders=1, bots=2, checks=False, policy=a_policy(caps=caps), start=NOON + timedelta(hours=11)
    )
    sender = world.senders[0]
    world.change("update ops.mailboxes set provider = 'sandbox'")
    assert submit(world, a_claimed(world, **changes)) is None
    world.clock.sleep(2 * 3600)
    world.quota(sender)
    second = a_claimed(world, **changes)
    domain = "customer.test" if changes else world.bots[0].address.partition("@")[2]
    expected = named.format(sender=sender.mailbox_id, domain=domain, provider="sandbox")
    assert binding_cap(world, second) == expected
    assert world.statuses() == {"submitting": 1, "leased": 1}

    refusal = submit_all(world, [second])[second.id]
    assert refusal is not None
    finish(world, End(second, "planned", refusal.reason, retry_at=NOON, binding_cap=refusal.binding_cap))
    stored = world.row("select reason, binding_cap from ops.slots where status = 'planned'")
    assert tuple(stored.values()) == (refusal.reason, expected)

    world.clock.sleep(23 * 3600)
    world.quota(sender)
    (again,) = claim(world)
    assert submit(world, again) is None


def test_a_capped_reply_waits_for_the_hour_in_which_it_fits(database: Engine, sandbox: Sandbox) -> None:
    """Q-F7"""
    world = a_world(
        database, sandbox, senders=1, bots=1, checks=False, policy=a_policy(caps={"recipient_domain_24h": 1})
    )
    reply = {"task_type": "reply", "turn": 3, "gap_s": 0}
    assert submit(world, a_claimed(world, **reply)) is None
    assert submit(world, a_claimed(world, **reply)) == Refusal("recipient_domain_cap", NOON + timedelta(hours=25))


def test_an_egress_address_has_its_cap_per_hour_and_can_be_held(world: World) -> None:
    """Q-F7, B-F5, towards C-F11: a held address holds its queue and is never routed around."""
    world.change("insert into ops.egress_ips (address, sends_per_hour) values ('127.0.0.3', 1)")
    world.change("update ops.mailboxes set egress_ip_id = (select id from ops.egress_ips)")
    reply = {"task_type": "reply", "turn": 3, "gap_s": 0}
    assert submit(world, a_claimed(world, **reply)) is None
    second = a_claimed(world, **reply)
    assert submit(world, second) == Refusal("egress_ip_cap", NOON + timedelta(hours=1))
    assert binding_cap(world, second) == "egress_ip_hour:127.0.0.3 1/1"
    world.clock.sleep(3600)
    world.change("update ops.egress_ips set state = 'held', state_reason = 'listed'")
    assert submit(world, second) == Refusal("egress_address_held", NOON + timedelta(hours=2))
    world.change("update ops.egress_ips set state = 'active', state_reason = null")
    assert submit(world, second) is None


def test_mails_that_share_a_commit_share_the_caps(world: World) -> None:
    """Q-F10: each is judged after the one before it was counted."""
    for bot in world.bots:
        world.slot(world.senders[0], bot, gap_s=0)
    world.change("update ops.sender_days set warmup_quota = 2")
    answers = submit_all(world, claim(world))
    assert sorted(str(refusal and refusal.reason) for refusal in answers.values()) == [
        "None", "None", "sender_daily_quota", "sender_daily_quota",
    ]  # fmt: skip
    assert counts(world) == (2, 0, 2, 0)


def test_a_suppressed_recipient_gets_nothing_whatever_was_planned(world: World) -> None:
    """Q-B5, towards C-B9"""
    bot = a_claimed(world)
    cold = a_claimed(world, **a_cold_mail(Priority.COLD_FIRST_TOUCH))
    with world.engine.begin() as connection:
        targets = [suppressions.parse_target(written) for written in (world.bots[0].address, "@customer.test")]
        cancellation.suppress(
            connection,
            [Entry(target, SuppressionCause.OPT_OUT, "asked to stop") for target in targets],
            by="an operator",
        )
    assert submit(world, bot) == submit(world, cold) == Refusal("suppressed: asked to stop")


def test_an_open_breaker_refuses_at_the_last_moment(world: World) -> None:
    """Q-F8: it may have opened while this mail waited for its turn."""
    slot = a_claimed(world)
    until = NOON + timedelta(minutes=5)
    access = world.access(world.senders[0])
    world.change(
        "insert into ops.host_breakers (key, failures, open_until, reason) values (:key, 5, :until, 'refused')",
        key=f"host:{server_of(access.smtp_host, access.smtp_port)}", until=until,
    )  # fmt: skip
    assert submit(world, slot) == Refusal("circuit_breaker", until)


def test_eight_workers_never_exceed_a_cap_over_a_thousand_slots(database: Engine, sandbox: Sandbox) -> None:
    """Q-F10, cases 13 and 14: at the guard, where the caps are kept; the queue is drained by eight at once."""
    shards, policy = 8, a_policy(
        dispatch={"shards": 8}, caps={"recipient_domain_24h": 300, "sender_24h": 30}, bots={"daily_inbound_cap": 25}
    )  # fmt: skip
    world = a_world(database, sandbox, senders=16, bots=20, checks=False, policy=policy)
    for sender in world.senders:
        world.quota(sender, warmup=40, total=60)
        for bot in world.bots * 3:
            world.slot(sender, bot, gap_s=0)

    def work(shard: int) -> int:
        submitted = 0
        while slots := claim(world, shard=shard, shards=shards, limit=16):
            answers = submit_all(world, slots)
            refused = [slot for slot in slots if answers[slot.id] is not None]
            finish(world, *(End(slot, "cancelled", "refused") for slot in refused))
            submitted += len(slots) - len(refused)
        return submitted

    with ThreadPoolExecutor(shards) as pool:
        submitted = sum(pool.map(work, range(shards)))
    assert submitted == 300
    assert world.statuses() == {"submitting": 300, "cancelled": 660}
    assert world.value("select max(warmup_sent) from ops.sender_days") <= 30
    assert world.value("select max(inbound_sent) from ops.bot_days") <= 25
    assert world.value("select sum(warmup_sent) from ops.sender_days") == 300
