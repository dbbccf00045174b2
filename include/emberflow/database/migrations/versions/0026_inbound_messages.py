"""What came to our mailboxes without a token is recorded: ``inbound_messages``, and how far it was read.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_KINDS = (
    "warm_up",
    "human_reply",
    "out_of_office",
    "auto_reply",
    "bounce",
    "complaint",
    "opt_out",
    "own_copy",
    "other",
)


def upgrade() -> None:
    kinds = ", ".join(f"'{kind}'" for kind in _KINDS)
    op.create_table(
        "inbound_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False, comment="the mailbox that it came to"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of its Message-ID, or of its bytes if it has none",
        ),
        sa.Column("folder", sa.Text(), nullable=False, comment="where it was first found"),
        sa.Column(
            "uidvalidity",
            sa.BigInteger(),
            comment="of the folder then; null: the mailbox came back, and may be another",
        ),
        sa.Column("uid", sa.BigInteger(), comment="its number then"),
        sa.Column("message_id", sa.Text(), comment="its Message-ID; null: it has none"),
        sa.Column("from_address", sa.Text(), comment="its From; null: unreadable"),
        sa.Column("subject", sa.Text(), comment="at most 200 characters"),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="human_reply, out_of_office, auto_reply, bounce, complaint, opt_out, own_copy, other; warm_up: it "
            "carries our label and no token",
        ),
        sa.Column("auto", sa.Boolean(), nullable=False, comment="whether a machine wrote it"),
        sa.Column(
            "counts",
            sa.Boolean(),
            nullable=False,
            comment="whether anything may follow; a bounce or complaint: only if it names a mail of this mailbox to "
            "that recipient",
        ),
        sa.Column("bounce_action", sa.Text(), comment="failed or delayed; null: no bounce"),
        sa.Column("bounce_severity", sa.Text(), comment="hard or soft; null: no bounce"),
        sa.Column(
            "bounce_status",
            sa.Text(),
            comment="enhanced status code (RFC 3463) of a bounce, if it tells one",
        ),
        sa.Column("bounce_recipient", sa.Text(), comment="who was not reached, if a bounce tells it"),
        sa.Column("return_date", sa.Date(), comment="of an out-of-office, if it tells one: a day of its author's zone"),
        sa.Column(
            "matched_by",
            sa.Text(),
            comment="how the mail that it is about was found: in_reply_to, references, token, from_to_subject; null: "
            "it was not",
        ),
        sa.Column("slot_id", sa.BigInteger(), comment="scheduled_tasks.id of that mail"),
        sa.Column(
            "evidence",
            postgresql.JSONB(),
            nullable=False,
            comment="what decided, the strongest first: where it stands, and what",
        ),
        sa.Column(
            "arrived_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="not after now, and not before the mail that it is about was submitted",
        ),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, comment="when it was read"),
        sa.CheckConstraint(f"kind in ({kinds})", name=op.f("ck_inbound_messages_kind_known")),
        sa.CheckConstraint(
            "(uidvalidity is null) = (uid is null)", name=op.f("ck_inbound_messages_a_uid_is_of_a_folder")
        ),
        sa.CheckConstraint(
            "(kind = 'bounce') = (bounce_action is not null)",
            name=op.f("ck_inbound_messages_a_bounce_has_an_action"),
        ),
        sa.CheckConstraint(
            "(matched_by is null) = (slot_id is null)", name=op.f("ck_inbound_messages_a_match_names_a_mail")
        ),
        sa.ForeignKeyConstraint(
            ["mailbox_id"],
            ["ops.mailboxes.id"],
            name=op.f("fk_inbound_messages_mailbox_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbound_messages")),
        schema="ops",
        comment="One message that came to a mailbox and carries no token of ours.",
    )
    for name, columns, is_unique in (
        ("uq_inbound_messages_fingerprint", ["mailbox_id", "fingerprint"], True),
        ("uq_inbound_messages_place", ["mailbox_id", "folder", "uidvalidity", "uid"], True),
        ("ix_inbound_messages_recorded_at", ["recorded_at"], False),
    ):
        op.create_index(name, "inbound_messages", columns, unique=is_unique, schema="ops")
    op.create_index(
        "ix_inbound_messages_slot_id",
        "inbound_messages",
        ["slot_id"],
        schema="ops",
        postgresql_where=sa.text("slot_id is not null"),
    )
    op.add_column(
        "imap_cursors",
        sa.Column(
            "strangers_uidvalidity",
            sa.BigInteger(),
            comment="as uidvalidity, of messages without a token, which are read last; null: none was read yet",
        ),
        schema="ops",
    )
    op.add_column(
        "imap_cursors",
        sa.Column(
            "strangers_next_uid",
            sa.BigInteger(),
            comment="as next_uid, of messages without a token",
        ),
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_imap_cursors_strangers_uids_are_of_a_folder"),
        "imap_cursors",
        "(strangers_uidvalidity is null) = (strangers_next_uid is null)",
        schema="ops",
    )
    # What lies in the folders already was not looked at when it came; what comes from now on is.
    op.execute("update ops.imap_cursors set strangers_uidvalidity = uidvalidity, strangers_next_uid = next_uid")


def downgrade() -> None:
    op.drop_constraint(
        op.f("ck_imap_cursors_strangers_uids_are_of_a_folder"), "imap_cursors", schema="ops", type_="check"
    )
    for column in ("strangers_next_uid", "strangers_uidvalidity"):
        op.drop_column("imap_cursors", column, schema="ops")
    op.drop_table("inbound_messages", schema="ops")
