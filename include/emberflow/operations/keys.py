"""What people decide about the keys that protect passwords and tokens."""

from __future__ import annotations

from sqlalchemy import Engine

from emberflow.accounts import keys_in_force, suppression_hashes
from emberflow.database.secrets import SecretBox
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager.receiving import quarantine
from emberflow.settings import Settings


def rotate(engine: Engine, actor: Actor, settings: Settings, *, reason: str) -> int:
    """Encrypt every stored password with the first key; return how many were under another one.

    What is kept of messages in quarantine goes with them; of that, what no key opens is deleted.

    Raises:
        WorkerRefusedError: this machine has other keys than those in force.
    """
    with doing(engine, actor, "secrets.rotate", "stored passwords", reason) as deed:
        keys_in_force.require(deed.connection, settings)
        rotated = SecretBox(settings.secret_keys).rotate(deed.connection)
        suppression_hashes.rotate(deed.connection, settings.secret_keys)
        deed.details |= {"rotated": rotated, "quarantined": vars(quarantine.rotate(deed.connection, settings))}
    return rotated


def adopt(engine: Engine, actor: Actor, settings: Settings, *, reason: str) -> None:
    """Put this machine's keys in force because the earlier ones are lost; machines with others are refused then.

    Raises:
        ConfigurationError: there are no keys, or one is malformed.
    """
    with doing(engine, actor, "secrets.adopt", "keys in force", reason) as deed:
        keys_in_force.adopt(deed.connection, settings)
