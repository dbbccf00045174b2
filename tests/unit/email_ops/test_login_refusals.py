"""S-B1, towards B-B10: what a refused login is about, said by codes or in words only."""

from __future__ import annotations

import pytest

from emberflow.email_ops.login_refusals import is_about_the_mechanism, passes

# As Gmail, Outlook, Yahoo, Dovecot, Cyrus, Courier, Postfix and others say it.
PASSING = [
    "NO [ALERT] Too many simultaneous connections. (Failure)",
    "NO [ALERT] Account exceeded command or bandwidth limits. (Failure)",
    "NO Server Unavailable. 15",
    "NO [UNAVAILABLE] try later",
    "NO [UNAVAILABLE] Temporary authentication failure. [mail:2026-06-01]",
    "NO Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
    "NO [LIMIT] LOGIN Rate limit hit.",
    "NO [INUSE] busy",
    "NO [OVERQUOTA] rate limited",
    "NO [SERVERBUG] Internal error occurred. Refer to server log for more information.",
    "NO login: system error",
    "NO Login failed: backend timed out",
    "NO server busy",
    "NO System Error (Failure)",
    "4.7.0 Temporary authentication failure",
    "5.7.8 Error: authentication failed: Temporary authentication failure",
    "5.7.0 Too many login attempts, please try again later.",
    "connection frequency limited",
]
LASTING = [
    "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)",
    "NO [AUTHENTICATIONFAILED] Authentication failed.",
    "NO [AUTHENTICATIONFAILED] temporarily we say nothing else",
    "NO LOGIN failed.",
    "NO Invalid username or password, please try again later",
    "NO [ALERT] Please log in via your web browser: https://mail.test/login",
    "NO Your account is temporarily disabled, contact your administrator",
    "5.7.0 The sending email account has been temporarily suspended due to abuse.",
    "NO Application-specific password required",
    "5.7.8 Username and Password not accepted.",
    "5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
    "5.7.8 Error: authentication failed: (reason unavailable)",
    "5.7.3 Authentication unsuccessful",
    "5.7.139 Authentication unsuccessful, basic authentication is disabled.",
    "",
]


@pytest.mark.parametrize("text", PASSING)
def test_limits_and_outages_are_not_about_the_password(text: str) -> None:
    assert passes(text)
    assert not is_about_the_mechanism(text)


@pytest.mark.parametrize("text", LASTING)
def test_what_does_not_speak_of_a_limit_or_an_outage_is_about_the_login(text: str) -> None:
    assert not passes(text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (500, "5.5.1 unrecognized command"),
        (501, "5.5.2 cannot decode response"),
        (502, "Invalid input"),
        (503, "5.5.1 AUTH PLAIN not available"),
        (504, "5.7.4 Unrecognized authentication type"),
        (534, "5.7.9 Authentication mechanism is too weak"),
        (535, "Error: authentication failed: Invalid authentication mechanism"),
        (535, "5.5.4 what was that"),
        (538, "5.7.11 Encryption required for requested authentication mechanism"),
        (None, "NO Unsupported authentication mechanism."),
        (None, "NO AUTHENTICATE: mechanism not supported"),
    ],
)
def test_a_mechanism_that_is_not_taken_is_distinguished(code: int | None, text: str) -> None:
    assert is_about_the_mechanism(text, code)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (534, "5.7.9 Application-specific password required. Learn more at"),
        (534, "5.7.14 Please log in via your web browser and then try again."),
        (535, "5.7.8 bad credentials"),
        (535, "5.7.8 authentication failed: mechanism PLAIN: invalid password"),
        (535, "5.7.139 Authentication unsuccessful, basic authentication is disabled."),
        (None, "NO LOGIN failed."),
    ],
)
def test_a_password_that_was_judged_is_not_tried_again(code: int | None, text: str) -> None:
    """Providers lock an account after a few wrong passwords."""
    assert not is_about_the_mechanism(text, code)
