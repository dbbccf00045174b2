"""What a person sends from a sender's mailbox is known: ``outside_mails``.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outside_mails",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "mailbox_id",
            sa.BigInteger(),
            nullable=False,
            comment="the sender's mailbox, under whose Sent it was found",
        ),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of its Message-ID; without one, of times and size",
        ),
        sa.Column(
            "sent_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when it was stored, or its Date if that is more than a day earlier; not after now",
        ),
        sa.Column(
            "local_day",
            sa.Date(),
            nullable=False,
            comment="day of the mailbox's zone at sent_at, which it counts in",
        ),
        sa.Column(
            "recipients",
            sa.Integer(),
            nullable=False,
            comment="how many mails it counts as: its recipients, 1 to 500",
        ),
        sa.Column(
            "conversation_id",
            sa.BigInteger(),
            comment="conversations.id of our conversation that it is part of; null: of none",
        ),
        sa.Column("matched_by", sa.Text(), comment="what names that conversation: in_reply_to or references"),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False, comment="when it was read"),
        sa.CheckConstraint("recipients between 1 and 500", name=op.f("ck_outside_mails_recipients_of_one_mail")),
        sa.CheckConstraint(
            "(matched_by is null) = (conversation_id is null)",
            name=op.f("ck_outside_mails_a_match_names_a_conversation"),
        ),
        sa.ForeignKeyConstraint(
            ["mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_outside_mails_mailbox_id"), ondelete="cascade"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outside_mails")),
        schema="ops",
        comment="One mail that was sent from a sender's mailbox, and not by Emberflow.",
    )
    for name, columns, is_unique in (
        ("uq_outside_mails_fingerprint", ["mailbox_id", "fingerprint"], True),
        ("ix_outside_mails_day", ["mailbox_id", "local_day"], False),
        ("ix_outside_mails_sent_at", ["sent_at"], False),
    ):
        op.create_index(name, "outside_mails", columns, unique=is_unique, schema="ops")
    op.create_index(
        "ix_outside_mails_conversation_id",
        "outside_mails",
        ["conversation_id"],
        schema="ops",
        postgresql_where=sa.text("conversation_id is not null"),
    )


def downgrade() -> None:
    op.drop_table("outside_mails", schema="ops")
