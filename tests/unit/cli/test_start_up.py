"""What a command costs before it does anything: it imports what it needs and no more."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emberflow.cli.main import app
from emberflow.settings import PROJECT_ROOT

HEAVY = {
    "airflow",
    "alembic",
    "cryptography",
    "dbt",
    "matplotlib",
    "numpy",
    "pandas",
    "pydantic_settings",
    "sqlalchemy",
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status"], ["senders", "--help"]], ids=" ".join)
def test_a_quick_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n"
        "from emberflow.cli.__main__ import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"EMBERFLOW_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}

    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]

    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.output) == (0, f"emberflow {project['version']}\n")


def test_a_shell_can_complete_commands() -> None:
    asked = {"_EMBERFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "emberflow send", "COMP_CWORD": "1"}

    result = CliRunner().invoke(app, [], prog_name="emberflow", env=asked)

    assert result.output.split() == ["senders"]
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
