"""``emberflow airflow ARGUMENTS``: another program's command line, on this stack and on no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emberflow.cli.main import app
from emberflow.errors import ConfigurationError
from emberflow.local_stack.stack import Stack

ARGUMENTS = ["dags", "list", "--help", "-o", "json", "--", "--not-ours"]
Started = tuple[str, list[str], dict[str, str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """The programs that took this process's place."""
    programs: list[Started] = []

    def replace(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        programs.append((program, arguments, environment))

    monkeypatch.setattr(os, "execve", replace)
    return programs


def run() -> Any:
    return CliRunner().invoke(app, ["airflow", *ARGUMENTS])


def test_without_a_stack_it_says_so_in_one_line_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))

    result = run()

    assert isinstance(result.exception, ConfigurationError)
    assert "./emberflow up" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert (started, list(tmp_path.iterdir())) == ([], [])


def test_it_gets_the_environment_of_the_running_stack_and_its_arguments_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    """What `up` was given counts, not what the present shell says."""
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("EMBERFLOW_SEED", "1")
    stack = Stack(tmp_path, attached=False)
    variables = stack.environment() | {"EMBERFLOW_SEED": "7"}
    (tmp_path / "stack.env").write_text(f"EMBERFLOW_SEED='{variables['EMBERFLOW_SEED']}'\n")
    monkeypatch.setattr(Stack, "is_running", lambda _: True)
    monkeypatch.setenv("EMBERFLOW_MAIL_MODE", "live")

    assert run().exception is None

    ((program, arguments, environment),) = started
    assert Path(program).name == "airflow"
    assert arguments == [program, *ARGUMENTS]
    assert environment["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert environment["EMBERFLOW_SEED"] == "7"
    assert "EMBERFLOW_MAIL_MODE" not in environment


def test_where_airflow_is_configured_already_its_own_configuration_stays(
    monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    """As in a container."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://elsewhere/airflow")

    run()

    ((_, _, environment),) = started
    assert environment == dict(os.environ)
