"""The commands about leads, on a real database."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.worlds import Command, Sandbox, World, a_world


@pytest.fixture(autouse=True)
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=1, bots=1, checks=False)


@pytest.fixture
def leads(run: Command) -> Command:
    return partial(run, "leads")


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "leads.csv"
    path.write_text("email,city,size\nann@one.example,Bonn,7\nbob@one.example,,\nnobody,,\n")
    return str(path)


def as_json(leads: Command, *arguments: str) -> Any:
    return json.loads(leads(*arguments, "--json").stdout)


def test_a_file_is_tried_imported_shown_and_undone(leads: Command, file: str) -> None:
    """C-B1"""
    options = (file, "--zone", "Europe/Berlin", "--country", "de", "--field", "size=integer", "--by", "eva")
    tried = leads("import", *options, "--dry-run")
    assert "dry run, nothing was written: 3 rows: 2 added" in tried.output
    assert as_json(leads, "list") == []

    done = as_json(leads, "import", *options, "--source", "fair", "--lawful-basis", "consent", "--reason", "a test")
    assert (done["rows"], done["verdicts"]["added"], done["verdicts"]["invalid"]) == (3, 2, 1)
    assert (done["unused_rows"][0]["row"], done["unused_rows"][0]["column"]) == (4, "address")
    assert done["lacking"] == {"zone": 0, "country": 0, "source": 0, "lawful_basis": 0}

    shown = as_json(leads, "show", "ANN@one.example")
    assert (shown["fields"], shown["zone"], shown["country"]) == ({"city": "Bonn", "size": 7}, "Europe/Berlin", "DE")
    assert "Bonn" in leads("show", "ann@one.example").output
    assert [one["added"] for one in as_json(leads, "imports")] == [2]
    assert as_json(leads, "imports", str(done["batch"]))["unused_rows"][0]["row"] == 4
    assert {one["address"] for one in as_json(leads, "list", "--batch", str(done["batch"]))} == {
        "ann@one.example", "bob@one.example",
    }  # fmt: skip

    undone = leads("import", "undo", str(done["batch"]), "--reason", "the wrong file")
    assert f"import {done['batch']} is undone: 2 leads removed" in undone.output
    assert leads("show", "ann@one.example").exit_code == 1


def test_a_file_that_brings_nobody_says_why_and_fails(leads: Command, tmp_path: Path) -> None:
    """Complaint 20 of outreach tools: an empty list without a reason, and success."""
    path = tmp_path / "leads.csv"
    path.write_text("address\nnobody\n")
    done = leads("import", "--mode", "add", str(path))
    assert done.exit_code == 1
    assert "1 rows: 0 added" in done.output
    assert "is not a usable mail address" in done.output


def test_the_wrong_word_in_an_option_is_named(leads: Command, file: str) -> None:
    assert "--zone 'Berlin' is not an IANA time zone" in str(leads("import", file, "--zone", "Berlin").exception)
    assert "types are text, integer" in str(leads("import", file, "--field", "size=whole").exception)


def test_a_list_is_judged_and_a_person_erased(leads: Command, file: str) -> None:
    """C-F8, C-F10"""
    leads("import", file)
    judged = leads("preflight")
    assert judged.exit_code == 1
    assert "2 leads: 0 of domains that take no mail, 0 disposable, 2 unknown" in judged.output
    assert as_json(leads, "preflight")["at_most"] == 1.0
    assert "erased: a lead" in leads("erase", "ann@one.example", "--reason", "asked on the phone").output
    assert [one["address"] for one in as_json(leads, "list")] == ["bob@one.example"]
    assert "1 suppressed" in leads("import", file).output


@pytest.mark.parametrize("command", [("import", "undo"), ("imports",), ("list", "--batch"), ("preflight", "--batch")])
def test_a_number_that_no_import_can_have_is_an_error_of_usage(leads: Command, command: tuple[str, ...]) -> None:
    done = leads(*command, str(2**63))
    assert done.exit_code == 2
