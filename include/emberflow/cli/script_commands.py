"""The commands about conversation scripts: what warm-up mails say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason

if TYPE_CHECKING:
    from emberflow.email_ops.content import Scripts

scripts = typer.Typer(help="What warm-up mails say.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Argument(help="Default: EMBERFLOW_SCRIPTS_DIR, or the built-in scripts.")]


@scripts.command("check")
def check_scripts(directory: Folder = None) -> None:
    """Check every script of a directory; list all mistakes with file and line, and exit with 1 if there is one."""
    from emberflow.console import console
    from emberflow.email_ops import content

    found, problems = content.check_scripts(directory or _configured())
    for problem in problems:
        console.print(str(problem), style="red", markup=False, soft_wrap=True)
    console.print(f"{len(found)} scripts are right, {len(problems)} mistakes in others")
    if problems or not found:
        raise typer.Exit(1)


@scripts.command("apply")
def apply_scripts(directory: Folder = None, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Put the scripts of a directory in force from now on, on all machines; conversations go on with their own.

    They become a version of the policy in force, whose numbers stay.
    """
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import policies
    from emberflow.operations.actor import acting

    applied = policies.apply_scripts(open_engine(), acting(by), directory or _configured(), reason=reason)
    console.print(f"{applied.scripts} scripts are in force as set {applied.set_id}, policy version {applied.policy_id}")


@scripts.command("list")
def list_scripts(
    directory: Annotated[Path | None, typer.Argument(help="Default: the scripts in force.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the scripts in force, or of a directory, with their topics and how many conversations they can make."""
    from emberflow.console import Section, show
    from emberflow.email_ops.content import load_scripts

    if directory is None:
        found, origin = _in_force()
    else:
        found, origin = load_scripts(directory), f"of {directory}"
    rows = [(script.id, script.topic, len(script.turns), script.variants) for script in found.by_id.values()]
    columns = ("script", "topic", "turns", "variants")
    show(Section("scripts", f"{len(rows)} scripts {origin}", columns, rows), as_json=as_json)


def _in_force() -> tuple[Scripts, str]:
    from emberflow.database.engine import open_engine
    from emberflow.policy import script_sets
    from emberflow.policy.versions import in_force

    with open_engine().connect() as connection:
        stored = script_sets.load(connection, in_force(connection).script_set_id)
    return stored.scripts, f"in force (set {stored.id}, stored {stored.created_at:%Y-%m-%d %H:%M} UTC)"


def _configured() -> Path:
    from emberflow.email_ops.content import BUILT_IN
    from emberflow.settings import settings

    return settings().scripts_dir or BUILT_IN
