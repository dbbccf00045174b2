"""S-B1: the connection check names the first step that fails and what the server said."""

from __future__ import annotations

from typing import Any

import pytest

from emberflow.email_ops.check import check_mailbox
from emberflow.errors import EgressRefusedError, MailboxCheckError
from tests.unit.email_ops.fake_mail_servers import (
    Authority,
    FaultySmtpServer,
    ScriptedImapServer,
    an_access,
    close,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def check(authority: Authority, smtp_faults: dict[str, Any], imap_script: dict[str, Any], **servers: Any) -> list[str]:
    smtp = FaultySmtpServer(servers.get("smtp_context", authority.server_context()), faults=smtp_faults)
    imap = ScriptedImapServer(servers.get("imap_context", authority.server_context()), script=imap_script)
    with smtp.running() as smtp_port, imap.running() as imap_port:
        access = an_access(smtp_port=smtp_port, imap_port=imap_port)
        check_mailbox(access, "sandbox", {"localhost": authority.ca_file}, timeout=2)
    return smtp.commands


def test_a_mailbox_that_works_passes_and_no_mail_is_sent(authority: Authority) -> None:
    """S-B1"""
    commands = check(authority, {}, {})
    assert commands[-1] == "QUIT"
    assert not any(command.startswith("MAIL") for command in commands)


@pytest.mark.parametrize(
    ("smtp_faults", "imap_script", "stage", "text"),
    [
        ({"banner": "554 5.7.1 blocked"}, {}, "smtp_connect", "554 5.7.1 blocked"),
        ({"banner": close}, {}, "smtp_connect", "SMTPServerDisconnected"),
        ({"ehlo": "502 what"}, {}, "smtp_connect", "502 what"),
        ({"starttls": "454 4.7.0 not now"}, {}, "smtp_tls", "454 4.7.0 not now"),
        ({"auth": "535 5.7.8 wrong password"}, {}, "smtp_auth", "535 5.7.8 wrong password"),
        ({}, {"CAPABILITY": [close]}, "imap_connect", "abort"),
        ({}, {"STARTTLS": [b"NO no"]}, "imap_connect", "error"),
        ({}, {"AUTHENTICATE": [b"NO wrong password"]}, "imap_auth", "wrong password"),
        ({}, {"SELECT": [b"NO mailbox is broken"]}, "imap_select", "mailbox is broken"),
    ],
)
def test_the_failed_stage_and_the_servers_words_are_reported(
    authority: Authority, smtp_faults: dict[str, Any], imap_script: dict[str, Any], stage: str, text: str
) -> None:
    """S-B1"""
    with pytest.raises(MailboxCheckError) as caught:
        check(authority, smtp_faults, imap_script)
    assert caught.value.stage == stage
    assert text in caught.value.server_text


@pytest.mark.parametrize(
    ("smtp_faults", "imap_script", "is_transient"),
    [
        ({"banner": "421 4.3.2 too many connections"}, {}, True),
        ({"banner": close}, {}, True),
        ({"ehlo": "451 4.3.0 try again"}, {}, True),
        ({"starttls": "454 4.7.0 not now"}, {}, True),
        ({"auth": "454 4.7.0 Temporary authentication failure"}, {}, True),
        ({"auth": "535 5.7.8 wrong password"}, {}, False),
        ({"banner": "554 5.7.1 blocked"}, {}, False),
        ({}, {"CAPABILITY": [close]}, True),
        ({}, {"AUTHENTICATE": [b"NO [ALERT] Too many simultaneous connections. (Failure)"]}, True),
        ({}, {"AUTHENTICATE": [b"NO wrong password"]}, False),
        ({}, {"SELECT": [b"NO [UNAVAILABLE] backend is away"]}, True),
        ({}, {"SELECT": [b"NO mailbox does not exist"]}, False),
    ],
)
def test_what_passes_is_distinguished_from_what_somebody_has_to_change(
    authority: Authority, smtp_faults: dict[str, Any], imap_script: dict[str, Any], is_transient: bool
) -> None:
    """S-B1"""
    with pytest.raises(MailboxCheckError) as caught:
        check(authority, smtp_faults, imap_script)
    assert caught.value.transient is is_transient


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_an_impossible_host_name_is_a_failed_step_like_any_other(authority: Authority, protocol: str) -> None:
    """S-B1: two dots raise in the IDNA codec, where no network error is expected."""
    smtp, imap = FaultySmtpServer(authority.server_context()), ScriptedImapServer(authority.server_context())
    with smtp.running() as smtp_port, imap.running() as imap_port:
        access = an_access(smtp_port=smtp_port, imap_port=imap_port, **{f"{protocol}_host": "mail..north.test"})
        with pytest.raises(MailboxCheckError, match=rf"{protocol}_connect: .*'mail..north.test' is not") as caught:
            check_mailbox(access, "sandbox", {"localhost": authority.ca_file}, timeout=2)
    assert not caught.value.transient


def test_an_unverifiable_certificate_is_a_tls_failure(authority: Authority) -> None:
    """S-B1, E-B7"""
    wrong = authority.server_context("mail.north.test")
    with pytest.raises(MailboxCheckError, match=r"smtp_tls: .*CERTIFICATE_VERIFY_FAILED"):
        check(authority, {}, {}, smtp_context=wrong)
    with pytest.raises(MailboxCheckError, match=r"imap_connect: .*CERTIFICATE_VERIFY_FAILED"):
        check(authority, {}, {}, imap_context=wrong)


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_server_that_waits_for_tls_from_the_first_byte_is_named_as_such(authority: Authority, protocol: str) -> None:
    """S-B1: a port and a TLS mode that contradict each other look like a server that is silent."""
    smtp = FaultySmtpServer(authority.server_context(), implicit=protocol == "smtp")
    imap = ScriptedImapServer(authority.server_context(), implicit=protocol == "imap")
    with smtp.running() as smtp_port, imap.running() as imap_port:
        access = an_access(smtp_port=smtp_port, imap_port=imap_port, smtp_tls="starttls", imap_tls="starttls")
        with pytest.raises(MailboxCheckError) as caught:
            check_mailbox(access, "sandbox", {"localhost": authority.ca_file}, timeout=1)
    assert caught.value.stage == f"{protocol}_connect"
    assert f"expects TLS from the first byte; then {protocol}_tls is implicit" in caught.value.server_text


def test_sandbox_mode_does_not_even_ask_another_machine() -> None:
    """E-B10"""
    with pytest.raises(EgressRefusedError):
        check_mailbox(an_access(smtp_host="192.0.2.1"), "sandbox", {})
