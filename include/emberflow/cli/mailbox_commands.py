"""The commands about mailboxes: senders, bots, their passwords, and accounts of the sandbox."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from emberflow.local_stack.stack import Stack
    from emberflow.operations.actor import Actor
    from emberflow.operations.mailboxes import CheckResult, MailboxKind, Reading

senders = typer.Typer(help="Mailboxes that send.", no_args_is_help=True)
bots = typer.Typer(help="Mailboxes that you own, which receive and reply.", no_args_is_help=True)
secrets = typer.Typer(help="The keys that protect passwords and tokens.", no_args_is_help=True)
sandbox = typer.Typer(help="The mail sandbox of the local stack.", no_args_is_help=True)


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


@senders.command("import")
def import_senders(
    file: Annotated[Path, typer.Argument(help="CSV with a header; see `docs/operations.md` for the columns.")],
    check: Annotated[bool, typer.Option(help="Run the connection checks right away.")] = True,
    encoding: Annotated[str | None, typer.Option(help="Default: UTF-8 or UTF-16, as the file says.")] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Import senders from a CSV file: all rows or none."""
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    actor, notes = acting(by), _Notes(as_json)
    with _reading(encoding, notes) as reading:
        ids = mailboxes.import_senders(open_engine(), actor, file, settings(), reading, reason=reason)
    _came_in(f"{len(ids)} senders imported", ids, actor, "they were imported", notes, check=check)


@senders.command("list")
def list_senders(as_json: AsJson = False) -> None:
    """List the senders with today's quota, what was sent, and their reputation."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.senders import listed

    with open_engine().connect() as connection:
        found = listed(connection)
    columns = ("address", "state", "day", "quota", "sent", "replies", "score", "profile", "reason", "what to do")
    rows = [
        (
            row["address"], row["state"], row["ramp_day"], row["daily_quota"], row["current_count"],
            row["reply_count"], row["reputation_score"], row["profile"], _reason(row), row["state_remedy"],
        )
        for row in found
    ]  # fmt: skip
    least = ("day", "replies", "profile", "quota", "sent", "score")
    show(Section("senders", f"{len(rows)} senders", columns, rows, least=least), as_json=as_json)


@senders.command("pause")
def pause_sender(address: str, reason: Shown, by: By = None) -> None:
    """Pause a sender; its ramp position stays."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.pause(open_engine(), acting(by), "sender", address, reason=reason)
    console.print(f"{address} is paused: {reason}", markup=False)


@senders.command("stop")
def stop_sender(address: str, reason: Shown, by: By = None) -> None:
    """Stop a sender; when it is resumed, its ramp starts over."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.stop_sender(open_engine(), acting(by), address, reason=reason)
    console.print(f"{address} is stopped: {reason}", markup=False)


@senders.command("resume")
def resume_sender(address: str, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Make a paused or stopped sender active again."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.resume(open_engine(), acting(by), "sender", address, reason=reason)
    console.print(f"{address} is active")


@senders.command("check")
def check_senders(
    addresses: Annotated[list[str] | None, typer.Argument(help="Default: every mailbox, bots included.")] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Check SMTP login, IMAP login and INBOX of mailboxes; exit with 1 if one fails."""
    from emberflow.operations.actor import acting

    _check(acting(by), reason, addresses=addresses, as_json=as_json)


@senders.command("set")
def set_sender(
    address: str,
    smtp_host: Text = None,
    smtp_port: Number = None,
    smtp_tls: Tls = None,
    imap_host: Text = None,
    imap_port: Number = None,
    imap_tls: Tls = None,
    username: Text = None,
    auth_method: Text = None,
    display_name: Text = None,
    provider: Text = None,
    owner: Text = None,
    zone: Text = None,
    profile: Profile = None,
    check: Check = True,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Change what an import file says of a sender; an empty text takes the default. New servers are checked."""
    values = {
        "smtp_host": smtp_host, "smtp_port": smtp_port, "smtp_tls": smtp_tls,
        "imap_host": imap_host, "imap_port": imap_port, "imap_tls": imap_tls,
        "username": username, "auth_method": auth_method, "display_name": display_name,
        "provider": provider, "owner": owner, "zone": zone, "profile": profile,
    }  # fmt: skip
    _set("sender", address, values, reason, by, check=check, as_json=as_json)


@senders.command("remove")
def remove_sender(
    address: str,
    reason: Annotated[str, typer.Option(help="Kept with the mailbox's row, and in the audit log.")],
    by: By = None,
) -> None:
    """Take a sender out of use for good: its password is deleted, its planned mail cancelled, its history kept."""
    _remove("sender", address, reason, by)


@bots.command("import")
def import_bots(
    file: Annotated[Path, typer.Argument(help="CSV with a header; see `docs/operations.md` for the columns.")],
    attested_by: Annotated[str, typer.Option(help="Who declares that you own these mailboxes.")],
    how: Annotated[str, typer.Option(help="How ownership is known, for instance 'our own domain and server'.")],
    check: Annotated[bool, typer.Option(help="Run the connection checks right away.")] = True,
    encoding: Annotated[str | None, typer.Option(help="Default: UTF-8 or UTF-16, as the file says.")] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Import mailboxes that you own as bots: all rows or none."""
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    actor, notes = acting(by), _Notes(as_json)
    attestation = mailboxes.Attestation(attested_by, how)
    with _reading(encoding, notes) as reading:
        ids = mailboxes.import_bots(open_engine(), actor, file, attestation, settings(), reading, reason=reason)
    _came_in(f"{len(ids)} bots imported", ids, actor, "they were imported", notes, check=check)


@bots.command("create")
def create_bots(
    domain: Annotated[str, typer.Option(help="Domain of the new mailboxes, on your own mail server.")],
    count: Annotated[int, typer.Option(min=1, max=10_000)] = 10,
    zone: Annotated[str, typer.Option(help="IANA time zone of their waking hours.")] = "UTC",
    via: Annotated[
        str | None,
        typer.Option(help="command, passwd-file, sql or mailcow, as your settings describe it. Default: command."),
    ] = None,
    smtp_host: Annotated[str | None, typer.Option(help="Default: the local mail sandbox.")] = None,
    smtp_port: int = 587,
    imap_host: Annotated[str | None, typer.Option(help="Default: the SMTP host.")] = None,
    imap_port: int = 993,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Create mailboxes on your own mail server (or in the sandbox) and register them as bots."""
    from emberflow.console import progress
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    actor, notes = acting(by), _Notes(as_json)
    made_by: mailboxes.Way | mailboxes.WayName
    if smtp_host is None:
        if via is not None:
            raise ConfigurationError(f"--via {via} makes mailboxes on your own mail server: name it with --smtp-host")
        stack = _running_stack()
        servers, made_by = stack.sandbox_servers(), stack.sandbox_accounts()
    else:
        servers = mailboxes.servers_at(smtp_host, smtp_port, imap_host or smtp_host, imap_port)
        made_by = mailboxes.way_name(via or "command")
    with progress("creating", count) as advance:
        ids = mailboxes.create_bots(
            open_engine(), actor, domain, count, servers,
            reason=reason, settings=settings(), via=made_by, zone=zone, progress=advance,
            tell=notes.tell,
        )  # fmt: skip
    _came_in(f"{len(ids)} mailboxes created", ids, actor, "they were created", notes, check=True)


@bots.command("list")
def list_bots(as_json: AsJson = False) -> None:
    """List the bots with what they received and answered today."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.bots import listed

    with open_engine().connect() as connection:
        found = listed(connection)
    columns = (
        "address",
        "provider",
        "status",
        "source",
        "attested by",
        "born",
        "received",
        "replies",
        "profile",
        "reason",
        "what to do",
    )
    rows = [
        (
            row["address"], row["provider"], row["status"], row["source"], row["attested_by"],
            f"{row['born_at']:%Y-%m-%d}", row["inbound_today"], row["replies_today"], row["profile"],
            _reason(row), row["status_remedy"],
        )
        for row in found
    ]  # fmt: skip
    least = ("source", "attested by", "born", "profile", "provider", "replies", "received")
    show(Section("bots", f"{len(rows)} bots", columns, rows, least=least), as_json=as_json)


@bots.command("check")
def check_bots(
    addresses: Annotated[list[str] | None, typer.Argument(help="Default: every mailbox, senders included.")] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Check SMTP login, IMAP login and INBOX of mailboxes; exit with 1 if one fails."""
    check_senders(addresses, reason, by, as_json)


@bots.command("pause")
def pause_bot(address: str, reason: Shown, by: By = None) -> None:
    """Pause a bot: it is still read; what is planned for it is cancelled when it comes due before `resume`."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.pause(open_engine(), acting(by), "bot", address, reason=reason)
    console.print(f"{address} is paused: {reason}", markup=False)


@bots.command("retire")
def retire_bot(address: str, reason: Shown, by: By = None) -> None:
    """Take a bot out of service: it is not read any more, and what is planned for it is cancelled at once."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    cancelled = mailboxes.retire_bot(open_engine(), acting(by), address, reason=reason)
    console.print(f"{address} is retired: {reason}; {cancelled} planned mails were cancelled", markup=False)


@bots.command("resume")
def resume_bot(address: str, reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Make a paused or retired bot active again, if it has passed its last connection check."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    mailboxes.resume(open_engine(), acting(by), "bot", address, reason=reason)
    console.print(f"{address} is active")


@bots.command("set")
def set_bot(
    address: str,
    smtp_host: Text = None,
    smtp_port: Number = None,
    smtp_tls: Tls = None,
    imap_host: Text = None,
    imap_port: Number = None,
    imap_tls: Tls = None,
    username: Text = None,
    auth_method: Text = None,
    display_name: Text = None,
    provider: Text = None,
    owner: Text = None,
    zone: Text = None,
    profile: Profile = None,
    interaction_limits: Annotated[
        str | None, typer.Option(help="Own daily inbound cap, 1-200; an empty text: none.", show_default=False)
    ] = None,
    born_at: Annotated[str | None, typer.Option(help="ISO 8601; its age counts from here.", show_default=False)] = None,
    check: Check = True,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Change what an import file says of a bot; an empty text takes the default. New servers are checked."""
    values = {
        "smtp_host": smtp_host, "smtp_port": smtp_port, "smtp_tls": smtp_tls,
        "imap_host": imap_host, "imap_port": imap_port, "imap_tls": imap_tls,
        "username": username, "auth_method": auth_method, "display_name": display_name,
        "provider": provider, "owner": owner, "zone": zone, "profile": profile,
        "interaction_limits": interaction_limits, "born_at": born_at,
    }  # fmt: skip
    _set("bot", address, values, reason, by, check=check, as_json=as_json)


@bots.command("remove")
def remove_bot(
    address: str,
    reason: Annotated[str, typer.Option(help="Kept with the mailbox's row, and in the audit log.")],
    by: By = None,
) -> None:
    """Take a bot out of use for good: its password is deleted, its planned mail cancelled, its history kept."""
    _remove("bot", address, reason, by)


@secrets.command("generate")
def generate_secrets() -> None:
    """Print a fresh set of keys as lines for an environment file. Keep it where only the operator can read it."""
    from emberflow.local_stack.stack import generate_keys

    for name, value in generate_keys().items():
        typer.echo(f"{name}='{value}'")


@secrets.command("set")
def set_secret(address: str, reason: Reason = BY_COMMAND, by: By = None, as_json: AsJson = False) -> None:
    """Store a new password for a registered mailbox (asked for, or read from standard input) and check it."""
    from pydantic import SecretStr

    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigurationError("no password was given; nothing was changed")
    actor = acting(by)
    ids = [mailboxes.set_password(open_engine(), actor, address, SecretStr(password), settings(), reason=reason)]
    _check(actor, f"after {reason!r}", ids=ids, as_json=as_json)


@secrets.command("rotate")
def rotate_secrets(reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Encrypt every stored password with the first key of EMBERFLOW_SECRET_KEYS; then the older keys may go."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import keys
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    rotated = keys.rotate(open_engine(), acting(by), settings(), reason=reason)
    console.print(f"{rotated} passwords re-encrypted")


@secrets.command("adopt")
def adopt_keys(reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Put this machine's keys in force because the earlier ones are lost; machines with other keys are refused then."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import keys
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    keys.adopt(open_engine(), acting(by), settings(), reason=reason)
    console.print("the keys of this machine are in force; store passwords anew with `emberflow secrets set`")


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

    write_accounts(_running_stack(), file, domain, count, [zone])
    next_steps = f"`./emberflow senders import {file}` or `./emberflow bots import {file}`"
    console.print(f"{count * len(domain)} accounts created; next: {next_steps}")


def _running_stack() -> Stack:
    from emberflow.local_stack.stack import Stack
    from emberflow.settings import home

    if not (home() / "stack.env").exists():
        raise ConfigurationError(
            "the mail sandbox does not run: start it with `./emberflow up`, or name your own server with "
            "--smtp-host and set EMBERFLOW_PROVISION_COMMAND"
        )
    return Stack(home(), attached=False)


def _set(
    kind: MailboxKind,
    address: str,
    given: Mapping[str, Any],
    reason: str,
    by: str | None,
    *,
    check: bool,
    as_json: bool,
) -> None:
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
        checks = _checked(actor, why, ids=[changed.mailbox_id]) if changed.check_is_due and check else []
        print_json(
            {
                "address": address,
                "changed": changed.columns,
                "waits_until": changed.waits_until,
                "check_is_due": changed.check_is_due,
                "checks": _as_records(checks),
            }
        )
        if any(result.stage for result in checks):
            raise typer.Exit(1)
        return
    console.print(f"{address}: changed {', '.join(changed.columns) or 'nothing'}", markup=False)
    if changed.waits_until is not None:
        console.print(f"it sends again from {changed.waits_until:%Y-%m-%d %H:%M} UTC, when both zones have a new day")
    if changed.check_is_due and check:
        _check(actor, why, ids=[changed.mailbox_id])
    elif changed.check_is_due:
        console.print(f"not checked since: run `emberflow {kind}s check {address}`", markup=False)


def _remove(kind: MailboxKind, address: str, reason: str, by: str | None) -> None:
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import mailboxes
    from emberflow.operations.actor import acting

    cancelled = mailboxes.remove(open_engine(), acting(by), kind, address, reason=reason)
    console.print(f"{address} is removed: {reason}; {cancelled} planned mails were cancelled", markup=False)


@contextmanager
def _reading(encoding: str | None, notes: _Notes) -> Iterator[Reading]:
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


class _Notes:
    """What a command says on its way: at once, or kept for the one document of ``--json``."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.kept: list[str] = []

    def tell(self, what: str) -> None:
        from emberflow.console import console

        self.kept.append(what)
        if not self.as_json:
            console.print(what, markup=False)


def _came_in(what: str, ids: list[int], actor: Actor, reason: str, notes: _Notes, *, check: bool) -> None:
    """Say how many mailboxes came in, and check them."""
    from emberflow.console import console, print_json

    if not notes.as_json:
        console.print(what)
        if check:
            _check(actor, reason, ids=ids)
        return
    results = _checked(actor, reason, ids=ids) if check else []
    print_json({"mailboxes": len(ids), "notes": notes.kept, "checks": _as_records(results)})
    if any(result.stage for result in results):
        raise typer.Exit(1)


def _check(
    actor: Actor,
    reason: str,
    *,
    ids: list[int] | None = None,
    addresses: list[str] | None = None,
    as_json: bool = False,
) -> None:
    from emberflow.console import console, print_json, progress, table

    if as_json:
        results = _checked(actor, reason, ids=ids, addresses=addresses)
        print_json(_as_records(results))
    else:
        asked = ids or addresses
        with progress("checking", len(asked) if asked is not None else None) as advance:
            results = _checked(actor, reason, ids=ids, addresses=addresses, advance=lambda _: advance())
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


def _checked(
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


def _as_records(results: Iterable[CheckResult]) -> list[dict[str, Any]]:
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


def _reason(row: RowMapping) -> str | None:
    """Return why a sender or bot is in its state, or why the last check of one that is in use did not decide."""
    reason: str | None = row["state_reason"] if "state_reason" in row else row["status_reason"]
    return reason or (row["check_stage"] and f"last check: {row['check_stage']}: {row['check_text']}")
