"""Every change of a state has one row of history, with its reason, its figure and who made it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from emberflow.accounts import lifecycle
from emberflow.accounts.lifecycle import Cause
from emberflow.errors import EmberflowError
from emberflow.operations import egress, mailboxes
from emberflow.operations.actor import Actor
from tests.worlds import Sandbox, World, a_world

EVA = Actor("eva")


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1)


def history(world: World, kind: str) -> list[tuple[Any, ...]]:
    rows = world.rows(
        "select from_state, to_state, reason, actor from ops.state_changes where entity_kind = :kind order by id",
        kind=kind,
    )
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("kind", ["sender", "bot"])
def test_the_history_has_all_from_the_import_on(world: World, kind: lifecycle.MailboxKind) -> None:
    address = (world.senders if kind == "sender" else world.bots)[0].address
    mailboxes.pause(world.engine, EVA, kind, address, reason="on leave")
    mailboxes.pause(world.engine, EVA, kind, address, reason="ill")
    mailboxes.pause(world.engine, EVA, kind, address, reason="ill")
    mailboxes.resume(world.engine, EVA, kind, address, reason="back")
    mailboxes.change(world.engine, EVA, kind, address, {"username": "other"}, reason="renamed")
    mailboxes.remove(world.engine, EVA, kind, address, reason="sold")
    end = "stopped" if kind == "sender" else "retired"
    changed = "its servers or login were changed, and not checked since"
    assert history(world, kind) == [
        (None, "unverified", "connection not checked yet", "an operator"),
        ("unverified", "active", None, "an operator"),
        ("active", "paused", "on leave", "eva"),
        ("paused", "paused", "ill", "eva"),
        ("paused", "active", None, "eva"),
        ("active", "unverified", changed, "eva"),
        ("unverified", end, "removed: sold", "eva"),
    ]


def test_a_server_that_is_doubted_leaves_its_figure_and_threshold(world: World) -> None:
    cause = Cause("server", "dispatch", "recipients_refused_in_a_row", 4, 3)
    with world.engine.begin() as connection:
        for _ in range(2):
            lifecycle.pause_because(connection, world.senders[0].mailbox_id, "doubted: x", "ask {address}", cause)
    row = world.row("select * from ops.state_changes order by id desc limit 1")
    assert (row["from_state"], row["to_state"]) == ("active", "paused")
    assert (row["metric"], row["n"], row["threshold"], row["actor"]) == (
        "recipients_refused_in_a_row", 4, 3, "dispatch",
    )  # fmt: skip
    assert len(history(world, "sender")) == 3


def test_neither_a_server_nor_a_check_changes_what_a_person_decided(world: World) -> None:
    sender = world.senders[0]
    mailboxes.stop_sender(world.engine, EVA, sender.address, reason="the client left")
    before = history(world, "sender")
    with world.engine.begin() as connection:
        lifecycle.pause_because(connection, sender.mailbox_id, "why", "what", Cause("server", "dispatch"))
        lifecycle.take_back(connection, sender.mailbox_id, "the client", Cause("server", "dispatch"))
        lifecycle.check_passed(connection, sender.mailbox_id, "eva")
        lifecycle.check_failed(connection, sender.mailbox_id, "smtp_auth", "535", "eva")
    assert history(world, "sender") == before
    assert world.row("select state, state_reason from ops.senders") == {
        "state": "stopped", "state_reason": "the client left",
    }  # fmt: skip


def test_a_change_that_the_table_does_not_know_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {("active", "paused"): frozenset({"server"})}
    monkeypatch.setattr(lifecycle, "TRANSITIONS", {"sender": only})
    with pytest.raises(EmberflowError, match="is active: it cannot become paused by the operator"):
        mailboxes.pause(world.engine, EVA, "sender", world.senders[0].address, reason="why")
    assert world.value("select state from ops.senders") == "active"


def test_egress_addresses_have_a_history_too(world: World) -> None:
    for _ in range(2):  # the second time its caps alone may change
        egress.add(world.engine, EVA, "127.0.0.2", reason="new")
    egress.hold(world.engine, EVA, "127.0.0.2", reason="listed at Spamhaus CSS")
    egress.activate(world.engine, EVA, "127.0.0.2", reason="not listed any more")
    assert history(world, "egress") == [
        (None, "active", None, "eva"),
        ("active", "held", "listed at Spamhaus CSS", "eva"),
        ("held", "active", None, "eva"),
    ]


@pytest.mark.parametrize(
    "change",
    ["update ops.state_changes set actor = 'bob'", "delete from ops.state_changes", "truncate ops.state_changes"],
)
def test_the_history_is_append_only(world: World, change: str) -> None:
    with pytest.raises(DBAPIError, match="state_changes is append-only"):
        world.change(change)
