"""Dispatch against the mail sandbox: what arrives, what does not, and what is never sent a second time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from threading import Event
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from emberflow.accounts import switches
from emberflow.clock import ManualClock
from emberflow.database.secrets import SecretBox
from emberflow.domain.attempt import Attempt
from emberflow.domain.mail_kind import Priority
from emberflow.email_ops.header_fields import TOKEN_HEADER, WARMUP_HEADER
from emberflow.email_ops.message import WARMUP_LABEL
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.smtp_session import Steps
from emberflow.email_ops.tokens import WarmupToken, verify
from emberflow.operations import mailboxes
from emberflow.queue_manager import event_log, pre_send, recover
from emberflow.queue_manager.receiving import sweep
from emberflow.queue_manager.sending import dispatcher
from emberflow.queue_manager.sending.worker import SendingReport
from tests.worlds import (
    NOON,
    OPERATOR,
    PASSWORD,
    Sandbox,
    World,
    a_policy,
    a_world,
    dying_with,
)

SILENT = {"replies": {"rate": 0.0}}


def delivered(world: World) -> list[str]:
    return [delivery.message_id for delivery in world.deliveries()]


def the_slot(world: World) -> Any:
    return world.row("select * from ops.slots")


def the_counters(world: World) -> tuple[int, int]:
    """Today's warm-up mails of the senders and inbound mails of the bots."""
    sent = world.value("select coalesce(sum(warmup_sent), 0) from ops.sender_days")
    inbound = world.value("select coalesce(sum(inbound_sent), 0) from ops.bot_days")
    return sent, inbound


def one_to(database: Engine, sandbox: Sandbox, bot: str) -> World:
    """A world with one slot, for a bot of this name, and nobody who replies."""
    world = a_world(database, sandbox, senders=1, bots=[bot], policy=a_policy(**SILENT))
    world.slot()
    return world


# What arrives


def test_a_first_mail_arrives_once_as_it_was_announced(database: Engine, sandbox: Sandbox) -> None:
    """E-B1, E-B8, E-B9, B-B4, B-B8"""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(ramp={"start": 1}, **SILENT))
    world.plan()
    announced = the_slot(world)
    assert world.dispatch() == {"sent": 1}

    (delivery,) = world.deliveries()
    assert delivery.message_id == announced["message_id"]
    assert (delivery.envelope_from, delivery.recipient) == (world.senders[0].address, world.bots[0].address)
    (mail,) = world.raw_mailbox(world.bots[0])
    assert mail["Message-ID"] == announced["message_id"]
    assert mail[WARMUP_HEADER] == WARMUP_LABEL
    named = WarmupToken(announced["id"], announced["sender_id"], announced["bot_id"], 1)
    assert verify(world.settings.require_token_keys(), mail[TOKEN_HEADER]) == named
    assert (mail["In-Reply-To"], mail["References"], mail["Auto-Submitted"]) == (None, None, None)
    assert not mail["Subject"].lower().startswith("re:")
    assert mail.get_content_type() == "text/plain"
    assert not mail.is_multipart()
    assert "://" not in mail.get_content()
    slot = the_slot(world)
    assert (slot["status"], slot["attempts"], slot["sent_at"] is not None) == ("sent", 1, True)


def test_the_message_id_is_stored_before_data(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B1: committed, and together with the state that a crash would leave."""
    world = one_to(database, sandbox, "bot1")
    seen: list[Any] = []
    transmit = SmtpConnection._transmit

    def look(connection: SmtpConnection, *rest: Any) -> Steps[Attempt]:
        seen.append((the_slot(world)["message_id"], the_slot(world)["status"], len(world.deliveries())))
        return transmit(connection, *rest)

    monkeypatch.setattr(SmtpConnection, "_transmit", look)
    world.dispatch()
    assert seen == [(delivered(world)[0], "submitting", 0)]


def test_mails_leave_in_order_of_priority_and_not_before_their_second(database: Engine, sandbox: Sandbox) -> None:
    """Q-B1"""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT, dispatch={"dialogues": 1}))
    (one, two), (bot, _) = world.senders, world.bots
    later = world.slot(one, bot, target_time=NOON + timedelta(seconds=7))
    warmup = world.slot(one, bot, target_time=NOON - timedelta(seconds=9))
    reply = world.slot(
        two, bot, task_type="reply", turn=2, priority_level=int(Priority.REPLY),
        from_mailbox_id=bot.mailbox_id, to_mailbox_id=two.mailbox_id,
    )  # fmt: skip
    assert world.dispatch() == {"sent": 3}
    ids = {row["message_id"]: row["id"] for row in world.rows("select id, message_id from ops.slots")}
    assert [ids[message_id] for message_id in delivered(world)] == [reply, warmup, later]
    sent_at = world.value("select sent_at from ops.slots where id = :id", id=later)
    assert sent_at >= NOON + timedelta(seconds=7)


def test_a_run_ends_after_its_window_and_leaves_the_rest_for_the_next(database: Engine, sandbox: Sandbox) -> None:
    world = one_to(database, sandbox, "bot1")
    world.slot(target_time=NOON + timedelta(seconds=world.policy.dispatch.window_s + 5))
    assert world.dispatch() == {"sent": 1}
    assert world.statuses() == {"sent": 1, "planned": 1}
    assert world.clock.now() <= NOON + timedelta(seconds=world.policy.dispatch.window_s)


def test_one_sender_keeps_its_gap_whatever_the_target_times_say(database: Engine, sandbox: Sandbox) -> None:
    """S-B6: judged by the clock that the mails carry, not by the plan."""
    world = a_world(database, sandbox, senders=1, bots=4, policy=a_policy(**SILENT, dispatch={"window_s": 60}))
    for bot in world.bots:
        world.slot(bot=bot, gap_s=10)
    ends = world.dispatch()
    assert ends["sent"] == 4
    moments = [row["sent_at"] for row in world.rows("select sent_at from ops.slots order by sent_at")]
    assert all(later - earlier >= timedelta(seconds=10) for earlier, later in pairwise(moments))
    assert len(delivered(world)) == 4


def test_one_bot_keeps_its_pause_whoever_writes_to_it(database: Engine, sandbox: Sandbox) -> None:
    """What is due at the same second waits its turn, and all of it arrives."""
    policy = a_policy(**SILENT, dispatch={"window_s": 60}, bots={"cooldown_s": 10})
    world = a_world(database, sandbox, senders=4, bots=1, policy=policy)
    for sender in world.senders:
        world.slot(sender)
    ends = world.dispatch()
    assert ends["sent"] == 4
    assert ends["held"] <= 4 + 3 + 2
    moments = [row["sent_at"] for row in world.rows("select sent_at from ops.slots order by sent_at")]
    assert all(later - earlier >= timedelta(seconds=10) for earlier, later in pairwise(moments))
    assert len(delivered(world)) == 4


# Faults on the way


@pytest.mark.parametrize(
    ("bot", "end", "stage", "code", "enhanced", "outcome"),
    [
        ("reject1", "failed", "rcpt", 550, "5.1.1", "permanent"),
        ("spam1", "failed", "eod", 554, "5.7.1", "permanent"),
        ("grey1", "planned", "rcpt", 451, "4.7.1", "transient"),
        ("full1", "planned", "rcpt", 452, "4.2.2", "transient"),
        ("busy1", "planned", "rcpt", 421, "4.3.2", "transient"),
        ("lost1", "uncertain", "eod", None, None, "uncertain"),
        ("drop1", "uncertain", "eod", None, None, "uncertain"),
        ("bot1", "sent", "eod", 250, "2.0.0", "sent"),
    ],
)
def test_every_attempt_is_recorded_with_its_stage_and_the_servers_answer(
    database: Engine,
    sandbox: Sandbox,
    bot: str,
    end: str,
    stage: str,
    code: int | None,
    enhanced: str | None,
    outcome: str,
) -> None:
    """E-B2, E-F6, case 40: in the database, where no restart of a process loses it."""
    world = one_to(database, sandbox, bot)
    world.dispatch()
    slot = the_slot(world)
    assert (slot["status"], slot["attempts"]) == (end, 1)
    (event,) = world.events("attempt")
    details = event["details"]
    assert details["attempt"] == 1
    assert (details["stage"], details["reply_code"], details["enhanced_code"]) == (stage, code, enhanced)
    assert details["outcome"] == outcome
    assert details["server_text"]
    assert (event["slot_id"], event["message_id"]) == (slot["id"], slot["message_id"])
    assert len(world.events("sent")) == (end == "sent")
    assert len(world.deliveries()) == (bot in ("bot1", "lost1"))


@pytest.mark.parametrize("bot", ["reject1", "spam1", "grey1", "busy1"])
def test_a_mail_that_provably_did_not_leave_is_counted_nowhere(database: Engine, sandbox: Sandbox, bot: str) -> None:
    """S-B5, B-B3: also when the server said no only after DATA."""
    world = one_to(database, sandbox, bot)
    world.dispatch()
    assert the_counters(world) == (0, 0)
    assert world.rows("select * from ops.bot_sender_interactions") == []
    assert world.rows("select * from ops.conversations") == []


def test_a_mail_that_was_deferred_after_data_is_planned_again_and_taken_back_from_the_day(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B2, S-B5: 4xx after DATA, then accepted."""
    world = one_to(database, sandbox, "bot1")
    transmit = SmtpConnection._transmit
    deferred = Attempt("transient", "eod", "message", 451, "4.3.0", "try again later")

    def defer(*_: Any) -> Steps[Attempt]:
        yield from ()
        return deferred

    monkeypatch.setattr(SmtpConnection, "_transmit", defer)
    assert world.dispatch() == {"retry": 1}
    slot = the_slot(world)
    assert (slot["status"], slot["attempts"], the_counters(world)) == ("planned", 1, (0, 0))
    assert slot["reason"] == "eod 451 try again later"

    monkeypatch.setattr(SmtpConnection, "_transmit", transmit)
    world.clock.advance(slot["target_time"] - world.clock.now())
    assert world.dispatch() == {"sent": 1}
    assert [event["details"]["attempt"] for event in world.events("attempt")] == [1, 2]
    assert (the_slot(world)["attempts"], the_counters(world), len(delivered(world))) == (2, (1, 1), 1)


def test_a_deferred_mail_is_tried_again_ever_later_and_given_up_at_last(database: Engine, sandbox: Sandbox) -> None:
    """E-B2, towards C-B7: RFC 5321 4.5.4.1, with the wait of greylisting (RFC 6647) doubled each time, and jitter."""
    world = one_to(database, sandbox, "grey1")
    dispatch = world.policy.dispatch
    waits = []
    for _ in range(dispatch.maximum_attempts - 1):
        before = world.clock.now()
        assert world.dispatch() == {"retry": 1}
        waits.append((the_slot(world)["target_time"] - before).total_seconds())
        assert world.dispatch() == {}
        world.clock.advance(the_slot(world)["target_time"] - world.clock.now())
    assert world.dispatch() == {"failed": 1}
    least = [1800 * 2**attempt for attempt in range(dispatch.maximum_attempts - 1)]
    assert all(low <= wait <= low * (1 + dispatch.retry_jitter) for low, wait in zip(least, waits, strict=True))
    assert [event["details"]["attempt"] for event in world.events("attempt")] == [1, 2, 3, 4]
    world.clock.sleep(1800)
    assert world.dispatch() == {}
    assert world.deliveries() == []


def test_a_server_that_hangs_up_does_not_keep_the_next_mail_of_the_same_mailbox(
    database: Engine, sandbox: Sandbox
) -> None:
    """E-F6: 421, a cut after DATA and a refusal, each followed by mail over the same mailbox."""
    world = a_world(
        database,
        sandbox,
        senders=1,
        bots=["busy1", "bot1", "drop1", "bot2", "reject1", "bot3"],
        policy=a_policy(**SILENT),
    )
    for seconds, bot in enumerate(world.bots):
        world.slot(bot=bot, target_time=NOON + timedelta(seconds=2 * seconds))
    assert world.dispatch() == {"retry": 1, "sent": 3, "uncertain": 1, "failed": 1}
    arrived = Counter(delivery.recipient.partition("@")[0] for delivery in world.deliveries())
    assert arrived == {"bot1": 1, "bot2": 1, "bot3": 1}


def test_a_lost_answer_is_resolved_by_the_recipients_mailbox_without_a_second_delivery(
    database: Engine, sandbox: Sandbox
) -> None:
    """Q-F5, E-B2, case 19: the server had accepted it."""
    world = one_to(database, sandbox, "lost1")
    assert world.dispatch() == {"uncertain": 1}
    assert the_counters(world) == (1, 1)
    world.clock.sleep(1800)
    assert world.dispatch() == {}
    assert world.read()["resolved"] == 1
    slot = the_slot(world)
    assert (slot["status"], slot["reason"]) == ("sent", "found in INBOX of its recipient")
    assert slot["sent_at"] == slot["submitted_at"]
    assert slot["conversation_id"] == world.value("select id from ops.conversations")
    assert world.row("select * from ops.bot_sender_interactions")["sent_count"] == 1
    assert len(world.events("sent")) == 1
    for _ in range(3):
        world.clock.sleep(1800)
        assert world.dispatch() == {}
        assert world.read() == {}
    assert len(delivered(world)) == 1


def test_a_mail_that_may_be_lost_is_never_sent_again(database: Engine, sandbox: Sandbox) -> None:
    """Q-F5: `uncertain` stays, honestly, until somebody decides."""
    world = one_to(database, sandbox, "drop1")
    assert world.dispatch() == {"uncertain": 1}
    for _ in range(8):
        world.clock.sleep(1800)
        assert world.dispatch() == {}
        world.read()
        world.plan()
    first = world.row("select * from ops.slots where idempotency_key like 'warmup:by-hand:%'")
    assert (first["status"], first["attempts"]) == ("uncertain", 1)
    own = [event for event in world.events("attempt") if event["slot_id"] == first["id"]]
    assert len(own) == 1
    assert world.deliveries() == []


# Crashes


class PowerCut(BaseException):
    """Not an Exception, as a signal is not."""


def test_a_worker_that_dies_between_data_and_record_leaves_one_delivery_and_an_uncertain_slot(
    database: Engine, sandbox: Sandbox
) -> None:
    """Q-F5, Q-B3: the slot is looked at again only when its lease is over, and resolved by the recipient."""
    world = a_world(database, sandbox, senders=1, bots=3, policy=a_policy(**SILENT))
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    with patch.object(event_log, "record", dying_with(PowerCut)), pytest.raises(PowerCut):
        world.dispatch()
    assert world.statuses() == {"submitting": 1, "planned": 2}
    assert len(delivered(world)) == 1

    assert world.dispatch() == {"sent": 2}
    world.read()
    assert world.statuses() == {"submitting": 1, "sent": 2}
    world.lapse_leases()
    assert world.dispatch() == {}
    assert world.statuses() == {"uncertain": 1, "sent": 2}
    assert world.read()["resolved"] == 1
    assert world.statuses() == {"sent": 3}
    assert len(delivered(world)) == len(set(delivered(world))) == 3


_KILLED = """
import os
from datetime import datetime
from emberflow.clock import ManualClock
from emberflow.database.engine import open_engine
from emberflow.queue_manager import event_log, pre_send
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import settings

place, name = os.environ["AT"].split(".")
setattr({"event_log": event_log, "pre_send": pre_send}[place], name, lambda *_, **__: os._exit(9))
clock = ManualClock(datetime.fromisoformat(os.environ["NOW"]))
dispatcher.dispatch_shard(open_engine(), 0, clock=clock, settings=settings())
"""


@pytest.mark.parametrize(
    ("at", "left", "tidied"),
    [("event_log.record", "submitting", "uncertain"), ("pre_send.submit", "leased", "planned")],
    ids=["after DATA", "before DATA"],
)
def test_a_worker_process_that_is_killed_costs_no_mail_and_no_duplicate(
    database: Engine, sandbox: Sandbox, at: str, left: str, tidied: str
) -> None:
    """Q-F5, Q-B3"""
    world = one_to(database, sandbox, "bot1")
    keys = {key: value.get_secret_value() for key, value in world.settings.secret_keys.items()}
    tokens = [key.get_secret_value() for key in world.settings.token_keys]
    environment = os.environ | {
        "AT": at,
        "NOW": world.clock.now().isoformat(),
        "EMBERFLOW_DATABASE_URL": world.settings.require_database_url(),
        "EMBERFLOW_SECRET_KEYS": str(keys).replace("'", '"'),
        "EMBERFLOW_TOKEN_KEYS": str(tokens).replace("'", '"'),
        "EMBERFLOW_CA_FILES": f'{{"{sandbox.address.host}": "{sandbox.address.ca_file}"}}',
    }
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED], env=environment, capture_output=True, text=True, check=False
    )
    assert (killed.returncode, killed.stderr) == (9, "")
    assert world.statuses() == {left: 1}

    world.lapse_leases()
    with database.begin() as connection:
        recover.recover(connection, now=world.clock.now(), policy=world.policy.queue)
    assert world.statuses() == {tidied: 1}
    for _ in range(2):
        world.dispatch()
        world.read()
        world.clock.sleep(60)
    assert world.statuses() == {"sent": 1}
    assert len(delivered(world)) == 1


def test_a_worker_that_outlives_its_lease_changes_nothing(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-B4, case 9: its acknowledgement is fenced; the delivery is found at the recipient."""
    world = one_to(database, sandbox, "bot1")
    transmit = SmtpConnection._transmit

    def slow(connection: SmtpConnection, *rest: Any) -> Steps[Attempt]:
        attempt = yield from transmit(connection, *rest)
        world.lapse_leases()
        dispatcher.due_shards(database, clock=world.clock)
        return attempt

    monkeypatch.setattr(SmtpConnection, "_transmit", slow)
    assert world.dispatch() == {"fenced": 1}
    assert world.statuses() == {"uncertain": 1}
    assert world.events("sent") == []
    assert world.events("attempt")[0]["details"]["outcome"] == "sent"
    assert world.read()["resolved"] == 1
    assert (world.statuses(), len(delivered(world))) == ({"sent": 1}, 1)


def test_a_message_that_cannot_be_built_does_not_keep_the_others_of_its_shard(
    database: Engine, sandbox: Sandbox
) -> None:
    """The slot fails with its reason."""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT))
    bad, good = world.senders
    world.change("update ops.mailboxes set display_name = E'Ann\\nBcc: x' where id = :id", id=bad.mailbox_id)
    world.slot(bad)
    world.slot(good)
    world.slot(good, payload={"script": "no-longer-there", "thread": "x", "tier": "virgin"})
    assert world.dispatch() == {"failed": 2, "sent": 1}
    reasons = {row["reason"] for row in world.rows("select reason from ops.slots where status = 'failed'")}
    assert any("control character" in reason for reason in reasons)
    assert any("no-longer-there" in reason for reason in reasons)
    assert the_counters(world) == (1, 1)


def test_a_mail_that_this_version_cannot_write_waits_and_nobody_logs_in_for_it(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold mail beside warm-up: it is held with the reason, and its shard goes on."""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT, dispatch={"shards": 1}))
    cold_only, both = world.senders
    logins = []
    open_session = SmtpConnection.open

    def open_and_note(connection: SmtpConnection) -> Attempt | None:
        logins.append(connection._access.mailbox_id)
        return open_session(connection)

    monkeypatch.setattr(SmtpConnection, "open", open_and_note)
    held = {world.cold_slot("lead@customer.test", sender) for sender in world.senders}
    world.slot(both)

    assert world.dispatch() == {"sent": 1, "held": 2}

    rows = world.rows("select id, target_time, reason, attempts from ops.slots where status = 'planned'")
    assert {row["id"] for row in rows} == held
    assert {row["reason"] for row in rows} == {"no builder for cold mail in this version"}
    assert all(row["attempts"] == 0 and row["target_time"] > world.clock.now() for row in rows)
    assert logins == [both.mailbox_id]
    assert world.dispatch() == {}
    assert world.value("select sum(cold_sent) from ops.sender_days") == 0
    assert cold_only.mailbox_id not in logins


def test_a_mail_of_a_kind_that_only_a_newer_version_knows_keeps_no_other_back(
    database: Engine, sandbox: Sandbox
) -> None:
    """Machines are brought up to date one after the other, and one of them has migrated the database."""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT))
    world.change("alter table ops.scheduled_tasks drop constraint ck_scheduled_tasks_task_type_known")
    for sender in world.senders:
        world.cold_slot("reader@customer.test", sender, task_type="newsletter")
    world.slot(world.senders[1])

    assert world.dispatch() == {"sent": 1, "held": 2}
    reasons = {row["reason"] for row in world.rows("select reason from ops.slots where status = 'planned'")}
    assert reasons == {"no builder for newsletter mail in this version"}


# One worker per shard


class BlockingClock(ManualClock):
    """A clock on which the first sleep lasts until it is allowed to end."""

    def __init__(self, start: Any) -> None:
        super().__init__(start)
        self.asleep, self.wake = Event(), Event()

    def sleep(self, seconds: float) -> None:
        self.asleep.set()
        assert self.wake.wait(20)
        super().sleep(seconds)


def test_of_two_workers_on_one_shard_the_second_finds_it_busy(database: Engine, sandbox: Sandbox) -> None:
    """Q-B4"""
    world = one_to(database, sandbox, "bot1")
    world.change("update ops.slot_states set target_time = :at", at=NOON + timedelta(seconds=2))
    clock = BlockingClock(NOON)

    def work(own_clock: ManualClock) -> SendingReport:
        return dispatcher.dispatch_shard(database, 0, clock=own_clock, settings=world.settings)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(work, clock)
        assert clock.asleep.wait(20)
        second = work(ManualClock(NOON + timedelta(seconds=9)))
        clock.wake.set()
    assert (second.was_busy, second.ends) == (True, {})
    assert (first.result().was_busy, first.result().ends) == (False, {"sent": 1})
    assert len(delivered(world)) == 1
    assert not work(ManualClock(NOON)).was_busy


def test_a_shard_is_free_again_after_its_worker_failed(database: Engine, sandbox: Sandbox) -> None:
    """Q-B4"""
    world = one_to(database, sandbox, "bot1")
    with patch.object(pre_send, "submit", side_effect=PowerCut), pytest.raises(PowerCut):
        world.dispatch()
    world.lapse_leases()
    assert world.dispatch() == {"sent": 1}


def test_workers_on_all_shards_at_once_send_everything_once(database: Engine, sandbox: Sandbox) -> None:
    """Q-B4, Q-F10, case 6: two workers for each shard, judged at the receiving server."""
    world = a_world(database, sandbox, senders=6, bots=6, policy=a_policy(**SILENT, dispatch={"shards": 3}))
    for sender in world.senders:
        for bot in world.bots:
            world.slot(sender, bot, gap_s=0)

    def work(shard: int) -> SendingReport:
        return dispatcher.dispatch_shard(database, shard, clock=ManualClock(NOON), settings=world.settings)

    with ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(work, [0, 1, 2] * 2))
    assert sum((report.ends for report in reports), Counter()) == {"sent": 36}
    assert len(delivered(world)) == len(set(delivered(world))) == 36


# What the operator says


def pause_the_sender(world: World) -> None:
    mailboxes.pause(world.engine, OPERATOR, "sender", world.senders[0].address, reason="why")


def retire_the_bot(world: World) -> None:
    world.change("update ops.bots set status = 'retired'")


@pytest.mark.parametrize(("arrange", "reason"), [(pause_the_sender, "sender_paused"), (retire_the_bot, "bot_retired")])
def test_what_was_forbidden_after_planning_does_not_leave(
    database: Engine, sandbox: Sandbox, arrange: Callable[[World], None], reason: str
) -> None:
    """Q-B5, case 18: a mailbox that is out of use, with mail still queued for it."""
    world = one_to(database, sandbox, "bot1")
    arrange(world)
    assert world.dispatch() == {"refused": 1}
    assert (the_slot(world)["status"], the_slot(world)["reason"]) == ("cancelled", reason)
    assert world.deliveries() == []


def test_a_mailbox_whose_login_is_refused_three_times_in_a_row_is_out_of_use_and_a_check_brings_it_back(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B10: whoever tries a wrong password again and again gets the account locked."""
    world = a_world(database, sandbox, senders=1, bots=6, policy=a_policy(**SILENT))
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    with database.begin() as connection:
        box = SecretBox(world.settings.secret_keys)
        box.store(connection, world.senders[0].mailbox_id, SecretStr("no longer the password"))
    assert world.dispatch() == {"retry": 1, "held": 5}
    world.clock.advance(timedelta(minutes=1))
    assert world.dispatch() == {"held": 6}, "the next login waits"
    for number in (2, 3):
        assert world.value("select state from ops.senders") == "active"
        world.clock.advance(timedelta(minutes=10))
        world.change("update ops.slot_states set target_time = :now where status = 'planned'", now=world.clock.now())
        assert world.dispatch()["retry"] == 1
        assert [event["details"]["reply_code"] for event in world.events("attempt")] == [535] * number
    sender = world.row("select state, state_reason, state_remedy from ops.senders")
    assert sender["state"] == "unverified"
    assert sender["state_reason"].startswith("3 logins in a row were refused over SMTP: ")
    assert f"emberflow secrets set {world.senders[0].address}" in sender["state_remedy"]
    change = world.row("select * from ops.state_changes order by id desc limit 1")
    assert (change["metric"], change["n"], change["threshold"]) == ("refused_logins", 3, 3)
    world.clock.advance(timedelta(minutes=10))
    world.change("update ops.slot_states set target_time = :now where status = 'planned'", now=world.clock.now())
    assert world.dispatch() == {"refused": 6}

    with database.begin() as connection:
        box.store(connection, world.senders[0].mailbox_id, SecretStr(PASSWORD))
    ids = [world.senders[0].mailbox_id]
    mailboxes.check(database, OPERATOR, world.settings, ids=ids, reason="a new password")
    assert world.value("select state from ops.senders") == "active"
    world.slot(gap_s=0)
    assert world.dispatch() == {"sent": 1}


def test_a_login_that_is_taken_again_starts_the_count_of_refused_ones_over(database: Engine, sandbox: Sandbox) -> None:
    """Towards B-B10"""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy(**SILENT))
    box = SecretBox(world.settings.secret_keys)
    for password, end in (("not it", "retry"), ("not it", "retry"), (PASSWORD, "sent"), ("not it", "retry")):
        with database.begin() as connection:
            box.store(connection, world.senders[0].mailbox_id, SecretStr(password))
        world.clock.advance(timedelta(minutes=20))
        world.slot(gap_s=0)
        assert world.dispatch()[end] >= 1
    assert world.value("select refused from ops.login_refusals") == 1
    assert world.value("select state from ops.senders") == "active"


def test_a_bot_that_one_server_alone_calls_unknown_is_asked_for_once_by_each_mailbox(
    database: Engine, sandbox: Sandbox
) -> None:
    """Towards C-B7: each mail is refused with 550; nobody is planned for it again, and the bot stays in use."""
    world = a_world(database, sandbox, senders=2, bots=["reject1"], policy=a_policy(**SILENT))
    for sender in world.senders:
        world.slot(sender)
    assert world.dispatch() == {"failed": 2}
    world.clock.advance(timedelta(days=1))
    assert world.plan().slots == 0
    assert [event["details"]["reply_code"] for event in world.events("attempt")] == [550, 550]
    assert world.value("select status from ops.bots") == "active"


def test_mail_to_a_bot_that_a_run_has_just_taken_out_of_use_is_held_and_then_cancelled(
    database: Engine, sandbox: Sandbox
) -> None:
    """Nobody logs in for it any more."""
    world = a_world(
        database, sandbox, senders=3, bots=["reject1"], policy=a_policy(**SILENT, dispatch={"dialogues": 1})
    )
    bot, reporter = world.bots[0], world.senders[0]
    world.change(
        "insert into ops.recipient_refusals "
        "(recipient, smtp_host, organisation, from_mailbox_id, to_mailbox_id, refused_at, reason) "
        "values (:recipient, 'smtp.elsewhere.test', 'elsewhere.test', :reporter, :bot, :at, 'recipient_invalid')",
        recipient=bot.address, reporter=reporter.mailbox_id, bot=bot.mailbox_id, at=world.clock.now(),
    )  # fmt: skip
    for sender in world.senders[1:]:
        world.slot(sender)
    assert world.dispatch() == {"failed": 1, "held": 1}
    world.clock.advance(timedelta(minutes=1))
    assert world.dispatch() == {"refused": 1}
    assert len(world.events("attempt")) == 1
    assert world.statuses() == {"failed": 1, "cancelled": 1}


def test_the_kill_switch_holds_mail_and_releases_it(database: Engine, sandbox: Sandbox) -> None:
    """Q-B5, case 36: what is planned, however often it is asked for."""
    world = one_to(database, sandbox, "bot1")

    def turn(*, on: bool) -> None:
        with database.begin() as connection:
            switches.turn(connection, switches.STOP_SENDING, on=on, who="an operator", reason="a test")

    turn(on=True)
    world.dispatch()
    assert the_slot(world)["status"] == "planned"
    assert world.deliveries() == []
    assert world.clock.now() <= NOON + timedelta(seconds=world.policy.dispatch.window_s + 2)
    turn(on=False)
    world.clock.sleep(world.policy.dispatch.retry_s)
    assert world.dispatch() == {"sent": 1}
    assert the_slot(world)["attempts"] == 1


def test_a_sender_with_more_slots_than_quota_sends_its_quota(database: Engine, sandbox: Sandbox) -> None:
    """S-B5"""
    world = a_world(database, sandbox, senders=1, bots=6, policy=a_policy(**SILENT))
    world.quota(world.senders[0], warmup=2)
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    assert world.dispatch() == {"sent": 2, "refused": 4}
    assert len(delivered(world)) == 2


def test_overdue_slots_are_given_up_instead_of_fired_together(database: Engine, sandbox: Sandbox) -> None:
    """Q-B8: after a day without power."""
    world = a_world(database, sandbox, policy=a_policy(**SILENT))
    world.plan()
    planned = world.statuses()["planned"]
    world.clock.sleep(86_400)
    assert world.dispatch() == {}
    assert world.statuses() == {"expired": planned}
    assert world.deliveries() == []


def test_a_database_that_goes_away_before_data_means_that_nothing_is_sent(database: Engine, sandbox: Sandbox) -> None:
    """Q-B6"""
    world = one_to(database, sandbox, "bot1")
    gone = OperationalError("select", {}, Exception("the database is gone"))
    with patch.object(pre_send, "submit", side_effect=gone), pytest.raises(OperationalError):
        world.dispatch()
    assert (world.statuses(), world.deliveries()) == ({"leased": 1}, [])


# What one mailbox must not do to the others


def test_a_mailbox_whose_secret_cannot_be_read_stops_no_other_one(database: Engine, sandbox: Sandbox) -> None:
    """Its own slot waits with a reason, and the inbox names it."""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT))
    broken, sound = (world.slot(sender) for sender in world.senders)
    world.change("delete from ops.mailbox_secrets where mailbox_id = :id", id=world.senders[0].mailbox_id)

    assert world.dispatch() == {"sent": 1, "held": 1}

    reasons = {row["id"]: row["reason"] for row in world.rows("select id, reason from ops.slots")}
    assert reasons == {broken: "secret_unreadable", sound: None}
    report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert report.found["inbox"] == 1
    (unreadable,) = report.unreadable
    assert "emberflow secrets set" in unreadable
    failed = [
        result for result in mailboxes.check(world.engine, OPERATOR, world.settings, reason="a test") if result.stage
    ]
    assert [(result.mailbox_id, result.stage) for result in failed] == [(world.senders[0].mailbox_id, "secret")]


def test_a_mailbox_beyond_loopback_is_refused_and_stops_no_other_one(database: Engine, sandbox: Sandbox) -> None:
    """E-B10"""
    world = a_world(database, sandbox, senders=2, bots=2, policy=a_policy(**SILENT))
    outside, sound = (world.slot(sender) for sender in world.senders)
    world.change(
        "update ops.mailboxes set smtp_host = '192.0.2.1', imap_host = '192.0.2.1' where id = :id",
        id=world.senders[0].mailbox_id,
    )

    assert world.dispatch() == {"sent": 1, "held": 1}

    reasons = {row["id"]: row["reason"] for row in world.rows("select id, reason from ops.slots")}
    assert reasons == {outside: "egress_refused", sound: None}
    report = sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)
    assert report.found["inbox"] == 1
    assert len(report.unreadable) == 1


def test_a_guard_whose_commit_got_no_answer_leaves_its_slot_to_reconciliation(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-B6, Q-F5: the mail is counted, nobody knows whether it left, so nothing is written but by its lease."""
    world = one_to(database, sandbox, "bot1")
    submit = pre_send.submit

    def without_answer(connection: Any, slots: Any, **options: Any) -> Any:
        with database.begin() as other:  # what was committed before the answer was lost
            submit(other, slots, **options)
        return submit(connection, slots, **options)

    monkeypatch.setattr(pre_send, "submit", without_answer)
    assert world.dispatch() == {"fenced": 1}
    assert (world.statuses(), the_counters(world), world.deliveries()) == ({"submitting": 1}, (1, 1), [])
