"""The commands about who gets no mail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.domain.suppression import SuppressionCause

suppressions = typer.Typer(help="Addresses, domains and hashed addresses that get no mail.", no_args_is_help=True)

Target = Annotated[
    str,
    typer.Argument(
        help="ann@example.com; @example.com for a domain and its subdomains; or a hash, as `export` writes it."
    ),
]


@suppressions.command("add")
def add_suppression(
    target: Target,
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever mail is refused because of it.")],
    cause: Annotated[SuppressionCause, typer.Option(help="What it is counted as.")] = SuppressionCause.OPERATOR,
    by: By = None,
) -> None:
    """Send nothing to an address or a domain any more; planned mail to it is cancelled."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import suppressions as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    parsed, added = operations.add(
        open_engine(), acting(by), target, reason=reason, settings=settings(), cause=cause
    )  # fmt: skip
    if added.entries:
        console.print(f"{parsed} is suppressed; {added.cancelled} planned mails cancelled", markup=False)
    else:
        console.print(f"{parsed} was suppressed before; nothing changed", markup=False)


@suppressions.command("list")
def list_suppressions(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List who gets no mail, why, and who decided it."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.suppressions import listed

    with open_engine().connect() as connection:
        found = listed(connection, limit)
    rows = [tuple(row[name] for name in ("target", "cause", "reason", "added_by", "added_at")) for row in found]
    columns = ("address or domain", "cause", "reason", "added by", "added at (UTC)")
    show(Section("suppressions", f"{len(rows)} suppressions", columns, rows), as_json=as_json)


@suppressions.command("remove")
def remove_suppression(target: Target, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Allow mail to an address, a domain or a hash again; what was cancelled stays cancelled."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import suppressions as operations
    from emberflow.operations.actor import acting

    parsed = operations.remove(open_engine(), acting(by), target, reason=reason)
    console.print(f"{parsed} may get mail again", markup=False)


@suppressions.command("import")
def import_suppressions(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with the column address (an address, @domain, or the SHA-256 of an address), and perhaps cause "
            "and reason."
        ),
    ],
    reason: Annotated[str, typer.Option(help="For rows without a reason of their own.")] = "imported",
    cause: Annotated[
        SuppressionCause, typer.Option(help="For rows without a cause of their own.")
    ] = SuppressionCause.IMPORTED,
    by: By = None,
) -> None:
    """Suppress every address, domain and hash of a file: all rows or none."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import suppressions as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    rows, added = operations.import_file(
        open_engine(), acting(by), file, reason=reason, settings=settings(), cause=cause
    )  # fmt: skip
    console.print(f"{added.entries} of {rows} entries were new; {added.cancelled} planned mails cancelled")


@suppressions.command("export")
def export_suppressions(
    file: Annotated[Path, typer.Argument(help="A CSV file that is not there yet; `import` reads it.")],
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Write all entries to a file: a list of people who asked for quiet, so keep it as carefully as they would."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import suppressions as operations
    from emberflow.operations.actor import acting

    rows = operations.export_file(open_engine(), acting(by), file, reason=reason)
    console.print(f"{rows} entries are in {file}", markup=False)
