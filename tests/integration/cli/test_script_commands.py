"""The operator's commands about conversation scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from emberflow.cli.script_commands import scripts
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.errors import ConfigurationError
from emberflow.policy.document import shipped
from emberflow.policy.versions import put_in_force


@pytest.fixture
def in_force(database: Engine, configure: Callable[..., None]) -> Engine:
    """A database with the standard policy and the built-in scripts."""
    configure(EMBERFLOW_DATABASE_URL=database.url.render_as_string(hide_password=False))
    with database.begin() as connection:
        put_in_force(connection, shipped("standard"))
    return database


@pytest.fixture
def own(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A directory with one script of the operator's own, configured as the one in use."""
    shutil.copy(BUILT_IN / "book-club.yaml", tmp_path)
    configure(EMBERFLOW_SCRIPTS_DIR=str(tmp_path))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(scripts, [str(argument) for argument in arguments])


def test_the_built_in_scripts_are_right_and_listed_with_topic_turns_and_variants(in_force: Engine) -> None:
    assert run("check").exit_code == 0
    shown = run("list").output
    assert "in force (set 1" in shown
    assert all(script.topic in shown and str(script.variants) in shown for script in load_scripts().by_id.values())


def test_a_directory_is_checked_before_it_is_used(tmp_path: Path) -> None:
    """E-B8: every mistake with file and line, exit code 1."""
    (tmp_path / "tea.yaml").write_text("id: tea\nlink: https://shop.example\nturns: []\n")

    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert f"{tmp_path}/tea.yaml, line 2: link: is not a known key" in result.output
    assert f"{tmp_path}/tea.yaml, line 3: turns: is empty" in result.output


def test_a_directory_without_scripts_does_not_pass(tmp_path: Path) -> None:
    assert run("check", tmp_path).exit_code == 1


def test_without_an_argument_the_configured_directory_is_meant(own: Path) -> None:
    assert "1 scripts are right" in run("check").output


def test_scripts_come_into_force_as_a_version_of_the_policy_once(in_force: Engine, own: Path) -> None:
    """D-F1: until they are applied, the configured directory changes nothing."""
    assert "soup-recipe" in run("list").output

    applied = run("apply")

    assert applied.output == "1 scripts are in force as set 2, policy version 2\n"
    assert "book-club" in run("list").output
    assert "soup-recipe" not in run("list").output
    assert "soup-recipe" in run("list", BUILT_IN).output
    assert run("apply", own).output == applied.output
    with in_force.connect() as connection:
        sets = connection.execute(text("select script_set_id from ops.policies order by id"))
        assert [row.script_set_id for row in sets] == [1, 2]


def test_scripts_with_mistakes_do_not_come_into_force(in_force: Engine, tmp_path: Path) -> None:
    """E-B8"""
    (tmp_path / "tea.yaml").write_text("id: tea\n")
    assert isinstance(run("apply", tmp_path).exception, ConfigurationError)
    assert "in force (set 1" in run("list").output
