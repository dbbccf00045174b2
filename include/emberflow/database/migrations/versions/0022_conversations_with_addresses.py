"""A conversation may be with an address that is not ours, and then follows no script.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_REFUSE_LOSS = """
do $$
begin
    if exists (select from ops.conversations where bot_id is null) then
        raise exception 'conversations with addresses are on record, which the schema of before cannot hold'
            using hint = 'Conversations are never deleted: stay at this schema.';
    end if;
end
$$
"""


def upgrade() -> None:
    op.alter_column(
        "conversations",
        "bot_id",
        nullable=True,
        comment="the bot; null: it is with an address",
        existing_type=sa.BigInteger(),
        schema="ops",
    )
    op.alter_column(
        "conversations",
        "script_id",
        nullable=True,
        comment="the conversation script; null: cold mail, which follows none",
        existing_type=sa.Text(),
        schema="ops",
    )
    op.add_column(
        "conversations",
        sa.Column(
            "to_address", sa.Text(), comment="the address that cold mail goes to, normalised; null: it is with a bot"
        ),
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_conversations_one_counterpart"),
        "conversations",
        "num_nonnulls(bot_id, to_address) = 1",
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_conversations_a_bot_follows_a_script"),
        "conversations",
        "bot_id is null or script_id is not null",
        schema="ops",
    )
    op.create_table_comment(
        "conversations", "One thread between a sender and a bot, or an address that cold mail goes to.", schema="ops"
    )


def downgrade() -> None:
    op.execute(_REFUSE_LOSS)
    op.create_table_comment("conversations", "One thread between a sender and a bot.", schema="ops")
    op.drop_constraint("ck_conversations_a_bot_follows_a_script", "conversations", schema="ops")
    op.drop_constraint("ck_conversations_one_counterpart", "conversations", schema="ops")
    op.drop_column("conversations", "to_address", schema="ops")
    op.alter_column(
        "conversations",
        "script_id",
        nullable=False,
        comment="the conversation script",
        existing_type=sa.Text(),
        schema="ops",
    )
    op.alter_column(
        "conversations", "bot_id", nullable=False, comment="the bot", existing_type=sa.BigInteger(), schema="ops"
    )
