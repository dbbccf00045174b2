"""S-B1 against the mail sandbox: the check that a mailbox must pass before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from emberflow.email_ops.check import check_mailbox
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.errors import MailboxCheckError
from emberflow.sandbox import SandboxAddress, create_accounts, read_deliveries, running_sandbox


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def sandbox(directory: Path) -> Iterator[SandboxAddress]:
    create_accounts(directory, {"ann@north.test": "secret"})
    with running_sandbox(directory) as address:
        yield address


@pytest.fixture
def access(sandbox: SandboxAddress) -> MailboxAccess:
    return MailboxAccess(
        mailbox_id=1,
        address="ann@north.test",
        smtp_host=sandbox.host,
        smtp_port=sandbox.smtp_port,
        smtp_tls="starttls",
        imap_host=sandbox.host,
        imap_port=sandbox.imap_port,
        imap_tls="starttls",
        username="ann@north.test",
        password=SecretStr("secret"),
    )


def check(access: MailboxAccess, sandbox: SandboxAddress) -> None:
    check_mailbox(access, "sandbox", {sandbox.host: sandbox.ca_file})


def test_a_working_mailbox_passes_over_both_kinds_of_tls(
    access: MailboxAccess, sandbox: SandboxAddress, directory: Path
) -> None:
    """S-B1"""
    check(access, sandbox)
    implicit = replace(
        access,
        smtp_tls="implicit",
        smtp_port=sandbox.smtps_port,
        imap_tls="implicit",
        imap_port=sandbox.imaps_port,
    )
    check(implicit, sandbox)
    assert list(read_deliveries(directory)) == []


def test_a_wrong_password_fails_at_the_smtp_login(access: MailboxAccess, sandbox: SandboxAddress) -> None:
    """S-B1, S-B2"""
    with pytest.raises(MailboxCheckError, match="smtp_auth: 535") as caught:
        check(replace(access, password=SecretStr("not the secret")), sandbox)
    assert "not the secret" not in str(caught.value)


def test_a_server_that_is_not_there_fails_at_its_stage(access: MailboxAccess, sandbox: SandboxAddress) -> None:
    """S-B1"""
    with pytest.raises(MailboxCheckError, match="smtp_connect"):
        check(replace(access, smtp_port=1), sandbox)
    with pytest.raises(MailboxCheckError, match="imap_connect"):
        check(replace(access, imap_port=1), sandbox)


def test_an_unknown_authority_fails_at_tls(access: MailboxAccess) -> None:
    """E-B7"""
    with pytest.raises(MailboxCheckError, match="smtp_tls"):
        check_mailbox(access, "sandbox", {})


def test_a_ca_file_that_this_machine_does_not_have_says_nothing_of_the_mailbox(
    access: MailboxAccess, sandbox: SandboxAddress, tmp_path: Path
) -> None:
    with pytest.raises(MailboxCheckError, match=r"the CA file .* cannot be used") as caught:
        check_mailbox(access, "sandbox", {sandbox.host: tmp_path / "nowhere.pem"})
    assert caught.value.transient
