"""The commands about senders: mailboxes that send."""

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

senders = typer.Typer(help="Mailboxes that send.", no_args_is_help=True)


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

    actor, notes = acting(by), Notes(as_json)
    with reading_file(encoding, notes) as reading:
        ids = mailboxes.import_senders(open_engine(), actor, file, settings(), reading, reason=reason)
    came_in(f"{len(ids)} senders imported", ids, actor, "they were imported", notes, check=check)


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
            row["reply_count"], row["reputation_score"], row["profile"], why(row), row["state_remedy"],
        )
        for row in found
    ]  # fmt: skip
    least = ("day", "replies", "profile", "quota", "sent", "score")
    show(Section("senders", f"{len(rows)} senders", columns, rows, least=least), as_json=as_json)


@senders.command("pause")
def pause_sender(address: str, reason: Shown, by: By = None) -> None:
    """Pause a sender; its ramp position stays."""
    pause("sender", address, reason, by)


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
    resume("sender", address, reason, by)


@senders.command("check")
def check_senders(
    addresses: Annotated[list[str] | None, typer.Argument(help="Default: every mailbox, bots included.")] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Check SMTP login, IMAP login and INBOX of mailboxes; exit with 1 if one fails."""
    from emberflow.operations.actor import acting

    check_and_tell(acting(by), reason, addresses=addresses, as_json=as_json)


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
    change("sender", address, values, reason, by, check=check, as_json=as_json)


@senders.command("remove")
def remove_sender(
    address: str,
    reason: Annotated[str, typer.Option(help="Kept with the mailbox's row, and in the audit log.")],
    by: By = None,
) -> None:
    """Take a sender out of use for good: its password is deleted, its planned mail cancelled, its history kept."""
    remove("sender", address, reason, by)
