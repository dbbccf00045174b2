"""A second machine on the same database whose keys, seed or scripts are not those of the first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from emberflow.accounts import keys_in_force
from emberflow.clock import ManualClock
from emberflow.database.secrets import SecretBox, generate_key
from emberflow.email_ops.content import load_scripts
from emberflow.errors import ConfigurationError, WorkerRefusedError
from emberflow.operations import mailboxes
from emberflow.policy.versions import put_in_force
from emberflow.queue_manager.receiving import reconcile, sweep
from emberflow.queue_manager.sending import dispatcher
from emberflow.queue_manager.sending.worker import SendingReport
from emberflow.reporting.doctor import Finding, examine
from emberflow.senders.pacing import next_opening
from emberflow.settings import Settings
from tests.worlds import (
    FILED,
    NOON,
    OPERATOR,
    SEED,
    WHOLE_WINDOWS,
    Command,
    Sandbox,
    World,
    a_policy,
    a_real_policy,
    a_world,
)

SILENT = a_policy(replies={"rate": 0.0})
OTHERS: dict[str, dict[str, Any]] = {
    "the same name for another key": {"secret_keys": {"first": SecretStr(generate_key())}},
    "another name": {"secret_keys": {"k1": SecretStr(generate_key())}},
    "another signing key": {"token_keys": (SecretStr("a key of the other machine"),)},
}


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    """Two mails are due."""
    world = a_world(database, sandbox, senders=2, bots=2, policy=SILENT, checks=False)
    for sender, bot in zip(world.senders, world.bots, strict=True):
        world.slot(sender, bot)
    return world


def like(world: World, **changes: Any) -> Settings:
    return world.settings.model_copy(update=changes)


def finding(settings: Settings) -> Finding:
    return next(finding for finding in examine(settings) if finding.check == "keys in force")


@dataclass(frozen=True)
class Machine:
    """A machine that works on the world with its own keys."""

    world: World
    settings: Settings

    def dispatch(self) -> SendingReport:
        dispatcher.due_shards(self.world.engine, clock=self.world.clock)
        return dispatcher.dispatch_shard(self.world.engine, 0, clock=self.world.clock, settings=self.settings)


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_a_machine_with_other_keys_puts_off_nobodys_mail(world: World, other: dict[str, Any]) -> None:
    """It claims nothing, reads nothing, settles nothing; the first machine sends as if it were not there."""
    stranger = like(world, **other)
    before = world.rows("select * from ops.slots order by id")

    refused = Machine(world, stranger).dispatch()
    for act in (
        lambda: sweep.read_shard(world.engine, 0, clock=world.clock, settings=stranger),
        lambda: reconcile.run(world.engine, clock=world.clock, settings=stranger),
        lambda: mailboxes.check(world.engine, OPERATOR, stranger, reason="a test"),
    ):
        with pytest.raises(WorkerRefusedError, match="this machine has other keys"):
            act()

    assert refused.ends.total() == 0
    assert "Copy the keys of a machine that works" in (refused.refused or "")
    assert world.rows("select * from ops.slots order by id") == before
    assert world.dispatch() == {"sent": 2}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_doctor_is_red_on_the_machine_with_other_keys_and_green_on_the_first(
    world: World, other: dict[str, Any]
) -> None:
    world.dispatch()
    assert finding(world.settings).remedy is None
    found = finding(like(world, **other))
    assert found.result == "this machine sends nothing"
    assert "secrets adopt" in (found.remedy or "")


def test_genuine_mail_is_not_taken_for_forged_by_a_machine_with_other_signing_keys(world: World) -> None:
    """B-B4: a rejection would be on record for good."""
    world.dispatch()
    with pytest.raises(WorkerRefusedError):
        sweep.read_shard(
            world.engine, 0, clock=world.clock, settings=like(world, token_keys=(SecretStr("another key"),))
        )
    assert world.events("token_rejected") == []
    assert world.read()["inbox"] == 2


def test_keys_are_rotated_as_the_runbook_says(world: World) -> None:
    """S-B2: new keys first, old ones behind; a machine that has only the old ones waits until it has the new ones."""
    old, new = world.settings, SecretStr(generate_key())
    both = like(
        world,
        secret_keys={"second": new} | old.secret_keys,
        token_keys=(SecretStr("a new key that signs"), *old.token_keys),
    )
    assert Machine(world, both).dispatch().ends["sent"] == 2
    assert Machine(world, old).dispatch().refused is not None

    with world.engine.begin() as connection:
        keys_in_force.require(connection, both)
        assert SecretBox(both.secret_keys).rotate(connection) == 4
    only_new = like(world, secret_keys={"second": new}, token_keys=both.token_keys)
    world.slot()
    assert Machine(world, only_new).dispatch().ends["sent"] == 1
    assert finding(only_new).remedy is None


def test_a_single_password_under_a_lost_key_holds_its_own_mailbox_only(world: World) -> None:
    with world.engine.begin() as connection:
        SecretBox({"lost": SecretStr(generate_key())}).store(
            connection, world.senders[0].mailbox_id, SecretStr("unreadable")
        )
    assert world.dispatch() == {"sent": 1, "held": 1}
    assert finding(world.settings).remedy is None


@pytest.mark.parametrize(
    ("other", "is_refused"),
    [({}, False), ({"secret_keys": {"first": SecretStr(generate_key())}}, True)],
    ids=["own keys", "other keys"],
)
def test_a_database_of_an_earlier_version_believes_keys_that_open_its_passwords(
    world: World, other: dict[str, Any], is_refused: bool
) -> None:
    """It knows of no key in force yet."""
    world.change("delete from ops.keys_in_force")
    report = Machine(world, like(world, **other)).dispatch()
    assert (report.refused is not None) == is_refused
    assert world.value("select count(*) from ops.keys_in_force") == (0 if is_refused else 2)


def test_a_machine_with_other_keys_stores_no_password(world: World) -> None:
    """The machines that work could not read it."""
    stranger = like(world, secret_keys={"first": SecretStr(generate_key())})
    with pytest.raises(ConfigurationError, match="this machine has other keys"):
        mailboxes.set_password(
            world.engine, OPERATOR, world.senders[0].address, SecretStr("new"), stranger, reason="a test"
        )
    assert world.dispatch() == {"sent": 2}


def test_lost_keys_are_given_up_by_a_command(world: World, run: Command, configure: Any) -> None:
    """S-B2: after that the other machines are those that are refused."""
    configure(EMBERFLOW_SECRET_KEYS=json.dumps({"new": generate_key()}), EMBERFLOW_TOKEN_KEYS=json.dumps(["new"]))
    assert run("doctor").exit_code == 1
    done = run("secrets", "adopt")
    assert done.exit_code == 0, done.output
    assert "are in force" in done.output
    assert Machine(world, world.settings).dispatch().refused is not None


def test_a_fingerprint_says_nothing_of_the_key(world: World) -> None:
    """S-B2"""
    world.dispatch()
    stored = str(world.rows("select * from ops.keys_in_force"))
    for key in (*world.settings.secret_keys.values(), *world.settings.token_keys):
        assert key.get_secret_value() not in stored


@pytest.fixture
def other_scripts(tmp_path: Path) -> Path:
    """A folder with one script, called like a built-in one, with other words and fewer turns."""
    (tmp_path / "soup-recipe.yaml").write_text(
        "id: soup-recipe\ntopic: soup\nsubjects: [Other soup]\nturns:\n  - ['Soup?']\n  - ['Yes, soup.']\n"
    )
    return tmp_path


def test_a_machine_with_another_seed_and_other_scripts_changes_nothing_and_cancels_nothing(
    database: Engine, sandbox: Sandbox, other_scripts: Path
) -> None:
    """I1: it sends at the moments and in the words that are in force, as the first machine does."""
    pacing = {"workday_start_spread_s": 4 * 3600, "window_start": "10:00", "window_end": "20:00"}
    policy = a_real_policy(pacing=WHOLE_WINDOWS | pacing)
    world = a_world(database, sandbox, senders=1, bots=1, policy=policy, checks=False)
    own, other = (
        next_opening("UTC", NOON.replace(hour=5), policy.pacing, seed=drawn, sender_id=world.senders[0].id)
        for drawn in (SEED, 99)
    )
    assert own < other, "by the stranger's seed the window would still be closed"
    world.clock = ManualClock(own)
    world.slot()

    world.settings = like(world, seed=99, scripts_dir=other_scripts)

    assert world.dispatch() == {"sent": 1}

    (mail,) = world.raw_mailbox(world.bots[0])
    thread = world.value("select payload ->> 'thread' from ops.slots")
    subject, _ = load_scripts().render("soup-recipe", 1, seed=SEED, key=(thread,), from_name="", to_name="")
    assert mail["Subject"] == subject


def test_a_conversation_is_written_to_its_end_with_the_scripts_that_it_was_planned_with(
    database: Engine, sandbox: Sandbox, other_scripts: Path
) -> None:
    """I1: an operator may put others in force at any time; what is planned then is written with these."""
    world = a_world(database, sandbox, senders=1, bots=1)
    planned = world.plan()
    with database.begin() as connection:
        put_in_force(connection, world.policy, scripts=load_scripts(other_scripts))
    world.talk(6)
    names = {row["payload"]["script"] for row in world.rows("select payload from ops.slots")}
    turns = load_scripts().turns(names.pop())
    assert planned.slots == 1
    assert (names, world.statuses()) == (set(), {"sent": turns})
    assert all("other soup" not in mail["Subject"].lower() for box in world.bots for mail in world.raw_mailbox(box))
    world.clock = ManualClock(NOON + timedelta(days=7))
    assert world.plan().slots == 1
    newest = world.row("select payload from ops.slots order by id desc limit 1")["payload"]
    assert newest["script"] == "soup-recipe"
    world.talk(4)
    assert any(mail["Subject"] == "Re: Other soup" for mail in world.raw_mailbox(world.senders[0], FILED))
