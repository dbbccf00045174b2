"""Alembic's entry: migrations run on the connection that ``emberflow.database.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from emberflow.database.migrate import VERSION_TABLE
from emberflow.database.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    include_name=lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
    version_table=VERSION_TABLE,
    compare_server_default=False,
)

with context.begin_transaction():
    context.run_migrations()
