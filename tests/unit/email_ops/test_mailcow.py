"""B-B1: mailboxes by mailcow's documented API, against a stand-in that answers as the documentation says."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops import https, mailcow
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.errors import EgressRefusedError
from emberflow.settings import ProvisionMailcow
from tests.mailcow import API_KEY, Mailcow
from tests.unit.email_ops.fake_mail_servers import Authority

PASSWORD = SecretStr("a-new-Passw0rd")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server() -> Mailcow:
    return Mailcow()


@pytest.fixture
def place(authority: Authority, server: Mailcow) -> Iterator[ProvisionMailcow]:
    with server.running(authority.server_context()) as url:
        yield ProvisionMailcow(url=url, api_key=SecretStr(API_KEY), quota_mib=512)


@pytest.fixture
def ca_files(authority: Authority) -> dict[str, Any]:
    return {"localhost": authority.ca_file}


def refused(place: ProvisionMailcow, ca_files: Any, address: str = "bob@own.test") -> ProvisioningError:
    """Return why a mailbox was not created; nothing that is shown holds a secret."""
    with pytest.raises(ProvisioningError) as raised:
        mailcow.create(place, "sandbox", ca_files, address, PASSWORD)
    shown = "".join(traceback.format_exception(raised.value))
    assert PASSWORD.get_secret_value() not in shown
    assert API_KEY not in shown
    return raised.value


def test_a_mailbox_is_added_as_the_documentation_says(place: ProvisionMailcow, server: Mailcow, ca_files: Any) -> None:
    """B-B1: one that a machine may use at once."""
    assert not mailcow.has(place, "sandbox", ca_files, "bob@own.test")
    mailcow.create(place, "sandbox", ca_files, " Bob@Own.test", PASSWORD)
    assert mailcow.has(place, "sandbox", ca_files, "bob@own.test")
    assert server.mailboxes["bob@own.test"] == {
        "local_part": "bob",
        "domain": "own.test",
        "authsource": "mailcow",
        "password": PASSWORD.get_secret_value(),
        "password2": PASSWORD.get_secret_value(),
        "active": "1",
        "force_pw_update": "0",
        "force_tfa": "0",
        "quota": "512",
    }
    assert [(method, path) for method, path, _ in server.requests] == [
        ("GET", "/api/v1/get/mailbox/bob@own.test"),
        ("POST", "/api/v1/add/mailbox"),
        ("GET", "/api/v1/get/mailbox/bob@own.test"),
    ]
    assert {headers["X-API-Key"] for _, _, headers in server.requests} == {API_KEY}


def test_without_a_quota_of_ours_mailcows_own_holds(place: ProvisionMailcow, server: Mailcow, ca_files: Any) -> None:
    mailcow.create(place.model_copy(update={"quota_mib": None}), "sandbox", ca_files, "bob@own.test", PASSWORD)
    assert "quota" not in server.mailboxes["bob@own.test"]


def test_a_mailbox_or_alias_of_somebody_is_left_alone(place: ProvisionMailcow, server: Mailcow, ca_files: Any) -> None:
    """B-B1"""
    mailcow.create(place, "sandbox", ca_files, "bob@own.test", PASSWORD)
    before = dict(server.mailboxes)
    server.aliases.add("info@own.test")
    for address, told in (("bob@own.test", "object_exists"), ("info@own.test", "is_alias")):
        error = refused(place, ca_files, address)
        assert isinstance(error, MailboxTakenError)
        assert told in str(error)
    assert server.mailboxes == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"domain": "another.test"}, "domain_not_found own.test; add the domain in mailcow first"),
        ({"most_mailboxes": 0}, "max_mailbox_exceeded 0 0; raise the domain's number of mailboxes"),
        ({"most_mib": 100}, "mailbox_quota_exceeded 100; set quota_mib"),
        ({"reply": (200, [{"type": "danger", "msg": ["mailbox_quota_left_exceeded", 7]}])}, "raise the domain's quota"),
        ({"reply": (200, [{"type": "danger", "msg": "password_complexity"}])}, "loosen mailcow's password policy"),
        ({"reply": (200, [{"type": "danger", "msg": "access_denied"}])}, "the API key may not add mailboxes"),
        ({"is_read_only": True}, "API read/write access denied; the API key must be one that may write"),
        (
            {"reply": (401, {"type": "error", "msg": "api access denied for ip 192.0.2.7"})},
            "api access denied for ip 192.0.2.7; correct api_key, or allow this machine's address",
        ),
    ],
)
def test_a_refusal_is_certain_and_says_what_to_do(
    place: ProvisionMailcow, server: Mailcow, ca_files: Any, changes: dict[str, Any], told: str
) -> None:
    """B-B1"""
    vars(server).update(changes)
    error = refused(place, ca_files)
    assert told in str(error)
    assert error.is_certain
    assert server.mailboxes == {}


@pytest.mark.parametrize(
    "reply",
    [
        (200, [{"type": "danger", "msg": "SQLSTATE[23000]: Integrity constraint violation"}]),
        (200, [{"type": "danger", "msg": ["redis_error", "gone"]}, {"type": "warning", "msg": None}]),
        (200, {"type": "error", "msg": "Cannot add item"}),
        (200, []),
        (200, [[], "x", 7, {"msg": []}]),
        (500, {}),
        (302, {"type": "success"}),
        b"<html>no JSON</html>",
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_understood_leaves_open_whether_it_was_made(
    place: ProvisionMailcow, server: Mailcow, ca_files: Any, reply: Any
) -> None:
    """B-B1: the rows that mailcow writes last are not the mailbox's own."""
    server.reply = reply
    assert not refused(place, ca_files).is_certain


def test_a_server_that_repeats_secrets_is_not_repeated(place: ProvisionMailcow, server: Mailcow, ca_files: Any) -> None:
    """S-B2"""
    server.reply = (200, [{"type": "danger", "msg": ["bad", PASSWORD.get_secret_value(), API_KEY, "\x1b[31m"]}])
    assert "bad *** *** " in str(refused(place, ca_files))


def test_what_was_asked_and_not_answered_is_open(place: ProvisionMailcow, server: Mailcow, ca_files: Any) -> None:
    """B-B1: the mailbox was made all the same."""
    server.forgets = True
    assert not refused(place, ca_files).is_certain
    assert set(server.mailboxes) == {"bob@own.test"}


def test_a_server_that_takes_too_long_is_left(
    place: ProvisionMailcow, server: Mailcow, ca_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "ANSWER_WITHIN_S", 0.3)
    server.delay_s = 1.0
    assert not refused(place, ca_files).is_certain


def test_no_request_leaves_before_the_certificate_is_verified(
    place: ProvisionMailcow, server: Mailcow, authority: Authority
) -> None:
    """E-B7: the key and the password would go to whoever answers."""
    error = refused(place, {})
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert error.is_certain
    with server.running(authority.server_context("elsewhere.test")) as url:
        elsewhere = place.model_copy(update={"url": url})
        assert "CERTIFICATE_VERIFY_FAILED" in str(refused(elsewhere, {"localhost": authority.ca_file}))
    assert server.requests == []


def test_nobody_answers(place: ProvisionMailcow, ca_files: Any) -> None:
    away = place.model_copy(update={"url": "https://localhost:1"})
    error = refused(away, ca_files)
    assert "no answer of mailcow at https://localhost:1" in str(error)
    assert error.is_certain


def test_sandbox_mode_asks_no_other_machine(place: ProvisionMailcow) -> None:
    far = place.model_copy(update={"url": "https://192.0.2.1"})
    with pytest.raises(EgressRefusedError):
        mailcow.create(far, "sandbox", {}, "bob@own.test", PASSWORD)


def test_a_question_that_is_refused_is_no_answer(place: ProvisionMailcow, ca_files: Any) -> None:
    """B-B1: whoever cannot be asked has not said that an address is free."""
    wrong = place.model_copy(update={"api_key": SecretStr("another")})
    with pytest.raises(ProvisioningError, match="answered 401: authentication failed"):
        mailcow.has(wrong, "sandbox", ca_files, "bob@own.test")
