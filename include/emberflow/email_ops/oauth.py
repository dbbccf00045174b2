"""Access tokens for XOAUTH2: got with a mailbox's refresh token (RFC 6749 6), kept until shortly before they expire.

One process holds one access token per mailbox, whatever the number of its connections. A refused one is forgotten
by its user and asked for again. Tokens are kept in memory only.

A token endpoint is a server like any other: the whole of its answer has a deadline, its content a size, compressed or
not, and whatever it says besides is an :class:`AccessTokenError` that names it.
"""

from __future__ import annotations

import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Self

import httpx
from pydantic import SecretStr

from emberflow.email_ops.egress import Mode, is_lasting_fault, require_mail_egress
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.tls import client_context
from emberflow.errors import EmberflowError
from emberflow.settings import OAuthClient

# A token is not used in its last two minutes: the login must end before it does, and clocks differ.
MARGIN_SECONDS = 120.0
# What RFC 6749 5.1 leaves open; Google and Microsoft say about an hour.
_LIFETIME_UNLESS_STATED = 3600.0
_LONGEST_LIFETIME = 86_400.0
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
# From the TLS handshake to the last byte, however lively the server is; and for its addresses together to connect.
_ANSWER_WITHIN_S = 30.0
# A hundred times what Google and Microsoft answer.
_CONTENT_BYTES = 262_144
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
class _Said:
    """A token endpoint's answer, not judged yet."""

    status: int
    content: bytes


class _UnreadableError(Exception):
    """An answer that is longer than allowed, later, or compressed in a way that was not offered."""


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
        said = _post(
            httpx.URL(client.token_url), {name: value for name, value in form.items() if value}, mode, ca_files
        )
    except _UnreadableError as error:
        text = access.public_text(f"the answer of {client.token_url} was not read: {error}")
        raise AccessTokenError(text, permanent=False) from None
    except (OSError, httpx.HTTPError) as error:
        text = access.public_text(f"no answer from {client.token_url}: {type(error).__name__}: {error}")
        lasts = "CERTIFICATE_VERIFY_FAILED" in text or (isinstance(error, OSError) and is_lasting_fault(error))
        # Not chained: the original holds the request.
        raise AccessTokenError(text, permanent=lasts) from None
    return _judged(access, said)


def _post(url: httpx.URL, form: Mapping[str, str], mode: Mode, ca_files: Mapping[str, Path]) -> _Said:
    fault: OSError | httpx.HTTPError = OSError(f"{url.host} has no address")
    give_up_at = time.monotonic() + _ANSWER_WITHIN_S
    # Neither proxies nor redirects: a credential goes to the configured host or nowhere.
    with httpx.Client(verify=client_context(url.host, ca_files), timeout=_TIMEOUT, trust_env=False) as http:
        for address in require_mail_egress(mode, url.host):
            if time.monotonic() >= give_up_at:
                break
            try:
                return _ask(http, url, address, form)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                fault = error
    raise fault


def _ask(http: httpx.Client, url: httpx.URL, address: str, form: Mapping[str, str]) -> _Said:
    """Post ``form`` to one address of the endpoint; whatever it does, it is over soon and in little memory."""
    with _Deadline(_ANSWER_WITHIN_S) as deadline:
        try:
            with http.stream(
                "POST",
                url.copy_with(host=address),
                data=form,
                headers={
                    "Host": url.netloc.decode("ascii"),
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                extensions={"sni_hostname": url.host, "trace": deadline.watch},
            ) as answer:
                content = bytearray()
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > _CONTENT_BYTES:
                        raise _UnreadableError(f"it is longer than {_CONTENT_BYTES} bytes")
                encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
                if deadline.is_over:
                    raise _UnreadableError(f"it took longer than {_ANSWER_WITHIN_S:.0f} s")
                return _Said(answer.status_code, _decoded(bytes(content), encoding))
        except (OSError, httpx.HTTPError):
            if deadline.is_over:
                raise _UnreadableError(f"it took longer than {_ANSWER_WITHIN_S:.0f} s") from None
            raise


def _decoded(content: bytes, encoding: str) -> bytes:
    """Return what was compressed (RFC 9110 8.4.1) although it was not asked for, within the same bounds."""
    if encoding in ("", "identity"):
        return content
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _UnreadableError(f"its content encoding is {encoding!r}")
    try:
        plain = zlib.decompressobj(wbits=47).decompress(content, _CONTENT_BYTES + 1)  # 32 + 15: gzip or zlib
    except zlib.error as error:
        raise _UnreadableError(f"it is not {encoding}: {error}") from None
    if len(plain) > _CONTENT_BYTES:
        raise _UnreadableError(f"it is longer than {_CONTENT_BYTES} bytes")
    return plain


class _Deadline:
    """Cuts the connection of a request that lasts too long; the time-outs of httpx are for each read alone."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._socket: socket.socket | None = None
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, details: Mapping[str, Any]) -> None:
        """Take note of the connection (httpx's extension ``trace``)."""
        if event == "connection.start_tls.complete":
            self._socket = details["return_value"].get_extra_info("socket")
            if self.is_over:
                self._cut()

    def _cut(self) -> None:
        self.is_over = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown: it drops TLS, and another thread may still be reading through it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _judged(access: MailboxAccess, answer: _Said) -> _Answer:
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
