"""The commands about passwords and the keys that protect them."""

from __future__ import annotations

import getpass
import sys

import typer

from emberflow.cli.mailboxes import check_and_tell
from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.errors import ConfigurationError

secrets = typer.Typer(help="The keys that protect passwords and tokens.", no_args_is_help=True)


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
    check_and_tell(actor, f"after {reason!r}", ids=ids, as_json=as_json)


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
