"""What people decide about the numbers behind every rule, and about what warm-up mails say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.settings import Settings


@dataclass(frozen=True)
class Applied:
    """The policy that is in force now, and its row's id."""

    name: str
    label: str
    policy_id: int


@dataclass(frozen=True)
class ScriptsApplied:
    """How many conversation scripts are in force now, in which set, and by which version of the policy."""

    scripts: int
    set_id: int
    policy_id: int


def apply(engine: Engine, actor: Actor, settings: Settings, name: str, *, reason: str) -> Applied:
    """Put a policy in force from now on: a YAML file, or the name of one that ships.

    The seed and the scripts in force stay; in a new database they are those of ``settings``.

    Raises:
        ConfigurationError: it cannot be read, or a value is unknown or out of range.
    """
    from emberflow.policy import document, versions

    policy = document.load(Path(name)) if name.endswith((".yaml", ".yml")) else document.shipped(name)
    with doing(engine, actor, "policy.apply", name, reason) as deed:
        policy_id = versions.put_in_force(deed.connection, policy, settings=settings)
        deed.details |= {"policy_id": policy_id, "label": policy.label}
    return Applied(policy.name, policy.label, policy_id)


def apply_scripts(engine: Engine, actor: Actor, folder: Path, *, reason: str) -> ScriptsApplied:
    """Put the conversation scripts of a folder in force from now on, under the numbers in force.

    Raises:
        ConfigurationError: scripts with mistakes, or none; or no policy is in force.
    """
    from emberflow.email_ops.content import load_scripts
    from emberflow.policy import versions

    scripts = load_scripts(folder)
    with doing(engine, actor, "scripts.apply", str(folder), reason) as deed:
        force = versions.change_scripts(deed.connection, scripts)
        deed.details |= {"policy_id": force.policy_id, "script_set_id": force.script_set_id}
    return ScriptsApplied(len(scripts.by_id), force.script_set_id, force.policy_id)
