"""The preflight of stored leads, with a name server on this machine and no mail server at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.accounts.leads.importing import Wanted
from emberflow.errors import EmberflowError
from emberflow.operations import leads
from emberflow.operations.actor import Actor
from tests.name_server import NameServer, running_name_server, silence
from tests.worlds import Sandbox, World, a_world

EVA = Actor("eva")


@pytest.fixture
def server() -> Iterator[NameServer]:
    zone = {
        ("good.example", "MX"): ["10 mx.good.example."],
        ("mx.good.example", "A"): ["192.0.2.1"],
        ("null.example", "MX"): ["0 ."],
    }
    with running_name_server(zone) as running:
        yield running


@pytest.fixture
def world(database: Engine, sandbox: Sandbox, server: NameServer, tmp_path: Path) -> World:
    world = a_world(database, sandbox, senders=1, bots=1, checks=False)
    world.settings = world.settings.model_copy(update={"dns_servers": (server.setting,)})
    file = tmp_path / "leads.csv"
    rows = [*(f"p{number}@good.example" for number in range(95)), "info+de@good.example",
            "a@null.example", "b@gone.example", "c@mailinator.com", "d@good.example"]  # fmt: skip
    file.write_text("\n".join(["address", *rows]))
    leads.import_file(world.engine, EVA, file, Wanted(), world.settings, reason="a test")
    return world


def test_domains_are_looked_up_once_and_no_recipient_is_asked(
    world: World, server: NameServer, outside: list[str]
) -> None:
    """C-F8"""
    found = leads.preflight(world.engine, world.settings)
    assert {one.group.domain: one.judgement for one in found.domains} == {
        "good.example": "takes mail", "null.example": "takes none", "gone.example": "takes none",
        "mailinator.com": "disposable",
    }  # fmt: skip
    assert (found.leads(), found.projected, found.roles, found.is_good) == (100, 0.03, 1, True)
    asked = [(name, kind) for name, kind, _ in server.asked]
    assert asked.count(("good.example", "MX")) == 1
    assert "mailinator.com" not in {name for name, _ in asked}
    assert outside == []


def test_a_name_server_that_is_silent_holds_the_list(world: World, server: NameServer) -> None:
    """C-F8: what is not known is not good."""
    server.zone["good.example", "MX"] = silence
    found = leads.preflight(world.engine, world.settings, seconds=1)
    assert (found.projected, found.at_most, found.is_good) == (0.03, 1.0, False)


def test_in_sandbox_mode_nobody_is_asked_without_a_server_of_its_own(world: World) -> None:
    nobody = world.settings.model_copy(update={"dns_servers": ()})
    found = leads.preflight(world.engine, nobody)
    assert found.at_most == 1.0
    assert "nobody is asked" in found.domains[0].why
    with pytest.raises(EmberflowError, match="no leads of import 99"):
        leads.preflight(world.engine, nobody, 99)
