"""A mailbox that is removed stays for the log, and its address can be registered anew.

``removed_at`` says that it is out of use for good; of the others each address is there once. Going back, where every
address is there once, removed mailboxes keep a mark in theirs. Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_SENDERS_TODAY = """
create or replace view ops.senders_today as
select
    senders.id,
    mailboxes.address,
    senders.state,
    today.local_day,
    today.ramp_day,
    today.warmup_quota as daily_quota,
    coalesce(today.warmup_sent, 0) as current_count,
    today.score as reputation_score,
    coalesce(today.reply_sent, 0) as reply_count,
    today.total_quota
from ops.senders
inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
left join ops.sender_days as today
    on today.sender_id = senders.id
    and today.local_day = ops.local_day(clock_timestamp(), mailboxes.zone)
"""


def upgrade() -> None:
    op.add_column(
        "mailboxes",
        sa.Column(
            "removed_at",
            sa.DateTime(timezone=True),
            comment="null: in use. Since then it is kept for the log alone, without a secret",
        ),
        schema="ops",
    )
    op.drop_constraint(op.f("uq_mailboxes_address"), "mailboxes", schema="ops")
    op.create_index(
        "uq_mailboxes_address",
        "mailboxes",
        ["address"],
        unique=True,
        schema="ops",
        postgresql_where=sa.text("removed_at is null"),
    )
    op.execute(f"{_SENDERS_TODAY} where mailboxes.removed_at is null")


def downgrade() -> None:
    op.execute(_SENDERS_TODAY)
    op.drop_index("uq_mailboxes_address", "mailboxes", schema="ops")
    op.execute("update ops.mailboxes set address = 'removed.' || id || '.' || address where removed_at is not null")
    op.create_unique_constraint(op.f("uq_mailboxes_address"), "mailboxes", ["address"], schema="ops")
    op.drop_column("mailboxes", "removed_at", schema="ops")
