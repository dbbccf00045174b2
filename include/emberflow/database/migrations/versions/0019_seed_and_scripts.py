"""The seed and the conversation scripts are part of a policy's version, and not of a machine's settings.

Versions of before get the seed that the latest plan was made with, which machines were set to, or else its former
default. Their scripts lie in a folder that a migration does not know: ``ensure_in_force``, which follows every
migration, stores them.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_SEED = "update ops.policies set seed = coalesce((select seed from ops.plan_runs order by planned_at desc limit 1), 1)"


def upgrade() -> None:
    op.create_table(
        "script_sets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "content",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the conversation scripts of warm-up mail, by id",
        ),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the content: equal scripts are one row"),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_script_sets")),
        sa.UniqueConstraint("sha256", name=op.f("uq_script_sets_sha256")),
        schema="ops",
    )
    op.execute(
        "create trigger append_only before update or delete or truncate on ops.script_sets "
        "for each statement execute function ops.refuse_change()"
    )
    op.add_column(
        "policies",
        sa.Column("seed", sa.BigInteger(), comment="of every random stream; all versions have the same"),
        schema="ops",
    )
    op.execute(_SEED)
    op.alter_column("policies", "seed", nullable=False, schema="ops")
    op.add_column(
        "policies",
        sa.Column(
            "script_set_id",
            sa.BigInteger(),
            comment="what plans choose scripts from; null: from before sets were stored, until the next migrate",
        ),
        schema="ops",
    )
    op.create_foreign_key(
        op.f("fk_policies_script_set_id"),
        "policies",
        "script_sets",
        ["script_set_id"],
        ["id"],
        source_schema="ops",
        referent_schema="ops",
    )


def downgrade() -> None:
    op.drop_column("policies", "script_set_id", schema="ops")
    op.drop_column("policies", "seed", schema="ops")
    op.drop_table("script_sets", schema="ops")
