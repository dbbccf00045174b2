"""The command that writes the generated parts of the pages in ``docs/``."""

from __future__ import annotations

from typing import Annotated

import typer


def docs(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a page would change.")] = False,
) -> None:
    """Write the tables and diagrams in docs/ that are made from the code: slot states, events, tables, marts."""
    from emberflow.console import console
    from emberflow.reporting import documentation

    changed = list(documentation.changes(documentation.PAGES))
    for file, page, wanted in changed:
        if check:
            console.print(documentation.difference(file, page, wanted), markup=False, highlight=False, soft_wrap=True)
        else:
            file.write_text(wanted, encoding="utf-8")
            console.print(f"{file.name} is written anew", markup=False)
    if check and changed:
        console.print("the pages and the code differ: run `emberflow docs` and commit what it writes", markup=False)
        raise typer.Exit(1)
    if not changed:
        console.print("every page is as the code says")
