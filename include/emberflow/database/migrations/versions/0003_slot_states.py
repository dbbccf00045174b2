"""A slot's plan and its state in two tables: the plan never changes, and the state is narrow.

``scheduled_tasks`` keeps what is to be sent; ``slot_states`` has a row for each, made by a trigger in the same
statement, with what changes: when it is due, who holds it, what became of it. The view ``slots`` is both together.
Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATUSES = "'planned', 'leased', 'submitting', 'sent', 'failed', 'uncertain', 'cancelled', 'expired', 'parked'"

_SLOTS = """
create view ops.slots as
select
    tasks.id,
    tasks.priority_level,
    tasks.task_type,
    states.target_time,
    tasks.payload,
    tasks.idempotency_key,
    states.status,
    states.reason,
    states.binding_cap,
    tasks.from_mailbox_id,
    tasks.to_mailbox_id,
    tasks.to_address,
    tasks.sender_id,
    tasks.bot_id,
    coalesce(tasks.conversation_id, conversations.id) as conversation_id,
    tasks.parent_slot_id,
    tasks.turn,
    states.local_day,
    tasks.gap_s,
    tasks.message_id,
    states.attempts,
    states.lapses,
    states.due_since,
    states.lease_token,
    states.lease_until,
    states.submitted_at,
    states.sent_at,
    tasks.policy_id,
    tasks.plan_run_id,
    tasks.created_at
from ops.scheduled_tasks as tasks
inner join ops.slot_states as states on states.slot_id = tasks.id
left join ops.conversations on conversations.root_message_id = tasks.message_id
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

_FILL_STATES = """
insert into ops.slot_states
    (slot_id, from_mailbox_id, target_time, due_since, lease_token, lease_until, submitted_at, sent_at, local_day,
    priority_level, attempts, lapses, status, reason, binding_cap)
select
    id, from_mailbox_id, target_time, coalesce(due_since, target_time), lease_token, lease_until, submitted_at, sent_at,
    local_day, priority_level, attempts, lapses, status, reason, binding_cap
from ops.scheduled_tasks
order by id
"""

_FILL_TASKS = """
update ops.scheduled_tasks as tasks
set target_time = states.target_time,
    due_since = nullif(states.due_since, states.target_time),
    lease_token = states.lease_token,
    lease_until = states.lease_until,
    submitted_at = states.submitted_at,
    sent_at = states.sent_at,
    local_day = states.local_day,
    attempts = states.attempts,
    lapses = states.lapses,
    status = states.status,
    reason = states.reason,
    binding_cap = states.binding_cap,
    conversation_id = coalesce(
        tasks.conversation_id,
        (select id from ops.conversations where conversations.root_message_id = tasks.message_id)
    )
from ops.slot_states as states
where states.slot_id = tasks.id
"""

_MOVED = (
    "status", "reason", "binding_cap", "attempts", "lapses", "due_since", "lease_token", "lease_until", "submitted_at",
    "sent_at",
)  # fmt: skip
_OLD_INDEXES = ("due", "leased", "uncertain", "sender_day", "bot_day")
_COMMENTS = {
    "priority_level": (
        "smaller goes first; queue_manager.store names them",
        "smaller goes first; queue_manager.slots names them",
    ),
    "target_time": (None, "when it shall leave, as planned; slot_states.target_time is when it is due now"),
    "conversation_id": (
        None,
        "null for a first mail, which opens its conversation when it is sent; the view slots knows both",
    ),
}


def upgrade() -> None:
    op.create_table(
        "slot_states",
        sa.Column("slot_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("from_mailbox_id", sa.BigInteger(), nullable=False, comment="the slot's; it decides the lane"),
        sa.Column("target_time", sa.DateTime(timezone=True), nullable=False, comment="when it is due now"),
        sa.Column(
            "due_since",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="its first target_time; waiting counts from it",
        ),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("submitted_at", sa.DateTime(timezone=True)),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("local_day", sa.Date(), nullable=False, comment="day of the sending mailbox's zone at target_time"),
        sa.Column("priority_level", sa.SmallInteger(), nullable=False, comment="the slot's"),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "lapses",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="leases that ran out before DATA: workers that this slot may have killed",
        ),
        sa.Column("status", sa.Text(), server_default="planned", nullable=False),
        sa.Column("reason", sa.Text(), comment="why it is where it is: the binding cap, the reply code, the fault"),
        sa.Column("binding_cap", sa.Text(), comment="the cap that held it the last time, as scope:key used/cap"),
        sa.CheckConstraint(f"status in ({_STATUSES})", name=op.f("ck_slot_states_status_known")),
        sa.CheckConstraint("(status = 'sent') = (sent_at is not null)", name=op.f("ck_slot_states_sent_at_iff_sent")),
        sa.ForeignKeyConstraint(
            ["slot_id"], ["ops.scheduled_tasks.id"], name=op.f("fk_slot_states_slot_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("slot_id", name=op.f("pk_slot_states")),
        schema="ops",
    )
    op.execute(_FILL_STATES)
    op.create_index(
        op.f("ix_slot_states_planned"),
        "slot_states",
        ["priority_level", "target_time", "slot_id"],
        schema="ops",
        postgresql_where=sa.text("status = 'planned'"),
    )
    op.create_index(
        op.f("ix_slot_states_held"),
        "slot_states",
        ["slot_id"],
        schema="ops",
        postgresql_where=sa.text("status in ('leased', 'submitting')"),
    )
    op.create_index(
        op.f("ix_slot_states_uncertain"),
        "slot_states",
        ["submitted_at"],
        schema="ops",
        postgresql_where=sa.text("status = 'uncertain'"),
    )

    for name in _OLD_INDEXES:
        op.drop_index(op.f(f"ix_scheduled_tasks_{name}"), "scheduled_tasks", schema="ops")
    for name in ("status_known", "sent_at_iff_sent"):
        op.drop_constraint(op.f(f"ck_scheduled_tasks_{name}"), "scheduled_tasks", schema="ops")
    for name in _MOVED:
        op.drop_column("scheduled_tasks", name, schema="ops")
    op.create_index(
        op.f("ix_scheduled_tasks_from_mailbox"), "scheduled_tasks", ["from_mailbox_id", "target_time"], schema="ops"
    )
    op.create_index(op.f("ix_scheduled_tasks_bot"), "scheduled_tasks", ["bot_id", "target_time"], schema="ops")
    for name, (_, comment) in _COMMENTS.items():
        _say(name, comment)
    op.execute(_OPEN_SLOT_STATES)
    op.execute(
        "create trigger open_slot_states after insert on ops.scheduled_tasks "
        "referencing new table as added for each statement execute function ops.open_slot_states()"
    )
    op.execute(
        "create trigger never_changed before update on ops.scheduled_tasks "
        "for each row execute function ops.refuse_change()"
    )
    op.execute(_SLOTS)


def downgrade() -> None:
    op.execute("drop view ops.slots")
    op.execute("drop trigger never_changed on ops.scheduled_tasks")
    op.execute("drop trigger open_slot_states on ops.scheduled_tasks")
    op.execute("drop function ops.open_slot_states()")
    for name, (comment, _) in _COMMENTS.items():
        _say(name, comment)
    for name in ("from_mailbox", "bot"):
        op.drop_index(op.f(f"ix_scheduled_tasks_{name}"), "scheduled_tasks", schema="ops")
    for column in (
        sa.Column("status", sa.Text(), server_default="planned", nullable=False),
        sa.Column("reason", sa.Text(), comment="why it is where it is: the binding cap, the reply code, the fault"),
        sa.Column("binding_cap", sa.Text(), comment="the cap that held it the last time, as scope:key used/cap"),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "lapses",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="leases that ran out before DATA: workers that this slot may have killed",
        ),
        sa.Column(
            "due_since",
            sa.DateTime(timezone=True),
            comment="the first target_time, once it was moved; waiting counts from it",
        ),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("submitted_at", sa.DateTime(timezone=True)),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("scheduled_tasks", column, schema="ops")
    op.execute(_FILL_TASKS)
    op.drop_table("slot_states", schema="ops")
    op.create_check_constraint(
        op.f("ck_scheduled_tasks_status_known"), "scheduled_tasks", f"status in ({_STATUSES})", schema="ops"
    )
    op.create_check_constraint(
        op.f("ck_scheduled_tasks_sent_at_iff_sent"),
        "scheduled_tasks",
        "(status = 'sent') = (sent_at is not null)",
        schema="ops",
    )
    for name, columns, condition in (
        ("due", ["priority_level", "target_time"], "status = 'planned'"),
        ("leased", ["lease_until"], "status in ('leased', 'submitting')"),
        ("uncertain", ["submitted_at"], "status = 'uncertain'"),
        ("sender_day", ["sender_id", "local_day"], None),
        ("bot_day", ["bot_id", "target_time"], None),
    ):
        op.create_index(
            op.f(f"ix_scheduled_tasks_{name}"),
            "scheduled_tasks",
            columns,
            schema="ops",
            postgresql_where=None if condition is None else sa.text(condition),
        )


def _say(column: str, comment: str | None) -> None:
    quoted = "null" if comment is None else f"'{comment}'"
    op.execute(f"comment on column ops.scheduled_tasks.{column} is {quoted}")
