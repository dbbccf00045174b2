"""Which keys the installation works with, as fingerprints: a machine that has others exchanges no mail.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys_in_force",
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False, comment="as EMBERFLOW_SECRET_KEYS names it; tokens: empty"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="HMAC-SHA256 under the key itself; says nothing of the key",
        ),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("purpose in ('secrets', 'tokens')", name=op.f("ck_keys_in_force_purpose_known")),
        sa.PrimaryKeyConstraint("purpose", name=op.f("pk_keys_in_force")),
        schema="ops",
    )


def downgrade() -> None:
    op.drop_table("keys_in_force", schema="ops")
