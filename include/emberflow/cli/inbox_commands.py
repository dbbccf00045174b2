"""The commands about what came back to the mailboxes."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.errors import EmberflowError

inbox = typer.Typer(help="What came to the mailboxes and is no warm-up mail.", no_args_is_help=True)
quarantined = typer.Typer(help="Messages that were set aside because they could not be read or rescued.")
inbox.add_typer(quarantined, name="quarantined")

Number = Annotated[int, typer.Argument(min=1, help="Its number in `emberflow inbox quarantined`.")]


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


@quarantined.callback(invoke_without_command=True)
def list_quarantined(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List messages that were set aside: what could not be read or rescued, why, and what is kept of it."""
    if context.invoked_subcommand is not None:
        return
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import set_aside

    with open_engine().connect() as connection:
        found = set_aside.listed(connection, limit)
    names = ("id", "mailbox", "folder", "uid", "step", "reason", "size", "kept", "tries", "last_at", "next_try_at")
    columns = (
        "id", "mailbox", "folder", "uid", "step", "reason", "size (bytes)", "kept (bytes)", "tries", "last at (UTC)",
        "next try at (UTC)",
    )  # fmt: skip
    rows = [tuple(row[name] for name in names) for row in found]
    title = f"{len(rows)} messages set aside; without a next try: given up"
    least = ("tries", "next try at (UTC)", "kept (bytes)", "last at (UTC)")
    show(Section("quarantined", title, columns, rows, least=least), as_json=as_json)


@quarantined.command("show")
def show_quarantined(
    number: Number,
    raw: Annotated[bool, typer.Option("--raw", help="Write the bytes that are kept of it, to a file or pipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a message that was set aside, or write the bytes that are kept of it."""
    from emberflow.console import print_json, show_facts
    from emberflow.database.engine import open_engine
    from emberflow.reporting import set_aside
    from emberflow.settings import settings

    if raw and _is_terminal():
        raise EmberflowError(
            "a stranger's bytes are not written to a terminal, which may obey them: add `> message.eml`, then "
            "`emberflow classify message.eml`"
        )
    with open_engine().connect() as connection:
        if raw:
            sys.stdout.buffer.write(set_aside.raw(connection, settings(), number))
            sys.stdout.buffer.flush()
            return
        known = set_aside.one(connection, number)
    if as_json:
        print_json(dict(known))
        return
    names = {"size": "bytes, as its server tells", "kept": "bytes that are kept", "sha256": "SHA-256 of what was read"}
    facts = [(names.get(name, name.replace("_", " ")), value) for name, value in known.items()]
    show_facts(f"message {number}, which was set aside", facts)


@inbox.command("retry")
def retry_message(number: Number, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Have the next run of the inbox try a message once more that was set aside."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import inbox as messages
    from emberflow.operations.actor import acting

    message = messages.retry(open_engine(), acting(by), number, reason=reason)
    console.print(f"UID {message.uid} in {message.folder} of {message.address} is tried by the next run", markup=False)


@inbox.command("forget")
def forget_message(number: Number, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Delete what is known of a message that was set aside, and its bytes; the message stays in its mailbox."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import inbox as messages
    from emberflow.operations.actor import acting

    message = messages.forget(open_engine(), acting(by), number, reason=reason)
    console.print(f"UID {message.uid} in {message.folder} of {message.address} is forgotten", markup=False)


def _is_terminal() -> bool:
    return sys.stdout.isatty()
