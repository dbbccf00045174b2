"""The commands about conversation scripts: what warm-up mails say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberflow.cli.options import AsJson

scripts = typer.Typer(help="What warm-up mails say.", no_args_is_help=True)


@scripts.command("check")
def check_scripts(
    directory: Annotated[
        Path | None, typer.Argument(help="Default: EMBERFLOW_SCRIPTS_DIR, or the built-in scripts.")
    ] = None,
) -> None:
    """Check every script of a directory; list all mistakes with file and line, and exit with 1 if there is one."""
    from emberflow.console import console
    from emberflow.email_ops import content

    found, problems = content.check_scripts(directory or _configured())
    for problem in problems:
        console.print(str(problem), style="red", markup=False, soft_wrap=True)
    console.print(f"{len(found)} scripts are right, {len(problems)} mistakes in others")
    if problems or not found:
        raise typer.Exit(1)


@scripts.command("list")
def list_scripts(as_json: AsJson = False) -> None:
    """List the scripts in use with their topics and how many conversations they can make."""
    from emberflow.console import Section, show
    from emberflow.email_ops.content import load_scripts

    directory = _configured()
    found = load_scripts(directory).by_id.values()
    rows = [(script.id, script.topic, len(script.turns), script.variants) for script in found]
    columns = ("script", "topic", "turns", "variants")
    show(Section("scripts", f"{len(rows)} scripts of {directory}", columns, rows), as_json=as_json)


def _configured() -> Path:
    from emberflow.email_ops.content import BUILT_IN
    from emberflow.settings import settings

    return settings().scripts_dir or BUILT_IN
