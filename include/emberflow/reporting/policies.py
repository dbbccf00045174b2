"""The policy in force, as its operator reads it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection


def in_force_as_text(connection: Connection) -> str:
    """Return every number in force with its meaning, as YAML that `policy apply` takes back.

    Raises:
        ConfigurationError: no policy was ever put in force in this database.
    """
    from emberflow.policy.text import as_text
    from emberflow.policy.versions import in_force

    force = in_force(connection)
    head = f"# version {force.policy_id}, seed {force.seed}, scripts {force.script_set_id}"
    return f"{head}\n{as_text(force.policy)}"


def in_force_as_document(connection: Connection) -> dict[str, Any]:
    """Return the version in force: ``version``, ``seed``, ``script_set`` and ``policy``, its numbers by section.

    Raises:
        ConfigurationError: as in `in_force_as_text`.
    """
    from emberflow.policy.versions import in_force

    force = in_force(connection)
    return {
        "version": force.policy_id,
        "seed": force.seed,
        "script_set": force.script_set_id,
        "policy": force.policy.model_dump(mode="json"),
    }
