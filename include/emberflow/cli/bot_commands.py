"""The commands about bots: owned mailboxes that receive and reply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberflow.cli.mailboxes import (
    Check,
    Notes,
    Number,
    Profile,
    Shown,
    Text,
    Tls,
    came_in,
    change,
    check_and_tell,
    pause,
    reading_file,
    remove,
    resume,
    why,
)
from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.cli.sandbox_commands import running_stack
from emberflow.errors import ConfigurationError

bots = typer.Typer(help="Mailboxes that you own, which receive and reply.", no_args_is_help=True)


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

    actor, notes = acting(by), Notes(as_json)
    attestation = mailboxes.Attestation(attested_by, how)
    with reading_file(encoding, notes) as reading:
        ids = mailboxes.import_bots(open_engine(), actor, file, attestation, settings(), reading, reason=reason)
    came_in(f"{len(ids)} bots imported", ids, actor, "they were imported", notes, check=check)


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

    actor, notes = acting(by), Notes(as_json)
    made_by: mailboxes.Way | mailboxes.WayName
    if smtp_host is None:
        if via is not None:
            raise ConfigurationError(f"--via {via} makes mailboxes on your own mail server: name it with --smtp-host")
        stack = running_stack()
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
    came_in(f"{len(ids)} mailboxes created", ids, actor, "they were created", notes, check=True)


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
            why(row), row["status_remedy"],
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
    from emberflow.operations.actor import acting

    check_and_tell(acting(by), reason, addresses=addresses, as_json=as_json)


@bots.command("pause")
def pause_bot(address: str, reason: Shown, by: By = None) -> None:
    """Pause a bot: it is still read; what is planned for it is cancelled when it comes due before `resume`."""
    pause("bot", address, reason, by)


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
    resume("bot", address, reason, by)


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
    change("bot", address, values, reason, by, check=check, as_json=as_json)


@bots.command("remove")
def remove_bot(
    address: str,
    reason: Annotated[str, typer.Option(help="Kept with the mailbox's row, and in the audit log.")],
    by: By = None,
) -> None:
    """Take a bot out of use for good: its password is deleted, its planned mail cancelled, its history kept."""
    remove("bot", address, reason, by)
