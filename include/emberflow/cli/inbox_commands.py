"""The commands about what came back to the mailboxes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from emberflow.cli.options import AsJson

inbox = typer.Typer(help="What came to the mailboxes and is no warm-up mail.", no_args_is_help=True)


class _Kind(StrEnum):
    HUMAN_REPLY = "human_reply"
    OUT_OF_OFFICE = "out_of_office"
    AUTO_REPLY = "auto_reply"
    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    OPT_OUT = "opt_out"
    OWN_COPY = "own_copy"
    WARM_UP = "warm_up"
    OTHER = "other"


@inbox.command("list")
def list_inbox(
    kind: Annotated[list[_Kind] | None, typer.Option(help="May be repeated; default: every kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List messages that came back: what each is, which mail it is about, what followed, and what says so."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import inbound

    with open_engine().connect() as connection:
        found = inbound.listed(connection, [one.value for one in kind or _Kind], limit)
    columns = (
        "id", "mailbox", "kind", "counts", "from", "subject", "arrived at (UTC)", "slot", "matched by", "followed",
        "says", "evidence",
    )  # fmt: skip
    names = (
        "id", "mailbox", "kind", "counts", "from_address", "subject", "arrived_at", "slot_id", "matched_by", "followed",
        "says", "evidence",
    )  # fmt: skip
    rows = [tuple(row[name] for name in names) for row in found]
    title = f"{len(rows)} messages that came back"
    least = ("evidence", "subject", "arrived at (UTC)", "id")
    show(Section("inbound", title, columns, rows, least=least), as_json=as_json)
