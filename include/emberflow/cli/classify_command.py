"""`emberflow classify`: what the product makes of messages that came back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Connection


def classify(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Raw messages, mbox files, Maildirs or folders of messages; - is standard input."
        ),
    ],
    mailbox: Annotated[
        str | None,
        typer.Option(help="The address whose mail this is; default: the one in each message's To.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, one for each message.")
    ] = False,
) -> None:
    """Say what each message is, and what decided: warm-up, reply, absence, bounce, complaint, opt-out or other.

    Where a database is at hand, messages are matched with the mails that it knows. Nothing is changed.
    Exit with 1 if a file could not be read; all others are classified all the same.
    """
    import json

    from emberflow.console import Section, show
    from emberflow.reporting.classification import judge_files
    from emberflow.settings import settings

    rows: list[tuple[object, ...]] = []
    problems = 0
    with ExitStack() as stack:
        connection = next(_connected(stack), None)
        judged = judge_files(files, connection=connection, keys=settings().token_keys, mailbox=mailbox)
        for one in judged:
            if one.problem is not None:
                problems += 1
                typer.echo(f"{one.file}: {one.problem}", err=True)
            if as_json:
                typer.echo(json.dumps(one.as_json(), ensure_ascii=False))
            elif one.problem is None:
                rows.append(_row(one.as_json()))
    if not as_json:
        columns = ("file", "kind", "class", "action", "status", "recipient", "return date", "matched by", "evidence")
        show(Section("messages", f"{len(rows)} messages", columns, rows, least=("status", "matched by", "action")))
        if connection is None:
            typer.echo("No database is at hand: nothing was matched with mails that were sent.", err=True)
    if problems:
        raise typer.Exit(1)


def _connected(stack: ExitStack) -> Iterator[Connection]:
    """Yield a connection, or nothing where no database is configured or none answers."""
    from sqlalchemy.exc import OperationalError

    from emberflow.database.engine import open_engine
    from emberflow.errors import ConfigurationError

    try:
        yield stack.enter_context(open_engine().connect())
    except (ConfigurationError, OperationalError):
        return


def _row(found: dict[str, object]) -> tuple[object, ...]:
    bounce = found["bounce"]
    said = bounce if isinstance(bounce, dict) else {}
    evidence = found["evidence"]
    first = evidence[0] if isinstance(evidence, list) and evidence else {"where": "", "says": ""}
    kind = f"{found['kind']}: {found['warm_up']}" if found["warm_up"] else found["kind"]
    return (
        found["file"],
        kind,
        said.get("class"),
        said.get("action"),
        said.get("status"),
        said.get("recipient"),
        found["return_date"],
        found["matched_by"],
        f"{first['where']}: {first['says']}",
    )
