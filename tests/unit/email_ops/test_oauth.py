"""E-F1: XOAUTH2 over SMTP and IMAP, and the access tokens that it needs, against a token endpoint under real TLS."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from emberflow.domain.attempt import Attempt
from emberflow.email_ops import https, oauth
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.oauth import AccessTokenError, access_token
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.settings import OAuthClient, Settings
from tests.unit.email_ops.fake_mail_servers import (
    Authority,
    FaultySmtpServer,
    ScriptedImapServer,
    TokenEndpoint,
    an_access,
    close,
)

REFRESH_TOKEN = "1//refresh+token"
CLIENT_SECRET = "client&secret"
MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
MAILBOX_IDS = itertools.count(1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def granted(token: str, **changes: Any) -> tuple[int, Mapping[str, Any]]:
    """A provider's answer with an access token of the usual hour."""
    return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 3599} | changes


@dataclass
class Provider:
    """A mail provider that takes access tokens, and one mailbox there."""

    tokens: TokenEndpoint
    smtp: FaultySmtpServer
    imap: ScriptedImapServer
    access: MailboxAccess
    ca_files: Mapping[str, Path]

    def send(self, times: int = 1) -> list[Attempt]:
        """Send mails, each over a connection of its own."""
        attempts = []
        for _ in range(times):
            with SmtpConnection(self.access, "sandbox", self.ca_files) as connection:
                attempts.append(
                    connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=lambda: 60.0)
                )
        return attempts

    def read(self) -> None:
        """Log in over IMAP and out again."""
        with ImapReader(self.access, "sandbox", self.ca_files, 5.0):
            pass

    def token(self, elapsed: float = 0.0) -> str:
        """Ask for the access token at a time."""
        return access_token(self.access, "sandbox", self.ca_files, elapsed=lambda: elapsed).get_secret_value()


@contextmanager
def a_provider(authority: Authority, *answers: Any, good: set[str] | None = None, **changes: Any) -> Iterator[Provider]:
    context = authority.server_context()
    tokens = TokenEndpoint(context, implicit=True, answers=answers)
    good = {"access-1"} if good is None else good
    smtp = FaultySmtpServer(context, auth=changes.pop("auth", "AUTH PLAIN LOGIN XOAUTH2"), access_tokens=good)
    capabilities = changes.pop("capabilities", "IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2")
    imap = ScriptedImapServer(context, capabilities=capabilities, access_tokens=good)
    with tokens.running() as port, smtp.running() as smtp_port, imap.running() as imap_port:
        client = OAuthClient(
            client_id="client-1",
            client_secret=SecretStr(CLIENT_SECRET),
            token_url=f"https://localhost:{port}/token",
        )
        access = an_access(
            mailbox_id=next(MAILBOX_IDS),
            smtp_port=smtp_port,
            imap_port=imap_port,
            password=SecretStr(REFRESH_TOKEN),
            **{"oauth": client} | changes,
        )
        yield Provider(tokens, smtp, imap, access, {"localhost": authority.ca_file})


def test_mail_is_sent_and_read_with_an_access_token_that_is_asked_for_once(authority: Authority) -> None:
    """E-F1: the form of RFC 6749 6, the SASL message of XOAUTH2, one token for all connections of a mailbox."""
    with a_provider(authority, granted("access-1")) as provider:
        assert [attempt.outcome for attempt in provider.send(2)] == ["sent", "sent"]
        provider.read()
    said = "user=ann@north.test\x01auth=Bearer access-1\x01\x01"
    assert provider.smtp.sasl == [said, said]
    assert provider.imap.sasl == [said]
    assert provider.tokens.forms == [
        {
            "grant_type": "refresh_token",
            "client_id": "client-1",
            "client_secret": CLIENT_SECRET,
            "refresh_token": REFRESH_TOKEN,
        }
    ]
    assert provider.tokens.hosts == [f"localhost:{provider.tokens.port}"]


def test_a_public_client_sends_no_secret(authority: Authority) -> None:
    with a_provider(authority, granted("access-1")) as provider:
        client = OAuthClient(client_id="public", token_url=f"https://localhost:{provider.tokens.port}/token")
        access = an_access(mailbox_id=next(MAILBOX_IDS), oauth=client)
        access_token(access, "sandbox", provider.ca_files)
    assert provider.tokens.forms[0].keys() == {"grant_type", "client_id", "refresh_token"}


@pytest.mark.parametrize(
    ("lifetime", "asked_again_at"), [({}, 3599 - 120), ({"expires_in": "600"}, 480), ({"expires_in": None}, 3480)]
)
def test_an_access_token_is_renewed_before_it_expires(
    authority: Authority, lifetime: Mapping[str, Any], asked_again_at: float
) -> None:
    """E-F1"""
    with a_provider(authority, granted("access-1", **lifetime), granted("access-2")) as provider:
        assert [provider.token(at) for at in (0.0, asked_again_at - 1, asked_again_at)] == [
            "access-1",
            "access-1",
            "access-2",
        ]
    assert len(provider.tokens.forms) == 2


def test_an_access_token_that_the_server_refuses_is_renewed_without_a_failed_send(authority: Authority) -> None:
    """E-F1: withdrawn or expired early, on a second connection; the mail arrives all the same."""
    with a_provider(authority, granted("access-1"), granted("access-2")) as provider:
        assert provider.send()[0].outcome == "sent"
        provider.smtp.access_tokens.clear()
        provider.smtp.access_tokens.add("access-2")
        assert provider.send()[0].outcome == "sent"
    assert [said.split(" ")[1].split("\x01")[0] for said in provider.smtp.sasl] == ["access-1", "access-1", "access-2"]
    assert len(provider.smtp.accepted) == 2


def test_an_access_token_that_imap_refuses_is_renewed_without_an_error(authority: Authority) -> None:
    """E-F1"""
    with a_provider(authority, granted("access-1"), granted("access-2"), good={"access-2"}) as provider:
        provider.read()
    assert len(provider.imap.sasl) == 2
    assert provider.imap.connections == 2


def test_a_login_that_lapsed_between_two_messages_is_made_again(authority: Authority) -> None:
    """E-F1: some servers end a session's authentication together with its access token."""
    with (
        a_provider(authority, granted("access-1")) as provider,
        SmtpConnection(provider.access, "sandbox", provider.ca_files) as connection,
    ):
        outcomes = []
        for _ in range(2):
            outcomes.append(
                connection.deliver(MESSAGE, "ann@north.test", "bo@south.test", before_data=lambda: 60.0).outcome
            )
            provider.smtp.faults = {"mail": "530 5.7.57 client not authenticated"}
            provider.smtp.once = frozenset({"mail"})
    assert outcomes == ["sent", "sent"]


def test_a_mailbox_that_no_token_opens_fails_after_the_second_login(authority: Authority) -> None:
    with a_provider(authority, granted("access-1"), granted("access-2"), good=set()) as provider:
        (attempt,) = provider.send()
        with pytest.raises(ImapError, match="imap_auth"):
            provider.read()
    assert (attempt.outcome, attempt.stage, attempt.scope, attempt.reply_code) == ("permanent", "auth", "mailbox", 535)
    assert len(provider.smtp.sasl) == len(provider.imap.sasl) == 2


@pytest.mark.parametrize(
    ("answer", "outcome", "word"),
    [
        ((400, {"error": "invalid_grant", "error_description": "revoked"}), "permanent", "authorise the mailbox again"),
        ((401, {"error": "invalid_client"}), "permanent", "invalid_client"),
        ((400, {"error": "temporarily_unavailable"}), "transient", "temporarily_unavailable"),
        ((429, {}), "transient", "429"),
        ((503, {"error": "server_error"}), "transient", "503"),
        ((200, {"token_type": "Bearer"}), "transient", "no access token"),
        ((200, {"access_token": "two words"}), "transient", "no access token"),
        ((200, {"access_token": None}), "transient", "no access token"),
        ((200, {"access_token": "x\x01auth=Bearer y"}), "transient", "no access token"),
        ((302, {"access_token": "access-1"}), "transient", "302"),
        (close, "transient", "no answer"),
    ],
)
def test_without_an_access_token_nothing_is_sent_and_the_reason_is_reported(
    authority: Authority, answer: Any, outcome: str, word: str
) -> None:
    """E-F1, E-B2: a mailbox's fault at AUTH; the login is not tried, least of all with another mechanism."""
    with a_provider(authority, answer) as provider:
        (attempt,) = provider.send()
        with pytest.raises(ImapError) as caught:
            provider.read()
    assert (attempt.outcome, attempt.stage, attempt.scope, attempt.reply_code) == (outcome, "auth", "mailbox", None)
    assert word in attempt.server_text
    assert caught.value.stage == ("imap_auth" if outcome == "permanent" else "imap_connect")
    assert not any(command.startswith(("AUTH", "MAIL")) for command in provider.smtp.commands)
    assert not any(command.startswith(("AUTHENTICATE", "LOGIN")) for command in provider.imap.commands)
    assert len(provider.tokens.forms) == 2


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def answering(body: bytes, *headers: bytes) -> Callable[[socket.socket], None]:
    """Answer with this content."""
    head = HEAD + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n" % len(body)
    return lambda connection: connection.sendall(head + b"Connection: close\r\n\r\n" + body)


def endless(beginning: bytes, more: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """Say ``more`` for as long as the client listens, a thousand times at most."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(beginning)
            for _ in range(1000):
                connection.sendall(more)
                time.sleep(pause_s)

    return answer


BOMB = gzip.compress(b" " * 50_000_000)


@pytest.mark.timeout(50)
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (endless(HEAD + b"\r\n", b" " * 65_536), "longer than 262144 bytes"),
        (answering(BOMB, b"Content-Encoding: gzip"), "longer than 262144 bytes"),
        (answering(b"{}", b"Content-Encoding: br"), "content encoding is 'br'"),
        (answering(b"not gzip", b"Content-Encoding: gzip"), "not gzip"),
        (endless(HEAD + b"\r\n", b" ", 0.02), "took longer than"),
        (endless(HEAD + b"X-More: ", b"x", 0.02), "took longer than"),
        (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02), "took longer than"),
        (answering(b"[" * 200_000), "no access token in the answer"),
        (answering(b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}"), "no access token in the answer"),
        (answering(b"9" * 5_000), "no access token in the answer"),
    ],
    ids=["endless", "bomb", "br", "no gzip", "drip", "header drip", "continue", "deep", "deep error", "long integer"],
)
def test_a_hostile_token_endpoint_costs_neither_time_nor_memory_and_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, answer: Any, word: str
) -> None:
    """E-F6: size, compressed or not, time and depth are bounded; it is this mailbox's outcome, for now."""
    monkeypatch.setattr(https, "ANSWER_WITHIN_S", 1.0)
    with a_provider(authority, answer) as provider:
        (attempt,) = provider.send()
        url = f"https://localhost:{provider.tokens.port}/token"
    assert (attempt.outcome, attempt.stage, attempt.scope) == ("transient", "auth", "mailbox")
    assert word in attempt.server_text
    assert url in attempt.server_text


def test_an_answer_that_is_compressed_without_being_asked_is_read(authority: Authority) -> None:
    body = json.dumps({"access_token": "access-1"}).encode()
    for encoding, content in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        with a_provider(authority, answering(content, f"Content-Encoding: {encoding}".encode())) as provider:
            assert provider.token() == "access-1"


@pytest.mark.parametrize("lifetime", [b"1e999", b"1" + b"0" * 400, b'"inf"'])
def test_no_access_token_lives_for_ever(authority: Authority, lifetime: bytes) -> None:
    first = answering(b'{"access_token": "access-1", "expires_in": ' + lifetime + b"}")
    with a_provider(authority, first, granted("access-2")) as provider:
        assert [provider.token(at) for at in (0.0, 86_400.0)] == ["access-1", "access-2"]


def test_a_server_without_xoauth2_gets_no_other_credential(authority: Authority) -> None:
    """E-F1: the stored secret is a refresh token; as a password it would only be given away."""
    with a_provider(
        authority, granted("access-1"), auth="AUTH PLAIN LOGIN", capabilities="IMAP4rev1 AUTH=PLAIN"
    ) as provider:
        (attempt,) = provider.send()
        with pytest.raises(ImapError, match="does not offer AUTH=XOAUTH2"):
            provider.read()
    assert (attempt.outcome, attempt.stage) == ("permanent", "auth")
    assert "XOAUTH2" in attempt.server_text
    assert not any(command.startswith("AUTH") for command in provider.smtp.commands + provider.imap.commands)


def test_a_mailbox_with_a_password_never_uses_xoauth2(authority: Authority) -> None:
    with a_provider(authority, auth="AUTH XOAUTH2", oauth=None) as provider:
        (attempt,) = provider.send()
    assert (attempt.outcome, attempt.stage) == ("permanent", "auth")
    assert not any(command.startswith("AUTH") for command in provider.smtp.commands)


def test_no_credential_is_quoted_whatever_a_server_or_the_provider_quotes(authority: Authority) -> None:
    """S-B2: tokens plain, in base64 and in the form of the request; the fakes quote what they were sent."""
    sasl = base64.b64encode(b"user=ann@north.test\x01auth=Bearer access-2\x01\x01").decode()
    quoting = f"{REFRESH_TOKEN} 1%2F%2Frefresh%2Btoken {CLIENT_SECRET} client%26secret"
    refusal = (400, {"error": "invalid_request", "error_description": quoting})
    with a_provider(authority, granted("access-1"), granted("access-2"), refusal, good=set()) as provider:
        (refused,) = provider.send()
        oauth.forget(provider.access, SecretStr("access-2"))
        (without,) = provider.send()
    assert refused.server_text == "5.7.8 <***> is not accepted"
    assert without.server_text.endswith("answered 400 invalid_request: *** *** *** ***")
    for secret in (sasl, "access-2", REFRESH_TOKEN, CLIENT_SECRET):
        assert secret not in refused.server_text + without.server_text + repr(provider.access)


def test_imap_refusals_are_masked_as_well(authority: Authority) -> None:
    """S-B2"""
    with a_provider(authority, granted("access-1"), good=set()) as provider, pytest.raises(ImapError) as caught:
        provider.read()
    assert base64.b64encode(provider.imap.sasl[-1].encode()).decode() not in str(caught.value)
    assert "*** is not accepted" in str(caught.value)


def test_a_refresh_token_that_the_provider_replaces_is_used_from_then_on_and_reported(authority: Authority) -> None:
    """E-F1, RFC 6749 6: the mailbox goes on with the new one, before and after it is stored."""
    first = granted("access-1", refresh_token="refresh-2")
    with a_provider(authority, first, granted("access-2"), granted("access-3")) as provider:
        assert provider.token(0) == "access-1"
        assert provider.token(9_999) == "access-2"
        (mine,) = [
            replaced
            for replaced in oauth.replaced_refresh_tokens()
            if replaced.mailbox_id == provider.access.mailbox_id
        ]
        stored = an_access(
            mailbox_id=provider.access.mailbox_id, oauth=provider.access.oauth, password=SecretStr("refresh-2")
        )
        assert (
            access_token(stored, "sandbox", provider.ca_files, elapsed=lambda: 9_999).get_secret_value() == "access-2"
        )
    assert [form["refresh_token"] for form in provider.tokens.forms] == [REFRESH_TOKEN, "refresh-2"]
    assert (mine.earlier, mine.newest) == ((SecretStr(REFRESH_TOKEN),), SecretStr("refresh-2"))


def test_the_threads_of_one_mailbox_ask_for_one_token(authority: Authority) -> None:
    with a_provider(authority, granted("access-1")) as provider:
        threads = [threading.Thread(target=provider.token) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(provider.tokens.forms) == 1


def test_a_token_endpoint_is_verified_like_every_other_server(authority: Authority) -> None:
    """E-B7"""
    with a_provider(authority, granted("access-1")) as provider:
        with pytest.raises(AccessTokenError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            access_token(provider.access, "sandbox", {})
        assert caught.value.permanent
    assert provider.tokens.forms == []


def test_sandbox_mode_asks_no_token_endpoint_on_another_machine() -> None:
    """E-B10"""
    client = OAuthClient(client_id="c", token_url="https://192.0.2.1/token")
    with pytest.raises(EgressRefusedError):
        access_token(an_access(mailbox_id=next(MAILBOX_IDS), oauth=client), "sandbox", {})


def test_a_user_name_cannot_end_its_field(authority: Authority) -> None:
    with (
        a_provider(authority, granted("access-1"), username="ann\x01auth=Bearer stolen") as provider,
        pytest.raises(ConfigurationError, match="control character"),
    ):
        provider.send()
    assert not any(command.startswith("AUTH") for command in provider.smtp.commands)


def settings_with(clients: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EMBERFLOW_OAUTH_CLIENTS", clients)
    return Settings()


def test_the_token_urls_of_google_and_microsoft_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """E-F1"""
    clients = settings_with(
        '{"google": {"client_id": "g", "client_secret": "s1"}, "microsoft": {"client_id": "m"}, '
        '"own": {"client_id": "o", "token_url": "https://login.north.test/token"}}',
        monkeypatch,
    ).oauth_clients
    assert {provider: client.token_url for provider, client in clients.items()} == {
        "google": "https://oauth2.googleapis.com/token",
        "microsoft": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        "own": "https://login.north.test/token",
    }
    assert "s1" not in repr(clients)


@pytest.mark.parametrize(
    "client",
    [
        '{"client_id": "o"}',
        '{"client_id": "o", "token_url": "http://login.north.test/token"}',
        '{"client_id": "o", "token_url": "https://user:secret@login.north.test/token"}',
        '{"client_id": "o", "token_url": "https:///token"}',
        '{"client_id": "", "token_url": "https://login.north.test/token"}',
        '{"client_id": "o", "token_url": "https://login.north.test/token", "scope": "mail"}',
    ],
)
def test_a_client_without_a_safe_token_url_is_refused(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-B7: credentials cross the network under TLS only."""
    with pytest.raises(ValidationError):
        settings_with(f'{{"own": {client}}}', monkeypatch)
