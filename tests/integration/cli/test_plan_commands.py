"""The readable face of the planner: previews, pictures, `plan why-not` and `capacity`, on a real database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.clock import HOUR, SystemClock, floor_hour
from emberflow.errors import EmberflowError
from emberflow.policy.document import shipped
from emberflow.policy.versions import in_force
from emberflow.queue_manager.planning import planner
from emberflow.reporting.capacity import Capacity, capacity
from emberflow.reporting.why_not import WhyNot, why_empty, why_not
from emberflow.senders.pacing import next_opening
from tests.worlds import NOON, SEED, Command, Sandbox, World, a_policy, a_real_policy, a_world

WRITTEN = ("plan_runs", "plan_inputs", "scheduled_tasks", "sender_days")


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=4, checks=False)


def asked(world: World, hour: datetime | None = None, sender: int = 0) -> WhyNot:
    now = world.clock.now()
    with world.engine.connect() as connection:
        return why_not(connection, world.senders[sender].address, hour or floor_hour(now), now=now)


def examined(world: World, hour: datetime | None = None) -> Capacity:
    now = world.clock.now()
    hour = hour or floor_hour(now)
    with world.engine.connect() as connection:
        plan = planner.preview(connection, hour, now=now)
        return capacity(connection, hour, plan, in_force(connection).policy, now)


def numbers(explained: WhyNot) -> dict[str, object]:
    return {step.name: step.value for step in explained.steps}


def test_a_preview_shows_the_slots_of_any_hour_and_writes_nothing(run: Command, world: World, tmp_path: Path) -> None:
    """Towards Q-F3: `plan run --dry-run --at TIME` as a table and as a picture."""
    picture = tmp_path / "plan.png"

    shown = run("plan", "run", "--dry-run", "--at", "2099-01-31T09:20", "--picture", picture, "--limit", 3)

    assert shown.exit_code == 0
    assert "slots of 2099-01-31 09:00:00, the first 3" in shown.output
    assert world.senders[0].address in shown.output
    assert "Nothing was written" in shown.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [world.value(f"select count(*) from ops.{table}") for table in WRITTEN] == [0, 0, 0, 0]  # noqa: S608


def test_a_preview_says_what_a_run_would_really_do_with_the_hour(run: Command, world: World) -> None:
    """Towards Q-F3 and Q-F4"""
    soon = (floor_hour(SystemClock().now()) + 24 * HOUR).isoformat()

    def remark(at: str) -> str:
        return " ".join(run("plan", "run", "--dry-run", "--at", at).output.split())

    assert "a run would write this." in remark(soon)
    assert "a run would write this with --force only" in remark("2099-01-31T09")
    assert "a run plans nothing" in remark("2020-01-31T09")
    world.change("update ops.bots set cooldown_until = '2100-01-01Z'")
    run("plan", "run", "--at", soon)
    assert "a run would write this." in remark(soon), "an hour without slots stays open"
    world.change("update ops.bots set cooldown_until = null")
    run("plan", "run", "--at", "2099-01-31T09:59", "--force")
    assert "planned already" in remark("2099-01-31T09")


def test_cold_mail_of_a_sender_counts_against_its_day_and_not_as_warm_up(world: World) -> None:
    def used() -> tuple[object, str]:
        steps = {step.name: step for step in asked(world).steps}
        return steps["used"].value, steps["total cap"].remark

    world.quota(world.senders[0])
    before = used()
    world.cold_slot("lead@customer.test")
    assert (before, used()) == ((0, "0 of 50 over all kinds"), (0, "1 of 50 over all kinds"))


def test_a_planned_hour_is_drawn_from_its_own_slots(run: Command, tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    run("plan", "run", "--at", "2099-01-31T09", "--force")

    assert run("plan", "show", "--picture", picture).exit_code == 0
    assert b"virgin: 8" in picture.read_bytes()


def test_a_planned_hour_without_slots_and_one_that_is_not_planned(run: Command, tmp_path: Path) -> None:
    run("plan", "run", "--at", "2020-01-31T09")

    empty = run("plan", "show", "--hour", "2020-01-31T09", "--picture", tmp_path / "plan.png")
    unplanned = run("plan", "show", "--hour", "2020-01-31T10", "--picture", tmp_path / "plan.png")

    assert empty.exit_code == 0
    assert "is not planned; `emberflow plan run --dry-run --at ...` previews it" in str(unplanned.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "run", "--picture", "plan.png"), "--picture needs --dry-run"),
        (("plan", "run", "--dry-run", "--at", "noon"), "'noon' is not an hour like 2026-01-31T09"),
        (("plan", "why-not", "nobody@nowhere.test"), "there is no sender nobody@nowhere.test"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_what_to_do(
    run: Command, arguments: tuple[str, ...], message: str
) -> None:
    refused = run(*arguments)

    assert isinstance(refused.exception, EmberflowError)
    assert message in str(refused.exception)


def test_the_commands_print_the_answer_and_the_numbers_behind_it(run: Command, world: World) -> None:
    """B-F6, towards U-F1"""
    explained, found = run("plan", "why-not", world.senders[0].address), run("capacity")

    assert explained.exit_code == found.exit_code == 0
    assert "not planned yet; a plan made now" in explained.output
    assert "ramp volume" in explained.output
    assert "ceil(S w / L), L = 40" in found.output
    assert "warning: too few bots: 4 are active, at least 90 are needed" in found.output


def test_a_paused_sender_has_no_slot_and_the_answer_says_who_wanted_it(run: Command, world: World) -> None:
    """S-B10"""
    paused = run("senders", "pause", world.senders[0].address, "--reason", "on holiday")

    explained = asked(world)

    assert paused.exit_code == 0, paused.exception
    assert explained.answer.startswith("the sender is paused: on holiday; ")
    assert "resume" in explained.answer
    assert explained.steps == ()


def test_a_closed_window_names_its_next_opening_in_the_senders_own_time(database: Engine, sandbox: Sandbox) -> None:
    """Towards U-F1: Monday 20:00 UTC is evening in Berlin."""
    world = a_world(database, sandbox, senders=1, bots=8, policy=a_real_policy(), zones=["Europe/Berlin"], checks=False)

    explained = asked(world, NOON.replace(hour=20))

    assert "its sending window is closed in this hour; it opens next on Tuesday, 2025-06-03 at " in explained.answer
    assert "Europe/Berlin" in explained.answer


def test_a_used_up_quota_is_the_answer_even_though_the_window_is_open(world: World) -> None:
    """Towards U-F1"""
    world.plan()
    world.change("update ops.sender_days set warmup_sent = warmup_quota")
    world.erase("scheduled_tasks", "slot_states")
    world.clock.advance(HOUR)

    assert asked(world).answer == "not planned yet; a plan made now: no mail: the day's warm-up quota of 5 is used up"


def test_scarce_bots_are_the_answer_before_and_after_the_hour_is_planned(world: World) -> None:
    """B-F9, towards U-F1: five mails a day for four bots, each of which serves a sender once."""
    before = asked(world)
    report = world.plan()
    after = asked(world)

    assert before.answer.startswith("not planned yet; a plan made now: 4 mails")
    assert len(after.slots) == numbers(after)["slots"] == 4
    assert after.answer.startswith("4 mails")
    assert report.slots == 8
    assert before.answer.endswith(after.answer)
    assert numbers(after)["ramp volume"] == numbers(before)["ramp volume"] == 5


def test_the_answers_of_an_hour_agree_before_and_after_it_is_planned(database: Engine, sandbox: Sandbox) -> None:
    """Q-F1, towards U-F1: the same numbers for every sender, and a share that was rounded to nothing says so."""
    policy = a_real_policy(ramp={"start": 2})
    world = a_world(database, sandbox, senders=8, bots=30, policy=policy, checks=False, start=NOON - 2 * HOUR)
    before = [asked(world, sender=sender) for sender in range(8)]
    world.plan()
    after = [asked(world, sender=sender) for sender in range(8)]

    assert [len(explained.slots) for explained in after] == [numbers(explained)["slots"] for explained in before]
    assert [numbers(explained) for explained in after] == [numbers(explained) for explained in before]
    assert [f"not planned yet; a plan made now: {explained.answer}" for explained in after] == [
        explained.answer for explained in before
    ]
    empty = [explained.answer for explained in after if not explained.slots]
    assert empty != []
    assert all("its seeded rounding came to 0" in answer for answer in empty)


def test_an_hour_that_was_over_when_it_was_planned_has_no_slot_for_anybody(world: World) -> None:
    """Towards Q-F4"""
    world.plan(NOON - HOUR)

    assert asked(world, NOON - HOUR).answer == (
        "the hour was over when it was planned, and an hour that is over plans nothing"
    )


def test_all_numbers_of_a_full_sender_add_up(database: Engine, sandbox: Sandbox) -> None:
    """Towards U-F1"""
    world = a_world(database, sandbox, senders=1, bots=20, policy=a_policy(), checks=False)

    found = numbers(asked(world))

    losses = ("health", "daily factor", "used", "total cap")
    assert found["left today"] == found["ramp volume"] + sum(found[name] for name in losses)  # type: ignore[misc, operator]
    assert found["slots"] == found["wanted"] == found["left today"]


def test_capacity_counts_senders_bots_and_what_the_hour_came_to(world: World) -> None:
    """B-F6"""
    world.change(
        "update ops.senders set state = 'paused', state_reason = 'a test' where id = :id", id=world.senders[1].id
    )
    world.change("update ops.bots set status = 'paused' where id = :id", id=world.bots[0].id)
    world.plan()

    found = examined(world)

    assert found.senders == {"active": 1, "paused": 1}
    assert found.bots == {"active": 3, "paused": 1}
    assert (found.now.daily_mails, found.now.largest_volume, found.now.bots) == (5, 5, 15)
    assert (found.at_maximum.daily_mails, found.at_maximum.bots) == (30, 90)
    assert found.supply["bots"].sum() == 3
    assert found.pools["provider"].tolist() == [world.bots[0].address.partition("@")[2]]
    assert found.account["used"] == 3
    assert found.account["ramp_volume"] == found.account.drop("ramp_volume").sum()


def test_enough_bots_make_no_warning(database: Engine, sandbox: Sandbox) -> None:
    """B-F6"""
    policy = a_policy(ramp={"start": 1, "step": 1, "maximum": 2}, selection={"pair_cooldown_h": 24})
    world = a_world(database, sandbox, senders=1, bots=2, policy=policy, checks=False)

    assert examined(world).warnings == []


def test_an_hour_that_lacks_bots_is_warned_of_even_where_the_day_has_enough(world: World) -> None:
    """B-F6"""
    world.change("update ops.bots set cooldown_until = :until", until=NOON + timedelta(hours=2))

    found = examined(world)

    assert found.account["no_bot"] > 0
    lacking = f"{found.account['no_bot']} of {found.account['no_bot'] + found.account['slots']} mails"
    assert any("too few bots this hour" in warning and lacking in warning for warning in found.warnings)


def test_young_bots_and_caps_that_are_used_up_are_warned_of(world: World) -> None:
    """B-F6"""
    world.plan()
    world.change("update ops.bots set born_at = :now, interaction_limits = 1", now=world.clock.now())
    policy = a_policy(caps={"provider_24h": 3, "all_24h": 4})
    world.change("insert into ops.send_counters (scope, key, hour, per_hour) values ('all', '', :hour, "
                 "array_fill(0, array[24]) || 4), ('provider', 'old', :old, array_fill(0, array[24]) || 9)",
                 hour=NOON, old=NOON - timedelta(hours=26))  # fmt: skip
    now = world.clock.now()
    with world.engine.connect() as connection:
        plan = planner.preview(connection, NOON, now=now)
        found = capacity(connection, NOON, plan, policy, now)

    warnings = "\n".join(found.warnings)
    assert "the active bots may take 4 mails today, the present volume is 10" in warnings
    assert "the cap on all mail of 24 hours (4) is below the present volume (10)" in warnings
    assert "would receive about 10 mails a day, above the cap per provider (3)" in warnings
    assert "the cap all is used up: 4 of 4" in warnings
    assert {cap.scope: cap.used for cap in found.caps} == {"all": 4, "provider": 0, "recipient_domain": 0}


@pytest.mark.parametrize(("senders", "bots"), [(0, 0), (1, 0), (0, 1)])
def test_an_installation_without_senders_or_bots_is_answered_too(
    run: Command, world: World, tmp_path: Path, senders: int, bots: int
) -> None:
    """B-F6"""
    off = (
        "state_reason = 'not wanted', state_changed_at = now() where id not in (select id from ops.senders limit :keep)"
    )
    world.change(f"update ops.senders set state = 'paused', {off}", keep=senders)  # noqa: S608
    world.change(
        "update ops.bots set status = 'paused' where id not in (select id from ops.bots limit :keep)", keep=bots
    )

    preview = run("plan", "run", "--dry-run", "--picture", tmp_path / "plan.png")
    found = run("capacity")

    assert preview.exit_code == found.exit_code == 0
    assert "0 slots" in preview.output
    assert f"{senders} active senders, {bots} active bots" in found.output
    assert ("warning: too few bots" in found.output) == (senders > bots)


SATURDAY, NEVER_PLANNED = "2099-01-31T09", "2099-01-31T10"


def test_a_plan_of_a_closed_day_says_so_and_when_the_next_window_opens(run: Command, world: World) -> None:
    """Towards U-F1: the standard policy on a Saturday, which somebody tries first."""
    run("policy", "apply", "standard")

    planned = run("plan", "run", "--force", "--hour", SATURDAY)
    again = json.loads(run("plan", "run", "--force", "--hour", SATURDAY, "--json").output)
    shown = run("plan", "show", "--hour", SATURDAY)
    latest = json.loads(run("plan", "show", "--json").output)

    assert "no sender is inside its window in this hour; the next window opens Mon 2099-02-02 " in planned.output
    assert again["why"] == latest["why"] in planned.output
    assert again["why"] in shown.output
    opening, address = again["why"].removesuffix(")").rpartition(" opens ")[2].split(" UTC (")
    sender = next(one for one in world.senders if one.address == address)
    at, pacing = datetime(2099, 1, 31, 9, tzinfo=UTC), shipped("standard").pacing
    openings = {one.address: next_opening("UTC", at, pacing, seed=SEED, sender_id=one.id) for one in world.senders}
    assert openings[sender.address] == min(openings.values())
    assert opening == f"{openings[sender.address]:%a %Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("update ops.senders set state = 'paused', state_reason = 'a test'", "no sender is active: `emberflow senders"),
        (
            "with gone as (update ops.mailboxes set removed_at = now()) "
            "update ops.senders set state = 'stopped', state_reason = 'removed'",
            "there is no sender: `emberflow senders import FILE`",
        ),
        ("update ops.bots set status = 'paused'", "no bot was left: `emberflow capacity`"),
        (
            "insert into ops.restores (noticed_at, why, newest_at) values (now(), 'a test', now())",
            "the database was restored, and all mail is held",
        ),
    ],
)
def test_an_hour_in_which_nobody_has_a_slot_says_what_is_missing(
    run: Command, world: World, change: str, why: str
) -> None:
    """Towards U-F1"""
    world.change(change)

    planned, shown = run("plan", "run"), run("plan", "show")

    assert planned.exit_code == shown.exit_code == 0, planned.exception or shown.exception
    assert why in planned.output
    assert why in shown.output
    assert why in json.loads(run("plan", "show", "--json").output)["why"]


def test_a_used_up_day_names_the_first_window_of_the_next(run: Command, world: World) -> None:
    """Towards U-F1"""
    world.plan()
    world.change("update ops.sender_days set warmup_sent = warmup_quota")
    world.erase("scheduled_tasks", "slot_states")

    with world.engine.connect() as connection:
        why = why_empty(connection, NOON + HOUR, now=NOON + HOUR)

    assert why is not None
    assert why.startswith(
        "every sender inside its window has used up its day's quota; the next window opens Tue 2025-06-03 00:00 UTC ("
    )


def test_an_hour_whose_gaps_leave_no_room_says_so(world: World) -> None:
    """Q-F2: both senders' last gaps end after what is planned now."""
    world.change("update ops.mailboxes set next_send_at = :until", until=NOON + HOUR)

    with world.engine.connect() as connection:
        why = why_empty(connection, NOON, now=NOON)

    assert why == (
        "no mail fits between the gap and the end of the window; the next hour is planned at Mon 2025-06-02 13:00 UTC"
    )


def test_an_hour_whose_share_is_rounded_to_nothing_says_so(database: Engine, sandbox: Sandbox) -> None:
    """Q-F2: two mails a day are a quarter of a mail an hour, so most hours have none."""
    policy = a_real_policy(ramp={"start": 2})
    world = a_world(database, sandbox, senders=1, bots=30, policy=policy, checks=False, start=NOON - 2 * HOUR)
    now = world.clock.now()

    with world.engine.connect() as connection:
        why = why_empty(connection, now, now=now)

    assert why == (
        "the hour's share of what is left was rounded to no mail, and later hours make up for it; "
        "the next hour is planned at Mon 2025-06-02 11:00 UTC"
    )


def test_before_anything_is_planned_show_says_how_to_plan(run: Command) -> None:
    shown, unplanned = run("plan", "show"), run("plan", "show", "--hour", NEVER_PLANNED)

    assert "it is not planned, and a plan made now has " in shown.output
    assert "`emberflow plan run` makes it" in shown.output
    assert "2099-01-31 10:00:00 UTC: it is not planned" in unplanned.output


def test_a_planned_hour_is_taken_back_and_stays_taken_back(run: Command, world: World) -> None:
    """Q-B3: one that was planned by force, years ahead; what a worker holds stays with the worker."""
    world.plan()
    run("plan", "run", "--force", "--hour", SATURDAY)
    planned = world.value("select count(*) from ops.slots where status = 'planned' and target_time > '2099-01-01'")
    world.change(
        "update ops.slot_states set status = 'sent', sent_at = now() "
        "where slot_id = (select max(slot_id) from ops.slot_states)"
    )

    done = run("plan", "cancel", SATURDAY, "--reason", "a slip of the year", "--by", "Ann")
    again = run("plan", "run", "--force", "--hour", SATURDAY)
    once_more = json.loads(run("plan", "cancel", SATURDAY, "--reason", "twice", "--json").output)

    assert done.exit_code == 0, done.exception
    assert f"{SATURDAY}: {planned - 1} slots cancelled, 1 had left already" in done.output
    assert f"{planned - 1} of them are cancelled; a planned hour is not planned again" in again.output
    assert json.loads(run("plan", "show", "--json").output)["hours"][0]["cancelled"] == planned - 1
    assert (once_more["cancelled"], once_more["left"]) == (0, 1)
    assert once_more["others"] == {"cancelled": planned - 1}
    slots = json.loads(run("plan", "show", "--hour", SATURDAY, "--json").output)["slots"]
    assert [slot["reason"] for slot in slots if slot["status"] == "cancelled"] == (
        ["cancelled by Ann: a slip of the year"] * (planned - 1)
    )
    assert f"{planned} slots of 2099-01-31 09:00:00, {planned - 1} cancelled" in (
        run("plan", "show", "--hour", SATURDAY).output
    )
    assert world.value("select count(*) from ops.slots where status = 'planned' and target_time < '2099-01-01'") == 8


def test_a_sender_whose_mails_were_all_cancelled_gets_the_reason(run: Command, world: World) -> None:
    """Q-F2"""
    world.plan()
    run("plan", "cancel", f"{NOON:%Y-%m-%dT%H}", "--reason", "a slip", "--by", "Ann")

    assert asked(world).answer == (
        "no mail: 1 found no bot (1 no_eligible_bot) and 4 cancelled (cancelled by Ann: a slip)"
    )


def test_the_lost_mails_of_a_sender_are_named(database: Engine, sandbox: Sandbox) -> None:
    """Q-F2"""
    world = a_world(database, sandbox, senders=1, bots=20, checks=False)
    world.plan()
    assert asked(world).answer == "5 mails, 5.00 expected: nothing is missing"
    ends = {"cancelled": "bot_retired", "expired": "overdue", "failed": "550 5.7.1"}
    slots = world.rows("select id from ops.slots order by id")
    for slot, (status, reason) in zip(slots, ends.items(), strict=False):
        world.change(
            "update ops.slot_states set status = :status, reason = :reason where slot_id = :id",
            status=status, reason=reason, id=slot["id"],
        )  # fmt: skip

    assert asked(world).answer == (
        "5 mails, 5.00 expected; 1 cancelled (bot_retired) and 1 expired (overdue) and 1 failed (550 5.7.1)"
    )


def test_later_hours_make_up_for_an_hour_that_was_taken_back_whole(run: Command, world: World) -> None:
    """S-B3"""
    first = world.plan()
    run("plan", "cancel", f"{NOON:%Y-%m-%dT%H}", "--reason", "a test")
    world.clock.advance(HOUR)
    later = world.plan()
    run("plan", "cancel", f"{NOON + HOUR:%Y-%m-%dT%H}", "--reason", "a test")

    assert first.slots == later.slots == 8
    assert world.statuses() == {"cancelled": 16}
    assert "8 slots of 2025-06-02 13:00:00, 8 cancelled" in run("plan", "show").output


def test_what_a_worker_holds_stays_when_its_hour_is_taken_back(run: Command, world: World) -> None:
    """Q-B4: a second call takes back what the worker gave back."""
    world.plan()
    world.clock.advance(timedelta(minutes=2))
    held = world.claim(limit=1)

    done = run("plan", "cancel", f"{NOON:%Y-%m-%dT%H}", "--reason", "a test")
    while_held = world.statuses()
    world.change("update ops.slot_states set status = 'planned', lease_token = null, lease_until = null "
                 "where status = 'leased'")  # fmt: skip
    run("plan", "cancel", f"{NOON:%Y-%m-%dT%H}", "--reason", "a test")

    assert len(held) == 1
    assert "7 slots cancelled, 0 had left already; the others stay as they were: 1 leased" in done.output
    assert while_held == {"cancelled": 7, "leased": 1}
    assert world.statuses() == {"cancelled": 8}


def test_an_hour_taken_back_ahead_hides_no_hour_before_it(run: Command, world: World) -> None:
    world.plan()
    run("plan", "run", "--force", "--hour", SATURDAY)
    run("plan", "cancel", SATURDAY, "--reason", "a slip of the year")

    assert "8 slots of 2025-06-02 12:00:00" in run("plan", "show").output


@pytest.mark.parametrize(("hour", "why"), [("2099-01-31T10", "is not planned"), ("2020-01-31T09", "has no slots")])
def test_an_hour_without_a_plan_cannot_be_taken_back(run: Command, hour: str, why: str) -> None:
    run("plan", "run", "--hour", "2020-01-31T09")

    refused = run("plan", "cancel", hour, "--reason", "a test")

    assert isinstance(refused.exception, EmberflowError)
    assert f"{hour} {why}: there is nothing to cancel; `emberflow plan show`" in str(refused.exception)
