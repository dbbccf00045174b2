"""Handled mail is moved to a folder of its own and deleted after its retention: ``filed_mail``, and when that is due.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "filed_mail",
        sa.Column(
            "slot_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="scheduled_tasks.id of the handled mail",
        ),
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False, comment="the mailbox that it came to"),
        sa.Column(
            "header_digest",
            sa.Text(),
            nullable=False,
            comment="of the header of its copy, which is known again by it",
        ),
        sa.Column(
            "filed_at",
            sa.DateTime(timezone=True),
            comment="when it was moved; null: not yet, or deleted where it lay",
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), comment="when it was deleted for good; null: not yet"),
        sa.PrimaryKeyConstraint("slot_id", name=op.f("pk_filed_mail")),
        schema="ops",
        comment="One handled warm-up mail that was moved to the folder for such mail, or is about to be.",
    )
    op.add_column(
        "mailbox_readings",
        sa.Column(
            "looked_through_at",
            sa.DateTime(timezone=True),
            comment="when handled mail was last looked for to be filed or deleted, once a day; at first: its first try",
        ),
        schema="ops",
    )
    op.add_column(
        "mailbox_readings",
        sa.Column(
            "unfiled_since",
            sa.DateTime(timezone=True),
            comment="since when filing or deleting fails; null: it does not",
        ),
        schema="ops",
    )
    op.add_column(
        "mailbox_readings",
        sa.Column("unfiled_because", sa.Text(), comment="what could not be filed or deleted the last time, and why"),
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_mailbox_readings_unfiled_for_a_reason"),
        "mailbox_readings",
        "(unfiled_since is null) = (unfiled_because is null)",
        schema="ops",
    )


def downgrade() -> None:
    op.drop_constraint(
        op.f("ck_mailbox_readings_unfiled_for_a_reason"), "mailbox_readings", schema="ops", type_="check"
    )
    for column in ("unfiled_because", "unfiled_since", "looked_through_at"):
        op.drop_column("mailbox_readings", column, schema="ops")
    op.drop_table("filed_mail", schema="ops")
