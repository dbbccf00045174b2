"""Whose word counts: one server that calls recipients unknown stops nobody but its own mailbox.

The servers are real ones on loopback addresses of their own; what they said is read from the database alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, RowMapping

from emberflow.delivery.breakers import BreakerPolicy
from emberflow.delivery.corroboration import Findings, Outlier, RefusalPolicy, Said
from emberflow.domain.mail_kind import Priority
from emberflow.operations import mailboxes
from emberflow.queue_manager.sending import consequences, refused_recipients
from tests.unit.email_ops.fake_mail_servers import Authority, FaultySmtpServer
from tests.worlds import (
    NOON,
    OPERATOR,
    Member,
    Sandbox,
    World,
    a_policy,
    a_world,
)

UNKNOWN = "550 5.1.1 No such user here"
POLICY = RefusalPolicy()
Serve = Callable[..., FaultySmtpServer]
_addresses = count(2)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a submission server of its own for a sender, which answers RCPT with ``says``, and use it from now on."""
    authority = Authority(tmp_path)
    with ExitStack() as running:

        def start(world: World, sender: Member, says: str | None) -> FaultySmtpServer:
            address = f"127.0.0.{next(_addresses)}"
            server = FaultySmtpServer(
                authority.server_context(address),
                implicit=True,
                address=address,
                faults={} if says is None else {"rcpt": says},
            )
            port = running.enter_context(server.running())
            world.settings.ca_files[address] = authority.ca_file
            world.change(
                "update ops.mailboxes set smtp_host = :host, smtp_port = :port, smtp_tls = 'implicit' where id = :id",
                host=address, port=port, id=sender.mailbox_id,
            )  # fmt: skip
            return server

        yield start


def a_silent_world(database: Engine, sandbox: Sandbox, senders: int, bots: int) -> World:
    return a_world(database, sandbox, senders, bots, a_policy(replies={"rate": 0.0}), checks=False)


def send(world: World, sender: Member, *bots: Member) -> Counter[str]:
    """Send a mail to each, and leave enough time after it for every pause."""
    ends: Counter[str] = Counter()
    for bot in bots:
        world.slot(sender, bot, gap_s=0)
        ends += world.dispatch()
        world.clock.advance(timedelta(minutes=5))
    return ends


def statuses_of_bots(world: World) -> dict[str, int]:
    return dict(Counter(row["status"] for row in world.rows("select status from ops.bots")))


def state(world: World, sender: Member) -> tuple[str, str, str]:
    row = world.row("select state, state_reason, state_remedy from ops.senders where id = :id", id=sender.id)
    return row["state"], row["state_reason"] or "", row["state_remedy"] or ""


def test_a_server_that_calls_everybody_unknown_stops_its_own_sender_and_nobody_else(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Towards C-B7: twelve bots, one lying server, four healthy senders."""
    world = a_silent_world(database, sandbox, 5, 12)
    liar, *healthy = world.senders
    server = serve(world, liar, UNKNOWN)

    for place, bot in enumerate(world.bots):
        world.slot(liar, bot, gap_s=0)
        for number, sender in enumerate(healthy, start=1):
            world.slot(sender, world.bots[(place + number) % 12], gap_s=0)
        world.dispatch()
        world.clock.advance(timedelta(minutes=5))

    assert statuses_of_bots(world) == {"active": 12}
    ends = Counter(
        (row["sender_id"] == liar.id, row["status"]) for row in world.rows("select sender_id, status from ops.slots")
    )
    assert ends == {(False, "sent"): 48, (True, "failed"): 3, (True, "cancelled"): 9}
    assert len(world.deliveries()) == 48
    assert sum(command.startswith("RCPT") for command in server.commands) == 3
    paused, reason, remedy = state(world, liar)
    assert paused == "paused"
    assert server.address in reason
    assert f"emberflow senders resume {liar.address}" in remedy
    assert [state(world, sender)[0] for sender in healthy] == ["active"] * 4
    assert world.value("select count(*) from ops.host_breakers where open_until is not null") == 0


def test_a_sender_that_was_stopped_goes_on_when_its_server_is_mended(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    world = a_silent_world(database, sandbox, 1, 6)
    (sender,) = world.senders
    serve(world, sender, UNKNOWN)
    send(world, sender, *world.bots[:3])
    assert state(world, sender)[0] == "paused"

    serve(world, sender, None)
    mailboxes.resume(database, OPERATOR, "sender", sender.address, reason="a test")

    assert send(world, sender, *world.bots) == {"sent": 6}
    assert state(world, sender)[0] == "active"
    assert world.value("select count(*) from ops.recipient_refusals") == 0


def test_two_servers_that_say_so_pause_the_bot_and_a_command_brings_it_back(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Towards C-B7"""
    world = a_silent_world(database, sandbox, 3, 2)
    gone, there = world.bots
    first, second, third = world.senders
    hosts = sorted(serve(world, sender, UNKNOWN).address for sender in (first, second))

    assert send(world, first, gone) == {"failed": 1}
    assert statuses_of_bots(world) == {"active": 2}
    reached = world.row("select smtp_host, smtp_port from ops.mailboxes where id = :id", id=first.mailbox_id)
    assert world.value("select network from ops.recipient_refusals") == "{smtp_host} port {smtp_port}".format(**reached)
    assert send(world, second, gone) == {"failed": 1}

    bot = world.row("select status, status_reason, status_remedy from ops.bots where id = :id", id=gone.id)
    assert bot["status"] == "paused"
    assert all(host in bot["status_reason"] for host in hosts)
    assert "does not exist" in bot["status_reason"]
    assert f"emberflow bots resume {gone.address}" in bot["status_remedy"]
    assert [state(world, sender)[0] for sender in world.senders] == ["active"] * 3
    assert send(world, third, gone) == {"refused": 1}
    assert world.value("select reason from ops.slots where status = 'cancelled'") == "bot_paused"
    assert send(world, third, there) == {"sent": 1}

    mailboxes.resume(database, OPERATOR, "bot", gone.address, reason="a test")
    assert send(world, third, gone) == {"sent": 1}
    assert send(world, first, gone) == {"failed": 1}
    assert statuses_of_bots(world) == {"active": 2}


def test_a_refusal_that_nobody_confirms_is_reported_as_such_and_one_that_is_confirmed_too(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Towards S-B7: what scores are made of."""
    world = a_silent_world(database, sandbox, 2, 1)
    for sender in world.senders:
        serve(world, sender, UNKNOWN)
        send(world, sender, world.bots[0])
    reports = [event["details"] for event in world.events("attempt")]
    assert [(one["rule"], one["concerns"], one["is_believed"]) for one in reports] == [
        ("recipient_invalid", "recipient", False),
        ("recipient_invalid", "recipient", True),
    ]


def test_a_mailbox_is_not_planned_again_for_a_recipient_that_its_server_refused(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Towards C-B7: one that nobody confirms; the bot stays everybody else's."""
    world = a_silent_world(database, sandbox, 2, 4)
    sender, other = world.senders
    serve(world, sender, UNKNOWN)
    send(world, sender, world.bots[0])

    world.clock.advance(timedelta(days=1))
    for _ in range(8):
        world.plan()
        world.clock.advance(timedelta(hours=1))
    planned = world.rows("select sender_id, bot_id from ops.slots where status = 'planned'")
    partners = {who: {row["bot_id"] for row in planned if row["sender_id"] == who} for who in (sender.id, other.id)}
    assert partners[sender.id]
    assert world.bots[0].id not in partners[sender.id]
    assert world.bots[0].id in partners[other.id]


def test_a_mailbox_that_changes_its_server_is_planned_again_for_whom_the_old_one_refused(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Towards C-B7"""
    world = a_silent_world(database, sandbox, 1, 1)
    (sender,) = world.senders
    route = "select smtp_host as host, smtp_port as port, smtp_tls as tls, id from ops.mailboxes where id = :id"
    sandboxed = world.row(route, id=sender.mailbox_id)
    serve(world, sender, UNKNOWN)
    refusing = world.row(route, id=sender.mailbox_id)
    send(world, sender, world.bots[0])

    def planned(at: RowMapping) -> int:
        world.change(
            "update ops.mailboxes set smtp_host = :host, smtp_port = :port, smtp_tls = :tls where id = :id", **at
        )
        world.clock.advance(timedelta(days=1))
        slots = 0
        for _ in range(8):
            slots += world.plan().slots
            world.clock.advance(timedelta(hours=1))
        return slots

    assert planned(refusing) == 0
    assert planned(sandboxed) > 0


@pytest.mark.parametrize(("passed", "becomes"), [(True, "active"), (False, "unverified"), (None, "unverified")])
def test_who_was_stopped_goes_on_by_itself_only_with_a_passed_check(
    database: Engine, sandbox: Sandbox, passed: bool | None, becomes: str
) -> None:
    """S-B1: its server or login may have been changed meanwhile."""
    world = a_silent_world(database, sandbox, 1, 1)
    stopped = {"reason": "its server is doubted: smtp.a.test", "remedy": "ask its provider"}
    world.change("update ops.senders set state = 'paused', state_reason = :reason, state_remedy = :remedy", **stopped)
    world.change("update ops.bots set status = 'paused', status_reason = :reason, status_remedy = :remedy", **stopped)
    world.change("update ops.mailboxes set check_passed = :passed", passed=passed)
    cleared = Findings(cleared=[member.mailbox_id for member in (*world.senders, *world.bots)])
    with database.begin() as connection:
        now, policy = world.clock.now(), world.policy
        consequences.draw(connection, [], cleared, now=now, policy=policy.breakers, refusals=policy.refusals)
    bot = world.row("select status, status_remedy from ops.bots")
    sender, bot_address = world.senders[0], world.bots[0].address
    assert state(world, sender)[0] == bot["status"] == becomes
    if not passed:
        assert f"emberflow senders check {sender.address}" in state(world, sender)[2]
        assert f"emberflow bots check {bot_address}" in bot["status_remedy"]


HOURLY = "550 Domain north.test has exceeded the max emails per hour (125/100 (125%)) allowed. Message discarded."
NOT_OWNED = "553 5.7.1 <ann@north.test>: Sender address rejected: not owned by user bo@north.test"


def test_a_sending_limit_holds_the_mailbox_for_as_long_as_it_lasts_and_loses_no_mail(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    """Q-F8: said with a 5xx, again and again, to mail that is owed; neither sender nor bot is at fault."""
    world = a_silent_world(database, sandbox, 2, 3)
    limited, other = world.senders
    server = serve(world, limited, HOURLY)
    owed = {"task_type": "reply", "turn": 3, "priority_level": int(Priority.REPLY), "gap_s": 0}
    slot = world.slot(limited, world.bots[0], **owed)
    for _ in range(world.policy.dispatch.maximum_attempts + 2):
        asked = len(server.commands)
        world.dispatch()
        assert len(server.commands) > asked
        row = world.row("select status, target_time from ops.slots where id = :id", id=slot)
        assert row["status"] == "planned"
        assert row["target_time"] - world.clock.now() >= timedelta(minutes=55)
        later = world.slot(limited, world.bots[1], gap_s=0)
        asked = len(server.commands)
        assert world.dispatch() == {"held": 1}
        assert len(server.commands) == asked
        world.change("update ops.slot_states set status = 'expired' where slot_id = :id", id=later)
        assert send(world, other, world.bots[2]) == {"sent": 1}
        world.clock.advance(row["target_time"] - world.clock.now())
    assert statuses_of_bots(world) == {"active": 3}
    assert state(world, limited)[0] == "active"
    concerned = [event["details"].get("concerns") for event in world.events("attempt")]
    assert concerned.count("mailbox") == world.policy.dispatch.maximum_attempts + 2
    assert concerned.count("recipient") == 0


def test_a_login_that_may_not_use_its_from_address_stops_its_mailbox_with_a_remedy(
    database: Engine, sandbox: Sandbox, serve: Serve
) -> None:
    world = a_silent_world(database, sandbox, 2, 2)
    foreign, other = world.senders
    serve(world, foreign, NOT_OWNED)
    assert send(world, foreign, world.bots[0]) == {"retry": 1}
    paused, reason, remedy = state(world, foreign)
    assert (paused, reason) == ("paused", "its server refused it: the login may not send as this From address")
    assert "at the provider" in remedy
    assert f"emberflow senders resume {foreign.address}" in remedy
    assert send(world, other, *world.bots) == {"sent": 2, "refused": 1}
    assert world.value("select reason from ops.slots where status = 'cancelled'") == "sender_paused"
    assert statuses_of_bots(world) == {"active": 2}


def test_servers_on_ports_of_their_own_are_parties_of_their_own(
    database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Q-F8: relays and tunnels share a host name; neither their word nor their absence is the others'."""
    world = a_silent_world(database, sandbox, 3, 8)
    liar, absent, healthy = world.senders
    authority = Authority(tmp_path)
    name = sandbox.address.host
    both = tmp_path / "both.pem"
    both.write_bytes(sandbox.address.ca_file.read_bytes() + authority.ca_file.read_bytes())
    world.settings.ca_files[name] = both
    server = FaultySmtpServer(authority.server_context(name), implicit=True, faults={"rcpt": UNKNOWN})
    with server.running() as port:
        ports = {liar: port, absent: 1}
        for sender, at in ports.items():
            world.change(
                "update ops.mailboxes set smtp_port = :at, smtp_tls = 'implicit' where id = :id",
                at=at, id=sender.mailbox_id,
            )  # fmt: skip
        for bot in world.bots[: world.policy.breakers.failures]:
            world.slot(absent, bot, gap_s=0)
            world.dispatch()
            world.change("delete from ops.host_breakers where key like 'mailbox:%'")
        for bot in world.bots:
            world.slot(liar, bot, gap_s=0)
            world.slot(healthy, bot, gap_s=0)
            world.dispatch()
            world.clock.advance(timedelta(minutes=5))
    assert len(world.deliveries()) == 8
    assert state(world, liar)[0] == "paused"
    assert statuses_of_bots(world) == {"active": 8}
    assert world.value("select count(*) from ops.host_breakers where key = :key", key=f"host:{name}:1") == 1


# The evidence alone


class Reports:
    """Reports answers of servers to the evidence of one database, each in a transaction of its own."""

    def __init__(self, world: World, policy: RefusalPolicy = POLICY) -> None:
        self.world = world
        self.policy = policy

    def say(
        self,
        host: str,
        sender: Member,
        recipient: Member | str,
        refusal: str | None = "unknown",
        peer: tuple[str, int] | None = None,
    ) -> Findings:
        self.use(host, sender)
        address, mailbox_id = (recipient, None) if isinstance(recipient, str) else (
            recipient.address, recipient.mailbox_id
        )  # fmt: skip
        said = [Said(host, sender.mailbox_id, address, mailbox_id, refusal, peer)]
        with self.world.engine.begin() as connection:
            if not refused_recipients.lock(connection, said):
                return Findings()
            return refused_recipients.weigh(connection, said, now=self.world.clock.now(), policy=self.policy)

    def use(self, host: str, sender: Member) -> None:
        """Let the sender's mailbox use this server from now on."""
        self.world.change(
            "update ops.mailboxes set smtp_host = :host, smtp_port = 465 where id = :id",
            host=host, id=sender.mailbox_id,
        )  # fmt: skip


@pytest.fixture
def reports(database: Engine, sandbox: Sandbox) -> Reports:
    return Reports(a_world(database, sandbox, 6, 8, a_policy(), checks=False))


def test_mailboxes_of_one_server_are_one_party(reports: Reports) -> None:
    world = reports.world
    for sender in world.senders[:4]:
        for spelling in ("smtp.a.test", "SMTP.A.test"):
            assert reports.say(spelling, sender, world.bots[0]).unknown == {}
    assert reports.say("smtp.b.test", world.senders[0], world.bots[0]).unknown.keys() == {world.bots[0].address}


def test_one_mailbox_that_moves_to_another_server_is_one_party(reports: Reports) -> None:
    world = reports.world
    assert reports.say("smtp.a.test", world.senders[0], world.bots[0]).unknown == {}
    assert reports.say("smtp.b.test", world.senders[0], world.bots[0]).unknown == {}


def test_names_of_one_organisation_are_one_party(reports: Reports) -> None:
    world = reports.world
    for name, sender in zip(("mail.a.test", "smtp.a.test", "a.test", "mx.eu.a.test"), world.senders, strict=False):
        assert reports.say(name, sender, world.bots[0]).unknown == {}
    assert reports.say("smtp.b.test", world.senders[4], world.bots[0]).unknown.keys() == {world.bots[0].address}


def test_names_that_reach_one_machine_are_one_party_and_both_stop(reports: Reports) -> None:
    """Aliases of one machine that calls everybody unknown: no bot pauses, and each of its mailboxes stops."""
    world = reports.world
    machine = ("192.0.2.7", 465), ("192.0.2.7", 587)
    names = ("mail.a.test", "mail.b.test")
    stopped = set()
    for bot in world.bots:
        for name, sender, peer in zip(names, world.senders, machine, strict=False):
            found = reports.say(name, sender, bot, peer=peer)
            assert found.unknown == {}
            stopped |= {one.mailbox_id for one in found.outliers}
    assert stopped == {sender.mailbox_id for sender in world.senders[:2]}


def test_a_mail_that_gets_there_contradicts_what_was_said_before(reports: Reports) -> None:
    world = reports.world
    bot = world.bots[0]
    reports.say("smtp.a.test", world.senders[0], bot)
    reports.say("smtp.b.test", world.senders[1], bot, None)
    assert reports.say("smtp.c.test", world.senders[2], bot).unknown == {}
    assert reports.say("smtp.a.test", world.senders[0], bot).unknown == {
        bot.address: ["smtp.a.test", "smtp.c.test"],
    }  # fmt: skip


def test_a_refusal_counts_for_its_span(reports: Reports) -> None:
    world = reports.world
    reports.say("smtp.a.test", world.senders[0], world.bots[0])
    world.clock.advance(timedelta(seconds=POLICY.span_s))
    assert reports.say("smtp.b.test", world.senders[1], world.bots[0]).unknown == {}
    world.clock.advance(timedelta(seconds=POLICY.span_s - 1))
    assert reports.say("smtp.c.test", world.senders[2], world.bots[0]).unknown != {}


def test_numbers_are_the_policys(reports: Reports) -> None:
    world = reports.world
    strict = Reports(world, RefusalPolicy(servers=3, outlier_recipients=2))
    assert strict.say("smtp.a.test", world.senders[0], world.bots[0]).unknown == {}
    assert strict.say("smtp.b.test", world.senders[1], world.bots[0]).unknown == {}
    assert strict.say("smtp.c.test", world.senders[2], world.bots[0]).unknown != {}
    assert strict.say("smtp.a.test", world.senders[0], world.bots[1]).outliers == []
    assert [one.mailbox_id for one in strict.say("smtp.a.test", world.senders[0], world.bots[2]).outliers] == [
        world.senders[0].mailbox_id
    ]


def test_a_mailbox_that_is_stopped_is_called_by_its_address(reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    world = reports.world
    sender = world.senders[0]
    findings = Findings(outliers=[Outlier(sender.mailbox_id, "smtp.a.test", 3)])
    with world.engine.begin() as connection:
        now = world.clock.now()
        stopped = consequences.draw(
            connection, [], findings, now=now, policy=BreakerPolicy(), refusals=world.policy.refusals
        )
        assert stopped == {sender.mailbox_id}
    assert caplog.messages[-1].startswith(f"{sender.address} is paused: its server is doubted: smtp.a.test says of 3 ")


def test_a_server_that_serves_others_in_between_is_no_outlier_until_it_is_contradicted(reports: Reports) -> None:
    """It refuses one domain, as one does that takes it for its own."""
    world = reports.world
    sender, other = world.senders[:2]
    for bot in world.bots[:5]:
        assert reports.say("smtp.a.test", sender, bot).outliers == []
        reports.say("smtp.a.test", sender, world.bots[7], None)
    for bot in world.bots[:2]:
        assert reports.say("smtp.b.test", other, bot, None).outliers == []
    (outlier,) = reports.say("smtp.b.test", other, world.bots[2], None).outliers
    assert (outlier.mailbox_id, outlier.smtp_host, outlier.recipients) == (sender.mailbox_id, "smtp.a.test", 3)
    assert reports.say("smtp.b.test", other, world.bots[3], None).outliers == []


@pytest.mark.parametrize("number", [3, 8])
def test_bots_that_are_gone_stop_no_mailbox_of_a_server_that_serves_others(
    database: Engine, sandbox: Sandbox, number: int
) -> None:
    """Ten mailboxes of one server, each of which meets bots that are gone; also when those come back."""
    reports = Reports(a_world(database, sandbox, 10, 9, a_policy(), checks=False))
    world = reports.world
    gone, there = world.bots[:number], world.bots[8]
    for place, sender in enumerate(world.senders):
        for turn in range(2):
            bot = gone[(place + turn) % number]
            assert reports.say("smtp.a.test", sender, bot).outliers == []
            other = world.senders[(place + 1 + turn) % 10]
            assert reports.say("smtp.a.test", other, there, None).outliers == []
    for bot in gone:
        assert reports.say("smtp.a.test", world.senders[0], bot, None).outliers == []
        for sender in world.senders[1:]:
            assert reports.say("smtp.a.test", sender, bot, None).outliers == []


def test_bots_that_come_back_stop_nobody_if_the_servers_own_mailboxes_reach_them_first(reports: Reports) -> None:
    world = reports.world
    first, second, other = world.senders[:3]
    for bot in world.bots[:4]:
        reports.say("smtp.a.test", first, bot)
        reports.say("smtp.a.test", first, world.bots[7], None)
    for bot in world.bots[:4]:
        assert reports.say("smtp.a.test", second, bot, None).outliers == []
        assert reports.say("smtp.b.test", other, bot, None).outliers == []


def test_a_mailbox_that_is_refused_everybody_by_a_server_that_serves_others_stops_alone(reports: Reports) -> None:
    world = reports.world
    refused, served = world.senders[:2]
    stopped = []
    for bot in world.bots:
        found = reports.say("smtp.a.test", refused, bot).outliers, reports.say(
            "smtp.a.test", served, bot, None
        ).outliers  # fmt: skip
        stopped += [one.mailbox_id for outliers in found for one in outliers]
    assert set(stopped) == {refused.mailbox_id}


def test_what_a_server_said_does_not_stop_a_mailbox_that_has_left_it(reports: Reports) -> None:
    world = reports.world
    gone, stays = world.senders[:2]
    for bot in world.bots[:2]:
        reports.say("smtp.a.test", gone, bot)
    reports.use("smtp.b.test", gone)
    for bot in world.bots[:3]:
        stopped = reports.say("smtp.a.test", stays, bot).outliers
    assert [one.mailbox_id for one in stopped] == [stays.mailbox_id]


def test_every_mailbox_that_meets_the_outliers_refusals_stops_and_no_other(reports: Reports) -> None:
    world = reports.world
    first, second, third, fourth = world.senders[:4]
    for bot in world.bots[:2]:
        assert reports.say("smtp.a.test", first, bot).outliers == []
    stopped = reports.say("smtp.a.test", second, world.bots[2]).outliers
    assert [one.mailbox_id for one in stopped] == [first.mailbox_id, second.mailbox_id]
    assert [one.mailbox_id for one in reports.say("smtp.a.test", third, world.bots[3]).outliers] == [third.mailbox_id]
    assert reports.say("smtp.b.test", fourth, world.bots[4]).outliers == []


def test_who_was_stopped_first_is_cleared_when_others_come_to_say_the_same(reports: Reports) -> None:
    world = reports.world
    first, second = world.senders[:2]
    for bot in world.bots[:3]:
        stopped = reports.say("smtp.a.test", first, bot).outliers
    assert [one.mailbox_id for one in stopped] == [first.mailbox_id]
    found = reports.say("smtp.b.test", second, world.bots[0])
    assert found.unknown.keys() == {world.bots[0].address}
    assert found.cleared == [first.mailbox_id]
    assert found.outliers == []


def test_a_recipient_that_is_out_of_use_makes_no_late_reporter_an_outlier(reports: Reports) -> None:
    world = reports.world
    world.change("update ops.bots set status = 'paused', status_reason = 'gone', status_remedy = 'none'")
    for bot in world.bots:
        assert reports.say("smtp.a.test", world.senders[0], bot) == Findings()


def test_an_address_that_is_not_ours_is_judged_by_the_same_rule(reports: Reports) -> None:
    world = reports.world
    assert reports.say("smtp.a.test", world.senders[0], "lead@customer.test").unknown == {}
    found = reports.say("smtp.b.test", world.senders[1], "lead@customer.test")
    assert found.unknown == {"lead@customer.test": ["smtp.a.test", "smtp.b.test"]}


def test_what_servers_answer_several_workers_at_the_same_moment_is_seen_as_a_whole(reports: Reports) -> None:
    """One recipient, two servers, two workers: exactly one of the workers learns that it is unknown."""
    world = reports.world
    for bot in world.bots:
        both = threading.Barrier(2)

        def report(host: str, sender: Member, bot: Member = bot, both: threading.Barrier = both) -> Findings:
            both.wait(30)
            return reports.say(host, sender, bot)

        with ThreadPoolExecutor(2) as workers:
            answers = [
                workers.submit(report, f"smtp.{name}.test", sender)
                for name, sender in zip("ab", world.senders, strict=False)
            ]
        assert sum(bot.address in one.result(30).unknown for one in answers) == 1


def test_a_bots_server_that_calls_senders_unknown_stops_the_bot(database: Engine, sandbox: Sandbox) -> None:
    """The same rule the other way round: a reply that is refused."""
    reports = Reports(a_world(database, sandbox, 4, 2, a_policy(), checks=False))
    world = reports.world
    found = [reports.say("smtp.a.test", world.bots[0], sender) for sender in world.senders[:3]]
    assert [one.mailbox_id for one in found[-1].outliers] == [world.bots[0].mailbox_id]
    assert all(one.unknown == {} for one in found)
    assert world.clock.now() == NOON


def test_bots_that_others_reach_first_stop_nobody_once_the_server_takes_mail_for_them_too(reports: Reports) -> None:
    world = reports.world
    first, second, other = world.senders[:3]
    for bot in world.bots[:4]:
        reports.say("smtp.a.test", first, bot)
        reports.say("smtp.a.test", first, world.bots[7], None)
    for bot in world.bots[:4]:
        assert reports.say("smtp.b.test", other, bot, None).outliers == []
        assert reports.say("smtp.a.test", second, bot, None).outliers == []
