"""The commands about the audit log: what people did, and whether anybody has altered it since."""

from __future__ import annotations

from typing import Annotated

import typer

from emberflow.cli.options import AsJson

audit = typer.Typer(help="Who did what, to whom, and why.", no_args_is_help=True)


@audit.command("list")
def list_audit(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List what people did, the newest first."""
    from emberflow.console import Section, print_json, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.audit import listed

    with open_engine().connect() as connection:
        found = listed(connection, limit)
    if as_json:
        print_json([dict(row) for row in found])
        return
    rows = [
        (row["id"], row["at"], row["actor"], row["role"], row["action"], row["subject"], row["reason"],
         ", ".join(f"{name} {value}" for name, value in row["details"].items()))
        for row in found
    ]  # fmt: skip
    columns = ("row", "at (UTC)", "actor", "role", "action", "subject", "reason", "details")
    show(Section("audit", f"{len(rows)} rows of the audit log", columns, rows, least=("details", "role")))


@audit.command("verify")
def verify_audit(as_json: AsJson = False) -> None:
    """Compute every hash of the log again; exit with 1 and name the first row that does not fit."""
    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.reporting.audit import verify

    with open_engine().connect() as connection:
        verdict = verify(connection)
    if as_json:
        print_json(vars(verdict))
    elif verdict.misfit is not None:
        console.print(f"row {verdict.misfit} does not fit: {verdict.why}; the {verdict.rows} rows before it do")
    else:
        console.print(f"{verdict.rows} rows, each fits; the last hash is {verdict.last_hash}")
    if verdict.misfit is not None:
        raise typer.Exit(1)
