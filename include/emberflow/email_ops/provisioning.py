"""Creation of a mailbox on the operator's own mail server (B-B1).

There are four ways, and each is named by the operator's settings: the server's administration command, a passwd-file of
Dovecot (`passwd_file`), a table of virtual users (`virtual_users`), the API of mailcow (`mailcow`). Nothing here
registers an account at a third party, and there is no other way to create one.

A way may be asked for the same mailbox again: one that is there with this very password counts as created. A password
is neither logged nor shown, and no process list has it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from emberflow.email_ops.addresses import AddressError, normalise
from emberflow.errors import ConfigurationError, EmberflowError

TIMEOUT_SECONDS = 30.0


class ProvisioningError(EmberflowError):
    """The mailbox was not created; if not ``is_certain``, it may have been all the same."""

    def __init__(self, text: str, *, is_certain: bool = True) -> None:
        super().__init__(text)
        self.is_certain = is_certain


class MailboxTakenError(ProvisioningError):
    """The server has a mailbox or an alias of this address already, and not with this password."""


@dataclass(frozen=True)
class Way:
    """How mailboxes are created, and where in words.

    ``create(address, password)`` raises what this module defines. ``has(address)`` says that the server surely has a
    mailbox or an alias of this address; a way that cannot ask says no. The server lets a new mailbox in after
    ``noticed_within_s`` seconds.
    """

    name: str
    create: Callable[[str, SecretStr], None]
    has: Callable[[str], bool] = lambda _: False
    noticed_within_s: float = 0.0


def provision(command: str, address: str, password: SecretStr, timeout: float = TIMEOUT_SECONDS) -> None:
    """Run ``command`` to create the mailbox ``address``.

    The command line is split as a shell would, without a shell; ``{address}`` is replaced inside its
    arguments and the password is one line on standard input, so that no process list shows it.

    Raises:
        ConfigurationError: the command is empty, badly quoted, or has no ``{address}``.
        AddressError: the address is not usable.
        ProvisioningError: it could not be started, ran longer than ``timeout`` seconds, or failed, which leaves open
            what it has done; the text carries its exit code and the last line of its standard error, never the
            password.
    """
    mailbox = normalise(address)
    if mailbox.startswith("-"):
        raise AddressError(f"{mailbox!r} would be read as an option by the provisioning command")
    arguments = [argument.replace("{address}", mailbox) for argument in _split(command)]
    secret = password.get_secret_value()
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ProvisioningError(f"{arguments[0]} could not be started: {error.strerror}") from error
    with process:
        try:
            _, complaint = process.communicate(f"{secret}\n", timeout)
        except subprocess.TimeoutExpired:
            # The whole session: a helper process that keeps the pipes open would hold us for ever.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise ProvisioningError(
                f"{arguments[0]} did not create {mailbox} within {timeout:g} s and was stopped", is_certain=False
            ) from None
    if process.returncode != 0:
        last_line = (complaint.strip().splitlines() or ["no message"])[-1]
        shown = last_line.replace(secret, "***") if secret else last_line
        raise ProvisioningError(
            f"{arguments[0]} did not create {mailbox}: exit code {process.returncode}, {shown}", is_certain=False
        )


def _split(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"EMBERFLOW_PROVISION_COMMAND is badly quoted: {error}") from error
    if not any("{address}" in argument for argument in arguments[1:]):
        raise ConfigurationError("EMBERFLOW_PROVISION_COMMAND needs an argument that contains {address}")
    return arguments
