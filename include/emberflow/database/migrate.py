"""Bring the database ``emberflow`` to the shape of :mod:`emberflow.database.tables`, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect

from emberflow.database import zones
from emberflow.database.tables import SCHEMA

# In schema `public`: dropping schema `ops` must not drop Alembic's own memory.
VERSION_TABLE = "emberflow_schema_version"
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply the migrations up to ``revision``, those already applied are skipped, and bring the zones up to date."""
    _run(engine, lambda config: command.upgrade(config, revision))
    with engine.begin() as connection:
        if _has_zones(connection):
            zones.synchronise(connection)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Revert the migrations down to ``revision``; ``base`` leaves no trace of Emberflow."""
    _run(engine, lambda config: command.downgrade(config, revision))


def configuration() -> Config:
    """Return the Alembic configuration of this package (there is no alembic.ini)."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _has_zones(connection: Connection) -> bool:
    return inspect(connection).has_table("zones", SCHEMA)


def _run(engine: Engine, step: Callable[[Config], None]) -> None:
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        step(config)
