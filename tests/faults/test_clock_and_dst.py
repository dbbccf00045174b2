"""Clocks and calendars: local windows and caps on both days of a clock change, and workers whose clock is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from emberflow.clock import Clock, SystemClock, floor_hour, local_day
from emberflow.delivery.caps import HOURS_KEPT, Counters
from emberflow.delivery.guard import (
    BotDay,
    Facts,
    Refusal,
    SenderDay,
    Usage,
    bot_day_of,
    counters_of,
    judge,
    sender_day_of,
)
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot
from emberflow.policy.document import Policy
from emberflow.queue_manager import pre_send, slot_store
from emberflow.queue_manager.planning import planner
from emberflow.queue_manager.sending import dispatcher
from emberflow.queue_manager.sending.worker import SendingReport
from emberflow.senders.pacing import open_windows
from emberflow.senders.policy import PacingPolicy
from tests.builders import a_sender, frame
from tests.faults.kit.clocks import OffsetClock, set_offset
from tests.worlds import NOON, Sandbox, World, a_policy, a_real_policy, a_world

# Zone, day, and how many hours it has. Sao Paulo gave up clock changes in 2019 and Apia in 2021 (their changes were
# at midnight, so a day began at 01:00 or had 23:00-24:00 twice); Lord Howe moves by half an hour; Dublin's winter is
# the exception by law; Apia had no 30 December 2011 at all.
CLOCK_CHANGES = [
    ("America/Sao_Paulo", date(2018, 11, 4), 23.0),
    ("America/Sao_Paulo", date(2019, 2, 16), 25.0),
    ("America/Sao_Paulo", date(2025, 11, 2), 24.0),
    ("Australia/Lord_Howe", date(2025, 10, 5), 23.5),
    ("Australia/Lord_Howe", date(2025, 4, 6), 24.5),
    ("Europe/Dublin", date(2025, 3, 30), 23.0),
    ("Europe/Dublin", date(2025, 10, 26), 25.0),
    ("Pacific/Apia", date(2020, 9, 27), 23.0),
    ("Pacific/Apia", date(2021, 4, 4), 25.0),
    ("Pacific/Apia", date(2011, 12, 29), 24.0),
    ("America/New_York", date(2025, 3, 9), 23.0),
    ("America/New_York", date(2025, 11, 2), 25.0),
]
WINDOWS = [(time(8, 30), time(17, 30)), (time(0, 0), time(6, 0)), (time(12, 0), time(0, 0))]
EVERY_DAY = [0, 1, 2, 3, 4, 5, 6]
STEP = timedelta(minutes=10)
SEED = 1


def a_reply_slot(**changes: Any) -> Slot:
    """The third turn of a conversation: a sender's mail, which is owed and not made up for by the next plan."""
    fields: dict[str, Any] = {
        "id": 1, "task_type": "reply", "target_time": NOON, "payload": {}, "idempotency_key": "reply:1",
        "from_mailbox_id": 1, "to_mailbox_id": 2, "to_address": None, "sender_id": 1, "bot_id": 1,
        "conversation_id": None, "turn": 3, "gap_s": 0, "message_id": "<1@x>", "attempts": 0, "lease_token": "",
    }  # fmt: skip
    return Slot(**(fields | changes))


def some_facts(slot: Slot, zone: str) -> Facts:
    """Nothing but the time of day forbids this mail."""
    return Facts(
        slot=slot,
        route=Route("smtp.test", "own", "senders.test", "bot@bots.test", "own", None),
        from_zone=zone,
        to_zone=zone,
        is_checked=True,
        read_at=datetime(2999, 1, 1, tzinfo=UTC),
        sender_state="active",
        sender_profile=None,
        bot_status="active",
        bot_profile=None,
        bot_born_at=datetime(2000, 1, 1, tzinfo=UTC),
        bot_limit=None,
        egress_state=None,
        egress_sends_per_hour=None,
        suppressed=None,
        blocked_until=None,
    )


def ask(facts: Facts, now: datetime, policy: Policy, quota: SenderDay | None = None) -> Refusal | None:
    """Ask the pre-send check's rule at ``now``, with a sender's day that is fresh unless it is given."""
    slot, zone = facts.slot, facts.from_zone
    sender_key, bot_key = sender_day_of(slot, zone, now), bot_day_of(slot, zone, zone, now)
    keys = counters_of(slot, facts.route)
    usage = Usage(
        sender_days={} if sender_key is None else {sender_key: quota or SenderDay(9999, 9999, 0, 0, 0)},
        bot_days={} if bot_key is None else {bot_key: BotDay()},
        counters=Counters(now.replace(minute=0, second=0, microsecond=0), dict.fromkeys(keys, [0] * HOURS_KEPT)),
        next_send_at={slot.from_mailbox_id: None},
        bot_free_at={},
    )
    return judge(facts, usage, now=now, is_stopped=False, policy=policy, seed=SEED)


def instants_around(zone: str, day: date) -> Iterator[datetime]:
    """Every ten minutes of the local day and of the days beside it."""
    start = datetime.combine(day - timedelta(days=1), time(0), ZoneInfo(zone)).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=2), time(0), ZoneInfo(zone)).astimezone(UTC)
    while start < end:
        yield start
        start += STEP


def is_inside(moment: datetime, zone: str, opens: time, closes: time) -> bool:
    """What a person with a wall clock says."""
    wall = moment.astimezone(ZoneInfo(zone)).time()
    return opens <= wall and (wall < closes or closes == time(0))


@pytest.mark.parametrize(("zone", "day", "hours"), CLOCK_CHANGES)
@pytest.mark.parametrize(("opens", "closes"), WINDOWS)
@pytest.mark.parametrize("who", ["sender", "bot"])
def test_mail_leaves_at_exactly_the_local_times_of_its_window(
    zone: str, day: date, hours: float, opens: time, closes: time, who: str
) -> None:
    """I7, Q-B5: case 28, by the wall clock of the mailbox, at every ten minutes around a clock change."""
    pacing = {"window_start": opens, "window_end": closes, "weekdays": EVERY_DAY}
    policy = a_real_policy(pacing=pacing, bots={"wake_start": opens, "wake_end": closes})
    facts = some_facts(a_reply_slot(turn=3 if who == "sender" else 2), zone)
    seen = Counter[date]()
    for now in instants_around(zone, day):
        refusal = ask(facts, now, policy)
        assert (refusal is None) == is_inside(now, zone, opens, closes), now.astimezone(ZoneInfo(zone))
        if refusal is not None:
            assert refusal.reason == "outside_window"
            assert refusal.retry_at is not None
            assert refusal.retry_at > now
            assert is_inside(refusal.retry_at, zone, opens, closes)
            assert ask(facts, refusal.retry_at, policy) is None
        seen[local_day(now, zone)] += 1
    assert seen[day] * STEP == timedelta(hours=hours)


@pytest.mark.parametrize(("zone", "day", "hours"), CLOCK_CHANGES)
def test_mail_leaves_only_in_the_workday_that_the_planner_drew(zone: str, day: date, hours: float) -> None:
    """S-F5, I7: start, lunch and end of the sender's own day, also beside a clock change."""
    policy = a_real_policy(pacing=PacingPolicy(weekdays=tuple(EVERY_DAY)).model_dump())
    slot = a_reply_slot()
    facts, sender = some_facts(slot, zone), frame(a_sender(slot.sender_id, zone=zone))
    for now in instants_around(zone, day):
        row = open_windows(sender, now, policy.pacing, SEED).iloc[0]
        is_open = row["opens_at"] <= now < row["closes_at"] and not row["lunch_at"] <= now < row["lunch_ends_at"]
        refusal = ask(facts, now, policy)
        assert (refusal is None) == is_open, now.astimezone(ZoneInfo(zone))
        if refusal is not None:
            assert refusal.reason == "outside_window"
            assert refusal.retry_at is not None
            assert ask(facts, refusal.retry_at, policy) is None


@pytest.mark.parametrize(("zone", "day", "hours"), CLOCK_CHANGES)
def test_a_day_of_25_hours_has_no_second_quota_and_one_of_23_keeps_its_own(zone: str, day: date, hours: float) -> None:
    """S-B5: a local hour that happens twice counts into the same row; the row's quota binds until the day is over."""
    policy = a_real_policy(
        pacing={"window_start": time(0), "window_end": time(0), "weekdays": EVERY_DAY},
        bots={"daily_inbound_cap": 200, "wake_start": time(0), "wake_end": time(0)},
        caps={"sender_24h": None},
    )
    slot = a_reply_slot()
    spent = SenderDay(warmup_quota=0, total_quota=3, warmup_sent=0, reply_sent=3, cold_sent=0)
    on_the_day = [now for now in instants_around(zone, day) if local_day(now, zone) == day]
    assert len({sender_day_of(slot, zone, now) for now in on_the_day}) == 1
    for now in on_the_day:
        refusal = ask(some_facts(slot, zone), now, policy, quota=spent)
        assert refusal is not None
        assert refusal.reason == "sender_daily_quota"
        assert refusal.retry_at is not None
        assert local_day(refusal.retry_at, zone) > day


@pytest.mark.parametrize(("zone", "day", "hours"), [change for change in CLOCK_CHANGES if change[2] != 24])
def test_caps_of_a_day_and_of_24_hours_hold_together_across_a_clock_change(
    database: Engine, sandbox: Sandbox, zone: str, day: date, hours: float
) -> None:
    """Q-F6: mail that wants to leave every hour of three days; each cap is what refuses it at some time."""
    a_day, in_24_hours = 6, 8
    policy = a_policy(
        pacing={"window_start": time(0), "window_end": time(0), "weekdays": EVERY_DAY},
        bots={"daily_inbound_cap": 200, "wake_start": time(0), "wake_end": time(0)},
        caps={"sender_24h": in_24_hours},
    )
    start = datetime.combine(day - timedelta(days=1), time(18), ZoneInfo(zone)).astimezone(UTC)
    world = a_world(
        database, sandbox, senders=1, bots=1, policy=policy, zones=[zone], bot_zones=[zone], checks=False, start=start,
        born_at=datetime(2000, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    world.change(
        "insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, daily_factor, "
        "warmup_quota, total_quota) select id, cast(:day as date) + n, 1, 0, 1, 1, 0, :total "
        "from ops.senders, generate_series(-2, 5) as n",
        day=day, total=a_day,
    )  # fmt: skip
    left: list[datetime] = []
    refused = Counter[str]()
    for _ in range(72):
        now = world.clock.now()
        world.slot(task_type="reply", turn=3, gap_s=0, local_day=local_day(now, zone))
        (slot,) = world.claim()
        with world.engine.begin() as connection:
            said = pre_send.submit(connection, [slot], now=now, policy=policy, seed=SEED)[slot.id].refusal
            if said is None:
                left.append(now)
            else:
                refused[said.reason] += 1
                slot_store.finish(connection, [slot_store.End(slot, "cancelled", said.reason)])
        world.clock.advance(timedelta(hours=1))

    assert set(refused) == {"sender_daily_quota", "sender_cap"}
    assert max(Counter(local_day(now, zone) for now in left).values()) == a_day
    within = [sum(now - timedelta(hours=24) < other <= now for other in left) for now in left]
    assert max(within) == in_24_hours


# Workers whose clock is wrong


def test_a_clock_that_jumps_back_neither_repeats_a_mail_nor_forgets_the_gap(database: Engine, sandbox: Sandbox) -> None:
    """I1, S-B6: a machine whose time is set back an hour in the middle of a run."""
    world = a_world(database, sandbox, senders=1, bots=2, checks=False, policy=a_policy(replies={"rate": 0.0}))
    world.slot(bot=world.bots[0], gap_s=30)
    assert world.dispatch() == {"sent": 1}
    sent_at = world.value("select sent_at from ops.slots")
    world.clock.advance(timedelta(hours=-1))
    world.slot(bot=world.bots[1], gap_s=30)
    assert "sent" not in world.dispatch()
    assert len(world.deliveries()) == 1

    world.clock.advance(timedelta(hours=1, minutes=1))
    assert world.dispatch() == {"sent": 1}
    first, second = world.rows("select sent_at from ops.slots order by sent_at")
    assert first["sent_at"] == sent_at
    assert second["sent_at"] - first["sent_at"] >= timedelta(seconds=30)
    assert len({delivery.message_id for delivery in world.deliveries()}) == len(world.deliveries()) == 2


@pytest.mark.parametrize("days", [-1, 1])
def test_a_worker_whose_clock_is_a_day_off_has_no_quota_to_send_from(
    database: Engine, sandbox: Sandbox, days: int
) -> None:
    """I3, Q-B6: it finds no row for its day, and what is unknown forbids."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False, policy=a_policy(replies={"rate": 0.0}))
    world.slot()
    world.clock.advance(timedelta(days=days))
    world.change("update ops.slot_states set target_time = :now", now=world.clock.now())
    assert "sent" not in world.dispatch()
    assert world.deliveries() == []


def test_rolling_caps_are_kept_by_workers_whose_clocks_disagree_by_hours(database: Engine, sandbox: Sandbox) -> None:
    """I3, Q-F6: counts go into the newest hour that is known, so a clock that is behind opens no second window."""
    policy = a_policy(replies={"rate": 0.0}, caps={"sender_24h": 3})
    world = a_world(database, sandbox, senders=1, bots=8, checks=False, policy=policy)
    for number, bot in enumerate(world.bots):
        world.clock.advance(timedelta(hours=5 if number % 2 else -5))
        world.slot(bot=bot, target_time=world.clock.now(), gap_s=0)
        world.change("update ops.mailboxes set next_send_at = null")
        world.dispatch()
    assert world.statuses()["sent"] == len(world.deliveries()) == 3


@pytest.fixture
def hasty(database: Engine, sandbox: Sandbox) -> World:
    """One sender with twenty mails due at once, of which a rolling day lets five through; it is now."""
    policy = a_policy(replies={"rate": 0.0}, caps={"sender_24h": 5})
    world = a_world(
        database,
        sandbox,
        senders=1,
        bots=20,
        checks=False,
        policy=policy,
        start=SystemClock().now() - timedelta(minutes=1),
    )
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    return world


def dispatched(world: World, clock: Clock) -> SendingReport:
    """One run of a worker with this clock; its machine's day has a quota, whatever day that is."""
    world.change(
        "insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, daily_factor, "
        "warmup_quota, total_quota) values (:sender, :day, 1, 50, 1, 1, 50, 50) on conflict do nothing",
        sender=world.senders[0].id, day=local_day(clock.now(), "UTC"),
    )  # fmt: skip
    world.change("update ops.mailboxes set next_send_at = null")
    dispatcher.due_shards(world.engine, clock=clock)
    return dispatcher.dispatch_shard(world.engine, 0, clock=clock, settings=world.settings)


def test_a_clock_that_jumps_twice_by_more_than_a_day_opens_no_new_window(hasty: World, tmp_path: Path) -> None:
    """I3, Q-F6: the database's clock counts; with the worker's, a cap of 5 let 15 mails through."""
    file = tmp_path / "offset"
    clock = OffsetClock(file)
    assert dispatched(hasty, clock).ends["sent"] == 5

    for hours in (26, 52, -26):
        set_offset(file, hours * 3600)
        report = dispatched(hasty, clock)
        assert report.ends.total() == 0
        assert report.refused is not None
        assert "synchronise both (NTP)" in report.refused

    set_offset(file, 0)
    assert dispatched(hasty, clock).ends["sent"] == 0
    assert len(hasty.deliveries()) == 5


def test_a_clock_that_jumps_while_a_run_is_under_way_changes_nothing_for_it(
    hasty: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: a run goes by the database's answer and a counter; nobody can set that counter."""
    file = tmp_path / "offset"
    submit = pre_send.submit
    asked: list[datetime] = []

    def jump(*arguments: Any, now: datetime, **options: Any) -> Any:
        asked.append(now)
        set_offset(file, 26 * 3600 * len(asked))
        return submit(*arguments, now=now, **options)

    monkeypatch.setattr(pre_send, "submit", jump)
    began = SystemClock().now()
    assert dispatched(hasty, OffsetClock(file)).ends["sent"] == 5
    assert max(asked) - began < timedelta(minutes=5)
    assert len(hasty.deliveries()) == 5


def test_a_worker_a_few_seconds_off_sends_by_the_databases_clock(hasty: World, tmp_path: Path) -> None:
    """What differs by less than a minute is no fault; neither is it what counts."""
    set_offset(tmp_path / "offset", -40)
    before = SystemClock().now()
    assert dispatched(hasty, OffsetClock(tmp_path / "offset")).ends["sent"] == 5
    assert min(row["sent_at"] for row in hasty.rows("select sent_at from ops.slots where sent_at is not null")) > before


def test_a_clock_that_is_wrong_neither_expires_nor_reads_nor_plans_ahead_of_time(hasty: World, tmp_path: Path) -> None:
    """Q-B8: tidying, reading and planning go by the database's clock too."""
    set_offset(tmp_path / "offset", 26 * 3600)
    clock = OffsetClock(tmp_path / "offset")
    began = SystemClock().now()
    planner.plan_hour(hasty.engine, floor_hour(SystemClock().now()), clock=clock, settings=hasty.settings)
    dispatcher.due_shards(hasty.engine, clock=clock)
    assert "expired" not in hasty.statuses()
    assert hasty.value("select outcome from ops.plan_runs") == "planned"
    last = hasty.value("select max(local_day) from ops.sender_days")
    assert began.date() <= last <= SystemClock().now().date()
