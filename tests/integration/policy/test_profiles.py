"""Profiles of the policy: given to mailboxes, and followed by the plan, the pre-send check and the replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from emberflow.accounts import mailbox_changes
from emberflow.clock import HOUR
from emberflow.database.migrate import downgrade, upgrade
from emberflow.errors import ConfigurationError, ImportRejectedError
from emberflow.operations import mailboxes
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force, put_in_force
from emberflow.queue_manager.planning import planner
from emberflow.reporting import capacity, doctor, slot, why_not
from tests.worlds import (
    NOON,
    OPERATOR,
    Command,
    Member,
    Sandbox,
    World,
    a_file,
    a_policy,
    a_real_policy,
    a_row,
    a_world,
    shown_bots,
    shown_senders,
)

BEFORE = "0022"
NUMBERS: Mapping[str, Any] = {
    "mornings": {"pacing": {"window_start": "07:00", "window_end": "11:00"}},
    "careful": {"ramp": {"start": 2, "step": 1, "maximum": 4}, "pacing": {"gap_minimum_s": 1200, "gap_jitter_s": 0}},
    "lazy": {"bots": {"daily_inbound_cap": 1, "new_bot_cap": 1, "cooldown_s": 7200}},
}


def with_profiles(**profiles: Any) -> Policy:
    return a_real_policy(profiles={**NUMBERS, **profiles})


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=4, bots=12, policy=with_profiles(), checks=False)


def give(world: World, member: Member, profile: str) -> None:
    kind: mailboxes.MailboxKind = "sender" if member in world.senders else "bot"
    mailboxes.change(world.engine, OPERATOR, kind, member.address, {"profile": profile}, reason="a test")


def named(world: World, member: Member) -> str | None:
    rows = (*shown_senders(world.engine), *shown_bots(world.engine))
    profile: str | None = next(row["profile"] for row in rows if row["address"] == member.address)
    return profile


# Giving


def test_a_command_gives_a_sender_and_a_bot_a_profile_and_takes_it_back(world: World, run: Command) -> None:
    """S-B11, B-B11: and the lists show it."""
    sender, bot = world.senders[0], world.bots[0]
    shown = run("senders", "set", sender.address, "--profile", "careful")
    assert (shown.exit_code, shown.output) == (0, f"{sender.address}: changed profile\n")
    assert run("bots", "set", bot.address, "--profile", "lazy").exit_code == 0
    assert (named(world, sender), named(world, bot)) == ("careful", "lazy")
    for kind, member, profile in (("senders", sender, "careful"), ("bots", bot, "lazy")):
        listed = json.loads(run(kind, "list", "--json").output)
        assert {row["address"]: row["profile"] for row in listed}[member.address] == profile
    assert run("senders", "set", sender.address, "--owner", "Acme").exit_code == 0
    assert named(world, sender) == "careful"
    assert run("senders", "set", sender.address, "--profile", "none").exit_code == 0
    assert run("bots", "set", bot.address, "--profile", "").exit_code == 0
    assert (named(world, sender), named(world, bot)) == (None, None)


def test_a_profile_that_the_policy_does_not_have_is_refused_and_the_known_ones_are_named(
    world: World, run: Command
) -> None:
    refused = run("senders", "set", world.senders[0].address, "--profile", "cautious", "--owner", "Acme")
    assert refused.exit_code != 0
    said = " ".join(str(refused.exception or refused.output).split())
    assert "nothing was changed: profile: 'cautious' is no profile of the policy in force, which has careful, " in said
    assert named(world, world.senders[0]) is None
    assert world.value("select owner from ops.mailboxes where id = :id", id=world.senders[0].mailbox_id) is None


def test_an_import_file_names_profiles_and_a_wrong_one_refuses_the_file(world: World, tmp_path: Path) -> None:
    """S-B1: an empty cell and ``none`` mean the document's own numbers."""
    cells = {"a@new.test": "careful", "b@new.test": "", "c@new.test": "none"}
    rows = [a_row(address, world.sandbox, profile=profile) for address, profile in cells.items()]
    for kind in ("sender", "bot"):
        own = [row | {"address": f"{kind}-{row['address']}"} for row in rows]
        wrong = [*own, a_row("d@new.test", world.sandbox, profile="gone")]

        def take(rows: list[dict[str, Any]], kind: str = kind) -> None:
            file = a_file(tmp_path, rows)
            if kind == "sender":
                mailboxes.import_senders(world.engine, OPERATOR, file, world.settings, reason="a test")
            else:
                attestation = mailboxes.Attestation("an operator", "a test")
                mailboxes.import_bots(world.engine, OPERATOR, file, attestation, world.settings, reason="a test")

        with pytest.raises(ImportRejectedError, match="row 5, column profile: 'gone' is no profile of the policy in f"):
            take(wrong)
        take(own)
        table = "senders" if kind == "sender" else "bots"
        found = world.rows(
            f"select address, profile from ops.{table} inner join ops.mailboxes on mailboxes.id = mailbox_id "  # noqa: S608 - two known names
            "where address like '%@new.test' order by address"
        )
        assert [row["profile"] for row in found] == ["careful", None, None]


def test_a_policy_that_lacks_a_profile_which_mailboxes_name_is_not_put_in_force(
    world: World, run: Command, tmp_path: Path
) -> None:
    """D-F1: the mailboxes are named; a removed one keeps nobody back."""
    for sender in world.senders[:2]:
        give(world, sender, "careful")
    before = world.value("select id from ops.policies where valid_to is null")
    file = tmp_path / "without.yaml"
    file.write_text("name: without\nlabel: without\n")
    refused = run("policy", "apply", str(file))
    said = " ".join(str(refused.exception or refused.output).split())
    assert refused.exit_code != 0
    assert f"careful: {world.senders[0].address}, {world.senders[1].address} add them to the document" in said
    assert world.value("select id from ops.policies where valid_to is null") == before
    give(world, world.senders[0], "none")
    mailboxes.remove(world.engine, OPERATOR, "sender", world.senders[1].address, reason="a test")
    assert run("policy", "apply", str(file)).exit_code == 0


def test_a_profile_cannot_go_while_a_mailbox_is_being_given_it(world: World) -> None:
    """Whichever comes first, no mailbox is left with a profile that is not there."""
    with ThreadPoolExecutor(max_workers=1) as other:

        def apply() -> None:
            with world.engine.begin() as connection:
                put_in_force(connection, a_real_policy(profiles={}))

        with world.engine.begin() as connection:
            values = {"profile": "mornings"}
            mailbox_changes.change(connection, "sender", world.senders[0].address, values, "an operator")
            applying = other.submit(apply)
            wait_for_a_lock(world)
        with pytest.raises(ConfigurationError, match="lacks profiles that mailboxes name"):
            applying.result(timeout=30)


def wait_for_a_lock(world: World) -> None:
    """Return when a session waits for another one's lock."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    for _ in range(500):
        if world.value(query):
            return
        world.value("select pg_sleep(0.02)::text")
    raise AssertionError("nobody waits")


# Planning and sending


def slots_of(world: World, sender: Member) -> list[Any]:
    return list(world.rows("select * from ops.slots where sender_id = :id order by target_time", id=sender.id))


def test_a_plan_gives_everybody_the_numbers_of_their_profile(world: World) -> None:
    """S-B11, B-B11"""
    plain, morning, careful, other = world.senders
    give(world, morning, "mornings")
    give(world, careful, "careful")
    for bot in world.bots[:6]:
        give(world, bot, "lazy")
    world.clock.advance(timedelta(hours=-3))
    for _ in range(9):
        world.plan()
        world.clock.advance(HOUR)
    volumes = {row["sender_id"]: row["ramp_volume"] for row in world.rows("select * from ops.sender_days")}
    assert volumes == {plain.id: 5, morning.id: 5, careful.id: 2, other.id: 5}
    assert {slot["gap_s"] for slot in slots_of(world, careful)} == {1200}
    assert {slot["target_time"].hour for slot in slots_of(world, morning)} <= {9, 10}
    assert max(slot["target_time"].hour for slot in slots_of(world, plain)) > 11
    received = {row["bot_id"]: row["mails"] for row in world.rows(
        "select bot_id, count(*) as mails from ops.slots group by bot_id")}  # fmt: skip
    assert max(received.get(bot.id, 0) for bot in world.bots[:6]) == 1


def test_a_profile_that_is_given_later_binds_what_is_planned_already(database: Engine, sandbox: Sandbox) -> None:
    """S-B11, Q-B5: outside the new window nothing leaves; the other sender's mail does."""
    policy = with_profiles(evening={"pacing": {"window_start": "13:30", "window_end": "17:00"}})
    world = a_world(database, sandbox, senders=2, bots=4, policy=policy)
    world.plan()
    stays, changes = world.senders
    planned = {sender.id: len(slots_of(world, sender)) for sender in world.senders}
    assert min(planned.values()) >= 1
    give(world, changes, "evening")
    world.clock.advance(timedelta(minutes=59))
    world.dispatch()
    assert {(slot["status"], slot["reason"]) for slot in slots_of(world, changes)} == {("cancelled", "outside_window")}
    assert "sent" in {slot["status"] for slot in slots_of(world, stays)}
    assert {delivery.user for delivery in world.deliveries()} == {stays.address}
    world.clock.advance(timedelta(minutes=1))
    world.plan()
    assert [slot["target_time"].hour for slot in slots_of(world, changes)][planned[changes.id] :] in ([], [13])


def test_bots_rest_as_long_as_their_profiles_say(database: Engine, sandbox: Sandbox) -> None:
    """B-B11: after the pre-send check, and after the answer was recorded."""
    rests = {"slow": {"bots": {"cooldown_s": 3000}}, "quick": {"bots": {"cooldown_s": 60}}}
    world = a_world(database, sandbox, senders=3, bots=3, policy=a_policy(bots={"cooldown_s": 600}, profiles=rests))
    give(world, world.bots[1], "slow")
    give(world, world.bots[2], "quick")
    for sender, bot in zip(world.senders, world.bots, strict=True):
        world.slot(sender, bot, gap_s=0)
    assert world.dispatch() == {"sent": 3}
    rested = [row["cooldown_until"] - NOON for row in world.rows("select cooldown_until from ops.bots order by id")]
    assert [round(rest.total_seconds() / 60) for rest in rested] == [10, 50, 1]


def test_a_plan_is_computed_again_by_the_profiles_of_then(world: World) -> None:
    """Q-F1, Q-F2, S-B11: a replay, the explanation and the why-not know by which profile it was planned."""
    sender, bot = world.senders[0], world.bots[0]
    give(world, sender, "careful")
    for one in world.bots:
        give(world, one, "lazy")
    give(world, bot, "none")
    for hour in range(5):
        world.plan(NOON + hour * HOUR)
        if slots_of(world, sender):
            break
    first = slots_of(world, sender)[0]
    give(world, sender, "mornings")
    with world.engine.begin() as connection:
        put_in_force(connection, with_profiles(careful={"ramp": {"start": 9}}, another={}))
    with world.engine.connect() as connection:
        again = planner.replay(connection, first["plan_run_id"])
        told = slot.explain(connection, first["id"])
        why = why_not.why_not(connection, sender.address, again.hour, now=again.hour)
    assert again.is_same
    assert again.plan.day.set_index("sender_id")["ramp_volume"][sender.id] == 2
    assert told.profiles == {"sender": "careful", "bot": None if first["bot_id"] == bot.id else "lazy"}
    assert told.is_replayed
    assert why.steps[0].remark == "day 1 of the ramp of profile careful"


def test_a_document_without_profiles_leaves_no_trace_of_them_in_a_plan(database: Engine, sandbox: Sandbox) -> None:
    """Q-F1: so hashes and packs are those of before there were profiles."""
    world = a_world(database, sandbox, senders=1, bots=2, policy=a_policy(), checks=False)
    world.plan()
    with world.engine.connect() as connection:
        inputs = planner.replay(connection, world.value("select id from ops.plan_runs")).inputs
    assert "profile" not in inputs.senders
    assert "profile" not in inputs.bots


def test_a_mailbox_with_a_profile_that_is_not_there_sends_nothing_and_doctor_names_it(world: World) -> None:
    """Q-B6: rows that nobody's command wrote."""
    sender = world.senders[0]
    world.change("update ops.senders set profile = 'gone' where id = :id", id=sender.id)
    world.change("update ops.bots set profile = 'lost' where id = :id", id=world.bots[0].id)
    world.plan()
    assert slots_of(world, sender) == []
    assert slots_of(world, world.senders[1]) != []
    finding = next(one for one in doctor.examine(world.settings) if one.check == "profiles")
    assert finding.result == (
        "used: careful by 0, lazy by 0, mornings by 0, slow-replies by 0; "
        f"not known: gone of {sender.address}, lost of {world.bots[0].address}"
    )
    assert finding.remedy is not None
    with world.engine.connect() as connection:
        why = why_not.why_not(connection, sender.address, NOON + HOUR, now=NOON)
    assert why.answer.startswith("the policy in force has no profile 'gone'")


def test_capacity_counts_the_caps_and_maxima_of_profiles(world: World) -> None:
    """B-F6: two of four senders end at 4 mails instead of 30, and half of the bots take 1 instead of 40."""
    for sender in world.senders[:2]:
        give(world, sender, "careful")
    for bot in world.bots[:6]:
        give(world, bot, "lazy")
    with world.engine.connect() as connection:
        found = capacity.of_hour(connection, NOON, NOON)
    assert (found.at_maximum.daily_mails, found.at_maximum.largest_volume) == (68, 30)
    assert found.at_maximum.inbound_cap == 20
    assert set(found.supply["state"]) == {"free"}


# Replies


def test_two_bots_answer_as_often_and_as_late_as_their_profiles_say(database: Engine, sandbox: Sandbox) -> None:
    """B-B11, B-B6, B-B7: of 100 mails each, and no third one is concerned."""
    quick = {"rate": 0.9, "floor_s": 60, "fast_median_s": 120, "slow_median_s": 300, "ceiling_s": 600}
    slow = {"rate": 0.2, "floor_s": 3600, "fast_median_s": 5000, "slow_median_s": 9000, "ceiling_s": 14_400}
    roomy = {"daily_inbound_cap": 200, "new_bot_cap": 200, "daily_reply_cap": 200}
    policy = a_policy(bots=roomy, profiles={"quick": {"replies": quick}, "slow": {"replies": slow}})
    world = a_world(database, sandbox, senders=10, bots=2, policy=policy)
    for bot, profile in zip(world.bots, ("quick", "slow"), strict=True):
        give(world, bot, profile)
    for _ in range(10):
        for sender in world.senders:
            for bot in world.bots:
                world.slot(sender, bot, gap_s=0)
    while world.dispatch():
        pass
    found = world.read()
    assert found["inbox"] == 200
    for bot, numbers in zip(world.bots, (quick, slow), strict=True):
        replies = world.rows(
            "select slots.payload, slots.target_time - placed.occurred_at as delay from ops.slots "
            "inner join ops.mail_events as placed on placed.slot_id = slots.parent_slot_id "
            "and placed.event_type = 'placed_inbox' where slots.bot_id = :id",
            id=bot.id,
        )
        assert abs(len(replies) / 100 - numbers["rate"]) <= 0.1
        delays = [reply["delay"].total_seconds() for reply in replies]
        assert numbers["floor_s"] <= min(delays)
        assert max(delays) <= numbers["ceiling_s"] + 1
        assert {reply["payload"]["profile"] for reply in replies} == {"quick" if numbers is quick else "slow"}
    with world.engine.connect() as connection:
        reply_id = world.value("select min(id) from ops.slots where parent_slot_id is not null")
        assert set(slot.explain(connection, reply_id).profiles) == {"who answers"}


def test_a_sender_answers_by_its_own_profile(database: Engine, sandbox: Sandbox) -> None:
    """S-B11: one ends every thread, the other goes on, late, within its own hours."""
    policy = a_policy(
        profiles={
            "quiet": {"replies": {"continue_rate": 0}},
            "late": {
                "pacing": {"window_start": "18:00", "window_end": "20:00", "gap_minimum_s": 77, "gap_jitter_s": 0}
            },
        }
    )
    world = a_world(database, sandbox, senders=3, bots=3, policy=policy)
    quiet, late, plain = world.senders
    for sender, bot in zip(world.senders, world.bots, strict=True):
        world.slot(sender, bot, gap_s=0)
    world.dispatch()
    give(world, quiet, "quiet")
    give(world, late, "late")
    world.read()
    world.clock.advance(timedelta(minutes=1))
    world.dispatch()
    world.read()
    answers = {row["sender_id"]: row for row in world.rows("select * from ops.slots where turn = 3")}
    assert set(answers) == {late.id, plain.id}
    assert answers[late.id]["target_time"].hour in {18, 19}
    assert answers[late.id]["gap_s"] == 77
    assert answers[plain.id]["target_time"].hour == 12


# The schema


def test_the_schema_of_before_is_not_gone_back_to_while_mailboxes_name_profiles(world: World) -> None:
    """D-B5"""
    give(world, world.senders[0], "careful")
    with pytest.raises(DBAPIError, match="mailboxes name profiles"):
        downgrade(world.engine, BEFORE)
    give(world, world.senders[0], "none")
    downgrade(world.engine, BEFORE)
    upgrade(world.engine)
    assert [row["profile"] for row in shown_senders(world.engine)] == [None] * 4


def test_the_policy_in_force_keeps_its_profiles(world: World) -> None:
    """D-F1"""

    def numbers(connection: Connection) -> Mapping[str, Any]:
        return in_force(connection).policy.profiles

    with world.engine.connect() as connection:
        assert numbers(connection)["lazy"] == NUMBERS["lazy"]
