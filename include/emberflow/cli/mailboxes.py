"""What the commands about mailboxes have in common: options, imports, changes, connection checks and their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberflow.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from emberflow.operations.actor import Actor
    from emberflow.operations.mailboxes import CheckResult, MailboxKind, Reading

Shown = Annotated[str, typer.Option("--reason", help="Why; it is shown wherever the mailbox is.")]
Text = Annotated[str | None, typer.Option(show_default=False)]
Number = Annotated[int | None, typer.Option(show_default=False)]
Tls = Annotated[str | None, typer.Option(help="starttls or implicit; default: follows a new port.", show_default=False)]
Profile = Annotated[
    str | None,
    typer.Option(
        help="The profile of the policy whose numbers it goes by; none: the document's own.", show_default=False
    ),
]
Check = Annotated[bool, typer.Option(help="Run the connection check right away if it has become due.")]


def change(
    kind: MailboxKind,
    address: str,
    given: Mapping[str, Any],
    reason: str,
    by: str | None,
    *,
    check: bool,
    as_json: bool,
) -> None:
    """Change what was given (None: it was not) of one mailbox, say what became of it, and check it if that is due."""
    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    values = {name: value for name, value in given.items() if value is not None}
    if not values:
        raise ConfigurationError(f"nothing was given to change; see `emberflow {kind}s set --help`")
    actor = acting(by)
    changed = mailboxes.change(open_engine(), actor, kind, address, values, reason=reason)
    why = "its servers or login were changed"
    if as_json:
        checks = checked(actor, why, ids=[changed.mailbox_id]) if changed.check_is_due and check else []
        print_json(
            {
                "address": address,
                "changed": changed.columns,
                "waits_until": changed.waits_until,
                "check_is_due": changed.check_is_due,
                "checks": as_records(checks),
            }
        )
        if any(result.stage for result in checks):
            raise typer.Exit(1)
        return
    console.print(f"{address}: changed {', '.join(changed.columns) or 'nothing'}", markup=False)
    if changed.waits_until is not None:
        console.print(f"it sends again from {changed.waits_until:%Y-%m-%d %H:%M} UTC, when both zones have a new day")
    if changed.check_is_due and check:
        check_and_tell(actor, why, ids=[changed.mailbox_id])
    elif changed.check_is_due:
        console.print(f"not checked since: run `emberflow {kind}s check {address}`", markup=False)


def pause(kind: MailboxKind, address: str, reason: str, by: str | None) -> None:
    """Pause one sender or bot."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.pause(open_engine(), acting(by), kind, address, reason=reason)
    console.print(f"{address} is paused: {reason}", markup=False)


def resume(kind: MailboxKind, address: str, reason: str, by: str | None) -> None:
    """Make one sender or bot active again."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.resume(open_engine(), acting(by), kind, address, reason=reason)
    console.print(f"{address} is active")


def remove(kind: MailboxKind, address: str, reason: str, by: str | None) -> None:
    """Take one mailbox out of use for good, and say what was cancelled."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    cancelled = mailboxes.remove(open_engine(), acting(by), kind, address, reason=reason)
    console.print(f"{address} is removed: {reason}; {cancelled} planned mails were cancelled", markup=False)


@contextmanager
def reading_file(encoding: str | None, notes: Notes) -> Iterator[Reading]:
    """Show on a terminal how far the import is; say what was left out, and after Ctrl-C that nothing came in."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from emberflow.operations.mailboxes import Reading

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    try:
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
            task = bar.add_task("importing", total=None)
            yield Reading(
                encoding,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                tell=notes.tell,
            )
    except KeyboardInterrupt:
        errors.print("stopped: nothing was imported")
        raise typer.Exit(130) from None


class Notes:
    """What a command says on its way: at once, or kept for the one document of ``--json``."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.kept: list[str] = []

    def tell(self, what: str) -> None:
        from emberflow.console import console

        self.kept.append(what)
        if not self.as_json:
            console.print(what, markup=False)


def came_in(what: str, ids: list[int], actor: Actor, reason: str, notes: Notes, *, check: bool) -> None:
    """Say how many mailboxes came in, and check them."""
    from emberflow.console import console, print_json

    if not notes.as_json:
        console.print(what)
        if check:
            check_and_tell(actor, reason, ids=ids)
        return
    results = checked(actor, reason, ids=ids) if check else []
    print_json({"mailboxes": len(ids), "notes": notes.kept, "checks": as_records(results)})
    if any(result.stage for result in results):
        raise typer.Exit(1)


def check_and_tell(
    actor: Actor,
    reason: str,
    *,
    ids: list[int] | None = None,
    addresses: list[str] | None = None,
    as_json: bool = False,
) -> None:
    """Check mailboxes by id or address (neither: all) and print how each went; exit with 1 if one fails."""
    from emberflow.console import console, print_json, progress, table

    if as_json:
        results = checked(actor, reason, ids=ids, addresses=addresses)
        print_json(as_records(results))
    else:
        asked = ids or addresses
        with progress("checking", len(asked) if asked is not None else None) as advance:
            results = checked(actor, reason, ids=ids, addresses=addresses, advance=lambda _: advance())
        failed = [
            (result.address, result.stage, "stays as it was: check it again later" if result.transient else "not used",
             result.text)
            for result in results
            if result.stage
        ]  # fmt: skip
        console.print(f"{len(results) - len(failed)} of {len(results)} mailboxes passed the connection check")
        if failed:
            table("Failed", ("address", "stage", "therefore it", "the server said"), failed)
    if any(result.stage for result in results):
        raise typer.Exit(1)


def checked(
    actor: Actor,
    reason: str,
    *,
    ids: list[int] | None = None,
    addresses: list[str] | None = None,
    advance: Callable[[object], None] = lambda _: None,
) -> list[CheckResult]:
    """Check mailboxes by id or address (neither: all), with ``advance`` called after each."""
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.settings import settings

    with _counting_checks(ids or addresses) as count:

        def go_on(result: CheckResult) -> None:
            count(result)
            advance(result)

        return mailboxes.check(
            open_engine(), actor, settings(), reason=reason, ids=ids, addresses=addresses, progress=go_on
        )


def as_records(results: Iterable[CheckResult]) -> list[dict[str, Any]]:
    """Return checks as JSON shows them."""
    return [{name: getattr(result, name) for name in ("address", "stage", "transient", "text")} for result in results]


@contextmanager
def _counting_checks(asked: Sized | None) -> Iterator[Callable[[object], None]]:
    """Say after Ctrl-C how many of the mailboxes that are ``asked`` for (None: all) were checked and what is left."""
    from rich.console import Console

    checked: list[object] = []
    try:
        yield checked.append
    except KeyboardInterrupt:
        left = "the others not yet" if asked is None else f"{len(asked) - len(checked)} not yet"
        Console(stderr=True).print(
            f"stopped: {len(checked)} mailboxes were checked, which is stored, {left}: run `emberflow senders check`",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        raise typer.Exit(130) from None


def why(row: RowMapping) -> str | None:
    """Return why a sender or bot is in its state, or why the last check of one that is in use did not decide."""
    reason: str | None = row["state_reason"] if "state_reason" in row else row["status_reason"]
    return reason or (row["check_stage"] and f"last check: {row['check_stage']}: {row['check_text']}")
