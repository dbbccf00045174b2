"""The submission driver against the mail sandbox, judged by the sandbox's own log of what it stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.message import OutgoingMessage, build, message_id_for
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.sandbox import SandboxAddress, create_accounts, read_deliveries, running_sandbox

ANN, BO = "ann@north.test", "bo@south.test"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def sandbox(directory: Path) -> Iterator[SandboxAddress]:
    create_accounts(directory, {ANN: "secret of ann", BO: "secret of bo"})
    with running_sandbox(directory) as address:
        yield address


def an_access(sandbox: SandboxAddress, **changes: Any) -> MailboxAccess:
    values: dict[str, Any] = {
        "mailbox_id": 1,
        "address": ANN,
        "smtp_host": sandbox.host,
        "smtp_port": sandbox.smtp_port,
        "smtp_tls": "starttls",
        "imap_host": sandbox.host,
        "imap_port": sandbox.imap_port,
        "imap_tls": "starttls",
        "username": ANN,
        "password": SecretStr("secret of ann"),
    }
    return MailboxAccess(**(values | changes))


def a_connection(sandbox: SandboxAddress, **changes: Any) -> SmtpConnection:
    return SmtpConnection(an_access(sandbox, **changes), "sandbox", {sandbox.host: sandbox.ca_file})


def a_message(key: str, to: str = BO) -> tuple[str, bytes]:
    message_id = message_id_for(key, "north.test", b"key")
    wire = build(
        OutgoingMessage(
            message_id=message_id,
            from_address=ANN,
            from_name="Ann Lee",
            to_address=to,
            subject="Grüße",
            body="Hi Bo,\n\n.\n..dots\n",
            date=datetime(2026, 11, 23, 12, tzinfo=UTC),
            in_reply_to=None,
            references=(),
            token="a.b",
            auto_reply=False,
        )
    )
    return message_id, wire


def stored(directory: Path, message_id: str) -> int:
    return sum(delivery.message_id == message_id for delivery in read_deliveries(directory))


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_messages_are_stored_once_over_one_connection(sandbox: SandboxAddress, directory: Path, tls: str) -> None:
    port = sandbox.smtp_port if tls == "starttls" else sandbox.smtps_port
    with a_connection(sandbox, smtp_tls=tls, smtp_port=port) as connection:
        for number in range(3):
            message_id, wire = a_message(f"{tls}|{number}")
            attempt = connection.deliver(wire, ANN, BO, before_data=lambda: 3600.0)
            assert (attempt.outcome, attempt.reply_code) == ("sent", 250)
            assert stored(directory, message_id) == 1


@pytest.mark.parametrize(
    ("recipient", "outcome", "stage", "scope", "code", "copies"),
    [
        ("reject.1@south.test", "permanent", "rcpt", "message", 550, 0),
        ("full.1@south.test", "transient", "rcpt", "message", 452, 0),
        ("grey.1@south.test", "transient", "rcpt", "message", 451, 0),
        ("busy.1@south.test", "transient", "rcpt", "host", 421, 0),
        ("spam.1@south.test", "permanent", "eod", "message", 554, 0),
        ("lost.1@south.test", "uncertain", "eod", "host", None, 1),
        ("drop.1@south.test", "uncertain", "eod", "host", None, 0),
    ],
)
def test_every_fault_of_the_sandbox_has_its_outcome_and_the_next_message_is_clean(
    sandbox: SandboxAddress,
    directory: Path,
    recipient: str,
    outcome: str,
    stage: str,
    scope: str,
    code: int | None,
    copies: int,
) -> None:
    """E-B2, Q-F5: "not sent" is never said of a message that the server has stored."""
    message_id, wire = a_message(recipient, recipient)
    with a_connection(sandbox) as connection:
        attempt = connection.deliver(wire, ANN, recipient, before_data=lambda: 3600.0)
        assert (attempt.outcome, attempt.stage, attempt.scope, attempt.reply_code) == (
            outcome,
            stage,
            scope,
            code,
        )
        assert stored(directory, message_id) == copies
        after, wire = a_message(f"after {recipient}")
        assert connection.deliver(wire, ANN, BO, before_data=lambda: 3600.0).outcome == "sent"
    assert stored(directory, after) == 1


def test_a_wrong_password_is_the_mailboxs_fault(sandbox: SandboxAddress) -> None:
    with a_connection(sandbox, password=SecretStr("not it")) as connection:
        attempt = connection.open()
    assert attempt is not None
    assert (attempt.outcome, attempt.stage, attempt.scope) == ("permanent", "auth", "mailbox")


def test_a_server_certificate_of_another_authority_is_refused(sandbox: SandboxAddress) -> None:
    """E-B7"""
    with SmtpConnection(an_access(sandbox), "sandbox", {}) as connection:
        attempt = connection.open()
    assert attempt is not None
    assert (attempt.outcome, attempt.stage) == ("permanent", "tls")


def test_if_before_data_says_no_nothing_is_stored(sandbox: SandboxAddress, directory: Path) -> None:
    """Q-B5"""

    def refuse() -> float:
        raise RuntimeError("paused")

    message_id, wire = a_message("refused")
    with a_connection(sandbox) as connection:
        with pytest.raises(RuntimeError, match="paused"):
            connection.deliver(wire, ANN, BO, before_data=refuse)
        assert connection.deliver(a_message("later")[1], ANN, BO, before_data=lambda: 3600.0).outcome == "sent"
    assert stored(directory, message_id) == 0
