"""Messages that were set aside have a number, and of those that broke a limit the bytes are kept for a time.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "message_faults",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        schema="ops",
    )
    op.create_unique_constraint(op.f("uq_message_faults_id"), "message_faults", ["id"], schema="ops")
    op.create_table(
        "quarantined_bytes",
        sa.Column(
            "fault_id", sa.BigInteger(), nullable=False, comment="the message, which broke a limit of the parser"
        ),
        sa.Column("octets", sa.Integer(), nullable=False, comment="bytes that are kept: the beginning of the message"),
        sa.Column("sha256", sa.LargeBinary(), nullable=False, comment="digest of all bytes that were read of it"),
        sa.Column(
            "key_id",
            sa.Text(),
            nullable=False,
            comment="key of EMBERFLOW_SECRET_KEYS that they are encrypted with",
        ),
        sa.Column("nonce", sa.LargeBinary(), nullable=False, comment="of AES-256-GCM"),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False, comment="the bytes, compressed, then encrypted"),
        sa.Column(
            "kept_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="since when; they go after `inbox.quarantine_days`",
        ),
        sa.ForeignKeyConstraint(
            ["fault_id"],
            ["ops.message_faults.id"],
            name=op.f("fk_quarantined_bytes_fault_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("fault_id", name=op.f("pk_quarantined_bytes")),
        schema="ops",
        comment="The first bytes of a message that broke a limit of the parser, for whoever looks into it.",
    )
    op.create_index("ix_quarantined_bytes_age", "quarantined_bytes", ["kept_at"], schema="ops")


def downgrade() -> None:
    op.drop_table("quarantined_bytes", schema="ops")
    op.drop_constraint(op.f("uq_message_faults_id"), "message_faults", schema="ops", type_="unique")
    op.drop_column("message_faults", "id", schema="ops")
