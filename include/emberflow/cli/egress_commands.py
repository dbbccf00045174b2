"""The commands about egress addresses: the source addresses from which this machine sends."""

from __future__ import annotations

from typing import Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason

egress = typer.Typer(help="The source addresses that mail leaves from.", no_args_is_help=True)

Cap = Annotated[int | None, typer.Option(min=0, help="At most so many per UTC hour; default: no cap.")]


@egress.command("add")
def add_address(
    address: Annotated[str, typer.Argument(help="An IP address of this machine.")],
    logins_per_hour: Cap = None,
    sends_per_hour: Cap = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Register an address, or change its caps; SMTP and IMAP logins count together."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import egress as operations
    from emberflow.operations.actor import acting

    operations.add(
        open_engine(), acting(by), address,
        logins_per_hour=logins_per_hour, sends_per_hour=sends_per_hour, reason=reason,
    )  # fmt: skip
    console.print(f"{address} is registered; give it mailboxes with `emberflow egress assign {address} MAILBOX...`")


@egress.command("list")
def list_addresses(as_json: AsJson = False) -> None:
    """List the addresses with their state, caps and mailboxes."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import egress as addresses

    with open_engine().connect() as connection:
        rows = addresses.listed(connection)
    columns = ("address", "state", "reason", "mailboxes", "logins per hour", "sends per hour", "this machine")
    cells = [
        (
            row["address"], row["state"], row["state_reason"], row["mailboxes"], row["logins_per_hour"],
            row["sends_per_hour"], "yes" if addresses.is_of_this_machine(row["address"]) else "no",
        )
        for row in rows
    ]  # fmt: skip
    least = ("logins per hour", "sends per hour")
    show(Section("addresses", f"{len(rows)} egress addresses", columns, cells, least=least), as_json=as_json)


@egress.command("hold")
def hold_address(
    address: str,
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the address is.")],
    by: By = None,
) -> None:
    """Send nothing from an address until it is activated; its queue waits and is not routed around it."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import egress as operations
    from emberflow.operations.actor import acting

    operations.hold(open_engine(), acting(by), address, reason=reason)
    console.print(f"{address} is held: {reason}", markup=False)


@egress.command("activate")
def activate_address(address: str, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Let a held address send again."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import egress as operations
    from emberflow.operations.actor import acting

    operations.activate(open_engine(), acting(by), address, reason=reason)
    console.print(f"{address} is active")


@egress.command("assign")
def assign_address(
    address: Annotated[str, typer.Argument(help="A registered address, or `none`.")],
    mailboxes: Annotated[list[str], typer.Argument(help="Addresses of senders or bots.")],
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Make mailboxes send from an address: all of them or none. A held address keeps the mailboxes that it has."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import egress as operations
    from emberflow.operations.actor import acting

    wanted = None if address == "none" else address
    operations.assign(open_engine(), acting(by), wanted, mailboxes, reason=reason)
    console.print(f"{len(mailboxes)} mailboxes send from {address}")
