"""Day rows are updated where they lie: pages of ``sender_days`` and ``bot_days`` are filled by half.

Each mail counts up a row of today, and each plan writes today's quotas anew. With room in its page the new version of a
row stays there and no index is touched (HOT); without, a day of mail moves every row several times. ``sender_days``,
which planning writes in bulk, also loses its foreign key, as ``scheduled_tasks`` did: senders are never deleted.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("sender_days", "bot_days")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"alter table ops.{table} set (fillfactor = 50)")
    op.drop_constraint(op.f("fk_sender_days_sender_id"), "sender_days", schema="ops")
    op.execute("comment on column ops.sender_days.sender_id is 'senders.id'")


def downgrade() -> None:
    op.execute("comment on column ops.sender_days.sender_id is null")
    op.create_foreign_key(
        op.f("fk_sender_days_sender_id"),
        "sender_days",
        "senders",
        ["sender_id"],
        ["id"],
        source_schema="ops",
        referent_schema="ops",
    )
    for table in _TABLES:
        op.execute(f"alter table ops.{table} reset (fillfactor)")
