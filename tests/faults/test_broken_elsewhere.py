"""What broke in other mail queues, done to this one: sending.

Each test names its case in the table "What broke elsewhere" of docs/guarantees.md. Where mail is sent, the judge is
what the receiving server stored.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from signal import SIGCONT
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from emberflow import crash_points
from emberflow.accounts import egress, suppressions, switches
from emberflow.accounts.suppressions import Entry
from emberflow.clock import SystemClock
from emberflow.crash_points import CrashPoint
from emberflow.domain.mail_kind import Priority
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.tokens import verify
from emberflow.operations import mailboxes
from emberflow.policy.document import Policy
from emberflow.queue_manager import cancellation
from emberflow.queue_manager.receiving import reconcile
from emberflow.queue_manager.sending import dispatcher
from emberflow.reporting import queue
from emberflow.reporting.queue import Waiting
from tests.faults.kit.processes import Crew, cut_off
from tests.faults.kit.tcp_proxy import FaultyProxy, Weather, Wire
from tests.worlds import (
    FILED,
    NOON,
    OPERATOR,
    Member,
    Sandbox,
    World,
    a_policy,
    a_real_policy,
    a_world,
)

SILENT = {"replies": {"rate": 0.0}}
HOUR = timedelta(hours=1)
SATURDAY = NOON + timedelta(days=5)
MONDAY = SATURDAY + timedelta(days=2)


def arrived(world: World) -> Counter[str]:
    """How many mails the servers stored, by the name of the recipient."""
    return Counter(delivery.recipient.partition("@")[0] for delivery in world.deliveries())


def copies(world: World) -> Counter[str]:
    """How many copies the servers stored, by Message-ID."""
    return Counter(delivery.message_id for delivery in world.deliveries())


def shown(world: World, *statuses: str) -> list[Waiting]:
    """What the operator is shown of the slots in these statuses."""
    with world.engine.connect() as connection:
        return queue.listed(connection, statuses, 1000, now=world.clock.now())


def recipients(slots: list[Waiting]) -> set[str]:
    return {slot.to_address.partition("@")[0] for slot in slots}


def an_answer(sender: Member, bot: Member, number: int = 1) -> dict[str, Any]:
    """What makes a slot the sender's third turn, which is owed however late it is."""
    parents = [f"<root.{number}@senders.test>", f"<parent.{number}@bots.test>"]
    thread = {"script": "soup-recipe", "thread": f"answer {number}", "in_reply_to": parents[-1], "references": parents}
    return {
        "sender": sender, "bot": bot, "task_type": "reply", "priority_level": int(Priority.REPLY), "turn": 3,
        "payload": thread,
    }  # fmt: skip


def kill_switch(world: World, *, on: bool) -> None:
    with world.engine.begin() as connection:
        switches.turn(connection, switches.STOP_SENDING, on=on, who="an operator", reason="a test")


# One process at a time


def a_hasty_policy(**sections: dict[str, Any]) -> Policy:
    """Time-outs of a second, for worker processes that live by the machine's clock."""
    hasty: dict[str, dict[str, Any]] = {
        "dispatch": {
            "shards": 1,
            "window_s": 0,
            "data_start_s": 1,
            "data_block_s": 1,
            "end_of_data_s": 3,
            "retry_s": 1,
        },
        "reconcile": {"settle_s": 1},
        "breakers": {"open_s": 1, "longest_open_s": 1},
    }
    return a_policy(**(SILENT | hasty | {name: hasty.get(name, {}) | values for name, values in sections.items()}))


def a_world_now(database: Engine, sandbox: Sandbox, senders: int, bots: int, policy: Policy) -> World:
    """A world whose clock starts when the test does, as the clocks of worker processes do."""
    return a_world(database, sandbox, senders, bots, policy, checks=False, start=SystemClock().now())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is gone at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("point", ["after_claim", "before_guard", "before_dot", "after_dot"])
def test_a_run_that_overlaps_one_that_hangs_sends_no_second_copy(
    database: Engine, sandbox: Sandbox, stack: ExitStack, tmp_path: Path, point: CrashPoint
) -> None:
    """I1, Q-B4, case 1: the first run is stopped and cut off, the second does its work, then the first wakes up."""
    world = a_world_now(database, sandbox, 1, 1, a_hasty_policy())
    crew = stack.enter_context(Crew(tmp_path, world.settings))
    world.slot()
    crew.arm("stop", point)
    crew.start()
    asleep = crew.await_taken("stop", point)
    cut_off(database, asleep)
    world.lapse_leases()

    second = crew.start()
    if point in ("before_dot", "after_dot"):
        crew.await_that(lambda: world.statuses() == {"uncertain": 1})
        time.sleep(world.policy.dispatch.write_within_s)  # so long the sleeper may still complete its message
        crew.start("reconcile")
    if point == "before_dot":
        unresolved = "select count(*) from ops.slot_states where unresolved_at is not null"
        crew.await_that(lambda: bool(world.value(unresolved)))
        assert copies(world).total() == 0
    else:
        crew.await_that(lambda: world.statuses() == {"sent": 1})
        assert copies(world).total() == 1

    # Of one mailbox a worker sends one mail after the other: when this one has left, it is through with the first.
    assert second.terminate()
    world.slot(gap_s=0)
    world.change("update ops.mailboxes set next_send_at = null")
    asleep.send(SIGCONT)
    # One that wakes up before the dot says that it wrote none: then that mail may leave after all.
    crew.await_that(lambda: world.statuses() == {"sent": 2})
    assert sorted(copies(world).values()) == [1, 1]
    assert len(world.events("sent")) == 2
    assert crew.complaints() == ""


def test_a_run_that_lasts_longer_than_its_lease_keeps_what_it_holds(database: Engine, sandbox: Sandbox) -> None:
    """Q-B4, case 9: a slow server, a lease of three seconds that is renewed, and others who look for lapsed ones."""
    policy = a_policy(**SILENT, dispatch={"lease_s": 3, "shards": 1})
    with FaultyProxy(sandbox.address.smtp_port) as proxy:
        slow = replace(sandbox, address=replace(sandbox.address, smtp_port=proxy.port))
        world = a_world(database, slow, 1, 4, policy, checks=False)
        for bot in world.bots:
            world.slot(bot=bot, gap_s=0)
        proxy.set(Weather(Wire(latency_s=0.12), Wire(latency_s=0.12)))
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(world.dispatch)
            while world.statuses() == {"planned": 4} and not run.done():
                time.sleep(0.01)  # until the shard is its own
            while not run.done():
                for shard in dispatcher.due_shards(database, clock=world.clock):
                    dispatcher.dispatch_shard(database, shard, clock=world.clock, settings=world.settings)
                time.sleep(0.05)
        assert time.monotonic() - began > policy.dispatch.lease_s
    assert run.result() == {"sent": 4}
    assert world.events("fenced") == []
    assert sorted(arrived(world).values()) == [1] * 4


def test_a_run_that_wakes_up_with_a_lapsed_lease_is_through_with_its_slot_before_it_claims_it_again(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, Q-B4, case 9: others planned its slot again while it slept, and the slot is due in its own shard."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    world.slot()
    has_slept = False

    def sleep_once(point: CrashPoint) -> None:
        nonlocal has_slept
        if point == "before_guard" and not has_slept:
            has_slept = True
            world.lapse_leases()
            dispatcher.due_shards(database, clock=world.clock)
            assert world.statuses() == {"planned": 1}
            time.sleep(0.5)  # until the run may claim again, which it does before it has heard from the guard

    monkeypatch.setattr(crash_points, "on_reach", sleep_once)
    assert world.dispatch() == {"fenced": 1, "sent": 1}
    assert copies(world).total() == 1


def test_a_queue_that_is_restarted_again_and_again_is_sent_to_its_last_mail(
    database: Engine, sandbox: Sandbox, stack: ExitStack, tmp_path: Path
) -> None:
    """I1, I2, case 10: two deploys and a kill -9 in the middle of it."""
    world = a_world_now(database, sandbox, 3, 8, a_hasty_policy())
    crew = stack.enter_context(Crew(tmp_path, world.settings))
    for sender in world.senders:
        for bot in world.bots:
            world.slot(sender, bot, gap_s=0)
    for number, end in enumerate(("terminate", "kill", "terminate"), start=1):
        worker = crew.start()
        crew.await_that(lambda enough=5 * number: copies(world).total() >= enough)  # type: ignore[misc]
        getattr(worker, end)()
        world.lapse_leases()
    crew.start()
    crew.start("reconcile")

    crew.await_that(lambda: world.statuses() == {"sent": 24})
    assert sorted(copies(world).values()) == [1] * 24
    assert arrived(world) == {f"bot{number}": 3 for number in range(1, 9)}
    assert crew.complaints() == ""


def test_processes_that_start_after_everything_was_sent_send_nothing(
    database: Engine, sandbox: Sandbox, stack: ExitStack, tmp_path: Path
) -> None:
    """I10, Q-B3, case 39: an upgrade, with the same hour planned again."""
    policy = a_hasty_policy(ramp={"start": 2}, pacing={"gap_minimum_s": 1, "gap_jitter_s": 0, "spread_s": 2})
    world = a_world_now(database, sandbox, 2, 4, policy)
    world.plan()
    planned = world.statuses()["planned"]
    first = stack.enter_context(Crew(tmp_path / "first", world.settings))
    worker = first.start()
    first.await_that(lambda: world.statuses() == {"sent": planned})
    worker.terminate()
    before = copies(world)
    assert before.total() == planned == 4

    second = stack.enter_context(Crew(tmp_path / "second", world.settings))
    started = [second.start(), second.start(), second.start("reconcile")]
    assert world.plan().was_planned_before
    # A beacon: when it has left, they have looked at the whole queue.
    beacon = world.slot(**an_answer(world.senders[0], world.bots[0]), gap_s=0)
    world.change("update ops.mailboxes set next_send_at = null")
    second.await_that(lambda: world.statuses() == {"sent": planned + 1})
    assert all(worker.terminate() for worker in started)
    its_own = world.value("select message_id from ops.scheduled_tasks where id = :id", id=beacon)
    assert copies(world) == before + Counter([its_own])
    assert first.complaints() == second.complaints() == ""


# A batch


def test_mails_that_are_refused_in_the_middle_of_a_batch_change_nothing_for_the_others(
    database: Engine, sandbox: Sandbox
) -> None:
    """I1, E-B2, case 4: each mail is recorded by itself, and what was sent is not sent again because of another."""
    bots = ["bot1", "reject1", "bot2", "spam1", "bot3", "reject2", "bot4"]
    world = a_world(database, sandbox, 2, bots, a_policy(**SILENT), checks=False)
    for sender in world.senders:
        for second, bot in enumerate(world.bots):
            world.slot(sender, bot, gap_s=0, target_time=NOON + timedelta(milliseconds=second))
    assert world.dispatch()["sent"] == 8
    for _ in range(6):
        world.clock.sleep(1800)
        world.dispatch()
        world.plan()
        world.lapse_leases()

    by_hand = world.rows("select message_id from ops.scheduled_tasks where idempotency_key like 'warmup:by-hand:%'")
    stored = copies(world)
    assert Counter({row["message_id"]: stored[row["message_id"]] for row in by_hand}).total() == 8
    assert set(stored.values()) == {1}
    assert {name for name in arrived(world) if not name.startswith("bot")} == set()


def test_the_queue_names_exactly_those_who_got_nothing_and_only_they_are_sent_to_again(
    database: Engine, sandbox: Sandbox
) -> None:
    """E-B2, Q-F5, case 11: a row for each mail, held against what lies in the mailboxes."""
    names = ["bot1", "reject1", "lost1", "drop1", "grey1", "spam1", "bot2"]
    world = a_world(database, sandbox, 1, names, a_policy(**SILENT), checks=False)
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    world.dispatch()
    before = set(arrived(world))
    assert before == {"bot1", "bot2", "lost1"}
    world.clock.advance(reconcile.settle_time(world.policy) + timedelta(seconds=1))
    reconcile.run(database, clock=world.clock, settings=world.settings)

    assert recipients(shown(world, "sent")) == before
    (in_doubt,) = shown(world, "uncertain")
    assert (in_doubt.status, recipients([in_doubt])) == ("unresolved", {"drop1"})
    missing = shown(world, "planned", "failed")
    assert recipients(missing) == set(names) - before - {"drop1"}
    assert all(slot.reason for slot in missing)

    tried = len(world.events("attempt"))
    world.clock.advance(timedelta(seconds=2400))  # greylisted mail waits for half an hour and more
    world.dispatch()
    again = [event["slot_id"] for event in world.events("attempt")[tried:]]
    assert set(again) == {slot.id for slot in missing if slot.status == "planned"}
    assert arrived(world) == dict.fromkeys(before, 1)


@pytest.mark.parametrize("forbidden", ["refused for good", "held for later"])
def test_a_batch_of_which_nothing_may_leave_does_not_end_the_run(
    database: Engine, sandbox: Sandbox, forbidden: str
) -> None:
    """case 12: many claims in a row, all of them refused, in front of one mail that may leave."""
    policy = a_policy(**SILENT, dispatch={"shards": 1, "dialogues": 1})
    world = a_world(database, sandbox, 2, 1, policy, checks=False)
    barred, free = world.senders
    early = NOON - timedelta(minutes=5)
    for number in range(40):
        kind = an_answer(barred, world.bots[0], number) if forbidden == "held for later" else {"sender": barred}
        world.slot(**kind, target_time=early, gap_s=0)
    last = world.slot(free)
    if forbidden == "held for later":
        world.change("update ops.mailboxes set next_send_at = :at where id = :id", at=NOON + HOUR, id=barred.mailbox_id)
    else:
        mailboxes.pause(database, OPERATOR, "sender", barred.address, reason="a test")

    assert world.dispatch() == {"sent": 1, {"refused for good": "refused", "held for later": "held"}[forbidden]: 40}
    assert [slot.id for slot in shown(world, "sent")] == [last]
    assert arrived(world) == {"bot1": 1}


# Limits


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("scope", ["sender_24h", "recipient_domain_24h", "provider_24h", "all_24h"])
def test_each_window_lets_through_its_limit_and_not_one_more_or_less(
    database: Engine, sandbox: Sandbox, scope: str, limit: int
) -> None:
    """I3, towards Q-F6, case 13: the first window, the next, and the one after that."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT, caps={scope: limit}), checks=False)
    sent = []
    for hours_later in (0, 23, 2, 23, 2):
        world.clock.advance(hours_later * HOUR)
        for _ in range(limit + 2):
            world.slot(gap_s=0)
        before = copies(world).total()
        world.dispatch()
        sent.append(copies(world).total() - before)
    assert sent == [limit, 0, limit, 0, limit]


def test_a_limit_is_shared_by_all_processes_and_what_it_stops_is_named(
    database: Engine, sandbox: Sandbox, stack: ExitStack, tmp_path: Path
) -> None:
    """I3, Q-F10, case 14: four processes on four shards, counted where mail leaves and not where it is queued."""
    world = a_world_now(
        database, sandbox, 4, 4, a_hasty_policy(dispatch={"shards": 4}, caps={"recipient_domain_24h": 5})
    )
    crew = stack.enter_context(Crew(tmp_path, world.settings))
    for sender in world.senders:
        for bot in world.bots:
            world.slot(sender, bot, gap_s=0)
    for _ in range(4):
        crew.start()

    crew.await_that(lambda: world.statuses() == {"sent": 5, "cancelled": 11})
    assert sorted(copies(world).values()) == [1] * 5
    assert all("recipient_domain_24h" in slot.reason for slot in shown(world, "cancelled"))
    assert crew.complaints() == ""


# What is forbidden, gone or not yet due


def test_a_mail_outside_its_weekdays_is_put_off_once_and_sent_once(database: Engine, sandbox: Sandbox) -> None:
    """Q-B5, case 5: asked all weekend long, by any number of runs."""
    policy = a_real_policy(dispatch={"shards": 1})
    world = a_world(database, sandbox, 1, 1, policy, checks=False, start=SATURDAY)
    world.slot(**an_answer(world.senders[0], world.bots[0]), gap_s=0)
    assert world.dispatch() == {"held": 1}
    opens = MONDAY.replace(hour=8, minute=30)
    while world.clock.now() < opens - 3 * HOUR:
        assert [slot.reason for slot in shown(world, "planned")] == ["outside_window"]
        world.clock.sleep(3 * 3600)
        assert world.dispatch() == {}
    assert world.deliveries() == []

    world.clock.advance(opens - world.clock.now())
    world.quota(world.senders[0])
    assert world.dispatch() == {"sent": 1}
    for _ in range(20):
        world.clock.sleep(12 * 3600)
        world.quota(world.senders[0])
        assert world.dispatch() == {}
    assert arrived(world) == {"bot1": 1}


@pytest.mark.parametrize("point", ["after_claim", "before_guard"])
@pytest.mark.parametrize("entry", ["the address", "its domain"])
def test_a_suppression_that_is_committed_at_the_last_moment_wins(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, point: CrashPoint, entry: str
) -> None:
    """I4, Q-B5, towards C-B9, case 24: the mail was claimed, the server has accepted its recipient already."""
    world = a_world(database, sandbox, 1, 2, a_policy(**SILENT), checks=False)
    bot = world.bots[0]
    world.slot(bot=bot)
    written = bot.address if entry == "the address" else f"@{bot.address.partition('@')[2]}"

    def suppress(reached: CrashPoint) -> None:
        if reached == point:
            with database.begin() as connection:
                entry = Entry(suppressions.parse_target(written), SuppressionCause.OPT_OUT, "asked us")
                cancellation.suppress(connection, [entry], by="a person")

    monkeypatch.setattr(crash_points, "on_reach", suppress)
    assert world.dispatch() == {"refused": 1}
    assert [slot.reason for slot in shown(world, "cancelled")] == ["suppressed: asked us"]
    assert world.deliveries() == []


def test_what_queued_mail_needs_cannot_be_deleted(database: Engine, sandbox: Sandbox) -> None:
    """case 18: no slot can point to a mailbox, a sender, a bot or an egress address that is gone."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    with database.begin() as connection:
        egress.add(connection, "127.0.0.4", actor="a test")
        egress.assign(connection, "127.0.0.4", [world.senders[0].address])
    world.slot()
    for table, refusal in (
        ("scheduled_tasks", "never deleted"),
        ("slot_states", "never deleted"),
        ("mailboxes", "never deleted"),
        ("senders", "never deleted"),
        ("bots", "never deleted"),
        ("policies", "never deleted"),
        ("egress_ips", "foreign key"),
    ):
        with pytest.raises(IntegrityError, match=refusal):
            world.change(f"delete from ops.{table}")  # noqa: S608 - seven known names
    assert world.dispatch() == {"sent": 1}


def test_mail_whose_egress_address_this_machine_has_lost_says_so_and_leaves_when_it_has_another(
    database: Engine, sandbox: Sandbox
) -> None:
    """Towards S-F8, case 18: it neither waits in silence nor leaves from another address by itself."""
    world = a_world(database, sandbox, 1, 1, a_policy(**SILENT), checks=False)
    sender = world.senders[0].address
    with database.begin() as connection:
        egress.add(connection, "192.0.2.77", actor="a test")
        egress.assign(connection, "192.0.2.77", [sender])
    world.slot()
    assert world.dispatch() == {"retry": 1}
    (waiting,) = shown(world, "planned")
    assert "192.0.2.77" in waiting.reason
    assert world.deliveries() == []

    with database.begin() as connection:
        egress.assign(connection, None, [sender])
    world.clock.sleep(60)
    assert world.dispatch() == {"sent": 1}
    assert arrived(world) == {"bot1": 1}


@pytest.mark.parametrize("activation", ["pause and resume", "kill switch on and off", "stop and resume"])
def test_what_is_planned_for_later_is_not_fired_by_an_activation(
    database: Engine, sandbox: Sandbox, activation: str
) -> None:
    """case 29: each mail waits for its own second."""
    world = a_world(database, sandbox, 1, 3, a_policy(**SILENT), checks=False)
    sender = world.senders[0].address
    for hours, bot in enumerate(world.bots, start=1):
        world.slot(bot=bot, target_time=NOON + hours * HOUR)
    for _ in range(2):
        if activation == "kill switch on and off":
            kill_switch(world, on=True)
            assert world.dispatch() == {}
            kill_switch(world, on=False)
        else:
            close = (
                partial(mailboxes.pause, database, OPERATOR, "sender")
                if activation == "pause and resume"
                else partial(mailboxes.stop_sender, database, OPERATOR)
            )
            close(sender, reason="a test")
            assert world.dispatch() == {}
            mailboxes.resume(database, OPERATOR, "sender", sender, reason="a test")
        assert world.dispatch() == {}
    assert world.deliveries() == []

    for number in range(1, 4):
        world.clock.advance(NOON + number * HOUR - world.clock.now())
        assert world.dispatch() == {"sent": 1}
        assert set(arrived(world)) == {f"bot{known}" for known in range(1, number + 1)}


def test_a_server_that_is_down_says_nothing_about_any_recipient(database: Engine, sandbox: Sandbox) -> None:
    """Q-F8, case 36: no bounce is made of it, nobody is suppressed or paused, and everything leaves afterwards."""
    world = a_world(database, sandbox, 1, 8, a_policy(**SILENT), checks=False)
    at = sandbox.address.smtp_port
    world.change("update ops.mailboxes set smtp_port = 1 where id = :id", id=world.senders[0].mailbox_id)
    for bot in world.bots:
        world.slot(**an_answer(world.senders[0], bot, bot.id), gap_s=0)
    for _ in range(3):
        world.dispatch()
        world.clock.sleep(20)
    assert world.statuses() == {"planned": 8}
    assert [row["status"] for row in world.rows("select status from ops.bots")] == ["active"] * 8
    assert world.value("select state from ops.senders") == "active"
    assert world.value("select count(*) from ops.suppressions") == 0
    assert world.deliveries() == []

    world.change("update ops.mailboxes set smtp_port = :at", at=at)
    for _ in range(4):
        world.clock.sleep(400)
        world.dispatch()
    assert world.statuses() == {"sent": 8}
    assert arrived(world) == {f"bot{number}": 1 for number in range(1, 9)}


@pytest.mark.parametrize("reached", ["after_claim", "before_guard"])
def test_the_kill_switch_stops_a_run_that_is_under_way(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, reached: CrashPoint
) -> None:
    """I8, Q-B5, case 36: of a batch that was claimed, nothing leaves any more once it is on."""
    world = a_world(database, sandbox, 1, 6, a_policy(**SILENT, dispatch={"shards": 1, "dialogues": 1}), checks=False)
    for bot in world.bots:
        world.slot(**an_answer(world.senders[0], bot, bot.id), gap_s=0)
    seen = 0

    def stop(point: CrashPoint) -> None:
        nonlocal seen
        seen += point == "before_guard"
        if point == reached and seen in (0, 3):
            kill_switch(world, on=True)

    monkeypatch.setattr(crash_points, "on_reach", stop)
    world.dispatch()
    assert copies(world).total() == (0 if reached == "after_claim" else 2)
    monkeypatch.undo()

    kill_switch(world, on=False)
    world.clock.sleep(world.policy.dispatch.retry_s)
    world.dispatch()
    assert arrived(world) == {f"bot{number}": 1 for number in range(1, 7)}


# Whose mail it is


def received(world: World) -> dict[str, tuple[Member, EmailMessage]]:
    """Every mail that lies in a mailbox, by Message-ID, and whose mailbox it is."""
    return {
        mail["Message-ID"]: (member, mail)
        for member in (*world.senders, *world.bots)
        for folder in ("INBOX", FILED)
        for mail in world.raw_mailbox(member, folder)
    }


def test_envelope_headers_and_text_name_the_same_person_in_every_mail(database: Engine, sandbox: Sandbox) -> None:
    """E-B1, case 37: sixteen conversations at once, both ways, each mail held against the slot it was planned as."""
    world = a_world(database, sandbox, 4, 4, a_policy(), checks=False)
    for sender in world.senders:
        for bot in world.bots:
            world.slot(sender, bot, gap_s=0)
    world.talk(3)
    mailboxes = {member.mailbox_id: member for member in (*world.senders, *world.bots)}
    planned = {
        row["message_id"]: (mailboxes[row["from_mailbox_id"]], mailboxes[row["to_mailbox_id"]])
        for row in world.rows("select message_id, from_mailbox_id, to_mailbox_id from ops.scheduled_tasks")
    }
    inboxes = received(world)
    assert len(world.deliveries()) == len(inboxes) > 32
    for delivery in world.deliveries():
        author, addressee = planned[delivery.message_id]
        owner, mail = inboxes[delivery.message_id]
        assert owner == addressee
        assert delivery.recipient == mail["To"] == addressee.address
        assert delivery.envelope_from == delivery.user == mail["From"].addresses[0].addr_spec == author.address
        greeting, *_, signature = mail.get_content().strip().splitlines()
        assert addressee.address.partition("@")[0].capitalize() in greeting
        assert signature == author.address.partition("@")[0].capitalize()


def test_nothing_of_a_mail_is_left_in_the_next_one_of_the_same_connection(database: Engine, sandbox: Sandbox) -> None:
    """E-B1, case 38: two answers, a refused one between them, then first mails, which must be nobody's answer."""
    policy = a_policy(**SILENT, dispatch={"shards": 1, "dialogues": 1})
    with FaultyProxy(sandbox.address.smtp_port) as proxy:
        through = replace(sandbox, address=replace(sandbox.address, smtp_port=proxy.port))
        world = a_world(database, through, 1, ["bot1", "reject1", "bot2", "bot3", "bot4"], policy, checks=False)
        (sender,) = world.senders
        for number, bot in enumerate(world.bots[:3]):
            world.slot(**an_answer(sender, bot, number), gap_s=0, target_time=NOON - timedelta(seconds=9 - number))
        for bot in world.bots[3:]:
            world.slot(sender, bot, gap_s=0)
        assert world.dispatch() == {"sent": 4, "failed": 1}
        assert proxy.accepted == 1
    mails = {owner.address.partition("@")[0]: (owner, mail) for owner, mail in received(world).values()}
    assert set(mails) == {"bot1", "bot2", "bot3", "bot4"}
    parents = {"bot1": 0, "bot2": 2}
    for name, (owner, mail) in mails.items():
        parent = parents.get(name)
        is_answer = parent is not None
        assert mail["In-Reply-To"] == (f"<parent.{parent}@bots.test>" if is_answer else None)
        assert mail["References"] == (
            f"<root.{parent}@senders.test> <parent.{parent}@bots.test>" if is_answer else None
        )
        assert mail["Subject"].startswith("Re: ") == is_answer
        assert len(mail.keys()) == len(set(mail.keys()))
        named = verify(world.settings.require_token_keys(), mail[TOKEN_HEADER])
        assert (named.bot_id, named.turn) == (owner.id, 3 if is_answer else 1)
    stored = {delivery.sha256 for delivery in world.deliveries()}
    assert len(stored) == 4
    assert stored == {
        hashlib.sha256(mail.as_bytes(policy=mail.policy.clone(linesep="\r\n", max_line_length=998))).hexdigest()
        for _, mail in mails.values()
    }
