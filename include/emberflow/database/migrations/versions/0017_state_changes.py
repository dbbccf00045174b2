"""Every change of the state of a sender, a bot or an egress address, with its reason, its figure and who made it.

The history begins with the states that are there. Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_BEGIN = """
insert into ops.state_changes (entity_kind, entity_id, to_state, reason, actor, at)
select 'sender', id, state, state_reason, 'migration', state_changed_at from ops.senders
union all
select 'bot', id, status, status_reason, 'migration', status_changed_at from ops.bots
union all
select 'egress', id, state, state_reason, 'migration', created_at from ops.egress_ips
order by 6
"""


def upgrade() -> None:
    op.create_table(
        "state_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("entity_kind", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.BigInteger(), nullable=False, comment="senders.id, bots.id or egress_ips.id"),
        sa.Column("from_state", sa.Text(), comment="null: it is new"),
        sa.Column(
            "to_state", sa.Text(), nullable=False, comment="the same as from_state where only the reason is another"
        ),
        sa.Column("reason", sa.Text(), comment="null: it is active"),
        sa.Column("metric", sa.Text(), comment="the figure that decided; null: none did"),
        sa.Column("n", sa.Double(), comment="its value"),
        sa.Column("threshold", sa.Double(), comment="the value from which it decides"),
        sa.Column(
            "actor", sa.Text(), nullable=False, comment="who changed it: a person, or the part that did it by itself"
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(
            "entity_kind in ('sender', 'bot', 'egress')", name=op.f("ck_state_changes_entity_kind_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state_changes")),
        schema="ops",
    )
    op.create_index("ix_state_changes_entity", "state_changes", ["entity_kind", "entity_id"], schema="ops")
    op.execute(_BEGIN)
    op.execute(
        "create trigger append_only before update or delete on ops.state_changes "
        "for each row execute function ops.refuse_change()"
    )
    op.execute(
        "create trigger never_truncated before truncate on ops.state_changes "
        "for each statement execute function ops.refuse_change()"
    )


def downgrade() -> None:
    op.drop_table("state_changes", schema="ops")
