"""Access tokens for XOAUTH2: got with a mailbox's refresh token (RFC 6749 6), kept until shortly before they expire.

One process holds one access token per mailbox, whatever the number of its connections. A refused one is forgotten
by its user and asked for again. Tokens are kept in memory only.

A token endpoint is a server like any other: its answers are bounded (``https``), and whatever it says besides a token
is an :class:`AccessTokenError` that names it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
from pydantic import SecretStr

from emberflow.email_ops import https
from emberflow.email_ops.egress import Mode, is_lasting_fault
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.errors import EmberflowError
from emberflow.settings import OAuthClient

# A token is not used in its last two minutes: the login must end before it does, and clocks differ.
MARGIN_SECONDS = 120.0
# What RFC 6749 5.1 leaves open; Google and Microsoft say about an hour.
_LIFETIME_UNLESS_STATED = 3600.0
_LONGEST_LIFETIME = 86_400.0
_BEARER_TOKEN = re.compile(r"[!-~]{1,8192}")
# RFC 6749 5.2 answers every lasting refusal with 400 or 401; these two errors are what providers send besides.
_REFUSED = frozenset({400, 401, 403})
_TEMPORARY = frozenset({"temporarily_unavailable", "slow_down"})


class AccessTokenError(EmberflowError):
    """There is no access token; ``permanent`` if only the operator can change that. The text holds no credentials."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


@dataclass(frozen=True)
class Replaced:
    """A refresh token that its provider replaced: ``earlier`` ones may stop working, ``newest`` is to be stored."""

    mailbox_id: int
    earlier: tuple[SecretStr, ...]
    newest: SecretStr


@dataclass
class _Grant:
    """What is known of one mailbox's tokens; ``lock`` makes the threads of a mailbox ask once.

    ``refresh_tokens`` begins with the stored one; the last is the one to use.
    """

    mailbox_id: int
    refresh_tokens: list[SecretStr]
    lock: Lock = field(default_factory=Lock)
    access_token: SecretStr | None = None
    usable_until: float = 0.0


@dataclass(frozen=True)
class _Answer:
    access_token: SecretStr
    lifetime: float  # seconds
    refresh_token: SecretStr


_GrantKey = tuple[int, str, SecretStr]
_grants: dict[_GrantKey, _Grant] = {}


def access_token(
    access: MailboxAccess,
    mode: Mode,
    ca_files: Mapping[str, Path],
    *,
    elapsed: Callable[[], float] = time.monotonic,
) -> SecretStr:
    """Return an access token of ``access`` that is good for at least two more minutes.

    Raises:
        AccessTokenError: the provider gives none, or cannot be reached.
        EgressRefusedError: the mode forbids to ask it.
        ConfigurationError: a configured CA file is unusable.
    """
    grant = _grant_of(access)
    with grant.lock:
        if grant.access_token is None or elapsed() >= grant.usable_until:
            asked_at = elapsed()
            answer = _request(replace(access, password=grant.refresh_tokens[-1]), mode, ca_files)
            grant.access_token = answer.access_token
            grant.usable_until = asked_at + answer.lifetime - MARGIN_SECONDS
            if answer.refresh_token != grant.refresh_tokens[-1]:
                grant.refresh_tokens.append(answer.refresh_token)
                _grants[_key(access, answer.refresh_token)] = grant
        return grant.access_token


def forget(access: MailboxAccess, refused: SecretStr) -> None:
    """Give up an access token that a server refused, unless another connection has replaced it already."""
    grant = _grant_of(access)
    with grant.lock:
        if grant.access_token == refused:
            grant.access_token = None


def forget_everything() -> None:
    """Drop every access token and every replaced refresh token of this process."""
    _grants.clear()


def replaced_refresh_tokens() -> list[Replaced]:
    """Return the refresh tokens that providers have replaced in this process (RFC 6749 6; Microsoft always does)."""
    grants = {id(grant): grant for grant in _grants.copy().values()}
    return [
        Replaced(grant.mailbox_id, tuple(grant.refresh_tokens[:-1]), grant.refresh_tokens[-1])
        for grant in grants.values()
        if len(grant.refresh_tokens) > 1
    ]


def _client_of(access: MailboxAccess) -> OAuthClient:
    if access.oauth is None:
        raise ValueError(f"{access.address} does not log in with access tokens")
    return access.oauth


def _key(access: MailboxAccess, refresh_token: SecretStr) -> _GrantKey:
    return access.mailbox_id, _client_of(access).token_url, refresh_token


def _grant_of(access: MailboxAccess) -> _Grant:
    return _grants.setdefault(_key(access, access.password), _Grant(access.mailbox_id, [access.password]))


def _request(access: MailboxAccess, mode: Mode, ca_files: Mapping[str, Path]) -> _Answer:
    client = _client_of(access)
    form = {
        "grant_type": "refresh_token",
        "client_id": client.client_id,
        "client_secret": client.client_secret.get_secret_value(),
        "refresh_token": access.password.get_secret_value(),
    }
    try:
        said = https.ask(
            "POST", client.token_url, mode, ca_files, form={name: value for name, value in form.items() if value}
        )
    except https.UnreadableAnswerError as error:
        text = access.public_text(f"the answer of {client.token_url} was not read: {error}")
        raise AccessTokenError(text, permanent=False) from None
    except (OSError, httpx.HTTPError) as error:
        text = access.public_text(f"no answer from {client.token_url}: {type(error).__name__}: {error}")
        lasts = "CERTIFICATE_VERIFY_FAILED" in text or (isinstance(error, OSError) and is_lasting_fault(error))
        # Not chained: the original holds the request.
        raise AccessTokenError(text, permanent=lasts) from None
    return _judged(access, said)


def _judged(access: MailboxAccess, answer: https.Answer) -> _Answer:
    try:
        content = json.loads(answer.content)
    except (ValueError, RecursionError):
        content = None
    fields: Mapping[str, Any] = content if isinstance(content, dict) else {}
    token = fields.get("access_token")
    if answer.status == httpx.codes.OK and isinstance(token, str) and _BEARER_TOKEN.fullmatch(token):
        newest = fields.get("refresh_token")
        kept = SecretStr(newest) if newest and isinstance(newest, str) else access.password
        return _Answer(SecretStr(token), _lifetime(fields), kept)
    error, description = (fields.get(name) for name in ("error", "error_description"))
    error = error if isinstance(error, str) else "no access token in the answer"
    remedy = "; authorise the mailbox again and store its new refresh token" if error == "invalid_grant" else ""
    reason = f"{answer.status} {error}{remedy}: {description if isinstance(description, str) else ''}"
    raise AccessTokenError(
        access.public_text(f"{_client_of(access).token_url} answered {reason}"),
        permanent=answer.status in _REFUSED and error not in _TEMPORARY,
    )


def _lifetime(fields: Mapping[str, Any]) -> float:
    try:
        lifetime = float(fields["expires_in"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return _LIFETIME_UNLESS_STATED
    return min(lifetime, _LONGEST_LIFETIME) if lifetime > 0 else _LIFETIME_UNLESS_STATED
