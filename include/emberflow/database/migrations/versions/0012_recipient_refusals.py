"""What submission servers said of recipients: evidence, until enough of them agree or others get through.

Breakers of domains and egress addresses are keyed by the submission server as well; those without it match nothing.
Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recipient_refusals",
        sa.Column("recipient", sa.Text(), nullable=False, comment="address that the server calls unknown, normalised"),
        sa.Column("smtp_host", sa.Text(), nullable=False, comment="the submission server that says so"),
        sa.Column(
            "from_mailbox_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="mailboxes.id, whose mail was refused",
        ),
        sa.Column("to_mailbox_id", sa.BigInteger(), comment="mailboxes.id; null: the recipient is not ours"),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=False, comment="the last time"),
        sa.Column("reason", sa.Text(), nullable=False, comment="the rule that read the reply, and its meaning"),
        sa.Column(
            "accepted_at", sa.DateTime(timezone=True), comment="another mailbox reached the recipient after that"
        ),
        sa.Column("served_at", sa.DateTime(timezone=True), comment="this mailbox got other mail away after that"),
        sa.Column("judged_at", sa.DateTime(timezone=True), comment="the mailbox was stopped because of it"),
        sa.PrimaryKeyConstraint("recipient", "smtp_host", "from_mailbox_id", name=op.f("pk_recipient_refusals")),
        schema="ops",
    )
    op.execute("delete from ops.host_breakers where key like 'domain:%' or key like 'ip:%'")


def downgrade() -> None:
    op.drop_table("recipient_refusals", schema="ops")
    op.execute("delete from ops.host_breakers where key like 'domain:%' or key like 'ip:%'")
