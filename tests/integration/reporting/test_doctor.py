"""The examination: one finding per check, each with a remedy when something is wrong."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from emberflow.accounts import switches
from emberflow.clock import SystemClock
from emberflow.database.migrate import downgrade
from emberflow.email_ops.content import BUILT_IN
from emberflow.reporting import doctor
from emberflow.reporting.doctor import Finding, examine
from emberflow.settings import Settings
from tests.worlds import NOON, PASSWORD, Sandbox, World, a_world, some_settings


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=2, checks=False)


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(settings)}


def turn(world: World, name: str) -> None:
    with world.engine.begin() as connection:
        switches.turn(connection, name, on=True, who="an operator", reason="a test")


def test_a_healthy_installation_needs_nothing(world: World) -> None:
    findings = examine(world.settings)
    assert [finding for finding in findings if finding.remedy is not None] == []
    results = {finding.check: finding.result for finding in findings}
    assert set(results) == {
        "keys", "conversation scripts", "database schema", "clock against database", "keys in force", "policy", "mail",
        "mailboxes", "suppressions", "mail servers", "profiles",
        "inbox reading", "Junk folders", "handled mail", "messages set aside", "mail that came back",
        "own mailboxes that bounce", "requests for no more mail", "time zones", "queue",
        "mails in doubt", "open transactions", "restored database", "domain checks",
    }  # fmt: skip
    assert results["mail"] == "sandbox: loopback only"
    assert results["mailboxes"] == "4 of 4 passed their check"
    assert PASSWORD not in str(findings)


def test_a_database_that_is_not_there_is_a_finding(sandbox: Sandbox, database: Engine) -> None:
    nowhere = some_settings(database, sandbox, database_url=SecretStr("postgresql+psycopg2://a@localhost:1/none"))
    finding = found(nowhere)["database"]
    assert "refused" in finding.result
    assert "./emberflow up" in (finding.remedy or "")
    finding = found(some_settings(database, sandbox, database_url=None))["database"]
    assert "nothing is running" in finding.result


def test_a_transaction_that_keeps_vacuum_waiting_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is quick while what died in it is swept away."""
    assert found(world.settings)["open transactions"].remedy is None

    monkeypatch.setattr(doctor, "_OPEN_TOO_LONG_S", 0)
    with world.engine.connect() as connection:
        pid: int = connection.execute(text("select pg_backend_pid() from txid_current()")).scalar_one()
        finding = found(world.settings)["open transactions"]

    assert f"process {pid} of" in finding.result
    assert "vacuum" in (finding.remedy or "")
    assert found(world.settings)["open transactions"].remedy is None


def test_a_schema_that_is_not_up_to_date_is_a_finding(world: World) -> None:
    downgrade(world.engine)
    finding = found(world.settings)["database schema"]
    assert finding.result.startswith("empty, wanted ")
    assert finding.remedy == "run `./emberflow up`"


def test_missing_keys_and_scripts_are_findings(world: World, tmp_path: Path) -> None:
    findings = found(world.settings.model_copy(update={"secret_keys": {}, "scripts_dir": tmp_path, "seed": 2}))
    assert "EMBERFLOW_SECRET_KEYS" in (findings["keys"].remedy or "")
    assert "EMBERFLOW_SEED=2 changes nothing" in (findings["policy"].remedy or "")
    assert "holds no conversation script" in (findings["conversation scripts"].remedy or "")
    shutil.copy(BUILT_IN / "book-club.yaml", tmp_path)
    findings = found(world.settings.model_copy(update={"scripts_dir": tmp_path}))
    assert "`emberflow scripts apply`" in (findings["conversation scripts"].remedy or "")
    assert findings["policy"].remedy is None
    findings = found(world.settings.model_copy(update={"token_keys": ()}))
    assert "EMBERFLOW_TOKEN_KEYS" in (findings["keys"].remedy or "")


def test_a_database_without_a_policy_is_a_finding(world: World) -> None:
    world.change("update ops.policies set valid_to = now()")
    assert "policy apply standard" in (found(world.settings)["policy"].remedy or "")


def test_live_mode_that_is_half_on_is_a_finding(world: World) -> None:
    """E-B10"""
    live = world.settings.model_copy(update={"mail_mode": "live"})
    assert found(live)["mail"].result == "live mode is only half switched on"
    turn(world, switches.LIVE_MAIL)
    assert found(world.settings)["mail"].result == "live mode is only half switched on"
    assert found(live)["mail"].result == "LIVE: real mail is sent"
    assert found(live)["mail"].remedy is None


def test_the_kill_switch_is_a_finding(world: World) -> None:
    turn(world, switches.STOP_SENDING)
    finding = found(world.settings)["mail"]
    assert (finding.result, finding.remedy is not None) == ("stopped by the kill switch", True)


def test_mailboxes_that_have_not_passed_are_counted_and_one_is_named(world: World) -> None:
    """S-B1"""
    world.change("update ops.mailboxes set check_passed = null where id = :id", id=world.bots[0].mailbox_id)
    finding = found(world.settings)["mailboxes"]
    assert finding.result == "3 of 4 passed their check"
    assert world.bots[0].address in (finding.remedy or "")


def test_an_installation_without_mailboxes_says_how_to_get_some(database: Engine, sandbox: Sandbox) -> None:
    finding = found(some_settings(database, sandbox))["mailboxes"]
    assert (finding.result, "emberflow senders import" in (finding.remedy or "")) == ("0 of 0 passed their check", True)


def test_a_mail_server_that_does_not_answer_is_named_with_its_mailboxes(world: World) -> None:
    answering = found(world.settings)["mail servers"]
    world.change("update ops.mailboxes set imap_port = 1 where id = :id", id=world.bots[0].mailbox_id)
    silent = found(world.settings)["mail servers"]

    assert (answering.result, answering.remedy) == ("2 of 2 accept connections", None)
    assert silent.result.startswith("2 of 3 accept connections; IMAP localhost:1 of 1 mailboxes: ")
    assert "refused" in silent.result
    assert "the server" in (silent.remedy or "")


def test_servers_elsewhere_are_left_alone_in_sandbox_mode_and_before_live_mode_is_whole(world: World) -> None:
    """E-B10"""
    world.change("update ops.mailboxes set smtp_host = '192.0.2.1'")
    assert found(world.settings)["mail servers"] == Finding(
        "mail servers", "1 of 1 accept connections; 1 are not on this machine: not looked at in sandbox mode"
    )
    live = world.settings.model_copy(update={"mail_mode": "live"})
    assert "not looked at" in found(live)["mail servers"].result


def test_slots_that_wait_for_nobody_are_a_finding(world: World) -> None:
    world.slot(target_time=SystemClock().now())
    assert found(world.settings)["queue"].remedy is None
    world.slot(target_time=world.clock.now())
    finding = found(world.settings)["queue"]
    assert finding.result == "2 planned, 1 late"
    assert "dispatch" in (finding.remedy or "")


@pytest.mark.parametrize(("seconds", "remedy"), [(10, "synchronise both"), (-3600, "this machine sends nothing until")])
def test_a_clock_that_differs_is_a_finding_and_from_a_minute_on_it_stops_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: int, remedy: str
) -> None:
    now = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda self: now(self) + timedelta(seconds=seconds))
    clock = found(world.settings)["clock against database"]
    assert clock.remedy is not None
    assert remedy in clock.remedy
    assert ("ahead of" if seconds > 0 else "behind") in clock.remedy


def test_mails_in_doubt_are_counted_with_their_age_and_what_to_do(world: World) -> None:
    """Q-F5: nothing is hidden; what only has to be waited for needs nobody."""
    assert found(world.settings)["mails in doubt"] == Finding("mails in doubt", "none")
    submitted: dict[str, Any] = {
        "status": "uncertain",
        "attempts": 1,
        "submitted_at": SystemClock().now() - timedelta(minutes=5),
    }
    world.slot(**submitted)
    finding = found(world.settings)["mails in doubt"]
    assert finding == Finding("mails in doubt", "0 unresolved, 1 waiting to be looked for, the oldest for 5 min")

    world.slot(**submitted | {"look_again_at": SystemClock().now()})
    assert "queue list" in (found(world.settings)["mails in doubt"].remedy or "")
    world.slot(**submitted | {"submitted_at": SystemClock().now() - timedelta(days=3), "unresolved_at": NOON})
    finding = found(world.settings)["mails in doubt"]
    assert finding.result == "1 unresolved, 2 waiting to be looked for, the oldest for 3.0 d"
    assert "queue settle" in (finding.remedy or "")
