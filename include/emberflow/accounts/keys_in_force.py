"""One set of keys for all machines. One with other keys could read no password and would take our mail for forged.

For passwords and for tokens the database keeps a fingerprint of the key that encrypts or signs. A machine whose keys
hold it may work; if another of its keys stands first, that one is in force from then on, which is how a key is rotated.
A machine that lacks the key in force is refused before it claims or reads anything, so that it puts off nobody's mail.
One password that is under an older key, or was altered, is no matter of the machine: it concerns its own mailbox.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from emberflow.database.secrets import SecretBox
from emberflow.database.tables import keys_in_force, mailbox_secrets
from emberflow.errors import SecretError, WorkerRefusedError
from emberflow.settings import Settings

_SAMPLE = 20
_VARIABLES = {"secrets": "EMBERFLOW_SECRET_KEYS", "tokens": "EMBERFLOW_TOKEN_KEYS"}
_DOES = {"secrets": "read no password", "tokens": "take genuine mail for forged"}


@dataclass(frozen=True)
class _Keys:
    """This machine's keys for one purpose: what names and what proves the first, and the proofs of all."""

    purpose: str
    first_id: str
    fingerprints: tuple[str, ...]


def require(connection: Connection, settings: Settings, purposes: Sequence[str] = ("secrets", "tokens")) -> None:
    """Let this machine work with its keys, and put its first ones in force if they follow on those that are.

    Raises:
        WorkerRefusedError: they do not hold a key that is in force, or none is and they open no stored password.
        ConfigurationError: there are no keys, or one is malformed.
    """
    for purpose in purposes:
        keys = _keys_of(settings, purpose)
        known = _in_force(connection, purpose)
        if known is None:
            _require_readable(connection, settings, keys)
            _put(connection, keys)
            known = _in_force(connection, purpose)
        refusal = _refusal(keys, known)
        if refusal is not None:
            raise WorkerRefusedError(refusal)
        if known is not None and known[1] != keys.fingerprints[0]:
            _put(connection, keys, replacing=known[1])


def at_hand(settings: Settings) -> list[str]:
    """Return what this machine needs keys for to register mailboxes, and what else it has keys for."""
    return ["secrets", "tokens"] if settings.token_keys else ["secrets"]


def why_refused(connection: Connection, settings: Settings) -> str | None:
    """Return why this machine must not work with its keys, or None; nothing is written.

    Raises:
        ConfigurationError: as in :func:`require`.
    """
    refusals = (_refusal(_keys_of(settings, purpose), _in_force(connection, purpose)) for purpose in _VARIABLES)
    return next((refusal for refusal in refusals if refusal is not None), None)


def adopt(connection: Connection, settings: Settings) -> None:
    """Put this machine's keys in force, whatever was: the earlier ones are lost.

    Raises:
        ConfigurationError: as in :func:`require`.
    """
    for purpose in _VARIABLES:
        keys, known = _keys_of(settings, purpose), _in_force(connection, purpose)
        _put(connection, keys, replacing=None if known is None else known[1])


def _keys_of(settings: Settings, purpose: str) -> _Keys:
    if purpose == "secrets":
        SecretBox(settings.secret_keys)  # judges their form
        named = {key_id: key.get_secret_value() for key_id, key in settings.secret_keys.items()}
        proofs = tuple(_fingerprint(key, f"secrets:{key_id}") for key_id, key in named.items())
        return _Keys(purpose, next(iter(named)), proofs)
    tokens = [key.get_secret_value() for key in settings.require_token_keys()]
    return _Keys(purpose, "", tuple(_fingerprint(key, purpose) for key in tokens))


def _fingerprint(key: str, purpose: str) -> str:
    return hmac.new(key.encode(), f"emberflow.fingerprint:{purpose}".encode(), hashlib.sha256).hexdigest()


def _in_force(connection: Connection, purpose: str) -> tuple[str, str] | None:
    row = connection.execute(
        select(keys_in_force.c.key_id, keys_in_force.c.fingerprint).where(keys_in_force.c.purpose == purpose)
    ).one_or_none()
    return None if row is None else (row.key_id, row.fingerprint)


def _refusal(keys: _Keys, known: tuple[str, str] | None) -> str | None:
    if known is None or known[1] in keys.fingerprints:
        return None
    name = f"key {known[0]!r} that is" if known[0] else "key that is"
    return (
        f"this machine has other keys: its {_VARIABLES[keys.purpose]} lack the {name} in force (fingerprint "
        f"{known[1][:12]}), so it would {_DOES[keys.purpose]}. Copy the keys of a machine that works; if they are lost "
        "for good, run `emberflow secrets adopt` here"
    )


def _require_readable(connection: Connection, settings: Settings, keys: _Keys) -> None:
    """A database that knows of no key yet, but of passwords: whose keys open none of them, has others."""
    if keys.purpose != "secrets":
        return
    newest = select(mailbox_secrets.c.mailbox_id).order_by(mailbox_secrets.c.updated_at.desc()).limit(_SAMPLE)
    ids: list[int] = list(connection.execute(newest).scalars())
    opened = SecretBox(settings.secret_keys).read_all(connection, ids).values()
    if ids and all(isinstance(one, SecretError) for one in opened):
        raise WorkerRefusedError(
            "this machine has other keys: its EMBERFLOW_SECRET_KEYS open none of the stored passwords. Copy the keys "
            "of the machine that stored them; if they are lost for good, run `emberflow secrets adopt` here"
        )


def _put(connection: Connection, keys: _Keys, *, replacing: str | None = None) -> None:
    row = {"key_id": keys.first_id, "fingerprint": keys.fingerprints[0], "changed_at": func.clock_timestamp()}
    statement = insert(keys_in_force).values(purpose=keys.purpose, **row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["purpose"], set_=row, where=keys_in_force.c.fingerprint == (replacing or "")
        )
    )
