"""What kept a mailbox from being read, and which messages were set aside: ``mailbox_readings`` and ``message_faults``.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mailbox_readings",
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "read_at",
            sa.DateTime(timezone=True),
            comment="when every folder was read the last time; null: never",
        ),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="in a row, since it was read"),
        sa.Column("problem", sa.Text(), comment="what could not be read the last time, and why; null: nothing"),
        sa.Column("junk_folder", sa.Text(), comment="its Junk folder; null: none was found"),
        sa.Column(
            "junk_looked_for_at",
            sa.DateTime(timezone=True),
            comment="when its folders were listed the last time",
        ),
        sa.ForeignKeyConstraint(
            ["mailbox_id"],
            ["ops.mailboxes.id"],
            name=op.f("fk_mailbox_readings_mailbox_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("mailbox_id", name=op.f("pk_mailbox_readings")),
        schema="ops",
    )
    op.create_table(
        "message_faults",
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column(
            "step",
            sa.Text(),
            nullable=False,
            comment="what failed: read, or rescue (the move from Junk to INBOX)",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), comment="bytes, as the server tells; null: it did not"),
        sa.Column("tries", sa.Integer(), server_default="1", nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), comment="null: given up, never read again"),
        sa.CheckConstraint("step in ('read', 'rescue')", name=op.f("ck_message_faults_step_known")),
        sa.ForeignKeyConstraint(
            ["mailbox_id"],
            ["ops.mailboxes.id"],
            name=op.f("fk_message_faults_mailbox_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("mailbox_id", "folder", "uidvalidity", "uid", "step", name=op.f("pk_message_faults")),
        schema="ops",
    )


def downgrade() -> None:
    op.drop_table("message_faults", schema="ops")
    op.drop_table("mailbox_readings", schema="ops")
