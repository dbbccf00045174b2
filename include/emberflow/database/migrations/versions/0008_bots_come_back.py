"""A bot says what can be done about its status, and since when it has it, as a sender does.

Bots that are not active get the remedy of their status; since when they have it is not known, so it is their creation.
Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_REMEDIES = """
update ops.bots
set status_changed_at = created_at,
    status_reason = case when status <> 'active' then coalesce(status_reason, 'not recorded') end,
    status_remedy = case status
        when 'unverified' then 'run `emberflow bots check`'
        when 'paused' then 'run `emberflow bots check`, then `emberflow bots resume`'
        when 'retired' then 'run `emberflow bots resume` to take it back into service'
    end
"""


def upgrade() -> None:
    op.add_column(
        "bots", sa.Column("status_remedy", sa.Text(), comment="what the operator can do about it"), schema="ops"
    )
    op.add_column(
        "bots",
        sa.Column(
            "status_changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        schema="ops",
    )
    op.execute("comment on column ops.bots.status_reason is 'why it is not active; one open reason at a time'")
    op.execute(_REMEDIES)


def downgrade() -> None:
    op.execute("comment on column ops.bots.status_reason is null")
    op.drop_column("bots", "status_changed_at", schema="ops")
    op.drop_column("bots", "status_remedy", schema="ops")
