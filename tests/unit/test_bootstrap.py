"""The bootstrap script: standard library only, and an environment that follows its lock file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from emberflow.settings import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "emberflow"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("bootstrap", str(SCRIPT))
    spec = spec_from_loader("bootstrap", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("rich==1.0\n")
    for name, value in (
        ("REQUIREMENTS", requirements),
        ("VENV", tmp_path / ".venv"),
        ("STAMP", tmp_path / ".venv" / "emberflow.stamp"),
        ("PYTHON", tmp_path / ".venv" / "bin" / "python"),
    ):
        monkeypatch.setattr(module, name, value)
    make_venv(tmp_path / ".venv", "3.11")
    return module


def make_venv(venv: Path, version: str, *, interpreter: str | None = None) -> None:
    """Make what the script looks at, as `venv` leaves it; ``interpreter`` is what its Python has become."""
    real = venv.parent / f"python{interpreter or version}"
    real.touch()
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    (venv / "bin" / "python").unlink(missing_ok=True)
    (venv / "bin" / "python").symlink_to(real)
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}.9\n")


def test_the_environment_is_ready_only_for_the_lock_file_that_made_it(bootstrap: ModuleType) -> None:
    assert not bootstrap.is_ready(bootstrap.fingerprint())

    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    assert bootstrap.is_ready(bootstrap.fingerprint())

    bootstrap.REQUIREMENTS.write_text("rich==1.1\n")
    assert not bootstrap.is_ready(bootstrap.fingerprint())


@pytest.mark.parametrize("caller", [(3, 10, 1), (3, 11, 2), (3, 11, 7), (3, 12, 0), (3, 14, 0)])
def test_whichever_python_runs_the_script_an_environment_that_is_ready_stays(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, caller: tuple[int, int, int]
) -> None:
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    monkeypatch.setattr(sys, "version_info", caller)
    monkeypatch.setattr(sys, "version", ".".join(map(str, caller)))
    monkeypatch.setattr(bootstrap, "install", lambda: pytest.fail("it was installed again"))

    bootstrap.prepare()


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_an_environment_of_an_unsupported_python_is_made_anew_and_the_reason_is_said(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    make_venv(bootstrap.VENV, version)
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)

    assert not bootstrap.is_ready(bootstrap.fingerprint())
    bootstrap.make_environment()

    assert not bootstrap.VENV.exists()
    assert commands == [[sys.executable, "-m", "venv", str(bootstrap.VENV)]]
    assert f"its Python is {version}, and 3.11 or 3.12 is needed" in capsys.readouterr().err


def test_an_environment_whose_python_became_another_version_is_not_ready(bootstrap: ModuleType) -> None:
    """As after an upgrade of the system, whose `python3` it points at."""
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    assert bootstrap.why_unusable() is None

    make_venv(bootstrap.VENV, "3.11", interpreter="3.13")

    assert bootstrap.why_unusable() == "it was made for Python 3.11 and has 3.13 now"


def test_an_unsupported_python_makes_no_environment_and_says_which_one_is_needed(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SUPPORTED", ((2, 7),))

    with pytest.raises(SystemExit, match=r"Python 2\.7 is needed"):
        bootstrap.make_environment()

    assert bootstrap.VENV.exists()


def test_the_script_needs_nothing_but_the_standard_library() -> None:
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else name.name.partition(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert imported <= sys.stdlib_module_names


def test_files_with_passwords_that_the_readme_writes_are_not_put_under_version_control() -> None:
    ignored = (PROJECT_ROOT / ".gitignore").read_text().splitlines()
    documents = [PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").glob("*.md")]
    written = {word for file in documents for word in re.findall(r"[\w-]+\.(?:csv|dump)\b", file.read_text())}
    assert {"senders.csv", "bots.csv"} <= written
    assert {"/*.csv", "*.dump"} <= set(ignored)
