"""Nothing leaves the machine unless both switches say so (E-B10)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from emberflow.accounts import switches
from emberflow.email_ops import egress
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations import mailboxes
from emberflow.queue_manager.receiving.sweep import InboxUnreadableError
from tests.worlds import (
    OPERATOR,
    Sandbox,
    World,
    a_world,
)

# TEST-NET-1 (RFC 5737): belongs to nobody and is routed nowhere.
OUTSIDE = "192.0.2.1"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    world = a_world(database, sandbox, senders=1, bots=1)
    world.slot()
    return world


def turn_live_mail(world: World, *, on: bool) -> None:
    with world.engine.begin() as connection:
        switches.turn(connection, switches.LIVE_MAIL, on=on, who="an operator", reason="a test")


def in_mode(world: World, mode: str) -> World:
    world.settings = world.settings.model_copy(update={"mail_mode": mode})
    return world


STEPS: dict[str, Callable[[World], Any]] = {
    "dispatch": lambda world: world.dispatch(),
    "inbox": lambda world: world.read(),
    "check": lambda world: mailboxes.check(world.engine, OPERATOR, world.settings, reason="a test"),
}


@pytest.mark.parametrize("step", STEPS)
def test_live_mode_without_the_databases_switch_does_nothing(world: World, step: str, outside: list[str]) -> None:
    """E-B10: every step that talks to mail servers refuses, and says what to do."""
    in_mode(world, "live")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the database's switch is off: nothing was sent or read"):
            STEPS[step](world)
        turn_live_mail(world, on=False)
    assert world.deliveries() == []
    assert world.statuses() == {"planned": 1}
    assert outside == []


def test_the_databases_switch_alone_does_not_open_the_sandbox(world: World, outside: list[str]) -> None:
    """E-B10"""
    turn_live_mail(world, on=True)
    world.change("update ops.mailboxes set smtp_host = :host", host=OUTSIDE)
    assert world.dispatch() == {"held": 1}
    assert outside == []


@pytest.mark.parametrize("step", STEPS)
def test_in_sandbox_mode_no_step_connects_to_a_host_that_is_not_loopback(
    world: World, step: str, outside: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """E-B10: neither over SMTP nor over IMAP, and the reason is reported."""
    world.change("update ops.mailboxes set smtp_host = :host, imap_host = :host", host=OUTSIDE)
    try:
        reported = str(STEPS[step](world))
    except InboxUnreadableError as error:
        reported = str(error)
    assert f"connection to {OUTSIDE} ({OUTSIDE}) was not opened, only loopback is allowed" in reported + caplog.text
    assert outside == []
    assert world.deliveries() == []
    assert world.value("select count(*) from ops.slots where status = 'sent'") == 0


def test_a_check_that_the_mode_forbids_takes_no_mailbox_out_of_use(world: World, outside: list[str]) -> None:
    """E-B10: it says nothing about the mailbox, which has passed its check in live mode."""
    world.change("update ops.mailboxes set smtp_host = :host, imap_host = :host", host=OUTSIDE)
    results = mailboxes.check(world.engine, OPERATOR, world.settings, reason="a test")
    assert {result.stage for result in results} == {"egress"}
    assert world.value("select count(*) from ops.senders where state = 'active'") == 1
    assert world.value("select count(*) from ops.mailboxes where check_passed") == 2
    assert outside == []


OUTWARD = """
import socket, sys
from datetime import datetime
from emberflow.clock import ManualClock
from emberflow.database.engine import open_engine
from emberflow.errors import EgressRefusedError
from emberflow.operations import mailboxes
from emberflow.operations.actor import Actor
from emberflow.queue_manager.receiving import reconcile, sweep
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import settings

clock, step = ManualClock(datetime.fromisoformat(sys.argv[2])), sys.argv[1]
if step == "dispatch":
    dispatcher.dispatch_shard(open_engine(), 0, clock=clock, settings=settings())
elif step == "inbox":
    sweep.read_shard(open_engine(), 0, clock=clock, settings=settings())
elif step == "reconcile":
    reconcile.run(open_engine(), clock=clock, settings=settings())
elif step == "check":
    mailboxes.check(open_engine(), Actor("an operator"), settings(), reason="a test")


def stop_here(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        raise OSError("not stopped by the product")


sys.addaudithook(stop_here)  # asked after the product's hook: nothing leaves this machine whatever that one does
for kind, ask in (
    (socket.SOCK_STREAM, lambda outward: outward.connect(("192.0.2.1", 25))),
    (socket.SOCK_DGRAM, lambda outward: outward.sendto(b"x", ("192.0.2.1", 53))),
):
    with socket.socket(socket.AF_INET, kind) as outward:
        try:
            ask(outward)
        except (OSError, EgressRefusedError) as error:
            print(error)
"""


@pytest.mark.parametrize(
    ("step", "refusal"),
    [(step, "only loopback is allowed") for step in ("dispatch", "inbox", "reconcile", "check")]
    + [("nothing", "not stopped by the product")],
)
def test_a_process_that_has_done_a_step_in_sandbox_mode_cannot_open_any_outside_socket(
    world: World, step: str, refusal: str
) -> None:
    """E-B10: the second lock, below every library that uses Python's sockets; a process of its own has no other."""
    done = subprocess.run(
        [sys.executable, "-c", OUTWARD, step, world.clock.now().isoformat()],
        env=os.environ | world.variables(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert all(refusal in line for line in said), said


def test_both_switches_together_are_live_mode(world: World) -> None:
    """E-B10: and turning either one off again ends it."""
    live = in_mode(world, "live").settings
    turn_live_mail(world, on=True)
    with world.engine.begin() as connection:
        assert switches.enter_mail_mode(connection, live) == "live"
        assert switches.enter_mail_mode(connection, live.model_copy(update={"mail_mode": "sandbox"})) == "sandbox"
    assert egress.require_mail_egress("live", OUTSIDE) == [OUTSIDE]
    turn_live_mail(world, on=False)
    with world.engine.begin() as connection, pytest.raises(EmberflowError):
        switches.enter_mail_mode(connection, live)


def test_the_default_is_the_sandbox(database: Engine) -> None:
    """E-B10"""
    with database.connect() as connection:
        assert not switches.is_on(connection, switches.LIVE_MAIL)
        assert not switches.is_on(connection, switches.STOP_SENDING)


def test_a_switch_remembers_who_turned_it_and_why(world: World) -> None:
    """Towards U-B6"""
    turn_live_mail(world, on=True)
    turn_live_mail(world, on=False)
    row = world.row("select * from ops.switches")
    assert (row["name"], row["is_on"], row["changed_by"], row["reason"]) == (
        "live_mail",
        False,
        "an operator",
        "a test",
    )
