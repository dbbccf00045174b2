"""Options that several commands share; it loads nothing that `--help` does not need."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the same as JSON.")]
By = Annotated[
    str | None,
    typer.Option(help="Who decided; default: EMBERFLOW_ACTOR, or your user name.", show_default=False),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit log.")]
BY_COMMAND = "by command"
LARGEST_ID = 2**63 - 1  # of a bigint
