"""Hard is an address that will never take mail; everything else that came back is soft."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.email_ops.bounce_reasons import severity_of


@pytest.mark.parametrize(
    "words",
    [
        "550 5.1.1 <bo@south.test>: Recipient address rejected: User unknown in virtual mailbox table",
        "550 5.1.1 The email account that you tried to reach does not exist",
        "550 No such user here",
        "554 delivery error: dd This user doesn't have a yahoo.test account (bo@south.test) [-5]",
        "550 5.4.1 [bo@south.test]: Recipient address rejected: Access denied",
        "Sorry, no mailbox here by that name. (#5.1.1)",
        "Unrouteable address",
        "550 bo@south.test...User unknown",
        "User bo (bo@south.test) not listed in public Name & Address Book",
        "550 mailbox not found",
        "Host or domain name not found. Name service error for name=sout.test type=A: Host not found",
        "556 5.1.10 domain does not accept mail (nullMX)",
        "Empfaenger unbekannt, der Nutzer existiert nicht",
        "Bo no longer works here",
        "550 User unknown, see https://mail.test/policy/spam",
    ],
)
def test_an_address_or_domain_that_does_not_exist_is_hard(words: str) -> None:
    assert severity_of(is_failed=True, status=None, words=words)[0] == "hard"


@pytest.mark.parametrize(
    "words",
    [
        "552 5.2.2 The email account that you tried to reach is over quota",
        "550 5.7.1 Service unavailable, client host [192.0.2.1] blocked using a block list",
        "550 5.7.26 This mail is unauthenticated: SPF and DKIM did not pass",
        "554 5.7.1 <ann@north.test>: Sender address rejected: Domain not found",
        "host mx said: 550 5.1.8 Domain of sender address ann@north.test does not exist (in reply to MAIL FROM)",
        "550 Message rejected as spam",
        "552 5.3.4 Message size exceeds fixed limit",
        "550 5.2.1 The email account that you tried to reach is disabled",
        "550 relaying denied",
        "Name service error for name=south.test: Host not found, try again",
        "554 transaction failed",
        "",
    ],
)
def test_what_may_be_otherwise_another_day_or_for_another_mail_is_soft(words: str) -> None:
    assert severity_of(is_failed=True, status=None, words=words)[0] == "soft"


@pytest.mark.parametrize(
    ("status", "severity"),
    [
        ("5.1.1", "hard"),
        ("5.1.2", "hard"),
        ("5.1.3", "hard"),
        ("5.1.6", "hard"),
        ("5.1.10", "hard"),
        ("5.4.4", "hard"),
        ("5.1.7", "soft"),
        ("5.1.8", "soft"),
        ("5.2.1", "soft"),
        ("5.2.2", "soft"),
        ("5.3.4", "soft"),
        ("5.4.6", "soft"),
        ("5.7.1", "soft"),
        ("5.0.0", "soft"),
        ("4.1.1", "soft"),
        ("4.4.7", "soft"),
        (None, "soft"),
    ],
)
def test_where_the_words_say_nothing_the_code_decides(status: str | None, severity: str) -> None:
    """RFC 3463 3"""
    assert severity_of(is_failed=True, status=status, words="550 no")[0] == severity


def test_the_words_decide_before_a_code_that_does_not_fit() -> None:
    assert severity_of(is_failed=True, status="5.1.1", words="mailbox is full")[0] == "soft"
    assert severity_of(is_failed=True, status="5.0.0", words="user unknown")[0] == "hard"


def test_a_delay_is_soft_whatever_is_said() -> None:
    assert severity_of(is_failed=False, status="5.1.1", words="user unknown")[0] == "soft"


def test_what_owners_put_into_their_addresses_says_nothing() -> None:
    words = "552 <user.unknown@no-such-user.test>: over quota"
    assert severity_of(is_failed=True, status=None, words=words)[0] == "soft"


@given(st.text(max_size=300), st.booleans())
def test_any_words_are_hard_or_soft(words: str, is_failed: bool) -> None:
    severity, why = severity_of(is_failed=is_failed, status=None, words=words)
    assert severity in ("hard", "soft")
    assert why
