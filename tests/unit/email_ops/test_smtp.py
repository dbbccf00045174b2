"""E-B2, E-F6: the submission driver against a server that fails at every stage; what it says must be true."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow import crash_points
from emberflow.crash_points import CrashPoint
from emberflow.domain.attempt import Attempt
from emberflow.email_ops import smtp, smtp_session
from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.smtp_session import Session
from emberflow.email_ops.timeouts import Timeouts
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.settings import PROJECT_ROOT
from tests.unit.email_ops.fake_mail_servers import (
    CRAM_CHALLENGE,
    PASSWORD,
    Action,
    Authority,
    FaultySmtpServer,
    an_access,
    close,
    drip_lines,
    flood,
    hang,
    long_lines,
    pause,
    reset,
    trickle,
)

MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
PATIENT = Timeouts(connect=10, greeting=10, command=10, data_start=10, data_block=10, end_of_data=10)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def a_connection(
    server: FaultySmtpServer, authority: Authority, timeouts: Timeouts = PATIENT, **changes: Any
) -> Iterator[SmtpConnection]:
    with server.running() as port:
        tls = "implicit" if server.implicit else "starttls"
        access = an_access(smtp_port=port, smtp_tls=tls, **changes)
        with SmtpConnection(access, "sandbox", {"localhost": authority.ca_file}, timeouts) as connection:
            yield connection


def send(connection: SmtpConnection, message: bytes = MESSAGE, to: str = "bo@south.test") -> Attempt:
    return connection.deliver(message, "ann@north.test", to, before_data=lambda: 3600.0)


def judged(attempt: Attempt) -> tuple[str, str, str, int | None]:
    return attempt.outcome, attempt.stage, attempt.scope, attempt.reply_code


def impatient_at(stage: str, action: Any) -> Timeouts:
    """Time-outs that are short for a server that never answers at ``stage``, and only there."""
    if action not in (hang, trickle, drip_lines):
        return PATIENT
    phase = {"banner": "greeting", "data": "data_start", "eod": "end_of_data"}.get(stage, "command")
    return replace(PATIENT, **{phase: 0.4})


def names(rows: list[tuple[str, str, Any, tuple[str, str, str, int | None]]]) -> list[str]:
    """The names of the rows of a fault table."""
    return [row[0] for row in rows]


# Every fault that a server can show, by where it happens: the stage, what the server does there, and what must be
# said of it: outcome, stage, scope, reply code. None of these messages was accepted.
NOT_ACCEPTED: list[tuple[str, str, Any, tuple[str, str, str, int | None]]] = [
    ("banner_never", "banner", hang, ("transient", "dial", "host", None)),
    ("banner_trickle", "banner", trickle, ("transient", "dial", "host", None)),
    ("banner_drip", "banner", drip_lines, ("transient", "dial", "host", None)),
    ("banner_flood", "banner", flood, ("transient", "dial", "host", None)),
    ("banner_long", "banner", long_lines, ("transient", "dial", "host", None)),
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
# The server accepted these, whatever it said or did not say.
ACCEPTED: list[tuple[str, str, Any, tuple[str, str, str, int | None]]] = [
    ("none", "none", [], ("sent", "eod", "message", 250)),
    ("banner_delay", "banner", [pause, "220 at last"], ("sent", "eod", "message", 250)),
    ("slow_250_stored", "eod", [pause, "250 2.0.0 at last"], ("sent", "eod", "message", 250)),
    ("close_after_250", "eod", ["250 2.0.0 ok", close], ("sent", "eod", "message", 250)),
    ("421_after_250", "eod", "250 2.0.0 ok\r\n421 4.4.2 idle", ("sent", "eod", "message", 250)),
    ("quit_drop", "quit", close, ("sent", "eod", "message", 250)),
    ("quit_421", "quit", "421 bye", ("sent", "eod", "message", 250)),
    ("drop_before_250_stored", "eod", close, ("uncertain", "eod", "host", None)),
    ("rst_before_250_stored", "eod", reset, ("uncertain", "eod", "host", None)),
    ("hang_before_250_stored", "eod", hang, ("uncertain", "eod", "host", None)),
    ("trickle_before_250_stored", "eod", trickle, ("uncertain", "eod", "host", None)),
    ("flood_stored", "eod", flood, ("uncertain", "eod", "host", None)),
    ("long_stored", "eod", long_lines, ("uncertain", "eod", "host", None)),
    ("partial_250_stored", "eod", [b"25", close], ("uncertain", "eod", "host", None)),
    ("cut_250_stored", "eod", [b"250 2.0.0 ok", close], ("uncertain", "eod", "host", None)),
    ("partial_multiline_stored", "eod", [b"250-first\r\n", close], ("uncertain", "eod", "host", None)),
    ("endless_line_stored", "eod", [b"250 " + b"x" * 10_000 + b"\r\n", close], ("uncertain", "eod", "host", None)),
    ("garbage_after_data_stored", "eod", "what", ("uncertain", "eod", "host", None)),
    ("continue_after_data_stored", "eod", "354 go on", ("uncertain", "eod", "host", 354)),
]
PIPELINING = ("SIZE 1000000", "8BITMIME", "PIPELINING")


@pytest.mark.parametrize("extensions", [(), PIPELINING], ids=["plain", "pipelining"])
@pytest.mark.parametrize(("stage", "action", "expected"), [row[1:] for row in NOT_ACCEPTED], ids=names(NOT_ACCEPTED))
def test_a_fault_before_the_message_is_accepted_is_named_by_outcome_stage_and_scope(
    authority: Authority,
    stage: str,
    action: Any,
    expected: tuple[str, str, str, int | None],
    extensions: tuple[str, ...],
) -> None:
    """E-B2, E-F6: the fault table, one row a test, with and without PIPELINING."""
    server = FaultySmtpServer(authority.server_context(), faults={stage: action}, extensions=extensions)
    with a_connection(server, authority, impatient_at(stage, action)) as connection:
        attempt = send(connection)
    assert judged(attempt) == expected
    assert server.accepted == []
    assert attempt.server_text
    assert PASSWORD not in attempt.server_text


@pytest.mark.parametrize("extensions", [(), PIPELINING], ids=["plain", "pipelining"])
@pytest.mark.parametrize(("stage", "action", "expected"), [row[1:] for row in ACCEPTED], ids=names(ACCEPTED))
def test_a_message_that_was_accepted_is_sent_or_uncertain_and_never_not_sent(
    authority: Authority,
    stage: str,
    action: Any,
    expected: tuple[str, str, str, int | None],
    extensions: tuple[str, ...],
) -> None:
    """E-B2, Q-F5, cases 19 and 36: never "not sent", although smtplib alone would say so of several of these."""
    server = FaultySmtpServer(
        authority.server_context(), faults={stage: action}, store_at_eod=True, extensions=extensions
    )
    with a_connection(server, authority, impatient_at(stage, action)) as connection:
        attempt = send(connection)
        connection.close()
    assert judged(attempt) == expected
    assert server.accepted == [MESSAGE]


def test_another_thread_can_cut_short_the_wait_for_an_answer(authority: Authority) -> None:
    """Q-F5: cut after the dot, a message is uncertain like any other whose answer never came."""
    server = FaultySmtpServer(authority.server_context(), faults={"eod": hang}, store_at_eod=True)
    with a_connection(server, authority, replace(PATIENT, end_of_data=600)) as connection:

        def cut() -> None:
            deadline = time.monotonic() + 60
            while not server.accepted and time.monotonic() < deadline:
                time.sleep(0.01)
            connection.abort()

        cutter = threading.Thread(target=cut)
        cutter.start()
        attempt = send(connection)
        cutter.join()
    assert judged(attempt) == ("uncertain", "eod", "host", None)


def test_a_connection_lost_before_the_final_dot_was_written_is_certainly_not_sent(authority: Authority) -> None:
    """RFC 5321 4.1.1.4: too large for the buffers in between, so the loss is noticed before the dot."""
    server = FaultySmtpServer(authority.server_context(), faults={"body": close})
    with a_connection(server, authority) as connection:
        attempt = send(connection, MESSAGE + b"0123456789abcde\r\n" * 1_000_000)
    assert judged(attempt) == ("transient", "data", "host", None)


@pytest.mark.parametrize("action", [close, reset, hang])
def test_a_small_message_lost_on_the_way_is_never_called_sent_or_refused(authority: Authority, action: Any) -> None:
    """The client cannot see whether the server had read the dot already."""
    server = FaultySmtpServer(authority.server_context(), faults={"body": action})
    with a_connection(server, authority, impatient_at("eod", action)) as connection:
        attempt = send(connection)
    assert (attempt.outcome, attempt.stage) in [("uncertain", "eod"), ("transient", "data")]
    assert server.accepted == []


@pytest.mark.parametrize("implicit", [True, False])
def test_a_sent_message_is_reported_with_the_servers_words(authority: Authority, implicit: bool) -> None:
    server = FaultySmtpServer(authority.server_context(), implicit=implicit)
    with a_connection(server, authority) as connection:
        assert send(connection) == Attempt("sent", "eod", "message", 250, "2.0.0", "2.0.0 queued as 4711")
    assert server.accepted == [MESSAGE]
    assert "MAIL FROM:<ann@north.test> SIZE=22" in server.commands
    assert server.commands[0] == "EHLO north.test"


def test_a_host_where_nobody_listens_is_transient(authority: Authority) -> None:
    with SmtpConnection(an_access(), "sandbox", {}, PATIENT) as connection:
        assert judged(send(connection)) == ("transient", "dial", "host", None)


def test_a_host_that_never_answers_a_connection_is_transient() -> None:
    """E-B2: a full backlog drops the handshake as a firewall does."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        access = an_access(smtp_host="127.0.0.1", smtp_port=listener.getsockname()[1])
        with SmtpConnection(access, "sandbox", {}, replace(PATIENT, connect=0.3)) as connection:
            assert judged(send(connection)) == ("transient", "dial", "host", None)


@pytest.mark.parametrize(
    ("errno", "outcome"), [(socket.EAI_AGAIN, "transient"), (socket.EAI_NONAME, "permanent")], ids=["away", "no_such"]
)
def test_a_host_that_does_not_exist_is_distinguished_from_a_name_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, errno: int, outcome: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(errno, "no address")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    with SmtpConnection(an_access(), "sandbox", {}, PATIENT) as connection:
        assert judged(send(connection)) == (outcome, "dial", "host", None)


def test_sandbox_mode_refuses_another_machine_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B10"""
    access = an_access(smtp_host="192.0.2.1")
    with SmtpConnection(access, "sandbox", {}, PATIENT) as connection, pytest.raises(EgressRefusedError):
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


@pytest.mark.parametrize(
    "refusal",
    [
        "504 5.7.4 Unrecognized authentication type",
        "502 Invalid input",
        "500 5.5.1 unrecognized command",
        "503 5.5.1 AUTH PLAIN not available",
        "534 5.7.9 Authentication mechanism is too weak",
        "535 Error: authentication failed: Invalid authentication mechanism",
        "538 5.7.11 Encryption required for requested authentication mechanism",
    ],
)
@pytest.mark.parametrize("refused", [("PLAIN",), ("PLAIN", "LOGIN")], ids=" ".join)
def test_a_mechanism_that_is_announced_and_refused_gives_way_to_the_next(
    authority: Authority, refusal: str, refused: tuple[str, ...]
) -> None:
    """RFC 4954 4: QQ, Naver and some Exchange servers announce more than they take."""
    server = FaultySmtpServer(
        authority.server_context(), auth="AUTH PLAIN LOGIN CRAM-MD5", refused_mechanisms=dict.fromkeys(refused, refusal)
    )
    with a_connection(server, authority) as connection:
        assert send(connection).outcome == "sent"
    tried = [command.split(" ")[1] for command in server.commands if command.startswith("AUTH")]
    assert tried == ["PLAIN", "LOGIN", "CRAM-MD5"][: len(refused) + 1]


def test_if_every_mechanism_is_refused_the_last_refusal_is_reported(authority: Authority) -> None:
    refused = {"PLAIN": "504 5.5.4 no PLAIN", "LOGIN": "504 5.5.4 no LOGIN"}
    server = FaultySmtpServer(authority.server_context(), refused_mechanisms=refused)
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("permanent", "auth", "mailbox", 504)
    assert attempt.server_text == "5.5.4 no LOGIN"


def test_cram_md5_proves_the_password_without_saying_it(authority: Authority) -> None:
    """RFC 2195 2: keyed MD5 of the challenge, after the user name."""
    server = FaultySmtpServer(authority.server_context(), auth="AUTH CRAM-MD5")
    with a_connection(server, authority) as connection:
        assert send(connection).outcome == "sent"
    digest = hmac.new(PASSWORD.encode(), CRAM_CHALLENGE, hashlib.md5).hexdigest()
    assert server.sasl == [f"ann@north.test {digest}"]


@pytest.mark.parametrize(
    "refusal",
    ["535 5.7.8 Error: authentication failed: Temporary authentication failure", "550 Connection frequency limited"],
)
def test_a_limit_or_an_outage_at_the_login_is_transient_whatever_the_code(authority: Authority, refusal: str) -> None:
    """Nothing is wrong with the password, so the mailbox must not be paused."""
    server = FaultySmtpServer(authority.server_context(), faults={"auth": refusal})
    with a_connection(server, authority) as connection:
        assert judged(send(connection)) == ("transient", "auth", "mailbox", int(refusal[:3]))
    assert sum(command.startswith("AUTH") for command in server.commands) == 1


def test_a_server_without_a_login_that_we_know_is_a_permanent_fault(authority: Authority) -> None:
    server = FaultySmtpServer(authority.server_context(), auth="AUTH GSSAPI")
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


@pytest.mark.parametrize("extensions", [(), PIPELINING], ids=["plain", "pipelining"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "eod"])
@pytest.mark.parametrize("action", ["451 4.3.0 later", "550 5.7.1 no", "421 4.3.2 bye", "299 odd", close])
def test_after_a_failure_the_next_message_starts_clean(
    authority: Authority, stage: str, action: Any, extensions: tuple[str, ...]
) -> None:
    """case 16: whatever was refused, and wherever, is over before the next MAIL."""
    server = FaultySmtpServer(
        authority.server_context(), faults={stage: action}, once=frozenset({stage}), extensions=extensions
    )
    with a_connection(server, authority) as connection:
        send(connection, b"Subject: first\r\n\r\n")
        second = send(connection, b"Subject: second\r\n\r\n")
    assert second.outcome == "sent"
    assert server.accepted[-1] == b"Subject: second\r\n\r\n"


def test_a_failing_reset_costs_the_connection_and_nothing_else(authority: Authority) -> None:
    """case 16: a session that cannot be cleared is not used again."""
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

    def before_data() -> float:
        seen.append(list(server.commands))
        return 3600.0

    with a_connection(server, authority) as connection:
        connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=before_data)
    assert len(seen) == 1
    assert seen[0][-1] == "RCPT TO:<bo@south.test>"
    assert "DATA" not in seen[0]


def test_with_pipelining_mail_and_rcpt_are_one_write_and_data_is_still_asked_for_alone(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-B5, RFC 2920: half the round trips, and the guard stays in front of DATA."""
    written: list[bytes | str] = []
    send_as_usual = Session.send

    def record(session: Session, data: bytes | str) -> None:
        written.append(data)
        send_as_usual(session, data)

    def guard() -> float:
        written.append("the guard")
        return 60.0

    server = FaultySmtpServer(authority.server_context(), extensions=PIPELINING)
    with a_connection(server, authority) as connection:
        connection.open()
        monkeypatch.setattr(Session, "send", record)
        attempt = connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=guard)
    assert attempt.outcome == "sent"
    envelope = "MAIL FROM:<ann@north.test> SIZE=22\r\nRCPT TO:<bo@south.test>\r\n"
    assert written[:4] == [envelope, "the guard", "DATA\r\n", MESSAGE + b".\r\n"]


def test_a_refused_sender_is_reported_even_if_the_server_takes_the_recipient(authority: Authority) -> None:
    """RFC 2920: a refused MAIL with RCPT behind it has two answers, and both are read."""
    faults = {"mail": "550 5.7.1 no"}
    server = FaultySmtpServer(
        authority.server_context(), faults=faults, once=frozenset({"mail"}), extensions=PIPELINING
    )
    with a_connection(server, authority) as connection:
        assert judged(send(connection)) == ("permanent", "mail", "mailbox", 550)
        assert send(connection).outcome == "sent"
    assert server.connections == 1
    assert [command.split(" ")[0] for command in server.commands[-7:]] == [
        "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA", "QUIT",
    ]  # fmt: skip


def test_an_answer_that_was_not_asked_for_is_never_taken_for_the_answer_to_the_dot(authority: Authority) -> None:
    """E-F6: "354" and "250" in one breath would otherwise read as "sent" before the message is there."""
    server = FaultySmtpServer(authority.server_context(), faults={"data": "354 go on\r\n250 2.0.0 queued"})
    with a_connection(server, authority) as connection:
        assert judged(send(connection)) == ("transient", "data", "host", None)
    assert server.accepted == []


def test_replies_in_front_of_the_tls_handshake_are_not_read_as_if_they_came_under_it(authority: Authority) -> None:
    """E-B7, RFC 3207: response injection, CVE-2011-0411 seen from the client's side."""
    injected = "220 go ahead\r\n250-fake\r\n250 AUTH PLAIN"
    server = FaultySmtpServer(authority.server_context(), faults={"starttls": injected})
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("transient", "tls", "host", None)
    assert "out of turn" in attempt.server_text
    assert not any(command.startswith("AUTH") for command in server.commands)


def slowly(_connection: socket.socket) -> bool:
    """Take a while, which is well within the time for one answer."""
    time.sleep(0.3)
    return True


def test_a_server_that_takes_its_time_at_every_step_of_the_login_is_left(authority: Authority) -> None:
    """E-F6: each answer comes in time, and the login as a whole does not."""
    faults: dict[str, Action | Sequence[Action]] = {
        "banner": [slowly, "220 fake"],
        "starttls": "220 go ahead",
        "ehlo": [slowly, "250-fake\r\n250-STARTTLS\r\n250 AUTH PLAIN"],
        "auth": [slowly, "235 welcome"],
    }
    server = FaultySmtpServer(authority.server_context(), implicit=True, faults=faults)
    with a_connection(server, authority, replace(PATIENT, login=0.8)) as connection:
        assert judged(send(connection)) == ("transient", "auth", "host", None)
    with a_connection(server, authority) as connection:
        assert send(connection).outcome == "sent"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("action", [trickle, drip_lines])
def test_nobody_waits_for_the_answer_to_quit(authority: Authority, action: Any) -> None:
    """RFC 5321 4.1.1.10: what was sent stays sent; the time-out of the test is what an endless wait would meet."""
    server = FaultySmtpServer(authority.server_context(), faults={"quit": action})
    with a_connection(server, authority, replace(PATIENT, command=600)) as connection:
        assert send(connection).outcome == "sent"
        connection.close()
    assert server.commands[-1] == "QUIT"


@pytest.mark.timeout(30)
def test_a_refusal_is_reported_although_the_server_never_answers_the_reset(authority: Authority) -> None:
    """E-F6: the slot's lease runs meanwhile, so what is known is not held back for long."""
    faults: dict[str, Action | Sequence[Action]] = {"rcpt": "550 5.1.1 no such user", "rset": trickle}
    server = FaultySmtpServer(authority.server_context(), faults=faults)
    with a_connection(server, authority, replace(PATIENT, command=600)) as connection:
        assert judged(send(connection)) == ("permanent", "rcpt", "message", 550)
        assert connection.session is None


@pytest.mark.parametrize(
    "host", ["smtp..north.test", f"{'x' * 64}.test", ".north.test"], ids=["two dots", "long label", "leading dot"]
)
def test_an_impossible_host_name_is_a_fault_of_this_mailbox_only(host: str) -> None:
    """E-F6: it raises in the IDNA codec, not in the network."""
    with SmtpConnection(an_access(smtp_host=host), "sandbox", {}, PATIENT) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("permanent", "dial", "host", None)
    assert "is not a host name" in attempt.server_text


def test_an_error_that_nobody_has_thought_of_is_this_mailboxs_own(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """E-F6: reported like every other failure, and logged with where it came from, without what it may quote."""

    def fail(_session: Session) -> tuple[int, bytes]:
        raise LookupError(f"unknown encoding: {PASSWORD}")

    monkeypatch.setattr(Session, "ehlo", fail)
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("transient", "ehlo", "mailbox", None)
    assert attempt.server_text == "LookupError: unknown encoding: ***"
    assert "ann@north.test, ehlo: LookupError" in caplog.text
    assert "in fail" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("message", [MESSAGE, MESSAGE + b"0123456789abcde\r\n" * 1000], ids=["short", "long"])
@pytest.mark.parametrize("at", ["write", "read"])
def test_an_error_that_nobody_has_thought_of_after_the_dot_is_uncertain(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, at: str, message: bytes
) -> None:
    """Q-F5: whatever it is, it proves nothing about the message."""
    send_as_usual, reply_as_usual, dots = Session.send, Session.reply, 0

    def write(session: Session, data: bytes | str) -> None:
        nonlocal dots
        send_as_usual(session, data)
        if isinstance(data, bytes) and data.endswith(b".\r\n"):
            dots += 1
            if at == "write":
                raise LookupError("after it was written")

    def read(session: Session) -> Any:
        if dots:
            raise LookupError("before it was read")
        return (yield from reply_as_usual(session))

    monkeypatch.setattr(Session, "send", write)
    monkeypatch.setattr(Session, "reply", read)
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        attempt = send(connection, message)
    assert judged(attempt) == ("uncertain", "eod", "mailbox", None)
    assert server.accepted == [message]


def test_a_connection_that_was_closed_before_the_content_is_no_doubt(authority: Authority) -> None:
    """RFC 5321 4.1.1.4: the server's farewell is there already, so no dot is written into the void."""
    gone = threading.Event()

    def leave(connection: socket.socket) -> None:
        connection.sendall(b"354 go on\r\n421 4.3.2 shutting down\r\n")
        close(connection)
        gone.set()

    server = FaultySmtpServer(authority.server_context(), faults={"data": leave})
    with a_connection(server, authority) as connection:
        connection.open()
        steps = connection.dialogue(MESSAGE, "ann@north.test", "bo@south.test")
        attempt = lead(connection, steps, before=lambda: gone.wait(10) if server.commands[-1] == "DATA" else None)
    assert judged(attempt) == ("transient", "data", "host", None)


def lead(connection: SmtpConnection, steps: Any, before: Callable[[], Any]) -> Attempt:
    """Lead a dialogue; ``before`` is called whenever it has waited for the server, before it goes on."""
    session, answer = connection.session, None
    assert session is not None
    try:
        while True:
            until, answer = steps.send(answer), None
            if until is None:
                answer = 3600.0
            else:
                session.wait_until(until)
                before()
    except StopIteration as end:
        attempt: Attempt = end.value
        return attempt


@pytest.mark.parametrize("reply", [b"250 2.0.0 queued", b"250-and more of it, on and on\r\n" * 150 + b"250 end"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "eod"])
def test_an_answer_that_has_arrived_counts_although_the_deadline_is_over(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, stage: str, reply: bytes
) -> None:
    """Q-F5: as after a stop (SIGSTOP, a sleeping machine); the long one lies partly within the TLS library already."""
    server = FaultySmtpServer(authority.server_context(), faults={stage: [pause, reply + b"\r\n"]}, store_at_eod=True)
    clock = Jumping()
    monkeypatch.setattr(smtp_session, "time", clock)
    with a_connection(server, authority) as connection:
        connection.open()
        steps = connection.dialogue(MESSAGE, "ann@north.test", "bo@south.test")
        attempt = lead(connection, steps, before=clock.jump)
    assert attempt.outcome == "sent"
    assert len(server.accepted) == 1


def test_an_answer_that_has_arrived_counts_although_the_connection_was_cut_meanwhile(authority: Authority) -> None:
    """Q-F5: a run that stops cuts what it waits for; what lies in the socket by then is still read, under TLS."""
    server = FaultySmtpServer(authority.server_context(), faults={"eod": [pause, "250 2.0.0 ok"]}, store_at_eod=True)
    with a_connection(server, authority) as connection:
        connection.open()
        steps = connection.dialogue(MESSAGE, "ann@north.test", "bo@south.test")
        attempt = lead(connection, steps, before=lambda: connection.abort() if server.accepted else None)
    assert judged(attempt) == ("sent", "eod", "message", 250)


class Jumping:
    """The module ``time`` of a process that is away for hours at each :meth:`jump`."""

    def __init__(self) -> None:
        self._away = 0.0

    def jump(self) -> None:
        self._away += 10_000

    def monotonic(self) -> float:
        return time.monotonic() + self._away


STOPPED = """
    import sys
    from pathlib import Path
    from emberflow.email_ops.smtp import SmtpConnection
    from emberflow.email_ops.timeouts import Timeouts
    from tests.unit.email_ops.fake_mail_servers import an_access

    port, ca_file = int(sys.argv[1]), Path(sys.argv[2])
    timeouts = Timeouts(end_of_data=3)
    with SmtpConnection(an_access(smtp_port=port), "sandbox", {"localhost": ca_file}, timeouts) as connection:
        attempt = connection.deliver(
            b"Subject: x\\r\\n\\r\\n", "ann@north.test", "bo@south.test", before_data=lambda: 3600
        )
    print(attempt.outcome, attempt.stage, attempt.server_text)
"""


def test_a_process_that_was_stopped_past_its_deadline_reads_the_answer_that_came_meanwhile(
    authority: Authority,
) -> None:
    """Q-F5: a real SIGSTOP while it waits for the answer to the dot; what the server said is known."""
    started: list[subprocess.Popen[str]] = []

    def stop_and_answer(connection: socket.socket) -> bool:
        time.sleep(0.5)  # by now it waits
        started[0].send_signal(signal.SIGSTOP)
        connection.sendall(b"250 2.0.0 queued as 4711\r\n")
        time.sleep(3.5)
        started[0].send_signal(signal.SIGCONT)
        return True

    server = FaultySmtpServer(authority.server_context(), faults={"eod": stop_and_answer}, store_at_eod=True)
    with server.running() as port:
        command = [sys.executable, "-c", textwrap.dedent(STOPPED), str(port), str(authority.ca_file)]
        stopped = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
        started.append(stopped)
        try:
            said, _ = stopped.communicate(timeout=60)
        finally:
            stopped.kill()
            stopped.wait()
    assert said == "sent eod 2.0.0 queued as 4711\n"


class Elapsed:
    """A clock that jumps by ``jump`` seconds when the driver reaches ``point``."""

    def __init__(self, point: CrashPoint, jump: float) -> None:
        self.now = 1000.0
        self._point, self._jump = point, jump

    def __call__(self) -> float:
        return self.now

    def reach(self, point: CrashPoint) -> None:
        if point == self._point:
            self.now += self._jump


LEASE_S = 100.0


def deliver_with_a_pause(
    server: FaultySmtpServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, elapsed: Elapsed
) -> tuple[Attempt, Attempt]:
    """Send a first message that is held up as ``elapsed`` says, and then a second one."""
    monkeypatch.setattr(crash_points, "on_reach", elapsed.reach)
    with server.running() as port:
        access = an_access(smtp_port=port)
        trusted = {"localhost": authority.ca_file}
        with SmtpConnection(access, "sandbox", trusted, PATIENT, elapsed=elapsed) as connection:
            first = connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=lambda: LEASE_S)
            return first, send(connection)


@pytest.mark.parametrize("point", ["after_guard", "after_data", "before_dot"])
def test_a_message_whose_lease_ended_on_the_way_is_not_completed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, point: CrashPoint
) -> None:
    """Q-B4, RFC 5321 4.1.1.4: no dot, no message; and the connection is not used again."""
    server = FaultySmtpServer(authority.server_context())
    first, second = deliver_with_a_pause(server, authority, monkeypatch, Elapsed(point, LEASE_S))
    assert judged(first) == ("transient", "data", "message", None)
    assert first.server_text == "the lease ended before the message was complete"
    assert second.outcome == "sent"
    assert len(server.accepted) == 1
    assert server.connections == 2


@pytest.mark.parametrize(
    ("point", "jump"), [("before_guard", 10 * LEASE_S), ("before_dot", LEASE_S - 1), ("after_dot", 10 * LEASE_S)]
)
def test_time_that_passes_outside_the_lease_stops_no_message(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, point: CrashPoint, jump: float
) -> None:
    """The lease runs from just before the guard, and what the server has accepted stays accepted."""
    server = FaultySmtpServer(authority.server_context())
    first, _ = deliver_with_a_pause(server, authority, monkeypatch, Elapsed(point, jump))
    assert first.outcome == "sent"
    assert len(server.accepted) == 2


LONG = b"Subject: long\r\n\r\n" + b"a line of this long message\r\n" * 1000


@pytest.mark.parametrize("message", [MESSAGE, LONG])
def test_only_content_that_is_too_long_for_one_write_leaves_before_its_dot(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    """RFC 5321 4.1.1.4: whichever way it goes out, a lease that ends before the dot ends without a message."""
    server = FaultySmtpServer(authority.server_context())
    elapsed = Elapsed("before_dot", LEASE_S)
    written: list[bytes | str] = []
    send_all = Session.send

    def recorded(session: Session, s: bytes | str) -> Any:
        written.append(s)
        return send_all(session, s)

    monkeypatch.setattr(Session, "send", recorded)
    monkeypatch.setattr(crash_points, "on_reach", elapsed.reach)
    with server.running() as port:
        trusted = {"localhost": authority.ca_file}
        with SmtpConnection(an_access(smtp_port=port), "sandbox", trusted, PATIENT, elapsed=elapsed) as connection:
            late = connection.deliver(message, "ann@north.test", "bo@south.test", before_data=lambda: LEASE_S)
            assert judged(late) == ("transient", "data", "message", None)
            assert (written[-1] == message) == (message == LONG)
            monkeypatch.setattr(crash_points, "on_reach", lambda _: None)
            assert send(connection, message).outcome == "sent"
    assert server.accepted == [message]


@pytest.mark.parametrize(("message", "known"), [(MESSAGE, ("transient", "data")), (LONG, ("uncertain", "eod"))])
def test_a_dot_whose_write_failed_did_not_arrive_if_its_record_held_content_too(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, message: bytes, known: tuple[str, str]
) -> None:
    """Q-F5: what was cut off within a TLS record cannot be read by anybody."""
    send_all = Session.send

    def lose_the_dot(session: Session, s: bytes | str) -> None:
        if isinstance(s, bytes) and s.endswith(b".\r\n") and server.commands[-1] == "DATA":
            raise ConnectionResetError("gone")
        send_all(session, s)

    monkeypatch.setattr(Session, "send", lose_the_dot)
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        attempt = send(connection, message)
    assert (attempt.outcome, attempt.stage) == known
    assert server.accepted == []


ZOMBIE = """
    import os, signal, sys
    from pathlib import Path
    from emberflow import crash_points
    from emberflow.email_ops.smtp import SmtpConnection
    from tests.unit.email_ops.fake_mail_servers import an_access

    point, port, ca_file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    crash_points.on_reach = lambda reached: os.kill(os.getpid(), signal.SIGSTOP) if reached == point else None
    with SmtpConnection(an_access(smtp_port=port), "sandbox", {"localhost": ca_file}) as connection:
        attempt = connection.deliver(
            b"Subject: x\\r\\n\\r\\n", "ann@north.test", "bo@south.test", before_data=lambda: 0.5
        )
    print(attempt.outcome, attempt.stage, attempt.server_text)
"""


@pytest.mark.parametrize("point", ["after_guard", "after_data", "before_dot"])
def test_a_process_that_was_stopped_past_its_lease_sends_nothing_when_it_goes_on(
    authority: Authority, point: str
) -> None:
    """Q-B4: a real SIGSTOP at the worst moments, then SIGCONT."""
    server = FaultySmtpServer(authority.server_context())
    with server.running() as port:
        command = [sys.executable, "-c", textwrap.dedent(ZOMBIE), point, str(port), str(authority.ca_file)]
        zombie = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
        try:
            _, status = os.waitpid(zombie.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), "it ended before it was stopped"
            time.sleep(0.6)
            zombie.send_signal(signal.SIGCONT)
            said, _ = zombie.communicate(timeout=60)
        finally:
            zombie.kill()
            zombie.wait()
    assert said.split(maxsplit=2) == ["transient", "data", "the lease ended before the message was complete\n"]
    assert server.accepted == []


def test_the_crash_points_are_where_their_names_say(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q-F5: what the server had heard when each point was reached."""
    server = FaultySmtpServer(authority.server_context())
    reached: list[tuple[str, str, int]] = []

    def guard() -> float:
        reached.append(("the guard", "", 0))
        return 60.0

    with a_connection(server, authority) as connection:
        monkeypatch.setattr(
            crash_points,
            "on_reach",
            lambda point: reached.append((point, server.commands[-1].split(" ")[0], len(server.accepted))),
        )
        connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=guard)
    assert [row[0] for row in reached] == [
        "before_guard",
        "the guard",
        "after_guard",
        "after_data",
        "before_dot",
        "after_dot",
        "after_reply",
    ]
    heard = {point: (command, accepted) for point, command, accepted in reached}
    assert heard["before_guard"] == heard["after_guard"] == ("RCPT", 0)
    assert heard["after_data"] == heard["before_dot"] == ("DATA", 0)
    assert heard["after_reply"] == ("DATA", 1)


@pytest.mark.parametrize("point", ["before_guard", "after_guard", "after_data", "before_dot", "after_dot"])
def test_an_interrupt_at_any_point_leaves_nothing_behind_for_the_next_message(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, point: CrashPoint
) -> None:
    def interrupt(reached: CrashPoint) -> None:
        if reached == point:
            raise KeyboardInterrupt

    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(crash_points, "on_reach", interrupt)
            with pytest.raises(KeyboardInterrupt):
                send(connection)
        assert send(connection, b"Subject: second\r\n\r\n").outcome == "sent"
    assert server.accepted[-1] == b"Subject: second\r\n\r\n"
    assert len(server.accepted) == 1 + (point == "after_dot")


def test_mail_leaves_from_the_egress_address_that_it_was_given(authority: Authority) -> None:
    """Towards S-F8"""
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority, source_address="127.0.0.3") as connection:
        assert send(connection).outcome == "sent"
    assert server.peers == ["127.0.0.3"]


@pytest.mark.parametrize("address", ["192.0.2.77", "2001:db8::77", "not an address"])
def test_an_egress_address_that_this_machine_does_not_have_is_no_fault_of_the_recipient(
    authority: Authority, address: str
) -> None:
    """Towards S-F8"""
    server = FaultySmtpServer(authority.server_context())
    with a_connection(server, authority, smtp_host="127.0.0.1", source_address=address) as connection:
        attempt = send(connection)
    assert judged(attempt) == ("permanent", "dial", "host", None)
    assert address in attempt.server_text
    assert server.connections == 0


@pytest.mark.parametrize("refusal", [RuntimeError("the slot was cancelled"), KeyboardInterrupt()])
def test_if_before_data_says_no_nothing_is_sent_and_the_connection_stays_usable(
    authority: Authority, refusal: BaseException
) -> None:
    """Q-B5"""

    def refuse() -> float:
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
            patched.setattr(Session, "reply", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                send(connection)
        assert send(connection).outcome == "sent"
    assert server.connections == 2


def test_lines_that_begin_with_a_dot_arrive_unchanged(authority: Authority) -> None:
    tricky = b".Subject: dots\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n.\r\n"
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


@pytest.mark.parametrize(
    "address", ["bo@exam ple.test", "bo@y.test\r\nRCPT TO:<eve@evil.test>", "bo@y.test>", "bö@y.test", "bo@ö.test"]
)
def test_an_address_that_smtplib_would_repair_is_refused_unsent(address: str) -> None:
    with SmtpConnection(an_access(), "sandbox", {}) as connection:
        with pytest.raises(AddressError):
            send(connection, to=address)
        with pytest.raises(AddressError):
            connection.deliver(MESSAGE, address, "bo@south.test", before_data=lambda: 3600.0)


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


def test_the_time_outs_from_data_on_are_the_standards_minima_and_fit_into_a_lease() -> None:
    """RFC 5321 4.5.3.2.4 to 4.5.3.2.6: giving up earlier after the dot only makes messages uncertain."""
    timeouts = Timeouts()
    assert (timeouts.data_start, timeouts.data_block, timeouts.end_of_data) == (120.0, 180.0, 600.0)
    assert timeouts.longest_after_guard_s == 120 + 180 + 180 + 600


def test_the_password_is_not_in_the_mailboxs_representation() -> None:
    """S-B2"""
    assert PASSWORD not in repr(an_access())
    assert PASSWORD not in str(an_access())
