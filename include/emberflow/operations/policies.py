"""What people decide about the numbers behind every rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing


@dataclass(frozen=True)
class Applied:
    """The policy that is in force now, and its row's id."""

    name: str
    label: str
    policy_id: int


def apply(engine: Engine, actor: Actor, name: str, *, reason: str) -> Applied:
    """Put a policy in force from now on: a YAML file, or the name of one that ships.

    Raises:
        ConfigurationError: it cannot be read, or a value is unknown or out of range.
    """
    from emberflow.policy import document, versions

    policy = document.load(Path(name)) if name.endswith((".yaml", ".yml")) else document.shipped(name)
    with doing(engine, actor, "policy.apply", name, reason) as deed:
        policy_id = versions.put_in_force(deed.connection, policy)
        deed.details |= {"policy_id": policy_id, "label": policy.label}
    return Applied(policy.name, policy.label, policy_id)
