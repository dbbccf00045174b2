"""The command about accounts of the mail sandbox, and the stack that it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberflow.errors import ConfigurationError

if TYPE_CHECKING:
    from emberflow.local_stack.stack import Stack

sandbox = typer.Typer(help="The mail sandbox of the local stack.", no_args_is_help=True)


@sandbox.command("accounts")
def create_sandbox_accounts(
    file: Annotated[Path, typer.Argument(help="CSV file to write; `senders.csv` makes sender01@..., sender02@...")],
    domain: Annotated[list[str], typer.Option(help="A reserved test domain such as alder.test; may be repeated.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Accounts per domain.")] = 5,
    zone: Annotated[str, typer.Option(help="IANA time zone of the mailboxes.")] = "UTC",
) -> None:
    """Create accounts on the sandbox and write the file that `senders import` takes."""
    from emberflow.console import console
    from emberflow.local_stack.sandbox_accounts import write_accounts

    write_accounts(running_stack(), file, domain, count, [zone])
    next_steps = f"`./emberflow senders import {file}` or `./emberflow bots import {file}`"
    console.print(f"{count * len(domain)} accounts created; next: {next_steps}")


def running_stack() -> Stack:
    from emberflow.local_stack.stack import Stack
    from emberflow.settings import home

    if not (home() / "stack.env").exists():
        raise ConfigurationError(
            "the mail sandbox does not run: start it with `./emberflow up`, or name your own server with "
            "--smtp-host and set EMBERFLOW_PROVISION_COMMAND"
        )
    return Stack(home(), attached=False)
