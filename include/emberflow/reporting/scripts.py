"""Conversation scripts as their author sees them: which there are, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from emberflow.email_ops import content
from emberflow.email_ops.content import Script
from emberflow.policy import script_sets
from emberflow.policy.versions import in_force
from emberflow.settings import Settings
from emberflow.yaml_files import Mistake

__all__ = ["check", "directory_of", "listed", "listed_in_force"]


def directory_of(settings: Settings) -> Path:
    """Return where the scripts in use are."""
    return settings.scripts_dir or content.BUILT_IN


def check(directory: Path) -> tuple[list[Script], list[Mistake]]:
    """Return the scripts of a directory that are right, and every mistake in the others."""
    return content.check_scripts(directory)


def listed(directory: Path) -> list[Script]:
    """Return the scripts of a directory.

    Raises:
        ConfigurationError: one of them has a mistake.
    """
    return list(content.load_scripts(directory).by_id.values())


def listed_in_force(connection: Connection) -> tuple[list[Script], str]:
    """Return the scripts in force, and in words which set that is.

    Raises:
        ConfigurationError: no policy was ever put in force in this database.
    """
    stored = script_sets.load(connection, in_force(connection).script_set_id)
    found = list(stored.scripts.by_id.values())
    return found, f"in force (set {stored.id}, stored {stored.created_at:%Y-%m-%d %H:%M} UTC)"
