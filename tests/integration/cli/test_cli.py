"""The operator's command line, on a real database and the real mail sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emberflow.database.secrets import SecretBox, generate_key
from emberflow.sandbox import create_accounts
from tests.worlds import PASSWORD, Command, Sandbox, World, a_file, a_row, a_world


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=4)


def test_senders_are_listed_with_their_state_and_no_password(run: Command, world: World) -> None:
    """S-B2, S-B10."""
    run("senders", "pause", world.senders[0].address, "--reason", "on holiday")

    shown = run("senders", "list").output

    assert all(sender.address in shown for sender in world.senders)
    assert "on holiday" in shown
    assert PASSWORD not in shown


def test_a_file_of_new_senders_is_imported_and_checked(run: Command, world: World, tmp_path: Path) -> None:
    """S-B1."""
    address = "late@senders-late.test"
    create_accounts(world.sandbox.directory, {address: PASSWORD})

    result = run("senders", "import", a_file(tmp_path, [a_row(address, world.sandbox)]))

    assert result.exit_code == 0
    assert "1 of 1 mailboxes passed" in result.output


def test_an_import_that_is_interrupted_says_that_nothing_came_in(
    run: Command, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S-B1: Ctrl-C while the rows are written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SecretBox, "store_all", interrupt)
    result = run("senders", "import", a_file(tmp_path, [a_row("late@senders-late.test", world.sandbox)]))
    assert result.exit_code == 130
    assert "nothing was imported" in result.stderr
    assert world.value("select count(*) from ops.mailboxes where address like 'late%'") == 0


def test_what_a_spreadsheet_left_behind_is_counted(run: Command, world: World, tmp_path: Path) -> None:
    """S-B1"""
    file = a_file(tmp_path, [a_row("late@senders-late.test", world.sandbox)])
    file.write_text(file.read_text() + ",,,,\n,,,,\n")
    shown = run("senders", "import", file, "--no-check").output
    assert "left out: 2 empty rows" in shown
    assert "1 senders imported" in shown


def test_a_sender_that_cannot_log_in_is_shown_with_stage_and_answer(run: Command, world: World, tmp_path: Path) -> None:
    """S-B1: the failed stage and the server's text are shown, and the exit code says so."""
    address = "locked@senders-locked.test"
    create_accounts(world.sandbox.directory, {address: "another password"})

    result = run("senders", "import", a_file(tmp_path, [a_row(address, world.sandbox)]))

    assert result.exit_code == 1
    assert "smtp_auth" in result.output
    assert "535" in result.output


def test_the_plan_of_an_hour_is_shown_and_each_of_its_slots_explained(run: Command, world: World) -> None:
    """Q-F2 in its basic form: tier, weight, draw, runners-up, rejections."""
    world.plan()
    slot_id = world.value("select min(id) from ops.slots")

    plan, explanation = run("plan", "show").output, run("explain", slot_id).output

    assert "planned" in plan
    assert world.senders[0].address in plan
    assert "used virgin" in explanation
    assert "-ln(draw) / weight" in explanation
    assert "refused before:" in explanation
    assert "computed again, and equal to the written plan" in " ".join(explanation.split())


def test_the_doctor_names_what_is_wrong_and_what_to_do(run: Command, world: World) -> None:
    assert run("doctor").exit_code == 0

    world.change("update ops.mailboxes set check_passed = false where id = :id", id=world.senders[0].mailbox_id)
    result = run("doctor")

    assert result.exit_code == 1
    assert "emberflow senders check" in " ".join(result.output.split())


def test_the_kill_switch_is_turned_with_a_reason_and_seen_by_the_doctor(run: Command, world: World) -> None:
    assert run("mail", "stop", "on", "--reason", "a test").exit_code == 0
    assert "kill switch" in run("doctor").output
    assert world.value("select is_on from ops.switches where name = 'stop_sending'")


def test_a_stopped_sender_starts_its_ramp_again_and_a_paused_one_goes_on(run: Command, world: World) -> None:
    """S-B10, S-B4."""
    paused, stopped = world.senders
    world.change(
        "insert into ops.sender_days (sender_id, local_day, ramp_day, ramp_volume, health_multiplier, daily_factor, "
        "warmup_quota, total_quota, warmup_sent) select id, date '2025-05-01' + n, n + 1, 30, 1, 1, 30, 50, 1 "
        "from ops.senders, generate_series(0, 6) as n"
    )
    for command, sender in (("pause", paused), ("stop", stopped)):
        assert run("senders", command, sender.address, "--reason", "a test").exit_code == 0
        assert run("senders", "resume", sender.address).exit_code == 0

    world.plan()

    days = world.rows("select sender_id, ramp_day from ops.sender_days where warmup_sent = 0")
    assert {day["sender_id"]: day["ramp_day"] for day in days} == {paused.id: 8, stopped.id: 1}


def test_a_new_password_is_stored_encrypted_and_checked_at_once(run: Command, world: World) -> None:
    """S-B1, S-B2."""
    address = world.senders[0].address
    create_accounts(world.sandbox.directory, {address: "changed at the server"})

    wrong = run("secrets", "set", address, input="not this one\n")
    right = run("secrets", "set", address, input="changed at the server\n")

    assert wrong.exit_code == 1
    assert "smtp_auth" in wrong.output
    assert right.exit_code == 0
    assert world.value("select state from ops.senders where id = :id", id=world.senders[0].id) == "active"


def test_rotating_keys_leaves_no_password_under_the_old_one(
    run: Command, world: World, configure: Callable[..., None]
) -> None:
    """S-B2."""
    (old,) = world.settings.secret_keys.items()
    keys = {"second": generate_key(), old[0]: old[1].get_secret_value()}
    configure(EMBERFLOW_SECRET_KEYS=json.dumps(keys))

    assert "6 passwords re-encrypted" in run("secrets", "rotate").output
    assert "0 passwords re-encrypted" in run("secrets", "rotate").output
    configure(EMBERFLOW_SECRET_KEYS=json.dumps({"second": keys["second"]}))

    assert run("senders", "check").exit_code == 0


def test_an_expected_problem_is_one_clear_text_without_a_traceback(world: World) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "emberflow.cli", "explain", "999999"],
        env=world.variables(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 1
    assert "there is no slot 999999" in process.stderr
    assert "Traceback" not in process.stderr


def test_without_a_database_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "emberflow.cli", "senders", "list"],
        env={"EMBERFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 1
    assert "./emberflow up" in process.stderr


@pytest.mark.parametrize("command", [("senders", "list"), ("queue", "list"), ("plan", "show"), ("capacity",)])
def test_a_database_that_is_away_or_was_never_migrated_is_one_line_that_says_what_to_do(
    tmp_path: Path, bare_database: Engine, command: tuple[str, ...]
) -> None:
    away = f"postgresql+psycopg2://someone:{PASSWORD}@127.0.0.1:1/emberflow"
    bare = bare_database.url.render_as_string(hide_password=False)
    for url, remedy in ((away, "`./emberflow up`"), (bare, "`emberflow database migrate`")):
        process = subprocess.run(
            [sys.executable, "-m", "emberflow.cli", *command],
            env={"EMBERFLOW_HOME": str(tmp_path), "EMBERFLOW_DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 1
        assert remedy in process.stderr
        assert len(process.stderr.splitlines()) == 1
        assert PASSWORD not in process.stderr
