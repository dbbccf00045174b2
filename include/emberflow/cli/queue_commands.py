"""The commands about what waits: uncertain and parked slots, the shape of the queue."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.domain.slot import SlotStatus

queue = typer.Typer(help="What waits in the queue, and what only a person can decide.", no_args_is_help=True)


class _End(StrEnum):
    SENDER = "sender"
    RECIPIENT = "recipient"


@queue.command("list")
def list_queue(
    status: Annotated[
        list[SlotStatus] | None,
        typer.Option(help="May be repeated; default: uncertain and parked, which need a person."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The oldest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List slots with the reason for their state and what can be done about it."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import queue

    statuses = status or [SlotStatus.UNCERTAIN, SlotStatus.PARKED]
    with open_engine().connect() as connection:
        waiting = queue.listed(connection, statuses, limit)
        in_doubt = queue.in_doubt(connection)
    rows = [
        (one.id, one.status, one.what, one.from_address, one.to_address, one.since, one.reason, one.remedy)
        for one in waiting
    ]
    columns = ("slot", "status", "what", "from", "to", "since (UTC)", "reason", "what to do")
    advice = (
        "An unresolved mail was looked for everywhere and found nowhere. It counts as sent and is not sent again by "
        "itself: ask the mail server's operator or the recipient, and settle it --sent or --not-sent. It is looked for "
        "again now and then, and settled by itself where it is found. A parked slot may be what killed its workers: "
        "release it when that is mended. `emberflow explain SLOT` shows what happened."
    )
    title = f"{len(rows)} slots: {', '.join(statuses)}; mails in doubt: {in_doubt}"
    caption = advice if rows else None
    show(Section("slots", title, columns, rows, caption, least=("what", "since (UTC)", "to")), as_json=as_json)


@queue.command("shape")
def show_shape(
    by: Annotated[_End, typer.Option(help="Whose domains are the rows.")] = _End.RECIPIENT,
    limit: Annotated[int, typer.Option(min=1, help="The longest so many rows.")] = 25,
    as_json: AsJson = False,
) -> None:
    """Show how many due slots wait per domain, and for how many minutes: where the queue is stuck."""
    from emberflow.clock import SystemClock
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import queue

    with open_engine().connect() as connection:
        shape = queue.shape(connection, by.value, now=SystemClock().now())
    columns = (f"{by} domain", "all", *(f"<{age}" for age in queue.AGES_MIN), f"{queue.AGES_MIN[-1]}+")
    rows = [(domain, sum(counts), *counts) for domain, counts in list(shape.items())[: limit + 1]]
    title = f"{rows[0][1] if rows else 0} due slots, by minutes of waiting"
    show(Section("shape", title, columns, rows), as_json=as_json)


@queue.command("reconcile")
def reconcile_now(reason: Reason = BY_COMMAND, by: By = None, as_json: AsJson = False) -> None:
    """Look for every uncertain mail in its mailboxes now, however old it is, and settle what can be settled."""
    from emberflow.console import Section, console, print_json, records, show
    from emberflow.database.engine import open_engine
    from emberflow.operations import queue as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    report = operations.reconcile(open_engine(), acting(by), settings(), reason=reason)
    waiting = Section("waiting", "Waiting", ("slot", "why"), list(report.waiting.items()))
    if as_json:
        print_json({"ends": dict(report.ends)} | records(waiting))
        return
    ends = ", ".join(f"{count} {end.replace('_', ' ')}" for end, count in sorted(report.ends.items()))
    console.print(f"looked for: {ends or 'nothing'}; waiting: {len(report.waiting)}")
    if report.waiting:
        show(waiting)


@queue.command("settle")
def settle_slot(
    slots: Annotated[list[int], typer.Argument(help="Numbers of slots, see `emberflow queue list`.")],
    sent: Annotated[bool, typer.Option("--sent/--not-sent", help="What you found out about this mail.")],
    why: Annotated[str, typer.Option("--why", "--reason", help="How you know; it is stored with your name.")],
    by: By = None,
) -> None:
    """Settle uncertain slots by a person's decision, all or none. A mail that was not sent may be sent again."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import queue as operations
    from emberflow.operations.actor import acting

    ends = operations.settle(open_engine(), acting(by), slots, is_sent=sent, reason=why)
    for slot, status in ends.items():
        console.print(f"slot {slot} is {status}")


@queue.command("release")
def release_slot(
    slot: Annotated[int, typer.Argument(help="The slot's number, see `emberflow queue list --status parked`.")],
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Plan a parked slot again: its cause is mended."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import queue as operations
    from emberflow.operations.actor import acting

    operations.release(open_engine(), acting(by), slot, reason=reason)
    console.print(f"slot {slot} is planned")
