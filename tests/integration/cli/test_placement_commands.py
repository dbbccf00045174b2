"""Placement tests as the operator begins and sees them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.clock import SystemClock
from tests.worlds import Command, Sandbox, World, a_policy, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    policy = a_policy(placement_tests={"within_s": 60, "arrival_s": 30, "gap_s": 1})
    world = a_world(database, sandbox, senders=1, bots=3, policy=policy, checks=False, start=SystemClock().now())
    world.quota(world.senders[0])
    return world


@pytest.fixture
def placement(run: Command) -> Command:
    return partial(run, "placement")


def test_a_test_is_begun_shown_listed_and_on_record(placement: Command, run: Command, world: World) -> None:
    """E-F5"""
    sender = world.senders[0].address
    begun = placement("test", sender, "--per-provider", "2", "--reason", "a new domain", "--by", "ann")
    assert begun.exit_code == 0, begun.output
    assert "test 1: 2 probes" in begun.output
    assert "`emberflow placement show 1`" in begun.output

    for which in ((), ("1",), (sender,)):
        shown = json.loads(placement("show", *which, "--json").stdout)
        own = {name: shown[name] for name in ("test", "sender", "is_open", "started_by", "reason", "subject")}
        assert own == {
            "test": 1, "sender": sender, "is_open": True, "started_by": "ann", "reason": "a new domain",
            "subject": "Placement test",
        }  # fmt: skip
        ((provider,), probes) = shown["providers"], shown["probes"]
        assert (provider["probes"], provider["waiting"], provider["missing"]) == (2, 2, 0)
        assert [probe["state"] for probe in probes] == ["waiting", "waiting"]
    assert "still open" in placement("show").output

    slot = shown["probes"][0]["slot"]
    explained = " ".join(run("explain", slot).output.split())
    assert "The draw of a placement test chose it: `emberflow placement show 1`." in explained

    (row,) = json.loads(placement("list", "--json").stdout)
    assert (row["test"], row["probes"], row["waiting"], row["reason"]) == (1, 2, 2, "a new domain")
    deed = world.row("select actor, action, subject, details from ops.audit_log order by id desc limit 1")
    assert (deed["actor"], deed["action"], deed["subject"]) == ("ann", "placement.test", sender)
    assert deed["details"]["test"] == 1


def test_a_test_may_be_waited_for(placement: Command, world: World) -> None:
    """E-F5: nobody waits for what is over."""
    world.change("create function ops.end_now() returns trigger language plpgsql as "
                 "'begin new.ends_at := new.started_at; return new; end'")  # fmt: skip
    world.change("create trigger end_now before insert on ops.placement_tests for each row "
                 "execute function ops.end_now()")  # fmt: skip
    done = placement("test", world.senders[0].address, "--per-provider", "1", "--wait", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert not shown["is_open"]
    assert [probe["state"] for probe in shown["probes"]] == ["not sent"]


def test_a_file_gives_the_text_and_what_is_wrong_with_it_is_said(
    placement: Command, world: World, tmp_path: Path
) -> None:
    """E-F5"""
    file, latin = tmp_path / "offer.txt", tmp_path / "latin.txt"
    file.write_bytes("\ufeffGrüße\n".encode())
    latin.write_bytes("Grüße".encode("latin-1"))
    sender = world.senders[0].address
    done = placement("test", sender, "--text", file, "--subject", "Our offer", "--per-provider", "1")
    assert done.exit_code == 0, done.output
    payload = world.value("select payload from ops.slots")
    assert (payload["subject"], payload["body"]) == ("Our offer", "Grüße\n")
    for arguments, said in (
        ((sender, "--text", latin), "is not UTF-8 text: byte 2"),
        ((sender, "--text", tmp_path / "none.txt"), "cannot read"),
        (("nobody@senders.test",), "is not a sender"),
        ((sender, "--reason", " "), "needs a reason"),
    ):
        refused = placement("test", *arguments)
        assert refused.exit_code != 0
        assert said in str(refused.exception)
    assert "there is no placement test 7" in str(placement("show", "7").exception)
    assert world.value("select count(*) from ops.placement_tests") == 1
