"""``emberflow airflow ARGUMENTS``: another program's command line, on this stack and on no other."""

from __future__ import annotations

import os
import subprocess
import sys
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
    assert {name: environment[name] for name in os.environ} == dict(os.environ)


def test_of_a_stack_whose_database_is_down_it_says_so_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))
    (tmp_path / "stack.env").write_text("")

    result = run()

    assert isinstance(result.exception, ConfigurationError)
    assert "is down" in str(result.exception)
    assert "run `./emberflow up`" in str(result.exception)
    assert started == []


def test_airflow_does_not_say_at_each_command_that_it_draws_no_graphs(
    monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    """Other warnings stay, and so does what the caller chose."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://elsewhere/airflow")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::ResourceWarning")
    run()
    ((_, _, environment),) = started
    code = (
        "import warnings; warnings.warn('Could not import graphviz. Rendering ...', UserWarning);"
        "warnings.warn('something else', UserWarning)"
    )

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert "graphviz" not in done.stderr
    assert "something else" in done.stderr
    assert environment["PYTHONWARNINGS"].startswith("ignore::ResourceWarning,")
