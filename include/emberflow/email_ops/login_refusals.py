"""Why a server refused a login: the password, the mechanism, or something that passes.

Codes are used where there are any (RFC 4954 for SMTP, RFC 5530 for IMAP); most servers say it in words only.

A password is judged once per login: the next mechanism is tried only if the refusal is about the mechanism, because
providers lock an account after a few wrong passwords. A refusal for a time (too many connections, a backend that is
away) says nothing about the password, whatever code comes with it; in doubt a refusal is about the password.
"""

from __future__ import annotations

import re

# RFC 5530 3: about the account, and about anything else.
_ABOUT_THE_ACCOUNT = re.compile(
    r"\[(AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED|PRIVACYREQUIRED|NOPERM)\]", re.IGNORECASE
)
_PASSING_CODE = re.compile(r"\[(UNAVAILABLE|INUSE|LIMIT|SERVERBUG|CONTACTADMIN|OVERQUOTA)\]", re.IGNORECASE)
_WRONG_CREDENTIALS = re.compile(
    r"\b(invalid|incorrect|wrong|bad)\b[\w /,-]{0,20}\b(credentials?|password|user ?name|user|login)\b"
    r"|\b(credentials?|password|user ?name|user)\b[\w /,()-]{0,30}\b(invalid|incorrect|wrong|not accepted|unknown)\b",
    re.IGNORECASE,
)
_ACCOUNT_STOPPED = re.compile(
    r"\b(account|user|login)\b[\w ]{0,30}\b(disabled|suspended|blocked|deactivated|restricted|closed)\b", re.IGNORECASE
)
_TOO_MUCH = re.compile(
    r"\btoo (many|much|often|frequent\w*)\b"
    r"|\bsimultaneous\b|\bconcurrent\b|\bmax(imum)? (number of )?(connections?|sessions?|logins?)\b"
    r"|\b(connections?|sessions?|logins?|rate|bandwidth|command) ?(count |rate )?(limits?|quota)\b"
    r"|\blimits? (was |has been |is )?(exceeded|reached|hit)\b|\b(exceed\w*|reached|hit) [\w ]{0,40}\blimits?\b"
    r"|\bfrequency (is )?limit\w*|\bthrottl\w*|\brate.?limit\w*|\bslow down\b",
    re.IGNORECASE,
)
_AWAY = re.compile(
    r"\btemporar\w+|\b(try|retry)( it)? (again )?(later|in a (few|while))\b"
    # What Postfix says of any wrong password if its SASL server, such as Dovecot, gives no reason.
    r"|(?<!reason )\bunavailable\b|\bnot available at (this|the)\b"
    r"|\b(server|system|service|backend|database|ldap|mailbox|too) (is )?(busy|overload\w*|down|in use|locked)\b"
    r"|\b(internal|system|server|backend|database|i/?o) (server )?(error|failure|problem)\b|\bserver bug\b"
    r"|\btim(ed|e)[ -]?out\b|\bmaintenance\b|\boverload\w*|\bshutting down\b|\bconnection (refused|lost|reset)\b",
    re.IGNORECASE,
)
_MECHANISM = r"(mechanisms?|auth(entication)? (type|method|scheme)s?|command|SASL method)"
_NOT_HERE = (
    r"(un(supported|recogni[sz]ed|known|implemented|available)"
    r"|not (supported|recogni[sz]ed|known|implemented|available|enabled|allowed|permitted|accepted)|invalid|disabled"
    r"|too weak)"
)
_ABOUT_THE_MECHANISM = re.compile(
    rf"{_NOT_HERE}\b[^.;]{{0,40}}\b{_MECHANISM}\b|\b{_MECHANISM}\b[^.;]{{0,40}}\b{_NOT_HERE}", re.IGNORECASE
)
# RFC 4954 4, RFC 5321 4.2.4: a command or parameter that the server does not know or take, so nothing was judged.
_NOT_JUDGED_CODES = frozenset({500, 501, 502, 503, 504})
# RFC 3463 3.6, 3.8 and RFC 5248 2.4: invalid command or parameters, features not supported, encryption required.
_NOT_JUDGED_ENHANCED = re.compile(r"5\.(5\.[124]|7\.4|7\.11)\b")


def passes(text: str) -> bool:
    """Return whether a refusal, whose words are ``text``, is about the server's state and not about the login."""
    if _ABOUT_THE_ACCOUNT.search(text):
        return False
    if _PASSING_CODE.search(text) or _TOO_MUCH.search(text):
        return True
    is_about_the_account = _WRONG_CREDENTIALS.search(text) or _ACCOUNT_STOPPED.search(text)
    return _AWAY.search(text) is not None and not is_about_the_account


def is_about_the_mechanism(text: str, code: int | None = None) -> bool:
    """Return whether the mechanism was refused before any password was judged.

    ``code`` is SMTP's reply code: 500 to 504 always, 534, 535 and 538 if the enhanced code or the words name the
    mechanism. For IMAP, ``text`` is of a NO; a BAD is about the command in any case.
    """
    if code in _NOT_JUDGED_CODES:
        return True
    if code is not None and _NOT_JUDGED_ENHANCED.match(text):
        return True
    return _ABOUT_THE_MECHANISM.search(text) is not None and not _WRONG_CREDENTIALS.search(text)
