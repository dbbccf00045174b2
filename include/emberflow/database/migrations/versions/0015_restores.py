"""Restored databases: which database this is, by what no dump carries over, and each time that it was restored.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "database_identity",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("database_oid", sa.BigInteger(), nullable=False, comment="pg_database.oid"),
        sa.Column("table_oid", sa.BigInteger(), nullable=False, comment="of this table"),
        sa.Column(
            "made_in", sa.BigInteger(), nullable=False, comment="the transaction that wrote this row, as its xmin says"
        ),
        sa.CheckConstraint("is_only", name=op.f("ck_database_identity_one_row")),
        sa.PrimaryKeyConstraint("is_only", name=op.f("pk_database_identity")),
        schema="ops",
    )
    op.create_table(
        "restores",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("noticed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.Text(), nullable=False, comment="what showed that the database was restored"),
        sa.Column("newest_at", sa.DateTime(timezone=True), nullable=False, comment="the newest thing in the backup"),
        sa.Column(
            "settled_at", sa.DateTime(timezone=True), nullable=True, comment="null: no mail leaves until it is settled"
        ),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.Column(
            "outcome",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="how many mails were found, rebuilt and left in doubt",
        ),
        sa.CheckConstraint("(settled_at is null) = (settled_by is null)", name=op.f("ck_restores_settled_by_somebody")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restores")),
        schema="ops",
    )
    op.create_index(
        "uq_restores_open",
        "restores",
        [sa.literal_column("(settled_at is null)")],
        unique=True,
        schema="ops",
        postgresql_where=sa.text("settled_at is null"),
    )


def downgrade() -> None:
    op.drop_table("restores", schema="ops")
    op.drop_table("database_identity", schema="ops")
