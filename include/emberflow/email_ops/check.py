"""The connection check that a mailbox must pass before it is used (S-B1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emberflow.domain.attempt import Stage
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.timeouts import Timeouts
from emberflow.errors import ConfigurationError, MailboxCheckError

# A person waits for the answer.
TIMEOUT_SECONDS = 20.0
_SMTP_STAGES: Mapping[Stage, str] = {"tls": "smtp_tls", "auth": "smtp_auth"}


def check_mailbox(
    access: MailboxAccess, mode: Mode, ca_files: Mapping[str, Path], timeout: float = TIMEOUT_SECONDS
) -> None:
    """Log in over SMTP and over IMAP, and select INBOX; no mail is sent and nothing is changed.

    Raises:
        MailboxCheckError: with the first step that failed, what the server said, and whether that passes. What is
            wrong with this machine's own configuration says nothing of the mailbox, so it counts as what passes.
        EgressRefusedError: the mode forbids to connect to one of the hosts.
    """
    timeouts = Timeouts(connect=timeout, greeting=timeout, command=timeout, login=2 * timeout)
    try:
        with SmtpConnection(access, mode, ca_files, timeouts) as smtp:
            failed = smtp.open()
    except ConfigurationError as error:
        raise MailboxCheckError("smtp_connect", access.public_text(str(error)), transient=True) from None
    if failed is not None:
        code = "" if failed.reply_code is None else f"{failed.reply_code} "
        stage = _SMTP_STAGES.get(failed.stage, "smtp_connect")
        said = _silence("smtp", access.smtp_tls, access.smtp_port, failed.server_text, timeout)
        raise MailboxCheckError(stage, code + said, transient=failed.outcome == "transient")
    try:
        with ImapReader(access, mode, ca_files, timeout) as reader:
            reader.select("INBOX")
    except ImapError as error:
        said = _silence("imap", access.imap_tls, access.imap_port, error.server_text, timeout)
        raise MailboxCheckError(error.stage, said, transient=error.transient) from None
    except ConfigurationError as error:
        raise MailboxCheckError("imap_connect", access.public_text(str(error)), transient=True) from None


def _silence(protocol: str, tls: str, port: int, server_text: str, timeout: float) -> str:
    """Return what to say of a server that said nothing: one that expects TLS at once waits for us (RFC 8314 3)."""
    if tls != "starttls" or not server_text.endswith("timed out"):
        return server_text
    return (
        f"the server said nothing for {timeout:g} s: perhaps port {port} expects TLS from the first byte; "
        f"then {protocol}_tls is implicit"
    )
