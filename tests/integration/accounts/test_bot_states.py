"""Bots are paused, retired and taken back by command, and what is planned for them follows a stated rule."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from emberflow.errors import EmberflowError
from emberflow.operations import mailboxes
from tests.worlds import (
    OPERATOR,
    Command,
    Sandbox,
    World,
    a_file,
    a_policy,
    a_row,
    a_world,
    shown_bots,
    some_settings,
)


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender and one bot, and a mail that is planned between them for now."""
    world = a_world(database, sandbox, senders=1, bots=1, policy=a_policy())
    world.slot(world.senders[0], world.bots[0])
    return world


def the_bot(world: World) -> tuple[str, str | None, str | None]:
    (row,) = shown_bots(world.engine)
    return row["status"], row["status_reason"], row["status_remedy"]


def test_a_paused_bot_says_why_since_when_and_what_to_do(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    since = "select status_changed_at from ops.bots"
    before = world.value(since)

    mailboxes.pause(database, OPERATOR, "bot", world.bots[0].address, reason="its owner is on leave")

    status, reason, remedy = the_bot(world)
    assert (status, reason) == ("paused", "its owner is on leave")
    assert f"emberflow bots resume {world.bots[0].address}" in (remedy or "")
    assert world.value(since) > before
    assert world.plan().slots == 0

    mailboxes.resume(database, OPERATOR, "bot", world.bots[0].address, reason="a test")
    assert the_bot(world) == ("active", None, None)


def test_what_is_planned_for_a_paused_bot_leaves_if_it_is_resumed_before(database: Engine, world: World) -> None:
    mailboxes.pause(database, OPERATOR, "bot", world.bots[0].address, reason="why")
    assert world.statuses() == {"planned": 1}
    mailboxes.resume(database, OPERATOR, "bot", world.bots[0].address, reason="a test")
    assert world.dispatch() == {"sent": 1}


def test_what_comes_due_while_a_bot_is_paused_is_cancelled_with_that_reason(database: Engine, world: World) -> None:
    mailboxes.pause(database, OPERATOR, "bot", world.bots[0].address, reason="why")
    assert world.dispatch() == {"refused": 1}
    slot = world.row("select status, reason from ops.slots")
    assert (slot["status"], slot["reason"]) == ("cancelled", "bot_paused")
    assert world.deliveries() == []


def test_a_bot_that_is_retired_has_its_mail_cancelled_at_once_and_its_conversations_ended(
    database: Engine, sandbox: Sandbox
) -> None:
    """The first mail has left and its answer is planned; a second mail is planned to the bot, one to another bot."""
    world = a_world(database, sandbox, senders=1, bots=2, policy=a_policy())
    bot, other = world.bots
    world.slot(world.senders[0], bot)
    world.talk(1)
    assert world.statuses() == {"sent": 1, "planned": 1}
    world.slot(world.senders[0], bot)
    world.slot(world.senders[0], other)

    assert mailboxes.retire_bot(database, OPERATOR, bot.address, reason="the contract ended") == 2

    assert world.statuses() == {"sent": 1, "cancelled": 2, "planned": 1}
    reasons = world.rows("select distinct reason from ops.slots where status = 'cancelled'")
    assert [row["reason"] for row in reasons] == ["bot_retired"]
    assert world.value("select thread_status from ops.conversations") == "closed"
    assert world.value("select to_mailbox_id from ops.slots where status = 'planned'") == other.mailbox_id


def test_a_retired_bot_comes_back_by_the_command_that_its_remedy_names(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    mailboxes.retire_bot(database, OPERATOR, world.bots[0].address, reason="why")
    status, _, remedy = the_bot(world)
    assert status == "retired"
    assert f"emberflow bots resume {world.bots[0].address}" in (remedy or "")
    assert world.plan().slots == 0

    mailboxes.resume(database, OPERATOR, "bot", world.bots[0].address, reason="a test")
    assert the_bot(world) == ("active", None, None)


def test_resuming_a_bot_does_not_go_around_its_connection_check(database: Engine, sandbox: Sandbox) -> None:
    settings = some_settings(database, sandbox)
    file = a_file(sandbox.directory, [a_row("bot@none.test", sandbox)])
    mailboxes.import_bots(
        database, OPERATOR, file, mailboxes.Attestation("an operator", "our own domain"), settings, reason="a test"
    )
    (row,) = shown_bots(database)
    assert "emberflow bots check" in row["status_remedy"]
    mailboxes.pause(database, OPERATOR, "bot", "bot@none.test", reason="not yet")
    for _ in range(2):
        with pytest.raises(EmberflowError, match=r"run `emberflow bots check bot@none\.test` first"):
            mailboxes.resume(database, OPERATOR, "bot", "bot@none.test", reason="a test")
        mailboxes.check(database, OPERATOR, settings, reason="a test")
    (row,) = shown_bots(database)
    assert row["status"] == "paused"


def test_a_bot_whose_check_fails_says_how_to_mend_it(database: Engine, sandbox: Sandbox) -> None:
    settings = some_settings(database, sandbox)
    file = a_file(sandbox.directory, [a_row("bot@none.test", sandbox)])
    mailboxes.import_bots(
        database, OPERATOR, file, mailboxes.Attestation("an operator", "our own domain"), settings, reason="a test"
    )
    mailboxes.check(database, OPERATOR, settings, reason="a test")
    (row,) = shown_bots(database)
    assert row["status_reason"].startswith("connection check failed at smtp_auth: ")
    assert "emberflow bots check" in row["status_remedy"]


def test_a_sender_is_no_bot_and_an_unknown_address_is_named(database: Engine, sandbox: Sandbox) -> None:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    for address in (world.senders[0].address, "nobody@north.test"):
        with pytest.raises(EmberflowError, match=f"there is no bot {address}"):
            mailboxes.pause(database, OPERATOR, "bot", address, reason="why")
        with pytest.raises(EmberflowError, match=f"there is no bot {address}"):
            mailboxes.retire_bot(database, OPERATOR, address, reason="why")
        with pytest.raises(EmberflowError, match=f"there is no bot {address}"):
            mailboxes.resume(database, OPERATOR, "bot", address, reason="a test")


def test_bots_are_paused_retired_and_resumed_from_the_command_line(run: Command, world: World) -> None:
    address = world.bots[0].address
    run("bots", "pause", address, "--reason", "on holiday")
    assert the_bot(world)[:2] == ("paused", "on holiday")
    assert "on holiday" in run("bots", "list").output
    run("bots", "resume", address)
    assert the_bot(world)[0] == "active"
    assert "1 planned" in run("bots", "retire", address, "--reason", "sold").output
    assert the_bot(world)[:2] == ("retired", "sold")
    assert run("bots", "check", address).exit_code == 0
