"""What people do leaves a row in the audit log, in the same transaction, and nobody alters it unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from emberflow.email_ops.content import BUILT_IN
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations import egress, keys, mailboxes, plans, policies, queue, suppressions, switches
from emberflow.operations.actor import Actor, acting
from emberflow.reporting.audit import Verdict, verify
from tests.worlds import OPERATOR, Command, Sandbox, World, a_file, a_policy, a_row, a_world

EVA = Actor("eva")


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """One sender and two bots: three rows of the log are of their import and check."""
    return a_world(database, sandbox, senders=1, bots=2, policy=a_policy())


def verdict(world: World) -> Verdict:
    with world.engine.connect() as connection:
        return verify(connection)


def last(world: World) -> dict[str, Any]:
    return dict(world.row("select * from ops.audit_log order by id desc limit 1"))


def act(world: World) -> None:
    """Three things that a person does."""
    address = world.senders[0].address
    mailboxes.pause(world.engine, EVA, "sender", address, reason="on leave")
    mailboxes.resume(world.engine, EVA, "sender", address, reason="back")
    switches.stop_sending(world.engine, EVA, on=True, reason="an alarm")


def tamper(world: World, change: str, **values: Any) -> None:
    """Change the log as whoever owns the database can."""
    world.change("alter table ops.audit_log disable trigger user")
    world.change(change, **values)
    world.change("alter table ops.audit_log enable trigger user")


ACTIONS: dict[str, Callable[[World], object]] = {
    "senders.pause": lambda world: mailboxes.pause(
        world.engine, EVA, "sender", world.senders[0].address, reason="a test"
    ),
    "senders.stop": lambda world: mailboxes.stop_sender(world.engine, EVA, world.senders[0].address, reason="a test"),
    "senders.resume": lambda world: mailboxes.resume(
        world.engine, EVA, "sender", world.senders[0].address, reason="a test"
    ),
    "senders.set": lambda world: mailboxes.change(
        world.engine, EVA, "sender", world.senders[0].address, {"owner": "acme"}, reason="a test"
    ),
    "senders.remove": lambda world: mailboxes.remove(
        world.engine, EVA, "sender", world.senders[0].address, reason="a test"
    ),
    "bots.pause": lambda world: mailboxes.pause(world.engine, EVA, "bot", world.bots[0].address, reason="a test"),
    "bots.retire": lambda world: mailboxes.retire_bot(world.engine, EVA, world.bots[0].address, reason="a test"),
    "bots.resume": lambda world: mailboxes.resume(world.engine, EVA, "bot", world.bots[0].address, reason="a test"),
    "bots.set": lambda world: mailboxes.change(
        world.engine, EVA, "bot", world.bots[0].address, {"interaction_limits": "3"}, reason="a test"
    ),
    "bots.remove": lambda world: mailboxes.remove(world.engine, EVA, "bot", world.bots[0].address, reason="a test"),
    "mailboxes.check": lambda world: mailboxes.check(world.engine, EVA, world.settings, reason="a test"),
    "mailboxes.set_password": lambda world: mailboxes.set_password(
        world.engine, EVA, world.bots[0].address, SecretStr("new"), world.settings, reason="a test"
    ),
    "policy.apply": lambda world: policies.apply(world.engine, EVA, world.settings, "demo", reason="a test"),
    "scripts.apply": lambda world: policies.apply_scripts(world.engine, EVA, BUILT_IN, reason="a test"),
    "plan.cancel": lambda world: plans.cancel(world.engine, EVA, world.plan().hour, reason="a test"),
    "mail.live_mail": lambda world: switches.live_mail(world.engine, EVA, on=True, reason="a test"),
    "mail.stop_sending": lambda world: switches.stop_sending(world.engine, EVA, on=True, reason="a test"),
    "suppressions.add": lambda world: suppressions.add(
        world.engine, EVA, "ann@one.example", reason="a test", settings=world.settings
    ),
    "egress.add": lambda world: egress.add(world.engine, EVA, "127.0.0.2", reason="a test"),
    "secrets.rotate": lambda world: keys.rotate(world.engine, EVA, world.settings, reason="a test"),
    "secrets.adopt": lambda world: keys.adopt(world.engine, EVA, world.settings, reason="a test"),
    "queue.reconcile": lambda world: queue.reconcile(world.engine, EVA, world.settings, reason="a test"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_person_does_has_one_row_with_who_what_and_why(world: World, action: str) -> None:
    before = verdict(world).rows
    ACTIONS[action](world)
    row = last(world)
    assert (row["actor"], row["role"], row["action"], row["reason"]) == ("eva", "operator", action, "a test")
    assert (verdict(world).rows, verdict(world).misfit) == (before + 1, None)


def test_egress_addresses_are_held_assigned_and_activated_with_a_row_each(world: World) -> None:
    egress.add(world.engine, EVA, "127.0.0.2", logins_per_hour=7, reason="new")
    egress.assign(world.engine, EVA, "127.0.0.2", [world.senders[0].address], reason="its own")
    egress.hold(world.engine, EVA, "127.0.0.2", reason="listed")
    egress.activate(world.engine, EVA, "127.0.0.2", reason="not listed any more")
    rows = world.rows("select action, subject, details from ops.audit_log order by id desc limit 4")
    assert [row["action"] for row in rows] == ["egress.activate", "egress.hold", "egress.assign", "egress.add"]
    assert {row["subject"] for row in rows} == {"127.0.0.2"}
    assert rows[3]["details"] == {"logins_per_hour": 7, "sends_per_hour": None}


def test_files_are_imported_with_one_row_each(world: World, tmp_path: Path) -> None:
    file = a_file(tmp_path, [a_row("new@north.test", world.sandbox)])
    mailboxes.import_senders(world.engine, EVA, file, world.settings, reason="a new client")
    assert last(world)["details"] == {"imported": 1}
    listed = tmp_path / "listed.csv"
    listed.write_text("address\nann@one.example\n@two.example\n")
    suppressions.import_file(world.engine, EVA, listed, reason="they asked", settings=world.settings)
    assert (last(world)["subject"], last(world)["details"]["entries"]) == (str(listed), 2)
    suppressions.remove(world.engine, EVA, "@two.example", reason="a mistake")
    assert last(world)["subject"] == "@two.example"


def test_each_mailbox_that_is_created_has_a_row(world: World) -> None:
    mailboxes.create_bots(
        world.engine, EVA, "own.test", 2, world.sandbox.servers(),
        settings=world.settings, via=mailboxes.Way("nothing", lambda _address, _password: None), reason="more bots",
    )  # fmt: skip
    rows = world.rows("select subject from ops.audit_log where action = 'bots.create' order by id")
    assert [row["subject"] for row in rows] == ["ada.lindqvist@own.test", "bruno.keller@own.test"]


def test_slots_are_settled_and_released_with_a_row_each(world: World) -> None:
    parked, doubted = world.slot(world.senders[0], world.bots[0]), world.slot(world.senders[0], world.bots[1])
    world.change("update ops.slot_states set status = 'parked' where slot_id = :id", id=parked)
    world.change(
        "update ops.slot_states set status = 'uncertain', attempts = 1, submitted_at = now() where slot_id = :id",
        id=doubted,
    )
    queue.release(world.engine, EVA, parked, reason="mended")
    assert (last(world)["action"], last(world)["subject"]) == ("queue.release", f"slot {parked}")
    queue.settle(world.engine, EVA, [doubted], is_sent=True, reason="it lies there")
    assert last(world)["details"] == {"is_sent": True, "ends": {str(doubted): "sent"}}


def test_what_fails_leaves_neither_change_nor_row(world: World) -> None:
    before = verdict(world).rows
    with pytest.raises(EmberflowError):
        mailboxes.pause(world.engine, EVA, "sender", "nobody@north.test", reason="why")
    with pytest.raises(ConfigurationError, match=r"senders\.pause needs a reason"):
        mailboxes.pause(world.engine, EVA, "sender", world.senders[0].address, reason=" ")
    assert verdict(world).rows == before
    assert world.value("select state from ops.senders") == "active"


def test_a_row_that_cannot_be_written_takes_the_change_with_it(world: World) -> None:
    world.change("alter table ops.audit_log add constraint nobody check (actor <> 'eva')")
    with pytest.raises(IntegrityError):
        mailboxes.pause(world.engine, EVA, "sender", world.senders[0].address, reason="why")
    assert world.value("select state from ops.senders") == "active"


def test_no_secret_is_in_the_log(world: World) -> None:
    mailboxes.set_password(
        world.engine, EVA, world.senders[0].address, SecretStr("hush-hush"), world.settings, reason="it leaked"
    )
    assert "hush-hush" not in json.dumps([dict(row) for row in world.rows("select * from ops.audit_log")], default=str)


def test_the_chain_has_no_fork_when_many_act_at_once(world: World) -> None:
    before = verdict(world).rows
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(
                suppressions.add,
                world.engine,
                Actor(f"person {n}"),
                f"ann{n}@one.example",
                reason="a test",
                settings=world.settings,
            )
            for n in range(40)
        ]
    assert [one.exception() for one in done] == [None] * 40
    found = verdict(world)
    assert (found.rows, found.misfit) == (before + 40, None)


@pytest.mark.parametrize(
    "change",
    ["update ops.audit_log set reason = 'other'", "delete from ops.audit_log", "truncate ops.audit_log"],
)
def test_the_log_is_append_only(world: World, change: str) -> None:
    with pytest.raises(DBAPIError, match="audit_log is append-only"):
        world.change(change)


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'bob'",
        "role = 'owner'",
        "action = 'senders.stop'",
        "subject = 'bob@north.test'",
        "reason = 'another'",
        "at = at + interval '1 microsecond'",
        """details = '{"cancelled": 3}'""",
        "hash = repeat('0', 64)",
    ],
)
def test_a_row_that_is_altered_makes_verify_fail_at_that_row(run: Command, world: World, change: str) -> None:
    """D-F5: whatever is altered in it, with the triggers off."""
    act(world)
    (first, *_) = world.rows("select id from ops.audit_log where action = 'senders.pause'")
    assert "each fits" in run("audit", "verify").output
    tamper(world, f"update ops.audit_log set {change} where id = :id", id=first["id"])  # noqa: S608 - a constant
    result = run("audit", "verify")
    assert (result.exit_code, f"row {first['id']} does not fit: it was altered" in result.output) == (1, True)
    assert json.loads(run("audit", "verify", "--json").output)["misfit"] == first["id"]


def test_a_row_that_is_removed_makes_verify_fail_at_the_row_after_it(world: World) -> None:
    """D-F5"""
    act(world)
    ids = [row["id"] for row in world.rows("select id from ops.audit_log order by id")]
    tamper(world, "delete from ops.audit_log where id = :id", id=ids[-2])
    assert verdict(world).misfit == ids[-1]


def test_the_log_is_listed_newest_first_as_a_table_and_as_json(run: Command, world: World) -> None:
    act(world)
    assert "an alarm" in run("audit", "list").output
    found = json.loads(run("audit", "list", "--json", "--limit", "2").output)
    assert [row["action"] for row in found] == ["mail.stop_sending", "senders.resume"]


def test_the_actor_is_who_says_so_else_the_settings_else_the_systems_user(
    run: Command, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("senders", "resume", world.senders[0].address, "--by", "eva")
    assert last(world)["actor"] == "eva"
    assert last(world)["reason"] == "by command"
    monkeypatch.setattr("getpass.getuser", lambda: "whoever")
    assert acting(None).name == "whoever"
    assert acting("eva") == EVA


@pytest.mark.parametrize("actor", [("", "operator"), (" ", "operator"), ("eva", "")])
def test_nobody_acts_without_a_name_and_a_role(actor: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Actor(*actor)


@pytest.mark.parametrize(
    "line",
    [
        ["senders", "pause", "a@b.test"],
        ["senders", "stop", "a@b.test"],
        ["senders", "remove", "a@b.test"],
        ["bots", "pause", "a@b.test"],
        ["bots", "retire", "a@b.test"],
        ["bots", "remove", "a@b.test"],
        ["mail", "stop", "on"],
        ["egress", "hold", "127.0.0.2"],
        ["queue", "settle", "1", "--sent"],
    ],
    ids=" ".join,
)
def test_who_takes_something_out_of_service_must_say_why(run: Command, line: list[str]) -> None:
    result = run(*line)
    assert (result.exit_code, "Missing option" in result.output) == (2, True)


def test_the_operator_of_the_tests_is_in_the_log(world: World) -> None:
    rows = world.rows("select actor, action from ops.audit_log order by id")
    assert [row["action"] for row in rows] == ["senders.import", "bots.import", "mailboxes.check"]
    assert {row["actor"] for row in rows} == {OPERATOR.name}
