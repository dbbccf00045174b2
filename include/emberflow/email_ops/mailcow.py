"""Mailboxes by the documented API of the operator's own mailcow: ``/api/v1/add/mailbox`` and ``/api/v1/get/mailbox``.

mailcow answers 200 to almost everything, and says in a list of ``{"type", "msg"}`` what came of it; ``msg`` is a code,
alone or with its details. Only 401 (the key, or this machine's address is not allowed) and 403 (a key that may only
read) are told by the status. A ``danger`` with a code that is not known here may come from a step after the mailbox was
made, so it leaves open whether it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from emberflow.email_ops import https
from emberflow.email_ops.addresses import domain_of, normalise
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.settings import ProvisionMailcow

_SHOWN = 300  # characters of what a server says
_TAKEN = frozenset({"object_exists", "is_alias", "is_spam_alias"})
# What mailcow checks before it makes anything, and what a person can do about it.
_REFUSALS: Mapping[str, str] = {
    "access_denied": "the API key may not add mailboxes",
    "domain_invalid": "add the domain in mailcow first",
    "domain_not_found": "add the domain in mailcow first",
    "mailbox_invalid": "mailcow does not take this address",
    "mailbox_quota_exceeded": "set quota_mib of EMBERFLOW_PROVISION_MAILCOW to what the domain allows a mailbox",
    "mailbox_quota_left_exceeded": "raise the domain's quota in mailcow, or set a smaller quota_mib",
    "max_mailbox_exceeded": "raise the domain's number of mailboxes in mailcow",
    "password_complexity": "loosen mailcow's password policy: 32 letters, digits and dashes are not enough for it",
    "unlimited_quota_acl": "the API key may not give a mailbox without a quota: set quota_mib",
}


def has(place: ProvisionMailcow, mode: Mode, ca_files: Mapping[str, Path], address: str) -> bool:
    """Return whether mailcow has a mailbox of this address; aliases are only told when one is created.

    Raises:
        ProvisioningError: it cannot be asked.
        EgressRefusedError, ConfigurationError: as in :func:`emberflow.email_ops.https.ask`.
    """
    key = normalise(address)
    status, said = _ask(place, mode, ca_files, "GET", f"get/mailbox/{quote(key, safe='@')}", None, is_change=False)
    if status != httpx.codes.OK:
        raise ProvisioningError(f"mailcow at {place.url} answered {status}: {_refusal(status, said)}")
    found = said if isinstance(said, list) else [said]
    return any(isinstance(one, dict) and str(one.get("username", "")).lower() == key for one in found)


def create(
    place: ProvisionMailcow, mode: Mode, ca_files: Mapping[str, Path], address: str, password: SecretStr
) -> None:
    """Add the mailbox ``address``.

    Raises:
        MailboxTakenError: mailcow has a mailbox or an alias of this address.
        ProvisioningError: mailcow refused, or did not answer so that anybody could tell.
        EgressRefusedError, ConfigurationError: as in :func:`emberflow.email_ops.https.ask`.
    """
    key = normalise(address)
    document = {
        "local_part": key.rpartition("@")[0],
        "domain": domain_of(key),
        "authsource": "mailcow",
        "password": password.get_secret_value(),
        "password2": password.get_secret_value(),
        "active": "1",
        # A machine logs in here: nobody would be there to choose another password, or to type a second factor.
        "force_pw_update": "0",
        "force_tfa": "0",
    }
    if place.quota_mib is not None:
        document["quota"] = str(place.quota_mib)
    status, said = _ask(place, mode, ca_files, "POST", "add/mailbox", document, is_change=True)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise ProvisioningError(f"mailcow at {place.url} refused: {_refusal(status, said)}")
    results = [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, dict)]
    if status == httpx.codes.OK and any(one.get("type") == "success" for one in results):
        return
    for one in results:
        code = _words(one)[0]
        told = _public(" ".join(_words(one)), place, password)
        if code in _TAKEN:
            raise MailboxTakenError(f"mailcow has {key} already ({told})")
        if code in _REFUSALS:
            raise ProvisioningError(f"mailcow did not create {key}: {told}; {_REFUSALS[code]}")
    told = _public("; ".join(" ".join(_words(one)) for one in results) or "nothing that is understood", place, password)
    raise ProvisioningError(f"mailcow at {place.url} answered {status} for {key}: {told}", is_certain=False)


def _ask(
    place: ProvisionMailcow,
    mode: Mode,
    ca_files: Mapping[str, Path],
    method: Literal["GET", "POST"],
    path: str,
    document: Any,
    *,
    is_change: bool,
) -> tuple[int, Any]:
    """Return the status and the content, None if that is no JSON. A change that got no answer may have been made."""
    url = f"{place.url.rstrip('/')}/api/v1/{path}"
    headers = {"X-API-Key": place.api_key.get_secret_value()}
    try:
        answer = https.ask(method, url, mode, ca_files, headers=headers, document=document)
    except https.UnreadableAnswerError as error:
        raise ProvisioningError(
            f"the answer of mailcow at {place.url} was not read: {error}", is_certain=not is_change
        ) from None
    except (OSError, httpx.HTTPError) as error:
        did_not_leave = isinstance(error, OSError | httpx.ConnectError | httpx.ConnectTimeout)
        # Not chained: the original holds the request.
        raise ProvisioningError(
            f"no answer of mailcow at {place.url}: {type(error).__name__}: {error}"[:_SHOWN],
            is_certain=did_not_leave or not is_change,
        ) from None
    try:
        return answer.status, json.loads(answer.content)
    except (ValueError, RecursionError):
        return answer.status, None


def _refusal(status: int, said: Any) -> str:
    told = _printable(str(said.get("msg", "")) if isinstance(said, dict) else "") or "no reason"
    if status == httpx.codes.UNAUTHORIZED:
        return f"{told}; correct api_key, or allow this machine's address in mailcow's API settings"
    if status == httpx.codes.FORBIDDEN:
        return f"{told}; the API key must be one that may write"
    return told


def _words(result: Mapping[str, Any]) -> list[str]:
    """Return the code of a result, and its details."""
    told = result.get("msg")
    words = [str(word) for word in told] if isinstance(told, list) else [str(told)]
    return words or [""]


def _public(text: str, place: ProvisionMailcow, password: SecretStr) -> str:
    for secret in (password.get_secret_value(), place.api_key.get_secret_value()):
        text = text.replace(secret, "***")
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_SHOWN]
