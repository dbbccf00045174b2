"""The policy in force, as its operator reads it."""

from __future__ import annotations

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
