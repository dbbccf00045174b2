"""The commands about sending domains and egress addresses in DNS: SPF, DKIM, DMARC, reverse names, block lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason

if TYPE_CHECKING:
    from emberflow.console import Section

domains = typer.Typer(help="What DNS says of sending domains and egress addresses.", no_args_is_help=True)

_COLUMNS = ("subject", "check", "status", "failing since", "outcome", "checked at")
_WORST_FIRST = {"fail": 0, "unknown": 1, "pass": 2}


@domains.command("check")
def check_domains(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Domains or egress addresses, also such as are not in use; default: all that are."),
    ] = None,
    as_json: AsJson = False,
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Look up SPF, DKIM, DMARC, MX, records about TLS, reverse names and block lists now; what lasts has effect."""
    from emberflow.console import console, show
    from emberflow.database.engine import open_engine
    from emberflow.errors import ConfigurationError
    from emberflow.operations import domains as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    rows: list[tuple[Any, ...]] = []

    def keep(checked: Any) -> None:
        rows.extend(
            (
                checked.subject.name, check, verdict.status, checked.failing_since.get(check), verdict.summary,
                checked.at,
            )
            for check, verdict in checked.verdicts.items()
        )  # fmt: skip

    report = operations.check(open_engine(), acting(by), settings(), names or [], reason=reason, progress=keep)
    if report.refused is not None:
        raise ConfigurationError(report.refused)
    rows.sort(key=lambda row: (_WORST_FIRST[row[2]], row[0]))
    show(_section(rows), as_json=as_json)
    if not as_json:
        for names_of, what in ((report.paused, "stopped"), (report.taken_back, "in service again")):
            if names_of:
                console.print(f"{what}: {', '.join(names_of)}", markup=False)
        for name, fault in report.faults.items():
            console.print(f"{name} could not be checked: {fault}", markup=False)
    if report.outcomes["fail"] or report.faults:
        raise typer.Exit(1)


@domains.command("list")
def list_domains(
    names: Annotated[list[str] | None, typer.Argument(help="Domains or egress addresses; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the last outcome of every check, and since when it fails; with --json also what it rests on."""
    from emberflow.console import print_json, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import domains as checks

    with open_engine().connect() as connection:
        found = checks.listed(connection, names or [])
    rows = [
        (row["subject"], row["check_name"], row["status"], row["failing_since"], row["summary"], row["checked_at"])
        for row in found
    ]
    if as_json:
        print_json([dict(zip(_COLUMNS, cells, strict=True)) | {"details": row["details"]}
                    for cells, row in zip(rows, found, strict=True)])  # fmt: skip
        return
    show(_section(rows))


def _section(rows: list[tuple[Any, ...]]) -> Section:
    from emberflow.console import Section

    counts = {status: sum(row[2] == status for row in rows) for status in ("pass", "fail", "unknown")}
    title = ", ".join(f"{count} {status}" for status, count in counts.items())
    return Section("checks", title, _COLUMNS, rows, least=("checked at", "failing since"))
