"""The zones of the program inside the database: ``ops.zones``, the function ``ops.local_day``, and a view that uses it.

``emberflow.database.migrate`` fills the table, because its content is a release of a package and no migration's.
Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LOCAL_DAY = """
create function ops.local_day(moment timestamptz, zone text) returns date language sql stable parallel safe as $$
    select cast(
        (moment at time zone 'UTC')
        + make_interval(secs => zones.offsets_s[greatest(width_bucket(moment, zones.changes), 1)])
        as date
    )
    from ops.zones
    where zones.name = zone
$$
"""

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
    and today.local_day = {today}
"""


def upgrade() -> None:
    op.create_table(
        "zones",
        sa.Column("name", sa.Text(), nullable=False, comment="IANA name"),
        sa.Column(
            "changes",
            sa.ARRAY(sa.DateTime(timezone=True)),
            nullable=False,
            comment="when an offset begins, ascending",
        ),
        sa.Column(
            "offsets_s",
            sa.ARRAY(sa.Integer()),
            nullable=False,
            comment="seconds ahead of UTC from each change on",
        ),
        sa.Column(
            "edition",
            sa.Text(),
            nullable=False,
            comment="release of the Python package tzdata that they are from",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_zones")),
        schema="ops",
    )
    op.execute(_LOCAL_DAY)
    op.execute(_SENDERS_TODAY.format(today="ops.local_day(clock_timestamp(), mailboxes.zone)"))


def downgrade() -> None:
    op.execute(_SENDERS_TODAY.format(today="(clock_timestamp() at time zone mailboxes.zone)::date"))
    op.execute("drop function ops.local_day(timestamptz, text)")
    op.drop_table("zones", schema="ops")
