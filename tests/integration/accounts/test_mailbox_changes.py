"""Operators correct and remove mailboxes: validated like an import, no cap opened anew, nothing of the log lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.clock import local_day
from emberflow.database.migrate import downgrade, upgrade
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations import mailboxes
from emberflow.queue_manager.receiving import sweep
from emberflow.reporting import why_not
from tests.worlds import (
    NOON,
    OPERATOR,
    Command,
    Member,
    Sandbox,
    World,
    a_file,
    a_policy,
    a_row,
    a_world,
    ids_of,
    shown_bots,
    shown_senders,
)


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=2, policy=a_policy())


def mailbox(world: World, mailbox_id: int) -> Any:
    return world.row("select * from ops.mailboxes where id = :id", id=mailbox_id)


def state(world: World, address: str) -> Any:
    return next(row for row in shown_senders(world.engine) if row["address"] == address)


# Set


def test_names_and_owners_change_without_a_check(world: World) -> None:
    sender = world.senders[0]
    changed = mailboxes.change(
        world.engine,
        OPERATOR,
        "sender",
        sender.address.upper(),
        {"display_name": "Ann Example", "owner": "Acme", "provider": "P"},
        reason="a test",
    )
    assert (set(changed.columns), changed.check_is_due) == ({"display_name", "owner", "provider"}, False)
    row = mailbox(world, sender.mailbox_id)
    assert (row["display_name"], row["owner"], row["provider"]) == ("Ann Example", "Acme", "P")
    assert state(world, sender.address)["state"] == "active"
    assert mailbox(world, world.senders[1].mailbox_id)["owner"] is None

    mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"owner": "", "provider": " "}, reason="a test")
    row = mailbox(world, sender.mailbox_id)
    assert (row["owner"], row["provider"]) == (None, sender.address.partition("@")[2])


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"smtp_host": "mail..north.test"}, "smtp_host"),
        ({"imap_port": "70000"}, "imap_port"),
        ({"smtp_port": "465", "smtp_tls": "starttls"}, "smtp_tls"),
        ({"zone": "localtime"}, "zone"),
        ({"display_name": "Ann\r\nBcc: x@y.test"}, "display_name"),
        ({"username": "a\x00b"}, "username"),
        ({"smtp_host": ""}, "smtp_host"),
        ({"interaction_limits": 3}, "interaction_limits"),
    ],
)
def test_a_value_that_an_import_would_refuse_changes_nothing(world: World, values: dict[str, Any], column: str) -> None:
    sender = world.senders[0]
    before = mailbox(world, sender.mailbox_id)
    with pytest.raises(ConfigurationError, match=f"{sender.address}: nothing was changed: {column}: "):
        mailboxes.change(
            world.engine, OPERATOR, "sender", sender.address, {"display_name": "Other"} | values, reason="a test"
        )
    assert mailbox(world, sender.mailbox_id) == before


def test_another_server_is_used_only_when_it_has_passed_its_check(world: World) -> None:
    sender = world.senders[0]
    right = mailbox(world, sender.mailbox_id)["smtp_port"]
    changed = mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"smtp_port": 1}, reason="a test")
    assert changed.check_is_due
    assert mailbox(world, sender.mailbox_id)["check_passed"] is None
    row = state(world, sender.address)
    assert (row["state"], row["state_reason"]) == (
        "unverified",
        "its servers or login were changed, and not checked since",
    )
    assert f"emberflow senders check {sender.address}" in row["state_remedy"]

    mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"smtp_port": right}, reason="a test")
    mailboxes.check(world.engine, OPERATOR, world.settings, ids=[sender.mailbox_id], reason="a test")
    assert state(world, sender.address)["state"] == "active"


def test_a_paused_mailbox_stays_paused_and_is_resumed_only_after_its_check(world: World) -> None:
    bot = world.bots[0]
    mailboxes.pause(world.engine, OPERATOR, "bot", bot.address, reason="why")
    mailboxes.change(world.engine, OPERATOR, "bot", bot.address, {"username": "somebody"}, reason="a test")
    assert world.value("select status from ops.bots where id = :id", id=bot.id) == "paused"
    with pytest.raises(EmberflowError, match="has not passed its last connection check"):
        mailboxes.resume(world.engine, OPERATOR, "bot", bot.address, reason="a test")


def test_the_tls_mode_follows_a_new_port(world: World) -> None:
    sender = world.senders[0]
    mailboxes.change(
        world.engine, OPERATOR, "sender", sender.address, {"smtp_port": "465", "imap_port": "143"}, reason="a test"
    )
    row = mailbox(world, sender.mailbox_id)
    assert (row["smtp_tls"], row["imap_tls"]) == ("implicit", "starttls")
    mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"smtp_port": "2465"}, reason="a test")
    assert mailbox(world, sender.mailbox_id)["smtp_tls"] == "implicit"


def test_a_bots_limits_and_age_change(world: World) -> None:
    bot = world.bots[0]
    changed = mailboxes.change(
        world.engine,
        OPERATOR,
        "bot",
        bot.address,
        {"interaction_limits": "3", "born_at": "2020-01-01T00:00:00Z"},
        reason="a test",
    )
    assert set(changed.columns) == {"interaction_limits", "born_at"}
    row = world.row("select interaction_limits, born_at from ops.bots where id = :id", id=bot.id)
    assert (row["interaction_limits"], row["born_at"]) == (3, datetime(2020, 1, 1, tzinfo=UTC))
    mailboxes.change(world.engine, OPERATOR, "bot", bot.address, {"interaction_limits": ""}, reason="a test")
    assert world.value("select interaction_limits from ops.bots where id = :id", id=bot.id) is None


# Another zone


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"])
def test_a_sender_whose_zone_changes_waits_until_both_zones_have_a_new_day(world: World, zone: str) -> None:
    sender = world.senders[0]
    changed = mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"zone": zone}, reason="a test")
    now = world.value("select clock_timestamp()")
    until = changed.waits_until
    assert until is not None
    for one in ("UTC", zone):
        assert local_day(until, one) > local_day(now, one)
        assert local_day(until - timedelta(seconds=1), one) <= local_day(until, one)
    assert min(
        (local_day(until - timedelta(seconds=1), one) - local_day(now, one)).days for one in ("UTC", zone)
    ) == 0  # fmt: skip
    assert mailbox(world, sender.mailbox_id)["next_send_at"] == until


def test_mail_of_a_sender_whose_zone_has_changed_does_not_leave_before(world: World) -> None:
    slot = world.slot(world.senders[0], world.bots[0])
    mailboxes.change(
        world.engine, OPERATOR, "sender", world.senders[0].address, {"zone": "Europe/Berlin"}, reason="a test"
    )
    world.change("update ops.mailboxes set next_send_at = :until", until=NOON + timedelta(hours=12))
    assert world.dispatch() == {"held": 1}
    assert world.value("select reason from ops.slots where id = :id", id=slot) == "gap"


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"])
def test_the_present_day_of_a_bot_in_its_new_zone_holds_what_it_did_in_the_old_one(world: World, zone: str) -> None:
    bot = world.bots[0]
    now = world.value("select clock_timestamp()")
    today = local_day(now, "UTC")
    for days, inbound in ((0, 5), (1, 7), (2, 100)):
        world.change(
            "insert into ops.bot_days (bot_id, local_day, inbound_sent, reply_sent) values (:id, :day, :inbound, 1)",
            id=bot.id, day=today - timedelta(days=days), inbound=inbound,
        )  # fmt: skip
    mailboxes.change(world.engine, OPERATOR, "bot", bot.address, {"zone": zone}, reason="a test")
    used = world.value(
        "select inbound_sent from ops.bot_days where bot_id = :id and local_day = :day",
        id=bot.id,
        day=local_day(now, zone),
    )
    assert used in (5, 12)
    assert used >= 5


# Remove


def test_a_removed_sender_is_nowhere_any_more_and_its_log_stays(world: World) -> None:
    sender, other = world.senders
    world.slot(sender, world.bots[0])
    world.talk(1)
    world.slot(sender, world.bots[1])
    sent = len(world.events("sent"))

    assert mailboxes.remove(world.engine, OPERATOR, "sender", sender.address, reason="the client left") == 2

    assert [row["address"] for row in shown_senders(world.engine)] == [other.address]
    assert world.value("select count(*) from ops.mailbox_secrets where mailbox_id = :id", id=sender.mailbox_id) == 0
    assert len(world.events("sent")) == sent == 1
    assert world.statuses() == {"sent": 1, "cancelled": 2}
    assert {row["reason"] for row in world.rows("select reason from ops.slots where status = 'cancelled'")} == {
        "sender_removed"
    }
    world.plan()
    assert {row["sender_id"] for row in world.rows("select sender_id from ops.slots where status = 'planned'")} == {
        other.id
    }
    checked = {result.mailbox_id for result in mailboxes.check(world.engine, OPERATOR, world.settings, reason="a test")}
    assert checked == {member.mailbox_id for member in (other, *world.bots)}
    for shard in range(2):
        assert sweep.read_shard(world.engine, shard, clock=world.clock, settings=world.settings).unreadable == []
    with world.engine.connect() as connection, pytest.raises(EmberflowError, match="there is no sender"):
        why_not.why_not(connection, sender.address, NOON, now=NOON)


def test_a_removed_bot_gets_and_answers_nothing(world: World) -> None:
    bot, other = world.bots
    world.slot(world.senders[0], bot)
    world.slot(world.senders[0], other)
    assert mailboxes.remove(world.engine, OPERATOR, "bot", bot.address, reason="sold") == 1
    assert [row["address"] for row in shown_bots(world.engine)] == [other.address]
    assert world.dispatch() == {"sent": 1}


def imported_again(world: World, member: Member, kind: str, **columns: Any) -> int:
    """Import the address of a removed mailbox and check it; return the number of the mailbox."""
    file = a_file(world.sandbox.directory, [a_row(member.address, world.sandbox, **columns)])
    if kind == "sender":
        (mailbox_id,) = mailboxes.import_senders(world.engine, OPERATOR, file, world.settings, reason="a test")
    else:
        owned = mailboxes.Attestation("Ann", "by hand")
        (mailbox_id,) = mailboxes.import_bots(world.engine, OPERATOR, file, owned, world.settings, reason="a test")
    mailboxes.check(world.engine, OPERATOR, world.settings, ids=[mailbox_id], reason="a test")
    return mailbox_id


def test_an_import_takes_up_a_removed_sender_whose_ramp_starts_over(world: World) -> None:
    """S-B10"""
    sender = world.senders[0]
    mailboxes.change(world.engine, OPERATOR, "sender", sender.address, {"owner": "Acme"}, reason="a test")
    mailboxes.remove(world.engine, OPERATOR, "sender", sender.address, reason="a mistake")
    before = world.value("select clock_timestamp()")

    assert imported_again(world, sender, "sender", display_name="Ann Example") == sender.mailbox_id

    row = mailbox(world, sender.mailbox_id)
    assert (row["display_name"], row["owner"], row["removed_at"]) == ("Ann Example", None, None)
    assert state(world, sender.address)["state"] == "active"
    assert world.value("select ramp_since from ops.senders where id = :id", id=sender.id) > before
    assert ids_of(world.engine, [sender.address]) == [sender.mailbox_id]


@pytest.mark.parametrize(
    ("policy", "used", "reason"),
    [
        ({}, "update ops.sender_days set warmup_sent = warmup_quota", "sender_daily_quota"),
        ({"caps": {"sender_24h": 1}}, None, "sender_cap"),
    ],
)
def test_what_a_sender_has_sent_today_counts_although_it_was_removed_and_imported_again(
    database: Engine, sandbox: Sandbox, policy: dict[str, Any], used: str | None, reason: str
) -> None:
    """Q-F6"""
    world = a_world(database, sandbox, senders=1, bots=2, policy=a_policy(**policy))
    sender = world.senders[0]
    world.slot(sender, world.bots[0], gap_s=0)
    assert world.dispatch() == {"sent": 1}
    if used is not None:
        world.change(used)

    mailboxes.remove(world.engine, OPERATOR, "sender", sender.address, reason="to begin anew")
    imported_again(world, sender, "sender")

    slot = world.slot(sender, world.bots[1])
    assert world.dispatch() == {"refused": 1}
    assert world.value("select reason from ops.slots where id = :id", id=slot) == reason


def test_what_a_bot_has_received_today_counts_although_it_was_removed_and_imported_again(world: World) -> None:
    """B-B2: its day, its pause and its pairs."""
    sender, bot = world.senders[0], world.bots[0]
    world.slot(sender, bot, gap_s=0)
    assert world.dispatch() == {"sent": 1}
    rested = "select cooldown_until, (select count(*) from ops.bot_sender_interactions where bot_id = bots.id) as pairs"
    before = world.row(f"{rested} from ops.bots where id = :id", id=bot.id)

    mailboxes.remove(world.engine, OPERATOR, "bot", bot.address, reason="to begin anew")
    assert imported_again(world, bot, "bot", interaction_limits=1, born_at="2020-01-01T00:00:00Z") == bot.mailbox_id

    assert world.row(f"{rested} from ops.bots where id = :id", id=bot.id) == before
    slot = world.slot(sender, bot)
    assert world.dispatch() == {"refused": 1}
    assert world.value("select reason from ops.slots where id = :id", id=slot) == "bot_daily_inbound_cap"
    (row,) = [row for row in shown_bots(world.engine) if row["address"] == bot.address]
    assert (row["status"], row["attested_by"], row["born_at"].year) == ("active", "Ann", 2020)


def test_another_zone_opens_no_cap_anew_for_a_mailbox_that_is_imported_again(world: World) -> None:
    """Q-F6: as `set` does it."""
    sender, bot = world.senders[0], world.bots[0]
    now = world.value("select clock_timestamp()")
    world.change("update ops.mailboxes set next_send_at = :now where id = :id", now=now, id=sender.mailbox_id)
    world.change(
        "insert into ops.bot_days (bot_id, local_day, inbound_sent) values (:id, :day, 5)",
        id=bot.id,
        day=local_day(now, "UTC"),
    )
    for kind, member in (("sender", sender), ("bot", bot)):
        mailboxes.remove(world.engine, OPERATOR, kind, member.address, reason="moved")  # type: ignore[arg-type]
        imported_again(world, member, kind, zone="Pacific/Kiritimati")

    until = mailbox(world, sender.mailbox_id)["next_send_at"]
    assert all(local_day(until, zone) > local_day(now, zone) for zone in ("UTC", "Pacific/Kiritimati"))
    used = world.value("select max(inbound_sent) from ops.bot_days where local_day = :day and bot_id = :id",
                       day=local_day(now, "Pacific/Kiritimati"), id=bot.id)  # fmt: skip
    assert used == 5


def test_a_mailbox_that_comes_back_as_the_other_kind_sends_nothing_for_a_day(world: World) -> None:
    """Q-F6: what was counted of the one kind is not what counts of the other."""
    sender, unused = world.senders
    world.slot(sender, world.bots[0])
    assert world.dispatch() == {"sent": 1}
    sent_at = world.value("select max(sent_at) from ops.slots")
    for one in (sender, unused):
        mailboxes.remove(world.engine, OPERATOR, "sender", one.address, reason="the wrong file")

    as_bot = imported_again(world, sender, "bot")
    assert as_bot != sender.mailbox_id
    assert mailbox(world, as_bot)["next_send_at"] >= sent_at + timedelta(hours=25)
    assert mailbox(world, imported_again(world, unused, "bot"))["next_send_at"] is None

    mailboxes.remove(world.engine, OPERATOR, "bot", sender.address, reason="it was the right one")
    assert imported_again(world, sender, "sender") == sender.mailbox_id
    assert mailbox(world, sender.mailbox_id)["next_send_at"] < sent_at + timedelta(hours=1)
    assert world.value("select status from ops.bots where mailbox_id = :id", id=as_bot) == "retired"

    downgrade(world.engine, "0012")
    upgrade(world.engine)
    assert world.value("select count(*) from ops.mailboxes where address = :a", a=sender.address) == 1


def test_a_mailbox_that_is_imported_again_is_read_from_the_beginning(world: World) -> None:
    """It may lie on another server, which numbers its messages anew."""
    bot = world.bots[0]
    world.slot(world.senders[0], bot)
    world.dispatch()
    world.read()
    tables = ("imap_cursors", "mailbox_readings")
    counts = [f"select count(*) from ops.{table} where mailbox_id = :id" for table in tables]  # noqa: S608
    assert all(world.value(count, id=bot.mailbox_id) for count in counts)
    mailboxes.remove(world.engine, OPERATOR, "bot", bot.address, reason="moved")
    imported_again(world, bot, "bot")
    assert [world.value(count, id=bot.mailbox_id) for count in counts] == [0, 0]
    assert world.read() == {}


@pytest.mark.parametrize("change", ["set", "remove", "pause", "resume", "password"])
def test_nothing_can_be_done_to_a_removed_mailbox(world: World, change: str) -> None:
    address = world.senders[0].address
    mailboxes.remove(world.engine, OPERATOR, "sender", address, reason="gone")
    steps: dict[str, Callable[[], object]] = {
        "set": lambda: mailboxes.change(world.engine, OPERATOR, "sender", address, {"owner": "x"}, reason="a test"),
        "remove": lambda: mailboxes.remove(world.engine, OPERATOR, "sender", address, reason="again"),
        "pause": lambda: mailboxes.pause(world.engine, OPERATOR, "sender", address, reason="why"),
        "resume": lambda: mailboxes.resume(world.engine, OPERATOR, "sender", address, reason="a test"),
        "password": lambda: ids_of(world.engine, [address]),
    }
    with pytest.raises(EmberflowError, match=r"there is no sender|not registered"):
        steps[change]()


# The commands


def test_mailboxes_are_corrected_and_removed_from_the_command_line(run: Command, world: World) -> None:
    sender, bot = world.senders[0].address, world.bots[0].address
    port = mailbox(world, world.senders[0].mailbox_id)["smtp_port"]
    assert "changed display_name" in run("senders", "set", sender, "--display-name", "Ann Example").output
    shown = run("senders", "set", sender, "--smtp-port", "1", "--no-check").output
    assert "emberflow senders check" in shown
    checked = run("senders", "set", sender, "--smtp-port", str(port))
    assert (checked.exit_code, "1 of 1 mailboxes passed" in checked.output) == (0, True)
    assert "it sends again from" in run("senders", "set", sender, "--zone", "Europe/Berlin").output
    assert "changed interaction_limits" in run("bots", "set", bot, "--interaction-limits", "3").output
    assert run("senders", "set", sender).exit_code != 0
    assert "0 planned mails" in run("bots", "remove", bot, "--reason", "sold").output
    assert bot not in run("bots", "list").output
    assert "is removed" in run("senders", "remove", sender, "--reason", "gone").output
