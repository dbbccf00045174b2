"""Every command that prints a table prints the same as JSON, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.main import get_command

from emberflow.cli.main import app
from emberflow.sandbox import create_accounts
from tests.worlds import PASSWORD, Command, Sandbox, World, a_file, a_row, a_world

LISTINGS = [
    ("senders", "list"), ("bots", "list"), ("queue", "list"), ("queue", "shape"), ("suppressions", "list"),
    ("egress", "list"), ("scripts", "list"), ("plan", "show"), ("plan", "run", "--dry-run"), ("capacity",),
    ("explain", "1"), ("plan", "why-not", "sender1@senders1.test"), ("queue", "reconcile"), ("senders", "check"),
    ("bots", "check"), ("policy", "show"), ("scripts", "check"), ("audit", "list"), ("domains", "list"),
    ("inbox", "list"), ("placement", "list"),
]  # fmt: skip


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    world = a_world(database, sandbox, senders=2, bots=4)
    world.plan()
    world.slot()
    return world


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_a_listing_as_json_is_one_document(world: World, run: Command, words: tuple[str, ...]) -> None:
    if words[:2] == ("plan", "why-not"):
        words = (*words[:2], world.senders[0].address)
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, list | dict)
    if words in (("senders", "list"), ("bots", "list")):
        assert {row["address"] for row in document} == {
            account.address for account in (world.senders if words[0] == "senders" else world.bots)
        }


def test_every_command_named_like_a_listing_has_the_option() -> None:
    names = ("list", "show", "shape", "status", "doctor", "explain", "capacity", "why-not", "check", "reconcile")
    without = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, (*path, name))
        options = {word for parameter in getattr(command, "params", []) for word in parameter.opts}
        if path and path[-1] in names and "--json" not in options:
            without.append(path)

    walk(get_command(app), ())
    assert without == []


def test_a_change_as_json_says_what_changed_and_how_the_check_went(world: World, run: Command) -> None:
    address = world.senders[0].address
    named = json.loads(run("senders", "set", address, "--display-name", "Ann Example", "--json").stdout)
    assert (named["address"], named["changed"], named["checks"]) == (address, ["display_name"], [])
    moved = run("senders", "set", address, "--smtp-port", "1", "--json")
    document = json.loads(moved.stdout)
    assert (moved.exit_code, document["check_is_due"]) == (1, True)
    assert [(row["address"], bool(row["stage"])) for row in document["checks"]] == [(address, True)]
    wrong = run("secrets", "set", address, "--json", input="not this one\n")
    assert [row["address"] for row in json.loads(wrong.stdout)] == [address]


def test_an_import_as_json_says_what_came_in_and_how_each_check_went(
    world: World, run: Command, sandbox: Sandbox, tmp_path: Path
) -> None:
    good, wrong = "new1@imports.test", "new2@imports.test"
    create_accounts(sandbox.directory, {good: PASSWORD, wrong: "another"})
    file = a_file(tmp_path, [a_row(good, sandbox), a_row(wrong, sandbox)])
    done = run("senders", "import", file, "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["mailboxes"]) == (1, 2)
    assert {row["address"]: row["stage"] for row in document["checks"]} == {good: None, wrong: "smtp_auth"}
