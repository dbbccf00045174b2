"""The commands about conversation scripts: what warm-up mails say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason

scripts = typer.Typer(help="What warm-up mails say.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Argument(help="Default: EMBERFLOW_SCRIPTS_DIR, or the built-in scripts.")]


@scripts.command("check")
def check_scripts(directory: Folder = None, as_json: AsJson = False) -> None:
    """Check every script of a directory; list all mistakes with file and line, and exit with 1 if there is one."""
    from emberflow.console import console, print_json
    from emberflow.reporting import scripts as of_files

    found, problems = of_files.check(directory or _configured())
    if as_json:
        print_json({"right": [script.id for script in found], "mistakes": [str(problem) for problem in problems]})
    else:
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
    from emberflow.database.engine import open_engine
    from emberflow.reporting.scripts import listed, listed_in_force

    if directory is None:
        with open_engine().connect() as connection:
            found, origin = listed_in_force(connection)
    else:
        found, origin = listed(directory), f"of {directory}"
    rows = [(script.id, script.topic, len(script.turns), script.variants) for script in found]
    columns = ("script", "topic", "turns", "variants")
    show(Section("scripts", f"{len(rows)} scripts {origin}", columns, rows), as_json=as_json)


def _configured() -> Path:
    from emberflow.reporting.scripts import directory_of
    from emberflow.settings import settings

    return directory_of(settings())
