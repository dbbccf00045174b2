"""Placement tests on real servers: whom probes go to, where they are found, and what they never exceed."""

from __future__ import annotations

import imaplib
import ssl
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.domain.events import EventType
from emberflow.domain.slot import Slot
from emberflow.email_ops.header_fields import WARMUP_HEADER
from emberflow.email_ops.message import UnsafeMessageError
from emberflow.errors import EmberflowError
from emberflow.policy.versions import in_force, put_in_force
from emberflow.queue_manager import event_log, placement_tests
from emberflow.queue_manager.placement_tests import Begun, ProbeText
from emberflow.queue_manager.receiving.filing import Filed, Filing
from emberflow.reporting import placement_tests as reporting
from emberflow.reporting.placement_tests import ShownTest
from tests.worlds import NOON, PASSWORD, Member, Sandbox, World, a_policy, a_world

MINUTE = timedelta(minutes=1)
TIMES = {"within_s": 1800, "arrival_s": 600, "gap_s": 60}


def world_of(database: Engine, sandbox: Sandbox, bots: Any, providers: Mapping[str, str] | None = None) -> World:
    policy = a_policy(placement_tests=TIMES)
    world = a_world(database, sandbox, senders=1, bots=bots, policy=policy, checks=False)
    for bot in world.bots:
        provider = (providers or {}).get(name_of(bot), "alpha")
        world.change("update ops.mailboxes set provider = :to where id = :id", to=provider, id=bot.mailbox_id)
    world.quota(world.senders[0])
    return world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return world_of(database, sandbox, bots=4)


def name_of(member: Member) -> str:
    return member.address.partition("@")[0]


def begin(world: World, per_provider: int = 9, what: ProbeText | None = None) -> Begun:
    with world.engine.begin() as connection:
        return placement_tests.begin(
            connection,
            world.senders[0].address,
            per_provider=per_provider,
            what=what or ProbeText(),
            by="ann",
            reason="a new domain",
            now=world.clock.now(),
            force=in_force(connection),
            settings=world.settings,
        )


def report(world: World, which: str | None = None) -> ShownTest:
    with world.engine.connect() as connection:
        return reporting.shown(connection, which, now=world.clock.now())


def states(world: World, test: Begun) -> dict[str, str]:
    return {one.address.partition("@")[0]: one.state for one in report(world, str(test.id)).probes}


def send_all(world: World, junked: str | None = None) -> None:
    """Send probe by probe; the one to ``junked`` is filed as junk."""
    while True:
        due = world.rows(
            "select mailboxes.address from ops.slots inner join ops.mailboxes on mailboxes.id = to_mailbox_id "
            "where slots.status = 'planned' and slots.target_time <= :now order by slots.target_time",
            now=world.clock.now(),
        )
        goes_to = {row["address"].partition("@")[0] for row in due}
        domain = world.senders[0].address.partition("@")[2]
        world.sandbox.file_to_junk(domain, 100 if junked in goes_to else 0)
        world.dispatch()
        if not world.statuses()["planned"]:
            return
        world.clock.advance(MINUTE)


def empty_inbox(world: World, member: Member) -> None:
    at = world.sandbox.address
    context = ssl.create_default_context(cafile=str(at.ca_file))
    with imaplib.IMAP4_SSL(at.host, at.imaps_port, ssl_context=context) as client:
        client.login(member.address, PASSWORD)
        client.select("INBOX")
        client.store("1:*", "+FLAGS", "\\Deleted")
        client.expunge()


def test_a_test_says_per_provider_what_reached_the_inbox_junk_or_nothing(database: Engine, sandbox: Sandbox) -> None:
    """E-F5"""
    providers = dict.fromkeys(["seen", "junked"], "alpha") | dict.fromkeys(["emptied", "unread", "reject"], "beta")
    world = world_of(database, sandbox, [*providers], providers)
    bots = {name_of(bot): bot for bot in world.bots}
    test = begin(world)
    assert test.probes == 5
    send_all(world, junked="junked")
    assert states(world, test) == dict.fromkeys(providers, "waiting") | {"reject": "refused"}

    empty_inbox(world, bots["emptied"])
    world.change("update ops.mailboxes set check_passed = false where id = :id", id=bots["unread"].mailbox_id)
    world.read()
    assert states(world, test) == {
        "seen": "inbox", "junked": "junk", "emptied": "waiting", "unread": "waiting", "reject": "refused",
    }  # fmt: skip
    world.clock.advance(30 * MINUTE)
    world.read()

    shown = report(world)
    assert not shown.is_open
    assert {probe.address.partition("@")[0]: (probe.state, probe.why) for probe in shown.probes} == {
        "seen": ("inbox", ""), "junked": ("junk", ""), "emptied": ("missing", ""),
        "unread": ("unknown", "its mailbox was not read since"),
        "reject": ("refused", "550 5.1.1 No such user here"),
    }  # fmt: skip
    counted = {
        provider: {state: number for state, number in shown.counts(provider).items() if number}
        for provider in shown.providers
    }
    assert counted == {"alpha": {"inbox": 1, "junk": 1}, "beta": {"missing": 1, "unknown": 1, "refused": 1}}
    reached = sorted(delivery.recipient.partition("@")[0] for delivery in world.deliveries())
    assert reached == ["emptied", "junked", "seen", "unread"], "each once"


def test_a_probe_is_labelled_filed_like_warm_up_mail_and_answered_by_nobody(world: World) -> None:
    """E-F5, E-B9: a probe is no part of a conversation, and of no pair's history."""
    junked = name_of(world.bots[0])
    begin(world)
    send_all(world, junked=junked)
    for _ in range(3):
        world.read()
        world.dispatch()
    (mail,) = world.raw_mailbox(world.bots[0])
    assert "automated" in mail[WARMUP_HEADER]
    assert mail["Subject"] == "Placement test"
    assert world.raw_mailbox(world.bots[0], "Junk") == []
    assert len(world.events("rescued")) == 1
    assert world.value("select count(*) from ops.slots where task_type <> 'placement_probe'") == 0
    assert world.value("select count(*) from ops.conversations") == 0
    assert world.value("select count(*) from ops.bot_sender_interactions") == 0
    assert len(world.deliveries()) == len(world.bots)


def test_an_operators_own_text_goes_out_as_it_is(world: World) -> None:
    """E-F5: the text decides where a mail lands."""
    begin(world, 1, ProbeText("Our offer", "Look at https://offers.example.test\nKöln\n"))
    send_all(world)
    (recipient,) = {delivery.recipient for delivery in world.deliveries()}
    (mail,) = world.raw_mailbox(next(bot for bot in world.bots if bot.address == recipient))
    assert mail["Subject"] == "Our offer"
    assert mail.get_content().splitlines() == ["Look at https://offers.example.test", "Köln"]
    assert report(world).is_own_text


@pytest.mark.parametrize(
    ("subject", "body"),
    [("two\nlines", "text"), ("=?utf-8?q?x?=", "text"), (" ", "text"), ("s" * 201, "text"), ("subject", " \n"),
     ("subject", "a\x00b"), ("subject", "t" * 65_537)],
    ids=["lines", "encoded word", "no subject", "long subject", "no text", "control character", "long text"],
)  # fmt: skip
def test_a_text_that_cannot_be_sent_is_refused_before_anything_is_written(subject: str, body: str) -> None:
    """E-F5"""
    with pytest.raises((EmberflowError, UnsafeMessageError)):
        ProbeText(subject, body)


def test_the_same_command_twice_makes_two_tests(world: World) -> None:
    """E-F5"""
    first, second = begin(world), begin(world)
    assert first.id != second.id
    assert second.first_at > first.last_at, "one mailbox keeps its pauses"
    send_all(world)
    world.read()
    assert [report(world, str(test.id)).counts()["inbox"] for test in (first, second)] == [4, 4]
    assert report(world).id == report(world, world.senders[0].address).id == second.id


def test_a_test_that_the_days_quota_has_no_room_for_is_refused_with_the_number(world: World) -> None:
    """E-F5, S-B5, S-F7: mail that a person sent counts."""
    world.change("update ops.sender_days set warmup_quota = 9, warmup_sent = 3")
    world.change(
        "insert into ops.outside_mails (mailbox_id, fingerprint, sent_at, local_day, recipients, found_at) "
        "values (:mailbox, 'x', :at, '2025-06-02', 1, :at), (:mailbox, 'y', :at, '2025-06-01', 3, :at)",
        mailbox=world.senders[0].mailbox_id,
        at=NOON,
    )
    begin(world, 2)
    with pytest.raises(
        EmberflowError, match=r"4 probes do not fit into .* 2025-06-02: 3 \(warm-up 3/8, .* probes that wait 2\)"
    ):
        begin(world, 4)
    assert world.value("select count(*) from ops.placement_tests") == 1
    assert world.value("select count(*) from ops.slots") == 2


def test_probes_take_the_place_of_warm_up_mail_and_no_day_exceeds_its_quota(world: World) -> None:
    """E-F5, S-B5: the ramp holds for a test, too."""
    world.change("update ops.sender_days set warmup_quota = 5, total_quota = 5")
    test = begin(world)
    for bot in world.bots:
        world.slot(bot=bot, target_time=NOON + 5 * MINUTE)
    send_all(world)
    assert len(world.deliveries()) == 5
    assert report(world, str(test.id)).counts()["waiting"] == 4
    assert world.value("select warmup_sent from ops.sender_days") == 5


def test_a_plan_leaves_room_for_the_probes_that_wait(database: Engine, sandbox: Sandbox) -> None:
    """E-F5, S-B5"""
    world = world_of(database, sandbox, bots=9)
    begin(world, 3)
    world.plan(NOON + timedelta(hours=1))
    planned = Counter(row["task_type"] for row in world.rows("select task_type from ops.slots"))
    assert planned == {"placement_probe": 3, "warmup": world.value("select warmup_quota from ops.sender_days") - 3}


def test_a_probe_that_is_too_late_for_its_test_is_given_up(world: World) -> None:
    """E-F5"""
    test = begin(world)
    world.clock.advance(30 * MINUTE)
    world.dispatch()
    assert world.deliveries() == []
    assert world.statuses() == {"cancelled": 4}
    assert {(probe.state, probe.why) for probe in report(world, str(test.id)).probes} == {("not_sent", "too_late")}


@pytest.mark.parametrize(("minutes", "sent"), [(19, 1), (20, 0)])
def test_a_probe_that_was_put_off_leaves_only_while_it_has_time_to_arrive(
    world: World, minutes: int, sent: int
) -> None:
    """E-F5: what left later could not be looked for before the end."""
    begin(world, 1)
    until = NOON + minutes * MINUTE
    world.change("update ops.mailboxes set next_send_at = :at where id = :id", at=until, id=world.senders[0].mailbox_id)
    world.dispatch()
    world.clock.advance(minutes * MINUTE)
    world.dispatch()
    assert len(world.deliveries()) == sent
    assert [probe.state for probe in report(world).probes] == ["waiting" if sent else "not_sent"]


def test_a_probe_that_arrives_while_its_mailbox_is_read_is_not_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-F5: filing may take long, and what came after the folders were listed was not seen."""
    begin(world, 1)
    send_all(world)
    for bot in world.bots:
        if world.raw_mailbox(bot):
            empty_inbox(world, bot)

    def take_long(*_: Any, **__: Any) -> Filed:
        world.clock.advance(30 * MINUTE)
        return Filed()

    monkeypatch.setattr(Filing, "file", take_long)
    world.read()
    assert [probe.state for probe in report(world).probes] == ["unknown"]
    world.read()
    assert [probe.state for probe in report(world).probes] == ["missing"]


def test_one_bad_mailbox_holds_up_no_other_probe(database: Engine, sandbox: Sandbox) -> None:
    """E-F5: a server that asks to come back after the test is over has refused the probe."""
    world = world_of(database, sandbox, ["spam", "full", "drop", "good1", "good2"])
    test = begin(world)
    send_all(world)
    world.read()
    expected = {"spam": "refused", "full": "refused", "drop": "waiting", "good1": "inbox", "good2": "inbox"}
    assert states(world, test) == expected
    assert world.statuses() == {"sent": 2, "failed": 2, "uncertain": 1}
    world.clock.advance(30 * MINUTE)
    assert states(world, test) == expected | {"drop": "unknown"}
    assert world.value("select warmup_sent from ops.sender_days") == 3, "what did not leave is not counted"


def test_a_probe_that_a_report_says_came_back_is_refused(world: World) -> None:
    """E-F5"""
    begin(world, 1)
    send_all(world)
    (sent,) = world.rows("select * from ops.slots")
    with world.engine.begin() as connection:
        event_log.record_event(
            connection,
            EventType.RETURNED,
            f"returned:{sent['idempotency_key']}",
            occurred_at=world.clock.now(),
            mailbox_id=sent["from_mailbox_id"],
            slot=Slot.of(sent),
            details={"severity": "hard", "status": "5.2.1", "recipient": "bot", "by": "references", "report": 1},
        )
    (probe,) = report(world).probes
    assert (probe.state, probe.why) == ("refused", "it came back 5.2.1")


def test_only_mailboxes_that_can_get_and_show_a_probe_now_get_one(database: Engine, sandbox: Sandbox) -> None:
    """E-F5"""
    names = ["good", "paused", "unread", "resting", "full_day", "suppressed", "refusing", "unchecked", "akin"]
    world = world_of(database, sandbox, names)
    bots = {name_of(bot): bot for bot in world.bots}
    ids = {name: {"id": bot.id, "mailbox": bot.mailbox_id} for name, bot in bots.items()}
    for statement, parameters in (
        ("update ops.bots set status = 'paused' where id = :id", {"id": ids["paused"]["id"]}),
        ("delete from ops.mailbox_readings where mailbox_id = :mailbox", {"mailbox": ids["unread"]["mailbox"]}),
        ("update ops.bots set cooldown_until = :at where id = :id", {"id": ids["resting"]["id"], "at": NOON + MINUTE}),
        ("update ops.bots set interaction_limits = 0 where id = :id", {"id": ids["full_day"]["id"]}),
        ("insert into ops.suppressions (kind, value, cause, reason, added_by) "
         "values ('address', :address, 'operator', 'r', 'ann')",
         {"address": bots["suppressed"].address}),
        ("insert into ops.recipient_refusals "
         "(recipient, smtp_host, organisation, from_mailbox_id, to_mailbox_id, refused_at, reason) "
         "values ('x', 'h', 'o', :sender, :mailbox, :at, 'r')",
         {"sender": world.senders[0].mailbox_id, "mailbox": ids["refusing"]["mailbox"], "at": NOON}),
        ("update ops.mailboxes set check_passed = false where id = :mailbox", {"mailbox": ids["unchecked"]["mailbox"]}),
        ("update ops.mailboxes set owner = 'me' where id = any(:mailboxes)",
         {"mailboxes": [ids["akin"]["mailbox"], world.senders[0].mailbox_id]}),
    ):  # fmt: skip
        world.change(statement, **parameters)
    test = begin(world)
    assert states(world, test) == {"good": "waiting"}
    assert report(world).left_out == {
        "alpha": {
            "paused": 1, "not read lately": 1, "resting": 1, "at its cap": 1, "suppressed": 1, "not checked": 1,
            "refused mail of this sender": 1, "of the sender's own domain, owner or address": 1,
        }
    }  # fmt: skip
    world.change("update ops.bots set status = 'paused'")
    with pytest.raises(EmberflowError, match=r"no mailbox can get a probe now: .* paused.*; `emberflow bots list`"):
        begin(world)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "update ops.senders set state = 'paused', state_reason = 'x', state_remedy = 'x'",
            "is paused and sends nothing",
        ),
        ("update ops.mailboxes set check_passed = false", "has not passed its check"),
        ("delete from ops.sender_days", "has no quota for 2025-06-02 yet"),
        ("update ops.mailboxes set next_send_at = '2025-06-02 12:18+00'", "only 2 of 4 probes can leave"),
        ("update ops.mailboxes set removed_at = clock_timestamp()", "is not a sender"),
    ],
)
def test_a_sender_that_cannot_be_tested_now_is_told_so(world: World, statement: str, said: str) -> None:
    """E-F5"""
    world.change(statement)
    with pytest.raises(EmberflowError, match=said):
        begin(world)
    assert world.value("select count(*) from ops.placement_tests") == 0


def test_a_test_outside_the_senders_window_is_refused(world: World) -> None:
    """E-F5: at night nobody tests."""
    night = {"window_start": "13:00", "window_end": "17:00"}
    policy = a_policy(pacing=night, placement_tests=TIMES)
    with world.engine.begin() as connection:
        put_in_force(connection, policy)
    with pytest.raises(EmberflowError, match="its window opens at 2025-06-02 13:00 UTC"):
        begin(world)
