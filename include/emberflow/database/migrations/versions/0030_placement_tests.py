"""Placement tests, and their probes as a kind of mail.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

_BEFORE = "'warmup', 'reply', 'cold_first_touch', 'cold_follow_up'"
_KNOWN = "ck_scheduled_tasks_task_type_known"
_RECIPIENT = "ck_scheduled_tasks_warmup_has_a_bot_and_cold_mail_an_address"

# Column, type, whether it may be null, and its comment before and from now on.
_COMMENTS = (
    (
        "priority_level",
        sa.SmallInteger(),
        False,
        "smaller goes first: 10 reply, 20 cold follow-up, 30 cold first touch, 40 warm-up",
        "smaller goes first: 10 reply, 15 placement probe, 20 cold follow-up, 30 cold first touch, 40 warm-up",
    ),
    (
        "task_type",
        sa.Text(),
        False,
        "warmup, reply, cold_first_touch or cold_follow_up",
        "warmup, reply, cold_first_touch, cold_follow_up or placement_probe",
    ),
    (
        "payload",
        postgresql.JSONB(),
        False,
        "what the message is built from: script, script_set; tier, asked_tier; thread, in_reply_to, references",
        "what the message is built from: script, script_set; tier, asked_tier; thread, in_reply_to, references; "
        "of a placement probe: test, subject, body, worth_until",
    ),
    ("turn", sa.SmallInteger(), False, "place in the thread, from 1", "place in the thread, from 1; 0: in none"),
    (
        "plan_run_id",
        sa.BigInteger(),
        True,
        "plan_runs.id; null for replies",
        "plan_runs.id; null for replies and probes",
    ),
)

_REFUSE_LOSS = """
do $$
begin
    if exists (select from ops.scheduled_tasks where task_type = 'placement_probe') then
        raise exception 'placement probes are on record, which the schema of before cannot hold'
            using hint = 'Slots are never deleted: stay at this schema.';
    end if;
end
$$
"""


def _allow(task_types: str, with_a_bot: str) -> None:
    for name, condition in (
        (_KNOWN, f"task_type in ({task_types})"),
        (
            _RECIPIENT,
            f"case when task_type in ({with_a_bot}) then bot_id is not null and to_mailbox_id is not null "
            "and to_address is null else bot_id is null and to_mailbox_id is null and to_address is not null end",
        ),
    ):
        op.drop_constraint(op.f(name), "scheduled_tasks", schema="ops")
        op.create_check_constraint(op.f(name), "scheduled_tasks", condition, schema="ops")


def upgrade() -> None:
    _allow(f"{_BEFORE}, 'placement_probe'", "'warmup', 'reply', 'placement_probe'")
    for column, kind, is_nullable, _, comment in _COMMENTS:
        op.alter_column(
            "scheduled_tasks",
            column,
            comment=comment,
            existing_type=kind,
            existing_nullable=is_nullable,
            schema="ops",
        )
    op.create_index(
        "ix_scheduled_tasks_probes",
        "scheduled_tasks",
        ["sender_id"],
        schema="ops",
        postgresql_where=sa.text("task_type = 'placement_probe'"),
    )
    op.create_table(
        "placement_tests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False, comment="the sender whose mail is tested"),
        sa.Column("per_provider", sa.SmallInteger(), nullable=False, comment="probes for each provider, at most"),
        sa.Column("subject", sa.Text(), nullable=False, comment="of the probes"),
        sa.Column(
            "is_own_text",
            sa.Boolean(),
            nullable=False,
            comment="whether the operator gave the text; false: built-in",
        ),
        sa.Column(
            "left_out",
            postgresql.JSONB(),
            nullable=False,
            comment="mailboxes that got no probe: provider, then why, then how many",
        ),
        sa.Column("started_by", sa.Text(), nullable=False, comment="who asked for it"),
        sa.Column("reason", sa.Text(), nullable=False, comment="why"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it began"),
        sa.Column(
            "ends_at", sa.DateTime(timezone=True), nullable=False, comment="what was not found until then is missing"
        ),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_placement_tests_sender_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_placement_tests")),
        schema="ops",
        comment="One placement test. Its probes are slots whose payload names it as test.",
    )
    op.create_index("ix_placement_tests_sender", "placement_tests", ["sender_id"], schema="ops")


def downgrade() -> None:
    op.execute(_REFUSE_LOSS)
    op.drop_table("placement_tests", schema="ops")
    op.drop_index("ix_scheduled_tasks_probes", "scheduled_tasks", schema="ops")
    for column, kind, is_nullable, comment, _ in _COMMENTS:
        op.alter_column(
            "scheduled_tasks",
            column,
            comment=comment,
            existing_type=kind,
            existing_nullable=is_nullable,
            schema="ops",
        )
    _allow(_BEFORE, "'warmup', 'reply'")
