"""E-B2, E-F6: the submission driver against a server that fails at every stage; what it says must be true."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops import smtp
from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.smtp import Attempt, SmtpConnection, Timeouts
from emberflow.email_ops.smtp_session import Session
from emberflow.errors import ConfigurationError, EgressRefusedError
from tests.unit.email_ops.fake_mail_servers import (
    PASSWORD,
    Authority,
    FaultySmtpServer,
    an_access,
    close,
    hang,
    reset,
)

MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
IMPATIENT = Timeouts(connect=2.0, command=0.25, end_of_data=0.25)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def a_connection(
    server: FaultySmtpServer, authority: Authority, timeouts: Timeouts = IMPATIENT, **changes: Any
) -> Iterator[SmtpConnection]:
    with server.running() as port:
        tls = "implicit" if server.implicit else "starttls"
        access = an_access(smtp_port=port, smtp_tls=tls, **changes)
        with SmtpConnection(access, "sandbox", {"localhost": authority.ca_file}, timeouts) as connection:
            yield connection


def send(connection: SmtpConnection, message: bytes = MESSAGE, to: str = "bo@south.test") -> Attempt:
    return connection.deliver(message, "ann@north.test", to, before_data=lambda: None)


def judged(attempt: Attempt) -> tuple[str, str, str, int | None]:
    return attempt.outcome, attempt.stage, attempt.scope, attempt.reply_code


# Where the server fails, how, and what must be said of it: outcome, stage, scope, reply code.
FAULTS: list[tuple[str, str, Any, tuple[str, str, str, int | None]]] = [
    ("banner_never", "banner", hang, ("transient", "dial", "host", None)),
    ("banner_close", "banner", close, ("transient", "dial", "host", None)),
    ("banner_rst", "banner", reset, ("transient", "dial", "host", None)),
    ("banner_421", "banner", "421 4.3.2 too busy", ("transient", "dial", "host", 421)),
    ("banner_554", "banner", "554 5.7.1 you are blocked", ("permanent", "dial", "host", 554)),
    ("banner_garbage", "banner", "HTTP/1.1 400 Bad Request", ("transient", "dial", "host", None)),
    ("421_on_ehlo", "ehlo", "421 4.3.2 shutting down", ("transient", "ehlo", "host", 421)),
    ("close_on_ehlo", "ehlo", close, ("transient", "ehlo", "host", None)),
    ("hang_on_ehlo", "ehlo", hang, ("transient", "ehlo", "host", None)),
    ("endless_ehlo", "ehlo", b"250-x\r\n" * 5000, ("transient", "ehlo", "host", None)),
    ("tls_454", "starttls", "454 4.7.0 TLS not available", ("transient", "tls", "host", 454)),
    ("tls_501", "starttls", "501 no parameters", ("permanent", "tls", "host", 501)),
    ("tls_drop", "starttls", ["220 go ahead", close], ("transient", "tls", "host", None)),
    ("tls_garbage", "starttls", "220 go ahead\r\n220 this is not TLS", ("transient", "tls", "host", None)),
    ("auth_535", "auth", "535 5.7.8 bad credentials", ("permanent", "auth", "mailbox", 535)),
    ("auth_454", "auth", "454 4.7.0 temporary failure", ("transient", "auth", "mailbox", 454)),
    ("auth_421", "auth", "421 4.7.0 too many logins", ("transient", "auth", "host", 421)),
    ("auth_drop", "auth", close, ("transient", "auth", "host", None)),
    ("auth_unexpected", "auth", "334 more", ("transient", "auth", "host", 334)),
    ("mail_451", "mail", "451 4.3.0 try later", ("transient", "mail", "mailbox", 451)),
    ("mail_553", "mail", "553 5.1.8 bad sender", ("permanent", "mail", "mailbox", 553)),
    ("mail_530", "mail", "530 5.7.0 authentication required", ("permanent", "mail", "mailbox", 530)),
    ("mail_552", "mail", "552 5.3.4 too big", ("permanent", "mail", "message", 552)),
    ("421_on_mail", "mail", "421 4.3.2 shutting down", ("transient", "mail", "host", 421)),
    ("close_on_mail", "mail", close, ("transient", "mail", "host", None)),
    ("hang_on_mail", "mail", hang, ("transient", "mail", "host", None)),
    ("rcpt_450", "rcpt", "450 4.2.1 greylisted", ("transient", "rcpt", "message", 450)),
    ("rcpt_550", "rcpt", "550 5.1.1 no such user", ("permanent", "rcpt", "message", 550)),
    ("rcpt_552", "rcpt", "552 5.2.2 quota", ("permanent", "rcpt", "message", 552)),
    ("rcpt_530", "rcpt", "530 5.7.0 log in first", ("permanent", "rcpt", "mailbox", 530)),
    ("rcpt_354", "rcpt", "354 what", ("transient", "rcpt", "host", 354)),
    ("421_on_rcpt", "rcpt", "421 4.3.2 shutting down", ("transient", "rcpt", "host", 421)),
    ("close_on_rcpt", "rcpt", close, ("transient", "rcpt", "host", None)),
    ("hang_on_rcpt", "rcpt", hang, ("transient", "rcpt", "host", None)),
    ("data_cmd_451", "data", "451 4.3.0 no", ("transient", "data", "message", 451)),
    ("data_cmd_554", "data", "554 5.5.1 no valid recipients", ("permanent", "data", "message", 554)),
    ("data_cmd_250", "data", "250 fine", ("transient", "data", "host", 250)),
    ("421_on_data", "data", "421 4.3.2 shutting down", ("transient", "data", "host", 421)),
    ("close_on_data", "data", close, ("transient", "data", "host", None)),
    ("hang_on_data", "data", hang, ("transient", "data", "host", None)),
    ("drop_before_250_lost", "eod", close, ("uncertain", "eod", "host", None)),
    ("eod_421", "eod", "421 4.3.2 shutting down", ("transient", "eod", "host", 421)),
    ("eod_451", "eod", "451 4.3.0 try later", ("transient", "eod", "message", 451)),
    ("eod_452", "eod", "452 4.3.1 insufficient storage", ("transient", "eod", "message", 452)),
    ("eod_550", "eod", "550 5.7.1 spam", ("permanent", "eod", "message", 550)),
    ("eod_552", "eod", "552 5.3.4 too big", ("permanent", "eod", "message", 552)),
    ("eod_535", "eod", "535 5.7.8 session expired", ("permanent", "eod", "mailbox", 535)),
]
STORED_BUT: list[tuple[str, Any]] = [
    ("drop_before_250_stored", close),
    ("rst_before_250_stored", reset),
    ("hang_before_250_stored", hang),
    ("partial_250_stored", [b"25", close]),
    ("cut_250_stored", [b"250 2.0.0 ok", close]),
    ("partial_multiline_stored", [b"250-first\r\n", close]),
    ("endless_line_stored", [b"250 " + b"x" * 10_000 + b"\r\n", close]),
    ("garbage_after_data_stored", "what"),
    ("continue_after_data_stored", "354 go on"),
]


@pytest.mark.parametrize(("stage", "action", "expected"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_is_named_by_outcome_stage_and_scope(
    authority: Authority, stage: str, action: Any, expected: tuple[str, str, str, int | None]
) -> None:
    """E-B2, E-F6"""
    server = FaultySmtpServer(authority.server_context(), faults={stage: action})
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert judged(attempt) == expected
    assert server.accepted == []
    assert attempt.server_text
    assert PASSWORD not in attempt.server_text


@pytest.mark.parametrize("action", [row[1] for row in STORED_BUT], ids=[row[0] for row in STORED_BUT])
def test_a_message_that_was_stored_without_a_clear_answer_is_uncertain(authority: Authority, action: Any) -> None:
    """Q-F5: never "not sent", although smtplib alone would say so of several of these."""
    server = FaultySmtpServer(authority.server_context(), faults={"eod": action}, store_at_eod=True)
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert (attempt.outcome, attempt.stage) == ("uncertain", "eod")
    assert server.accepted == [MESSAGE]


def test_a_connection_lost_before_the_final_dot_was_written_is_certainly_not_sent(authority: Authority) -> None:
    """RFC 5321 4.1.1.4: too large for the buffers in between, so the loss is noticed before the dot."""
    server = FaultySmtpServer(authority.server_context(), faults={"body": close})
    with a_connection(server, authority, Timeouts(command=5, end_of_data=5)) as connection:
        attempt = send(connection, MESSAGE + b"0123456789abcde\r\n" * 1_000_000)
    assert judged(attempt) == ("transient", "data", "host", None)


@pytest.mark.parametrize("action", [close, reset, hang])
def test_a_small_message_lost_on_the_way_is_never_called_sent_or_refused(authority: Authority, action: Any) -> None:
    """The client cannot see whether the server had read the dot already."""
    server = FaultySmtpServer(authority.server_context(), faults={"body": action})
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert (attempt.outcome, attempt.stage) in [("uncertain", "eod"), ("transient", "data")]
    assert server.accepted == []


@pytest.mark.parametrize(("stage", "action"), [("quit", close), ("quit", "421 bye"), ("eod", ["250 2.0.0 ok", close])])
def test_what_happens_after_the_250_does_not_take_it_back(authority: Authority, stage: str, action: Any) -> None:
    server = FaultySmtpServer(authority.server_context(), faults={stage: action}, store_at_eod=True)
    with a_connection(server, authority) as connection:
        attempt = send(connection)
        connection.close()
    assert attempt.outcome == "sent"
    assert server.accepted == [MESSAGE]


@pytest.mark.parametrize("implicit", [True, False])
def test_a_sent_message_is_reported_with_the_servers_words(authority: Authority, implicit: bool) -> None:
    server = FaultySmtpServer(authority.server_context(), implicit=implicit)
    with a_connection(server, authority) as connection:
        assert send(connection) == Attempt("sent", "eod", "message", 250, "2.0.0", "2.0.0 queued as 4711")
    assert server.accepted == [MESSAGE]
    assert "MAIL FROM:<ann@north.test> SIZE=22" in server.commands
    assert server.commands[0] == "EHLO north.test"


def test_a_host_where_nobody_listens_is_transient(authority: Authority) -> None:
    with SmtpConnection(an_access(), "sandbox", {}, IMPATIENT) as connection:
        assert judged(send(connection)) == ("transient", "dial", "host", None)


def test_a_host_that_does_not_resolve_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    with SmtpConnection(an_access(), "sandbox", {}, IMPATIENT) as connection:
        assert judged(send(connection)) == ("transient", "dial", "host", None)


def test_sandbox_mode_refuses_another_machine_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B10"""
    access = an_access(smtp_host="192.0.2.1")
    with SmtpConnection(access, "sandbox", {}, IMPATIENT) as connection, pytest.raises(EgressRefusedError):
        send(connection)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(
    "certificate", [{"host": "mail.north.test"}, {"expired": True}, {"self_signed": True}], ids=str
)
def test_a_certificate_that_does_not_verify_ends_the_session_before_the_login(
    authority: Authority, certificate: dict[str, Any], implicit: bool
) -> None:
    """E-B7: wrong host, expired and self-signed, over STARTTLS and over implicit TLS."""
    server = FaultySmtpServer(authority.server_context(**certificate), implicit=implicit)
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("permanent", "tls", "host", None)
    assert "CERTIFICATE_VERIFY_FAILED" in attempt.server_text
    assert not any(command.startswith("AUTH") for command in server.commands)


def test_without_a_configured_ca_our_own_authority_is_not_trusted(authority: Authority) -> None:
    """E-B7"""
    server = FaultySmtpServer(authority.server_context())
    with server.running() as port, SmtpConnection(an_access(smtp_port=port), "sandbox", {}) as connection:
        assert judged(send(connection)) == ("permanent", "tls", "host", None)


def test_stripped_starttls_ends_the_session_before_the_login(authority: Authority) -> None:
    """E-B7: nothing is ever sent in clear, whatever the server leaves out."""
    stripped = "250-fake\r\n250 AUTH PLAIN LOGIN"
    server = FaultySmtpServer(authority.server_context(), faults={"ehlo": stripped})
    with a_connection(server, authority) as connection:
        assert judged(send(connection)) == ("permanent", "tls", "host", None)
    assert server.commands == ["EHLO north.test"]


@pytest.mark.parametrize("offered", ["AUTH PLAIN LOGIN", "AUTH LOGIN"])
def test_the_login_is_the_mailboxs_also_outside_ascii(authority: Authority, offered: str) -> None:
    server = FaultySmtpServer(authority.server_context(), auth=offered)
    with a_connection(server, authority, password=SecretStr("pässwörd")) as connection:
        assert send(connection).outcome == "sent"
    sent = [command.rpartition(" ")[2] for command in server.commands]
    secret = "pässwörd" if "PLAIN" not in offered else "\0ann@north.test\0pässwörd"
    assert base64.b64encode(secret.encode()).decode() in sent


def test_a_refused_login_is_tried_once_and_not_again_with_another_mechanism(authority: Authority) -> None:
    """Providers lock an account after a few failures; smtplib alone would make three of one."""
    server = FaultySmtpServer(authority.server_context(), faults={"auth": "535 5.7.8 no"})
    with a_connection(server, authority) as connection:
        send(connection)
    assert sum(command.startswith("AUTH") for command in server.commands) == 1


def test_a_server_without_a_login_that_we_know_is_a_permanent_fault(authority: Authority) -> None:
    server = FaultySmtpServer(authority.server_context(), auth="AUTH CRAM-MD5")
    with a_connection(server, authority) as connection:
        assert judged(send(connection)) == ("permanent", "auth", "host", None)


@pytest.mark.parametrize(
    "quoted",
    [
        PASSWORD,
        base64.b64encode(PASSWORD.encode()).decode(),
        base64.b64encode(f"\0ann@north.test\0{PASSWORD}".encode()).decode(),
    ],
)
def test_a_server_that_quotes_the_login_does_not_get_it_into_our_records(authority: Authority, quoted: str) -> None:
    """S-B2"""
    server = FaultySmtpServer(authority.server_context(), faults={"auth": f"535 5.7.8 <{quoted}> is wrong"})
    with a_connection(server, authority) as connection:
        attempt = send(connection)
        assert PASSWORD not in repr(connection.__dict__)
    assert attempt.server_text == "5.7.8 <***> is wrong"
    assert attempt.enhanced_code == "5.7.8"


def test_server_text_is_one_printable_line_of_at_most_500_characters(authority: Authority) -> None:
    reply = b"550-5.7.1 \x1b[31mred\x07\r\n550 \xff" + b"y" * 900 + b"\r\n"
    server = FaultySmtpServer(authority.server_context(), faults={"rcpt": reply})
    with a_connection(server, authority) as connection:
        text = send(connection).server_text
    assert text.startswith("5.7.1 [31mred")
    assert text.isprintable()
    assert len(text) == 500


def test_one_connection_carries_several_messages(authority: Authority) -> None:
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        assert connection.open() is None
        assert [send(connection).outcome for _ in range(5)] == ["sent"] * 5
    assert server.connections == 1
    assert len(server.accepted) == 5


def test_a_connection_is_renewed_after_its_share_of_messages(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "MESSAGES_PER_CONNECTION", 2)
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        assert [send(connection).outcome for _ in range(5)] == ["sent"] * 5
    assert server.connections == 3


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "eod"])
@pytest.mark.parametrize("action", ["451 4.3.0 later", "550 5.7.1 no", "421 4.3.2 bye", "299 odd", close])
def test_after_a_failure_the_next_message_starts_clean(authority: Authority, stage: str, action: Any) -> None:
    server = FaultySmtpServer(authority.server_context(), faults={stage: action}, once=frozenset({stage}))
    with a_connection(server, authority) as connection:
        send(connection, b"Subject: first\r\n\r\n")
        second = send(connection, b"Subject: second\r\n\r\n")
    assert second.outcome == "sent"
    assert server.accepted[-1] == b"Subject: second\r\n\r\n"


def test_a_failing_reset_costs_the_connection_and_nothing_else(authority: Authority) -> None:
    faults = {"rcpt": "550 5.1.1 no", "rset": "500 what"}
    server = FaultySmtpServer(authority.server_context(), faults=faults, once=frozenset({"rcpt"}))
    with a_connection(server, authority) as connection:
        assert send(connection).outcome == "permanent"
        assert send(connection).outcome == "sent"
    assert server.connections == 2


@pytest.mark.parametrize("farewell", ["421 4.4.2 idle too long", close], ids=["421", "closed"])
def test_a_server_that_hung_up_between_two_messages_is_dialled_again(authority: Authority, farewell: Any) -> None:
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        assert send(connection).outcome == "sent"
        server.faults, server.once = {"mail": farewell}, frozenset({"mail"})
        assert send(connection).outcome == "sent"
    assert server.connections == 2
    assert len(server.accepted) == 2


def test_before_data_is_called_once_the_recipient_is_accepted_and_before_data_is_said(
    authority: Authority,
) -> None:
    """Q-B5"""
    seen: list[list[str]] = []
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        before_data: Callable[[], None] = lambda: seen.append(list(server.commands))  # noqa: E731
        connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=before_data)
    assert len(seen) == 1
    assert seen[0][-1] == "RCPT TO:<bo@south.test>"
    assert "DATA" not in seen[0]


@pytest.mark.parametrize("refusal", [RuntimeError("the slot was cancelled"), KeyboardInterrupt()])
def test_if_before_data_says_no_nothing_is_sent_and_the_connection_stays_usable(
    authority: Authority, refusal: BaseException
) -> None:
    """Q-B5, Q-B6"""

    def refuse() -> None:
        raise refusal

    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        with pytest.raises(type(refusal)):
            connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=refuse)
        assert server.commands[-1] == "RSET"
        assert server.accepted == []
        assert send(connection).outcome == "sent"
    assert server.connections == 1
    assert len(server.accepted) == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
def test_before_data_is_not_called_when_the_envelope_is_refused(authority: Authority, stage: str) -> None:
    server = FaultySmtpServer(authority.server_context(), faults={stage: "550 no"})
    with a_connection(server, authority) as connection:
        connection.deliver(MESSAGE, "a@north.test", "b@south.test", before_data=lambda: pytest.fail("called"))


def test_an_interrupt_while_waiting_for_a_reply_never_leaves_that_reply_to_the_next_message(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        connection.open()
        with monkeypatch.context() as patched:
            patched.setattr(Session, "getreply", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                send(connection)
        assert send(connection).outcome == "sent"
    assert server.connections == 2


def test_lines_that_begin_with_a_dot_arrive_unchanged(authority: Authority) -> None:
    tricky = b"Subject: dots\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n"
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        assert send(connection, tricky).outcome == "sent"
    unstuffed = b"".join(line.removeprefix(b".") for line in server.accepted[0].splitlines(keepends=True))
    assert unstuffed == tricky


@pytest.mark.parametrize(
    "smuggled",
    [
        b"a\n.\r\nMAIL",
        b"a\r.\r\nMAIL",
        b"a\r\n.\nMAIL",
        b"no end",
        b"\xc3\xa9\r\n",
        b"\0\r\n",
        b"x" * 999 + b"\r\n",
    ],
)
def test_bytes_that_servers_read_differently_are_a_programming_error(authority: Authority, smuggled: bytes) -> None:
    """SMTP smuggling, and what 7-bit SMTP cannot carry."""
    with (
        SmtpConnection(an_access(), "sandbox", {}) as connection,
        pytest.raises(ValueError, match="7-bit lines"),
    ):
        send(connection, smuggled if smuggled == b"no end" else smuggled + b"\r\n")


@pytest.mark.parametrize("address", ["bo@exam ple.test", "bo@y.test\r\nRCPT TO:<eve@evil.test>", "bo@y.test>"])
def test_an_address_that_smtplib_would_repair_is_refused_unsent(address: str) -> None:
    with SmtpConnection(an_access(), "sandbox", {}) as connection:
        with pytest.raises(AddressError):
            send(connection, to=address)
        with pytest.raises(AddressError):
            connection.deliver(MESSAGE, address, "bo@south.test", before_data=lambda: None)


def test_a_login_with_a_nul_is_a_configuration_error_that_does_not_show_it(authority: Authority) -> None:
    server = FaultySmtpServer(authority.server_context())
    secret = SecretStr("a\0b")
    with (
        a_connection(server, authority, password=secret) as connection,
        pytest.raises(ConfigurationError) as caught,
    ):
        send(connection)
    assert "a\0b" not in str(caught.value)
    assert not any(command.startswith(("AUTH", "MAIL")) for command in server.commands)


def test_a_login_that_was_never_finished_does_not_count_as_one(authority: Authority) -> None:
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority, password=SecretStr("a\0b")) as connection:
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                connection.open()
    assert server.connections == 2


def test_the_final_dot_is_waited_for_ten_minutes() -> None:
    """RFC 5321 4.5.3.2.6: giving up earlier only makes messages uncertain."""
    assert Timeouts().end_of_data == 600.0


def test_the_password_is_not_in_the_mailboxs_representation() -> None:
    """S-B2"""
    assert PASSWORD not in repr(an_access())
    assert PASSWORD not in str(an_access())
