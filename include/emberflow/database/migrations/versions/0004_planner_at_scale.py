"""A plan of 250,000 slots in seconds: what is written in bulk has no foreign keys, and inputs are kept, not decisions.

``scheduled_tasks`` and ``slot_states`` lose the foreign keys that were probed row by row, and the indexes that only
grew; rows that they name cannot be deleted instead. Whoever writes a slot also opens its state (``store.add`` and the
planner), so the trigger that did it goes. ``bot_sender_interactions`` remembers the last three first mails of a pair,
from which the seven-day maximum is judged without counting slots, and its key holds what planning asks about a pair, so
that a sender's partners are read from a page or two instead of from a page each. ``decisions`` gives way to
``plan_inputs``: a decision is computed again from them. Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NAMED = ("mailboxes", "senders", "bots", "policies")
_FOREIGN_KEYS = {
    "from_mailbox_id": "mailboxes",
    "to_mailbox_id": "mailboxes",
    "sender_id": "senders",
    "bot_id": "bots",
    "conversation_id": "conversations",
    "policy_id": "policies",
    "plan_run_id": "plan_runs",
}
_COMMENTED = {name: table for name, table in _FOREIGN_KEYS.items() if table != "conversations"}

_REFUSE_DELETE = """
create function ops.refuse_delete() returns trigger language plpgsql as $$
begin
    raise exception '% are never deleted, because slots and events name them: retire them instead', tg_table_name
        using errcode = 'restrict_violation';
end
$$
"""

_FORGET_SLOT_STATES = """
create function ops.forget_slot_states() returns trigger language plpgsql as $$
begin
    delete from ops.slot_states using removed where slot_states.slot_id = removed.id;
    return null;
end
$$
"""

_OPEN_SLOT_STATES = """
create function ops.open_slot_states() returns trigger language plpgsql as $$
begin
    insert into ops.slot_states (slot_id, from_mailbox_id, target_time, due_since, local_day, priority_level)
    select id, from_mailbox_id, target_time, target_time, local_day, priority_level
    from added
    order by id;
    return null;
end
$$
"""

_FILL_SENT_AT = """
update ops.bot_sender_interactions as pairs
set sent_at_1 = mails.sent_at[1], sent_at_2 = mails.sent_at[2], sent_at_3 = mails.sent_at[3]
from (
    select tasks.sender_id, tasks.bot_id, array_agg(states.sent_at order by states.sent_at desc) as sent_at
    from ops.scheduled_tasks as tasks
    inner join ops.slot_states as states on states.slot_id = tasks.id
    where tasks.task_type = 'warmup' and states.status = 'sent'
    group by tasks.sender_id, tasks.bot_id
) as mails
where pairs.sender_id = mails.sender_id and pairs.bot_id = mails.bot_id
"""


def upgrade() -> None:
    op.add_column(
        "mailboxes",
        sa.Column("owner", sa.Text(), comment="who holds the mailbox: warm-up leaves it. Null: matches nobody"),
        schema="ops",
    )
    op.add_column(
        "plan_runs",
        sa.Column("planned_from", sa.DateTime(timezone=True), comment="the earliest instant that could be planned"),
        schema="ops",
    )
    for column, comment in (
        ("sent_at_1", "the pair's latest first mail; a reply is none"),
        ("sent_at_2", "the first mail before that"),
        ("sent_at_3", "and the one before: no pair has more than three in a week"),
    ):
        op.add_column(
            "bot_sender_interactions", sa.Column(column, sa.DateTime(timezone=True), comment=comment), schema="ops"
        )
    op.execute(_FILL_SENT_AT)
    op.execute(
        "alter table ops.bot_sender_interactions "
        "drop constraint pk_bot_sender_interactions, "
        "add constraint pk_bot_sender_interactions primary key (sender_id, bot_id) "
        "include (last_contact, sent_at_1, sent_at_2, sent_at_3), "
        "set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02)"
    )
    op.add_column(
        "sender_days",
        sa.Column(
            "ramp_row",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="row of the ramp that the day is on, from 1",
        ),
        schema="ops",
    )
    op.execute("update ops.sender_days set ramp_row = ramp_day")
    op.add_column(
        "sender_days",
        sa.Column(
            "cold_quota",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="0 until the sender has graduated",
        ),
        schema="ops",
    )

    for column in _FOREIGN_KEYS:
        op.drop_constraint(op.f(f"fk_scheduled_tasks_{column}"), "scheduled_tasks", schema="ops")
    for column, table in _COMMENTED.items():
        op.execute(f"comment on column ops.scheduled_tasks.{column} is '{table}.id'")
    op.drop_constraint(op.f("fk_slot_states_slot_id"), "slot_states", schema="ops")
    op.execute("comment on column ops.slot_states.slot_id is 'scheduled_tasks.id'")
    op.execute("drop trigger open_slot_states on ops.scheduled_tasks")
    op.execute("drop function ops.open_slot_states()")
    for name in ("from_mailbox", "bot", "plan_run"):
        op.drop_index(op.f(f"ix_scheduled_tasks_{name}"), "scheduled_tasks", schema="ops")
    op.create_index(
        op.f("ix_scheduled_tasks_plan_run"), "scheduled_tasks", ["plan_run_id"], schema="ops", postgresql_using="brin"
    )
    op.create_index(
        op.f("ix_scheduled_tasks_answers"),
        "scheduled_tasks",
        ["from_mailbox_id", "local_day"],
        schema="ops",
        postgresql_where=sa.text("parent_slot_id is not null"),
    )
    op.execute(_FORGET_SLOT_STATES)
    op.execute(
        "create trigger forget_slot_states after delete on ops.scheduled_tasks "
        "referencing old table as removed for each statement execute function ops.forget_slot_states()"
    )
    op.execute(_REFUSE_DELETE)
    for table in _NAMED:
        op.execute(
            f"create trigger never_deleted before delete on ops.{table} "
            "for each statement execute function ops.refuse_delete()"
        )

    op.drop_table("decisions", schema="ops")
    op.create_table(
        "plan_inputs",
        sa.Column("plan_run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="what the plan was computed from, packed by queue_manager.plan_inputs: it computes it again",
        ),
        sa.ForeignKeyConstraint(
            ["plan_run_id"], ["ops.plan_runs.id"], name=op.f("fk_plan_inputs_plan_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("plan_run_id", name=op.f("pk_plan_inputs")),
        schema="ops",
    )
    # What is in there is packed already.
    op.execute("alter table ops.plan_inputs alter column body set storage external")


def downgrade() -> None:
    op.drop_table("plan_inputs", schema="ops")
    op.create_table(
        "decisions",
        sa.Column("plan_run_id", sa.BigInteger(), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False, comment="n-th slot of the sender in this hour, from 1"),
        sa.Column("bot_id", sa.BigInteger(), comment="null: no eligible bot was left"),
        sa.Column("asked_tier", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), comment="the tier that supplied the bot after falling through"),
        sa.Column("weight", sa.Double()),
        sa.Column("terms", postgresql.JSONB(), comment="the factors whose product is the weight"),
        sa.Column("draw", sa.Double(), comment="uniform (0, 1), addressed by seed, hour, sender, ordinal and bot"),
        sa.Column("sort_key", sa.Double(), comment="-ln(draw) / weight; the smallest wins"),
        sa.Column("runners_up", postgresql.JSONB(), nullable=False),
        sa.Column("rejected", postgresql.JSONB(), nullable=False, comment="reason -> number of bots"),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_decisions_bot_id")),
        sa.ForeignKeyConstraint(["plan_run_id"], ["ops.plan_runs.id"], name=op.f("fk_decisions_plan_run_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_decisions_sender_id")),
        sa.PrimaryKeyConstraint("plan_run_id", "sender_id", "ordinal", name=op.f("pk_decisions")),
        schema="ops",
    )

    for table in _NAMED:
        op.execute(f"drop trigger never_deleted on ops.{table}")
    op.execute("drop function ops.refuse_delete()")
    op.execute("drop trigger forget_slot_states on ops.scheduled_tasks")
    op.execute("drop function ops.forget_slot_states()")
    for name in ("answers", "plan_run"):
        op.drop_index(op.f(f"ix_scheduled_tasks_{name}"), "scheduled_tasks", schema="ops")
    for name, columns in (
        ("from_mailbox", ["from_mailbox_id", "target_time"]),
        ("bot", ["bot_id", "target_time"]),
        ("plan_run", ["plan_run_id"]),
    ):
        op.create_index(op.f(f"ix_scheduled_tasks_{name}"), "scheduled_tasks", columns, schema="ops")
    op.execute(_OPEN_SLOT_STATES)
    op.execute(
        "create trigger open_slot_states after insert on ops.scheduled_tasks "
        "referencing new table as added for each statement execute function ops.open_slot_states()"
    )
    op.execute("comment on column ops.slot_states.slot_id is null")
    op.create_foreign_key(
        op.f("fk_slot_states_slot_id"),
        "slot_states",
        "scheduled_tasks",
        ["slot_id"],
        ["id"],
        source_schema="ops",
        referent_schema="ops",
        ondelete="CASCADE",
    )
    for column in _COMMENTED:
        op.execute(f"comment on column ops.scheduled_tasks.{column} is null")
    for column, table in _FOREIGN_KEYS.items():
        op.create_foreign_key(
            op.f(f"fk_scheduled_tasks_{column}"),
            "scheduled_tasks",
            table,
            [column],
            ["id"],
            source_schema="ops",
            referent_schema="ops",
        )

    op.execute(
        "alter table ops.bot_sender_interactions "
        "drop constraint pk_bot_sender_interactions, "
        "add constraint pk_bot_sender_interactions primary key (sender_id, bot_id), "
        "reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor)"
    )
    for column in ("sent_at_3", "sent_at_2", "sent_at_1"):
        op.drop_column("bot_sender_interactions", column, schema="ops")
    for column in ("cold_quota", "ramp_row"):
        op.drop_column("sender_days", column, schema="ops")
    op.drop_column("plan_runs", "planned_from", schema="ops")
    op.drop_column("mailboxes", "owner", schema="ops")
