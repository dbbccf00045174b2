"""The operator's commands about conversation scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from emberflow.cli.script_commands import scripts
from emberflow.email_ops.content import BUILT_IN, load_scripts


@pytest.fixture
def own(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A directory with one script of the operator's own, configured as the one in use."""
    shutil.copy(BUILT_IN / "book-club.yaml", tmp_path)
    configure(EMBERFLOW_SCRIPTS_DIR=str(tmp_path))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(scripts, [str(argument) for argument in arguments])


def test_the_built_in_scripts_are_right_and_listed_with_topic_turns_and_variants() -> None:
    assert run("check").exit_code == 0
    shown = run("list").output
    assert all(script.topic in shown and str(script.variants) in shown for script in load_scripts().by_id.values())


def test_a_directory_is_checked_before_it_is_used(tmp_path: Path) -> None:
    """E-B8: every mistake with file and line, exit code 1."""
    (tmp_path / "tea.yaml").write_text("id: tea\nlink: https://shop.example\nturns: []\n")

    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert f"{tmp_path}/tea.yaml, line 2: link: is not a known key" in result.output
    assert f"{tmp_path}/tea.yaml, line 3: turns: a conversation has 2 to 5 turns, not 0" in result.output


def test_a_directory_without_scripts_does_not_pass(tmp_path: Path) -> None:
    assert run("check", tmp_path).exit_code == 1


def test_without_an_argument_the_configured_directory_is_meant(own: Path) -> None:
    assert "1 scripts are right" in run("check").output
    assert "book-club" in run("list").output
    assert "soup-recipe" not in run("list").output
