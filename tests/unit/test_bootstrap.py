"""The bootstrap script: standard library only, and an environment that follows its lock file."""

from __future__ import annotations

import ast
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
        ("STAMP", tmp_path / "stamp"),
        ("PYTHON", Path(sys.executable)),
    ):
        monkeypatch.setattr(module, name, value)
    return module


def test_the_environment_is_ready_only_for_the_lock_file_that_made_it(bootstrap: ModuleType) -> None:
    assert not bootstrap.is_ready(bootstrap.fingerprint())

    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    assert bootstrap.is_ready(bootstrap.fingerprint())

    bootstrap.REQUIREMENTS.write_text("rich==1.1\n")
    assert not bootstrap.is_ready(bootstrap.fingerprint())


def test_an_unsupported_python_is_refused_with_the_version_that_is_needed(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SUPPORTED", ((2, 7),))

    with pytest.raises(SystemExit, match=r"Python 2\.7 is needed"):
        bootstrap.main()


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
    readme = (PROJECT_ROOT / "README.md").read_text()
    written = {word for word in readme.split() if word in ("senders.csv", "bots.csv")}
    assert written
    assert {f"/{name}" for name in written} <= set(ignored)
