"""`pip install .`: the package works without a clone, and gives the command `emberflow`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emberflow.settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project into a folder of its own; what it depends on is taken from the tests' environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(PROJECT_ROOT)], check=True, timeout=120)
    return target


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(installed), "HOME": "/home/somebody", "PATH": os.defpath}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_an_installed_package_gives_the_command(installed: Path) -> None:
    done = run(installed, sys.executable, str(installed / "bin" / "emberflow"), "--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("emberflow ")


def test_an_installed_package_brings_what_airflow_and_dbt_read(installed: Path) -> None:
    asked = "from emberflow import locations; print(locations.PROJECT_ROOT); print(locations.home())"

    root, home = run(installed, sys.executable, "-c", asked).stdout.splitlines()

    assert Path(root).is_relative_to(installed)
    for name in ("dags/dispatch.py", "dbt/dbt_project.yml", "deploy/prepare_airflow.py", "plugins"):
        assert (Path(root) / name).exists(), name
    assert home == "/home/somebody/.local/share/emberflow"


def test_an_installed_package_says_what_only_a_clone_has(installed: Path) -> None:
    done = run(installed, sys.executable, str(installed / "bin" / "emberflow"), "test")

    assert done.returncode == 1
    assert "run this in a clone of the repository" in done.stderr
