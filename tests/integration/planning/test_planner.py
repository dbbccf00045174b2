"""The plan of an hour as it is written: volumes, gaps, caps, tiers, and a second run that changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from emberflow.clock import HOUR, floor_hour
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations import mailboxes
from emberflow.policy.versions import in_force
from emberflow.queue_manager.plan_runs import run_of
from emberflow.queue_manager.planning import planner
from emberflow.reporting.slot import planned_hours
from tests.worlds import (
    NOON,
    OPERATOR,
    Sandbox,
    World,
    a_policy,
    a_real_policy,
    a_world,
    some_settings,
)

DAY = timedelta(days=1)
MIDNIGHT = NOON.replace(hour=0)
STEADY = {"daily_factor_low": 1.0, "quiet_day_share": 0.0}
DENSE = {"gap_minimum_s": 1, "gap_jitter_s": 0}
PLANNED = ("plan_runs", "plan_inputs", "slots", "sender_days")


def slots_of(world: World) -> list[Any]:
    return list(world.rows("select * from ops.slots order by sender_id, target_time"))


def hours(world: World, first: datetime, count: int) -> int:
    """Plan so many hours, each when it begins; return how many slots were written."""
    world.clock.advance(first - world.clock.now())
    written = 0
    for _ in range(count):
        written += world.plan().slots
        world.clock.advance(HOUR)
    return written


def wipe_plans(world: World) -> None:
    world.erase("scheduled_tasks", "slot_states", "plan_inputs", "plan_runs", "sender_days")


def test_the_volume_delivered_on_day_n_follows_the_ramp(database: Engine, sandbox: Sandbox) -> None:
    """S-B3, S-B4: min(start + step (n - 1), max), and a day of pause is not a day of the ramp."""
    policy = a_policy(
        ramp={"start": 5, "step": 2, "maximum": 9},
        quota=STEADY,
        pacing=DENSE,
        replies={"rate": 0.0},
    )
    world = a_world(database, sandbox, senders=1, bots=20, policy=policy)
    sender = world.senders[0].address
    volumes = []
    for day in range(6):
        if day == 2:
            mailboxes.pause(database, OPERATOR, "sender", sender, reason="a holiday")
        if day == 3:
            mailboxes.resume(database, OPERATOR, "sender", sender, reason="a test")
        before = len(world.deliveries())
        world.plan()
        world.dispatch()
        volumes.append(len(world.deliveries()) - before)
        world.clock.advance(NOON + (day + 1) * DAY - world.clock.now())
    assert volumes == [5, 7, 0, 9, 9, 9]


def test_a_day_of_hours_adds_up_to_the_quota_inside_the_window_and_with_every_gap(
    database: Engine, sandbox: Sandbox
) -> None:
    """S-B3, S-B6: 600 to 900 s between two mails of one sender, also from one hour's plan to the next."""
    policy = a_real_policy(ramp={"start": 20}, quota=STEADY)
    world = a_world(database, sandbox, senders=3, bots=40, policy=policy, start=MIDNIGHT, checks=False)
    hours(world, MIDNIGHT, 24)
    for sender in world.senders:
        own = [slot for slot in slots_of(world) if slot["sender_id"] == sender.id]
        assert len(own) == 20
        assert all(600 <= slot["gap_s"] <= 900 for slot in own)
        for earlier, later in pairwise(own):
            assert (later["target_time"] - earlier["target_time"]).total_seconds() >= earlier["gap_s"]
        assert MIDNIGHT.replace(hour=8, minute=30) <= own[0]["target_time"]
        assert own[-1]["target_time"] < MIDNIGHT.replace(hour=17, minute=30)


def test_a_closed_day_has_no_slots(database: Engine, sandbox: Sandbox) -> None:
    """S-B4"""
    saturday = NOON + 5 * DAY
    world = a_world(database, sandbox, policy=a_real_policy(), start=saturday, checks=False)
    assert world.plan().slots == 0


def test_no_day_is_planned_beyond_the_total_quota(database: Engine, sandbox: Sandbox) -> None:
    """S-B5: replies that the sender has sent take their share of it."""
    policy = a_policy(ramp={"start": 10}, quota={"total_daily_cap": 8} | STEADY, pacing=DENSE)
    world = a_world(database, sandbox, senders=2, bots=12, policy=policy, checks=False)
    busy, idle = world.senders
    world.quota(busy, total=8)
    world.change("update ops.sender_days set reply_sent = 3 where sender_id = :id", id=busy.id)
    world.plan()
    assert Counter(slot["sender_id"] for slot in slots_of(world)) == {busy.id: 5, idle.id: 8}


def test_a_day_is_the_day_of_the_senders_own_zone(database: Engine, sandbox: Sandbox) -> None:
    """S-B5, D-B2: at 23:00 in UTC it is tomorrow in Tokyo and still today in New York."""
    zones = ("UTC", "Asia/Tokyo", "America/New_York")
    world = a_world(database, sandbox, senders=3, bots=12, zones=zones, start=NOON.replace(hour=23), checks=False)
    world.plan()
    days = {row["sender_id"]: row["local_day"] for row in world.rows("select * from ops.sender_days")}
    today = NOON.date()
    assert list(days.values()) == [today, today + DAY, today]
    for slot in slots_of(world):
        zone = ZoneInfo(zones[world.senders.index(next(s for s in world.senders if s.id == slot["sender_id"]))])
        assert slot["local_day"] == slot["target_time"].astimezone(zone).date() == days[slot["sender_id"]]


@pytest.mark.parametrize(
    ("born_at", "limits", "cap"),
    [
        (NOON, {"new_bot_cap": 5}, 5),
        (NOON - 2 * DAY, {"new_bot_cap": 3, "cap_step_per_day": 2}, 7),
        (NOON - 99 * DAY, {"daily_inbound_cap": 6}, 6),
    ],
    ids=["new", "two days old", "grown"],
)
def test_a_bot_is_planned_up_to_its_cap_by_age_and_no_further(
    database: Engine, sandbox: Sandbox, born_at: datetime, limits: dict[str, Any], cap: int
) -> None:
    """B-B2, B-B3"""
    world = a_world(database, sandbox, senders=12, bots=2, policy=a_policy(bots=limits), born_at=born_at, checks=False)
    report = world.plan()
    assert report.wanted > report.slots
    assert Counter(slot["bot_id"] for slot in slots_of(world)) == {bot.id: cap for bot in world.bots}
    hours(world, NOON + HOUR, 3)
    assert max(Counter(slot["bot_id"] for slot in slots_of(world)).values()) == cap


def test_the_operators_own_limit_of_a_bot_holds(database: Engine, sandbox: Sandbox) -> None:
    """B-B3"""
    world = a_world(database, sandbox, senders=6, bots=2, checks=False)
    limited, free = world.bots
    world.change("update ops.bots set interaction_limits = 2 where id = :id", id=limited.id)
    world.plan()
    assert Counter(slot["bot_id"] for slot in slots_of(world)) == {limited.id: 2, free.id: 6}


@pytest.mark.parametrize("why", ["paused", "cooling down", "asleep"])
def test_a_bot_that_is_not_available_gets_nothing(database: Engine, sandbox: Sandbox, why: str) -> None:
    policy = a_policy(bots={"wake_start": "07:00", "wake_end": "22:00"})
    zones = ("UTC", "Asia/Tokyo" if why == "asleep" else "UTC")
    world = a_world(
        database, sandbox, senders=2, bots=2, policy=policy, bot_zones=zones, start=NOON + HOUR, checks=False
    )
    present, absent = world.bots
    if why == "paused":
        world.change("update ops.bots set status = 'paused' where id = :id", id=absent.id)
    if why == "cooling down":
        world.change("update ops.bots set cooldown_until = :until where id = :id", id=absent.id, until=NOON + 2 * HOUR)
    world.plan()
    assert {slot["bot_id"] for slot in slots_of(world)} == {present.id}


@pytest.mark.parametrize(
    ("hours_ago", "tier"),
    [(None, "virgin"), (100, "probabilistic"), (30, "active")],
    ids=["never met", "met long ago", "met yesterday"],
)
def test_the_tier_that_supplied_the_bot_is_stored_with_its_slot(
    database: Engine, sandbox: Sandbox, hours_ago: int | None, tier: str
) -> None:
    """Q-B7"""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    if hours_ago is not None:
        world.change(
            "insert into ops.bot_sender_interactions "
            "(sender_id, bot_id, interaction_type, tier, sent_count, first_contact, last_contact) "
            "values (:sender, :bot, 'warmup_sent', 'virgin', 1, :at, :at)",
            sender=world.senders[0].id, bot=world.bots[0].id, at=NOON - timedelta(hours=hours_ago),
        )  # fmt: skip
    world.plan()
    (slot,) = slots_of(world)
    assert slot["payload"]["tier"] == tier
    with database.connect() as connection:
        unfilled = planner.replay(connection, slot["plan_run_id"]).plan.selection.unfilled
    assert set(unfilled["reason"]) == {"no_eligible_bot"}


def test_a_pair_that_met_within_a_day_is_not_planned(database: Engine, sandbox: Sandbox) -> None:
    """Q-B7: also when the meeting is only planned yet."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    assert world.plan().slots == 1
    assert world.plan(floor_hour(world.clock.now()) + HOUR).slots == 0


def test_planning_an_hour_again_changes_nothing(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3, case 7: a timer that fires twice."""
    world = a_world(database, sandbox, checks=False)
    first = world.plan()
    before = {table: world.rows(f"select * from ops.{table} order by 1, 2") for table in PLANNED}  # noqa: S608
    again = world.plan()
    assert (first.was_planned_before, again.was_planned_before) == (False, True)
    assert (again.plan_run_id, again.slots, again.outcome) == (first.plan_run_id, first.slots, "planned")
    assert before == {table: world.rows(f"select * from ops.{table} order by 1, 2") for table in PLANNED}  # noqa: S608


def test_the_plan_of_a_campaign_for_the_same_hour_is_another_plan(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3: it neither keeps warm-up from being planned nor is it shown or taken back as warm-up."""
    world = a_world(database, sandbox, checks=False)
    for campaign in ("7", "8"):
        world.change(
            "insert into ops.plan_runs (kind, scope, hour, outcome, seed, policy_id, input_sha256, plan_sha256, "
            "senders, bots, wanted, slots) "
            "select 'campaign', :campaign, :hour, 'planned', 1, id, '', '', 1, 0, 5, 5 from ops.policies",
            campaign=campaign,
            hour=NOON,
        )
    with database.connect() as connection:
        assert (run_of(connection, NOON), planned_hours(connection)) == (None, [])
    assert world.plan().slots > 0
    assert world.plan().was_planned_before
    with database.connect() as connection:
        assert [hour["kind"] for hour in planned_hours(connection)] == ["warmup"]
    with pytest.raises(IntegrityError, match="uq_plan_runs_kind_scope_hour"):
        world.change("update ops.plan_runs set scope = '7' where scope = '8'")


def test_an_hour_that_several_workers_plan_at_once_is_planned_by_one(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3, case 2: the same hour asked for by four at the same moment."""
    world = a_world(database, sandbox, checks=False)
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: world.plan(), range(4)))
    assert sorted(report.was_planned_before for report in reports) == [False, True, True, True]
    assert len({report.plan_run_id for report in reports}) == 1
    assert len(slots_of(world)) == reports[0].slots > 0


def test_an_hour_that_is_over_is_remembered_and_plans_no_slot(database: Engine, sandbox: Sandbox) -> None:
    """Towards Q-F4: a backfill of past hours cannot send."""
    world = a_world(database, sandbox, checks=False)
    for ago in (1, 2, 24 * 30):
        report = world.plan(NOON - ago * HOUR)
        assert (report.outcome, report.slots) == ("past", 0)
    assert slots_of(world) == []
    assert world.value("select count(*) from ops.plan_runs where outcome = 'past'") == 3
    assert world.plan(NOON - HOUR).was_planned_before


def test_no_slot_lies_before_the_moment_of_planning(database: Engine, sandbox: Sandbox) -> None:
    """Q-B8: an hour that is planned late is planned from now on."""
    late = NOON + timedelta(minutes=50)
    world = a_world(database, sandbox, policy=a_real_policy(ramp={"start": 20}), start=late, checks=False)
    world.plan()
    assert slots_of(world)
    assert all(late <= slot["target_time"] < NOON + HOUR for slot in slots_of(world))


def test_without_an_active_sender_nothing_is_written_and_the_hour_stays_open(
    database: Engine, sandbox: Sandbox
) -> None:
    world = a_world(database, sandbox, senders=2, bots=4, checks=False)
    for sender in world.senders:
        mailboxes.pause(database, OPERATOR, "sender", sender.address, reason="not today")
    report = world.plan()
    assert (report.outcome, report.plan_run_id, report.slots) == ("idle", None, 0)
    assert [world.value(f"select count(*) from ops.{table}") for table in PLANNED] == [0, 0, 0, 0]  # noqa: S608

    mailboxes.resume(database, OPERATOR, "sender", world.senders[0].address, reason="a test")
    report = world.plan()
    assert (report.outcome, report.senders) == ("planned", 1)
    assert report.slots > 0


def test_a_sender_whom_no_bot_may_serve_is_planned_nothing(database: Engine, sandbox: Sandbox) -> None:
    """B-F9: and a sender whom one may serve a single mail, of five."""
    policy = a_policy(ramp={"start": 5}, quota=STEADY, pacing=DENSE, selection={"minimum_bots": 8})
    world = a_world(database, sandbox, senders=2, bots=1, policy=policy, checks=False)
    alone, served = world.senders
    both = [alone.mailbox_id, world.bots[0].mailbox_id]
    world.change("update ops.mailboxes set owner = 'one client' where id = any(:ids)", ids=both)
    report = world.plan()
    assert (report.outcome, report.wanted, report.slots) == ("planned", 1, 1)
    assert [slot["sender_id"] for slot in slots_of(world)] == [served.id]
    quotas = world.rows("select sender_id, warmup_quota from ops.sender_days")
    assert {row["sender_id"]: row["warmup_quota"] for row in quotas} == {alone.id: 0, served.id: 1}


def test_a_day_that_is_as_it_was_is_neither_written_nor_locked(database: Engine, sandbox: Sandbox) -> None:
    """Dispatch counts in the same rows, and must not wait for a plan that has nothing to say."""
    world = a_world(database, sandbox, senders=2, bots=12, checks=False)
    other, same = world.senders
    versions = "select sender_id, ctid::text, xmin::text, xmax::text from ops.sender_days order by sender_id"
    world.plan()
    world.clock.advance(HOUR)
    world.change("update ops.sender_days set daily_factor = 0.5 where sender_id = :id", id=other.id)
    before = {row["sender_id"]: tuple(row.values()) for row in world.rows(versions)}
    assert world.plan().outcome == "planned"
    after = {row["sender_id"]: tuple(row.values()) for row in world.rows(versions)}
    assert after[same.id] == before[same.id]
    assert after[other.id] != before[other.id]


def test_a_provider_that_junks_the_mail_is_sent_less(database: Engine, sandbox: Sandbox) -> None:
    """B-F8: half the bots are there, and a quarter of the mail goes there once dbt has counted; a replay knows why."""
    policy = a_policy(ramp={"start": 10, "maximum": 10}, quota=STEADY, pacing=DENSE)
    world = a_world(database, sandbox, senders=12, bots=60, policy=policy, checks=False)
    world.change("update ops.mailboxes set provider = case when id % 2 = 0 then 'kind' else 'stern' end")
    stern = {bot.id for bot in world.bots if bot.mailbox_id % 2}

    def share_of_stern() -> float:
        return sum(slot["bot_id"] in stern for slot in slots_of(world)) / len(slots_of(world))

    world.plan()
    assert share_of_stern() == pytest.approx(0.5, abs=0.05)

    wipe_plans(world)
    world.change("create schema if not exists marts")
    world.change("create table marts.provider_placements (provider text, inbox float8, junk float8)")
    world.change("insert into marts.provider_placements values ('kind', 500, 0), ('stern', 100, 400), ('other', 9, 9)")
    world.plan()
    assert share_of_stern() == pytest.approx(0.25, abs=0.05)
    with database.connect() as connection:
        assert planner.replay(connection, world.row("select id from ops.plan_runs")["id"]).is_same


def test_a_change_of_model_lifts_no_throttle(database: Engine, sandbox: Sandbox) -> None:
    """Until the marts know the new model the old score holds, and so does the throttle where it finds none."""
    policy = a_policy(ramp={"start": 20, "maximum": 20}, quota=STEADY, pacing=DENSE)
    world = a_world(database, sandbox, senders=2, bots=60, policy=policy, checks=False)
    first, second = world.senders
    world.change("create schema if not exists marts")
    world.change(
        "create table marts.sender_scores "
        "(sender_id bigint, score float8, model_version text, placements bigint, inbox_rate float8)"
    )
    world.change(
        "insert into marts.sender_scores values (:a, 30, 'old', 99, 0.3), (:b, 99, 'old', 99, 1)",
        a=first.id,
        b=second.id,
    )

    def multipliers() -> list[float]:
        with database.connect() as connection:
            plan = planner.preview(connection, floor_hour(world.clock.now()), now=world.clock.now())
        return [float(value) for value in plan.day.sort_values("sender_id")["health_multiplier"]]

    assert multipliers() == [0.25, 1]
    world.plan()
    world.change("update marts.sender_scores set score = null, model_version = :model", model=policy.reputation.model)
    assert multipliers() == [0.25, 1]
    world.change("drop table marts.sender_scores")
    assert multipliers() == [0.25, 1]


def test_configured_shares_of_providers_and_domains_are_kept(database: Engine, sandbox: Sandbox) -> None:
    """B-F4"""
    selection = {"provider_shares": {"kind": 0.8}, "domain_shares": {"elsewhere.test": 0.25}}
    policy = a_policy(ramp={"start": 10, "maximum": 10}, quota=STEADY, pacing=DENSE, selection=selection)
    world = a_world(database, sandbox, senders=12, bots=60, policy=policy, checks=False)
    world.change("update ops.mailboxes set provider = case when id % 2 = 0 then 'kind' else 'stern' end")
    world.change("update ops.mailboxes set address = id || '@elsewhere.test' where id % 3 = 0 and address like 'bot%'")
    world.plan()
    picked = [slot["to_mailbox_id"] for slot in slots_of(world)]
    assert sum(mailbox_id % 2 == 0 for mailbox_id in picked) / len(picked) == pytest.approx(0.8, abs=0.05)
    assert sum(mailbox_id % 3 == 0 for mailbox_id in picked) / len(picked) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_equal_state_gives_an_equal_plan_whatever_the_physical_order_of_rows(
    database: Engine, sandbox: Sandbox, seed: int
) -> None:
    """Q-F1: the same hash, the same slots, the same Message-IDs."""
    world = a_world(database, sandbox, senders=5, bots=9, checks=False)
    shuffle = random.Random(seed)  # noqa: S311 - order only
    for sender in world.senders:
        for bot in shuffle.sample(world.bots, 4):
            world.change(
                "insert into ops.bot_sender_interactions "
                "(sender_id, bot_id, interaction_type, tier, sent_count, first_contact, last_contact) "
                "values (:sender, :bot, 'warmup_sent', 'virgin', 1, :at, :at)",
                sender=sender.id, bot=bot.id, at=NOON - timedelta(hours=80 + bot.id),
            )  # fmt: skip

    def planned() -> tuple[Any, list[Any]]:
        world.plan()
        run = world.row("select input_sha256, plan_sha256 from ops.plan_runs")
        columns = "idempotency_key, message_id, bot_id, target_time, gap_s, payload"
        slots = world.rows(f"select {columns} from ops.slots order by idempotency_key")  # noqa: S608
        wipe_plans(world)
        return run, list(slots)

    first = planned()
    assert len(first[1]) > 10
    for table in ("mailboxes", "senders", "bots", "bot_sender_interactions"):
        rows = [row["ctid"] for row in world.rows(f"select ctid::text from ops.{table}")]  # noqa: S608
        for ctid in shuffle.sample(rows, len(rows)):
            # An update writes the row anew at the end of the table.
            key = (
                "sender_id" if table == "bot_sender_interactions" else "mailbox_id" if table != "mailboxes" else "zone"
            )
            world.change(f"update ops.{table} set {key} = {key} where ctid = cast(:ctid as tid)", ctid=ctid)  # noqa: S608
    order = [row["id"] for row in world.rows("select id from ops.bots")]
    assert order != sorted(order)
    assert planned() == first

    world.change("update ops.policies set seed = 99")
    assert planned() != first


def test_computing_a_plan_writes_nothing(database: Engine, sandbox: Sandbox) -> None:
    """Towards Q-F3"""
    world = a_world(database, sandbox, checks=False)
    with database.begin() as connection:
        plan = planner.preview(connection, NOON, now=NOON)
    assert len(plan.slots) > 0
    assert [world.value(f"select count(*) from ops.{table}") for table in PLANNED] == [0, 0, 0, 0]  # noqa: S608
    world.plan()
    assert world.value("select plan_sha256 from ops.plan_runs") == plan.sha256


def test_a_plan_is_computed_again_from_what_it_was_computed_from(database: Engine, sandbox: Sandbox) -> None:
    """Q-F1: also when the state has moved on."""
    world = a_world(database, sandbox, senders=4, bots=9, checks=False)
    run_id = world.plan().plan_run_id
    assert run_id is not None
    world.change("update ops.bots set cooldown_until = clock_timestamp() + interval '1 day'")
    world.change("update ops.mailboxes set zone = 'Asia/Tokyo'")
    with database.connect() as connection:
        again = planner.replay(connection, run_id)
    assert again.is_same
    assert len(again.plan.slots) == world.value("select slots from ops.plan_runs") > 0


def test_an_instant_within_an_hour_is_not_an_hour(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3"""
    world = a_world(database, sandbox, checks=False)
    with pytest.raises(ValueError, match="is not the start of an hour"):
        world.plan(NOON + timedelta(minutes=1))


def test_an_hour_without_slots_stays_open_until_it_is_over(database: Engine, sandbox: Sandbox) -> None:
    """Q-B3: who becomes active within it is planned, in the same row; once there are slots, nothing changes."""
    world = a_world(database, sandbox, senders=1, bots=2, checks=False)
    world.change("update ops.bots set cooldown_until = :at", at=NOON + 2 * HOUR)
    empty = world.plan()
    assert (empty.outcome, empty.slots) == ("planned", 0)
    world.change("update ops.bots set cooldown_until = null")
    world.clock.advance(timedelta(minutes=10))
    again = world.plan()
    assert again.plan_run_id == empty.plan_run_id
    assert (again.was_planned_before, again.slots > 0) == (False, True)
    assert world.plan().was_planned_before
    with database.connect() as connection:
        assert planner.replay(connection, world.row("select id from ops.plan_runs")["id"]).is_same


def test_an_hour_days_ahead_is_planned_only_if_that_is_asked_for(database: Engine, sandbox: Sandbox) -> None:
    """A slip of the year would stay planned until then."""
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    assert world.plan(NOON + 72 * HOUR).outcome == "planned"
    ahead = NOON + 73 * HOUR
    with pytest.raises(EmberflowError, match="more than 3 days ahead"):
        world.plan(ahead)
    assert world.value("select count(*) from ops.plan_runs") == 1
    planned = planner.plan_hour(database, ahead, clock=world.clock, settings=world.settings, far_ahead=True)
    assert planned.outcome == "planned"


def test_without_a_policy_nothing_is_planned(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    world.change("update ops.policies set valid_to = now()")
    with pytest.raises(ConfigurationError, match="no policy is in force: run `emberflow policy apply standard`"):
        world.plan()
    assert slots_of(world) == []


def test_without_a_token_key_nothing_is_planned(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    world.settings = some_settings(database, sandbox, token_keys=())
    with pytest.raises(ConfigurationError, match="no key for warm-up tokens"):
        world.plan()
    assert [world.value(f"select count(*) from ops.{table}") for table in PLANNED] == [0, 0, 0, 0]  # noqa: S608


def test_a_slot_names_the_policy_under_which_it_was_planned(database: Engine, sandbox: Sandbox) -> None:
    """D-F1"""
    world = a_world(database, sandbox, checks=False)
    world.plan()
    with database.connect() as connection:
        expected = in_force(connection).policy_id
    assert {slot["policy_id"] for slot in slots_of(world)} == {expected}
