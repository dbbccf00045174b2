"""What the doctor says about the processes of the local stack."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from emberflow.cli.doctor_command import examine_airflow, examine_stack
from emberflow.cli.main import app
from emberflow.local_stack.airflow_health import examine
from emberflow.local_stack.processes import Service
from emberflow.local_stack.stack import Stack


def test_a_stack_that_was_not_started_is_no_finding_and_an_unknown_airflow_is_not_looked_at(tmp_path: Path) -> None:
    assert examine_stack(Stack(tmp_path, attached=False)) == []
    (finding,) = examine(None)
    assert (finding.result.partition(":")[0], finding.remedy) == ("not looked at", None)


def test_an_airflow_whose_database_does_not_answer_is_one_finding(tmp_path: Path) -> None:
    (finding,) = examine(f"postgresql+psycopg2://a@/airflow?host={tmp_path}")
    assert "./emberflow up" in (finding.remedy or "")


def test_processes_that_are_down_or_given_up_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "stack.env").write_text("")
    (tmp_path / "run").mkdir()
    history = {"restarts": 2, "last": None, "gave_up": False}
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps({"airflow-scheduler": history}))

    down, _ = examine_stack(Stack(tmp_path, attached=False))
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps({"airflow-scheduler": history | {"gave_up": True}}))
    given_up, _ = examine_stack(Stack(tmp_path, attached=False))

    assert down.result.startswith("0 of 7 processes run; started again: airflow-scheduler 2; down: postgresql, ")
    assert down.remedy == "run `./emberflow up`"
    assert "its log" in (given_up.remedy or "")


def write_stack_env(home: Path, environment: Mapping[str, str]) -> None:
    settings = {name: value for name, value in environment.items() if name.startswith("EMBERFLOW_")}
    (home / "stack.env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))


def test_a_process_that_runs_with_other_settings_than_the_stacks_files_state_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B10: it may be in live mode while every command says sandbox."""
    stack = Stack(tmp_path, attached=False)
    monkeypatch.setenv("EMBERFLOW_MAIL_MODE", "live")
    before = Stack(tmp_path, attached=False).environment()
    monkeypatch.delenv("EMBERFLOW_MAIL_MODE")
    write_stack_env(tmp_path, before)
    scheduler = Service("airflow-scheduler", tmp_path / "run")
    scheduler.start(["sleep", "60"], before, die_with_parent=True)
    try:
        _, same = examine_stack(stack)
        write_stack_env(tmp_path, stack.environment())
        _, other = examine_stack(stack)
    finally:
        scheduler.stop()

    assert same.remedy is None
    assert other.result == "airflow-scheduler runs with another EMBERFLOW_MAIL_MODE"
    assert other.remedy == "run `./emberflow down`, then `up`"


def test_a_supervisor_that_a_signal_holds_is_not_at_work(tmp_path: Path) -> None:
    (tmp_path / "stack.env").write_text("")
    supervisor = Service("supervisor", tmp_path / "run")
    supervisor.start(["sleep", "60"], {}, die_with_parent=True)
    try:
        process = supervisor.process()
        assert process is not None
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        found, _ = examine_stack(Stack(tmp_path, attached=False))
        shown = CliRunner().invoke(app, ["status", "--json"], env={"EMBERFLOW_HOME": str(tmp_path)})
    finally:
        supervisor.end_session()  # without asking it first: it is held, and hears no SIGTERM

    assert found.result.startswith("0 of 7 processes run")
    assert f"suspended: supervisor (kill -CONT {process.pid})" in found.result
    assert "./emberflow down" in (found.remedy or "")
    states = {part["part"]: part["state"] for part in json.loads(shown.output)["parts"]}
    assert (shown.exit_code, states["supervisor"]) == (1, "suspended")


def test_of_a_stack_whose_database_is_down_airflow_is_not_called_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))
    (tmp_path / "stack.env").write_text("")

    (finding,) = examine_airflow(Stack(tmp_path, attached=False))

    assert finding.result == "not looked at: the database of the local stack is down"
    assert "run `./emberflow up`" in (finding.remedy or "")
