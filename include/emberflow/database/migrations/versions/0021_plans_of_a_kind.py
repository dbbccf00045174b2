"""An hour is planned once for each kind of mail and its scope: warm-up as a whole, and each campaign on its own.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_REFUSE_LOSS = """
do $$
begin
    if exists (select from ops.plan_runs where kind <> 'warmup') then
        raise exception 'plans of campaigns are on record, which the schema of before cannot hold'
            using hint = 'Plan runs are never deleted: stay at this schema.';
    end if;
end
$$
"""


def upgrade() -> None:
    for name, comment, former in (
        ("kind", "what was planned: warmup, or campaign", "warmup"),
        ("scope", "the campaign that was planned; empty for warm-up", ""),
    ):
        op.add_column(
            "plan_runs",
            sa.Column(name, sa.Text(), server_default=former, nullable=False, comment=comment),
            schema="ops",
        )
        op.alter_column("plan_runs", name, server_default=None, schema="ops")
    op.create_check_constraint(
        op.f("ck_plan_runs_kind_known"), "plan_runs", "kind in ('warmup', 'campaign')", schema="ops"
    )
    op.create_check_constraint(
        op.f("ck_plan_runs_scope_names_a_campaign"), "plan_runs", "(kind = 'warmup') = (scope = '')", schema="ops"
    )
    op.create_unique_constraint(
        op.f("uq_plan_runs_kind_scope_hour"), "plan_runs", ["kind", "scope", "hour"], schema="ops"
    )
    op.drop_constraint("uq_plan_runs_hour", "plan_runs", schema="ops")
    op.create_table_comment("plan_runs", "One planned UTC hour of one kind of mail.", schema="ops")


def downgrade() -> None:
    op.execute(_REFUSE_LOSS)
    op.create_table_comment("plan_runs", "One planned UTC hour.", schema="ops")
    op.create_unique_constraint(op.f("uq_plan_runs_hour"), "plan_runs", ["hour"], schema="ops")
    op.drop_constraint("uq_plan_runs_kind_scope_hour", "plan_runs", schema="ops")
    op.drop_column("plan_runs", "scope", schema="ops")
    op.drop_column("plan_runs", "kind", schema="ops")
