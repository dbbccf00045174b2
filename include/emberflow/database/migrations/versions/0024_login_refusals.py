"""Refused logins are counted: three in a row take a mailbox out of use, one does not.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "login_refusals",
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False, comment="the mailbox"),
        sa.Column("protocol", sa.Text(), nullable=False, comment="smtp or imap, which count apart"),
        sa.Column("refused", sa.Integer(), nullable=False, comment="logins refused in a row"),
        sa.Column("server_text", sa.Text(), nullable=False, comment="what the server said the last time"),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, comment="the first of them"),
        sa.Column(
            "next_try_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="nobody logs in before, over this protocol",
        ),
        sa.CheckConstraint("protocol in ('smtp', 'imap')", name=op.f("ck_login_refusals_protocol_known")),
        sa.ForeignKeyConstraint(
            ["mailbox_id"],
            ["ops.mailboxes.id"],
            name=op.f("fk_login_refusals_mailbox_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("mailbox_id", "protocol", name=op.f("pk_login_refusals")),
        schema="ops",
        comment="Logins to one mailbox that its server refused in a row.",
    )


def downgrade() -> None:
    op.drop_table("login_refusals", schema="ops")
