"""The schema ``ops``: mailboxes, the queue, the event log and what they need.

Tables match ``emberflow.database.tables``. Written here by hand: the append-only guard of ``mail_events``
(D-B1) and the view ``senders_today``, which gives senders the columns daily_quota, current_count and
reputation_score (D-B8).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


_REFUSE_CHANGE = """
create function ops.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: write a correcting row instead of a %', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end
$$
"""

_SENDERS_TODAY = """
create view ops.senders_today as
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
    and today.local_day = (clock_timestamp() at time zone mailboxes.zone)::date
"""


def upgrade() -> None:
    op.execute("create schema ops")
    op.create_table(
        "mail_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("natural_key", sa.Text(), nullable=False, comment="what makes a second telling the same event"),
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False, comment="the mailbox at which it happened"),
        sa.Column("slot_id", sa.BigInteger(), nullable=True),
        sa.Column("sender_id", sa.BigInteger(), nullable=True),
        sa.Column("bot_id", sa.BigInteger(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "event_type in ('attempt', 'sent', 'placed_inbox', 'placed_junk', 'rescued', 'replied', 'token_rejected')",
            name=op.f("ck_mail_events_event_type_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mail_events")),
        sa.UniqueConstraint("natural_key", name=op.f("uq_mail_events_natural_key")),
        schema="ops",
    )
    op.create_index("ix_mail_events_occurred_at", "mail_events", ["occurred_at"], unique=False, schema="ops")
    op.create_index("ix_mail_events_slot_id", "mail_events", ["slot_id"], unique=False, schema="ops")
    op.create_table(
        "mailboxes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="normalised: trimmed, lower case, IDNA domain"),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column(
            "provider",
            sa.Text(),
            nullable=False,
            comment="who runs the mailbox; the grain of placement figures",
        ),
        sa.Column(
            "zone",
            sa.Text(),
            nullable=False,
            comment="IANA time zone; every local_day of this mailbox is its day",
        ),
        sa.Column("smtp_host", sa.Text(), nullable=False),
        sa.Column("smtp_port", sa.Integer(), nullable=False),
        sa.Column("smtp_tls", sa.Text(), nullable=False),
        sa.Column("imap_host", sa.Text(), nullable=False),
        sa.Column("imap_port", sa.Integer(), nullable=False),
        sa.Column("imap_tls", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("check_passed", sa.Boolean(), nullable=True, comment="null: never checked"),
        sa.Column("check_stage", sa.Text(), nullable=True, comment="the stage at which the last check failed"),
        sa.Column("check_text", sa.Text(), nullable=True, comment="what the server said then"),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "next_send_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the pause after this mailbox's last mail ends here",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("imap_tls in ('starttls', 'implicit')", name=op.f("ck_mailboxes_imap_tls_known")),
        sa.CheckConstraint("smtp_tls in ('starttls', 'implicit')", name=op.f("ck_mailboxes_smtp_tls_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mailboxes")),
        sa.UniqueConstraint("address", name=op.f("uq_mailboxes_address")),
        schema="ops",
    )
    op.create_table(
        "policies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column(
            "valid_from",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        schema="ops",
    )
    op.create_index(
        "uq_policies_in_force",
        "policies",
        [sa.literal_column("(valid_to is null)")],
        unique=True,
        schema="ops",
        postgresql_where=sa.text("valid_to is null"),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("name in ('live_mail', 'stop_sending')", name=op.f("ck_switches_name_known")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switches")),
        schema="ops",
    )
    op.create_table(
        "bots",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="unverified", nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("born_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column(
            "interaction_limits",
            sa.Integer(),
            nullable=True,
            comment="the operator's own daily inbound cap, below the policy's",
        ),
        sa.Column("cooldown_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source", sa.Text(), nullable=False, comment="imported or provisioned; there is no third way"),
        sa.Column(
            "attested_by",
            sa.Text(),
            nullable=False,
            comment="who declared that the operator owns this mailbox",
        ),
        sa.Column("attestation", sa.Text(), nullable=False, comment="how ownership is known"),
        sa.Column(
            "attested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("source in ('imported', 'provisioned')", name=op.f("ck_bots_source_known")),
        sa.CheckConstraint(
            "status in ('unverified', 'active', 'paused', 'retired')", name=op.f("ck_bots_status_known")
        ),
        sa.ForeignKeyConstraint(["mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_bots_mailbox_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bots")),
        sa.UniqueConstraint("mailbox_id", name=op.f("uq_bots_mailbox_id")),
        schema="ops",
    )
    op.create_table(
        "imap_cursors",
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("next_uid", sa.BigInteger(), nullable=False),
        sa.Column(
            "synced_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_imap_cursors_mailbox_id")),
        sa.PrimaryKeyConstraint("mailbox_id", "folder", name=op.f("pk_imap_cursors")),
        schema="ops",
    )
    op.create_table(
        "mailbox_secrets",
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column(
            "ciphertext",
            sa.LargeBinary(),
            nullable=False,
            comment="AES-256-GCM; associated data: the mailbox id",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["mailbox_id"],
            ["ops.mailboxes.id"],
            name=op.f("fk_mailbox_secrets_mailbox_id"),
            ondelete="cascade",
        ),
        sa.PrimaryKeyConstraint("mailbox_id", name=op.f("pk_mailbox_secrets")),
        schema="ops",
    )
    op.create_table(
        "plan_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False, comment="start of the UTC hour planned"),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="planned, or past: the hour was over and nothing was planned",
        ),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.BigInteger(), nullable=False),
        sa.Column("input_sha256", sa.Text(), nullable=False),
        sa.Column("plan_sha256", sa.Text(), nullable=False),
        sa.Column("senders", sa.Integer(), nullable=False),
        sa.Column("bots", sa.Integer(), nullable=False, comment="bots with at least one seat"),
        sa.Column("wanted", sa.Integer(), nullable=False, comment="slots that the quotas asked for"),
        sa.Column("slots", sa.Integer(), nullable=False, comment="slots written"),
        sa.Column(
            "planned_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("outcome in ('planned', 'past')", name=op.f("ck_plan_runs_outcome_known")),
        sa.ForeignKeyConstraint(["policy_id"], ["ops.policies.id"], name=op.f("fk_plan_runs_policy_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_runs")),
        sa.UniqueConstraint("hour", name=op.f("uq_plan_runs_hour")),
        schema="ops",
    )
    op.create_table(
        "senders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="unverified", nullable=False),
        sa.Column(
            "state_reason",
            sa.Text(),
            nullable=True,
            comment="why it is not active; one open reason at a time",
        ),
        sa.Column("state_remedy", sa.Text(), nullable=True, comment="what the operator can do about it"),
        sa.Column(
            "state_changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "ramp_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="days before this do not count for the ramp; set by stop",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("(state = 'active') = (state_reason is null)", name=op.f("ck_senders_reason_unless_active")),
        sa.CheckConstraint(
            "state in ('unverified', 'active', 'paused', 'stopped')", name=op.f("ck_senders_state_known")
        ),
        sa.ForeignKeyConstraint(["mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_senders_mailbox_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_senders")),
        sa.UniqueConstraint("mailbox_id", name=op.f("uq_senders_mailbox_id")),
        schema="ops",
    )
    op.create_table(
        "bot_days",
        sa.Column("bot_id", sa.BigInteger(), nullable=False),
        sa.Column("local_day", sa.Date(), nullable=False, comment="day of the bot's own zone"),
        sa.Column("inbound_sent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reply_sent", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_bot_days_bot_id")),
        sa.PrimaryKeyConstraint("bot_id", "local_day", name=op.f("pk_bot_days")),
        schema="ops",
    )
    op.create_table(
        "bot_sender_interactions",
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("bot_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "interaction_type",
            sa.Text(),
            nullable=False,
            comment="the latest: warmup_sent, bot_replied, sender_replied or rescued",
        ),
        sa.Column("tier", sa.Text(), nullable=False, comment="tier that chose the bot the last time"),
        sa.Column("sent_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reply_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rescued_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_contact", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_contact", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "tier in ('virgin', 'probabilistic', 'active')",
            name=op.f("ck_bot_sender_interactions_tier_known"),
        ),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_bot_sender_interactions_bot_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_bot_sender_interactions_sender_id")),
        sa.PrimaryKeyConstraint("sender_id", "bot_id", name=op.f("pk_bot_sender_interactions")),
        schema="ops",
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("bot_id", sa.BigInteger(), nullable=False),
        sa.Column("thread_status", sa.Text(), nullable=False),
        sa.Column("turn", sa.SmallInteger(), nullable=False, comment="turn of the last mail sent, from 1"),
        sa.Column("next_action_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("script_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("root_message_id", sa.Text(), nullable=False),
        sa.Column("last_message_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "thread_status in ('awaiting_reply', 'reply_scheduled', 'closed')",
            name=op.f("ck_conversations_thread_status_known"),
        ),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_conversations_bot_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_conversations_sender_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
        sa.UniqueConstraint("root_message_id", name=op.f("uq_conversations_root_message_id")),
        schema="ops",
    )
    op.create_index("ix_conversations_pair", "conversations", ["sender_id", "bot_id"], unique=False, schema="ops")
    op.create_table(
        "decisions",
        sa.Column("plan_run_id", sa.BigInteger(), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False, comment="n-th slot of the sender in this hour, from 1"),
        sa.Column("bot_id", sa.BigInteger(), nullable=True, comment="null: no eligible bot was left"),
        sa.Column("asked_tier", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=True, comment="the tier that supplied the bot after falling through"),
        sa.Column("weight", sa.Double(), nullable=True),
        sa.Column(
            "terms",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="the factors whose product is the weight",
        ),
        sa.Column(
            "draw",
            sa.Double(),
            nullable=True,
            comment="uniform (0, 1), addressed by seed, hour, sender, ordinal and bot",
        ),
        sa.Column("sort_key", sa.Double(), nullable=True, comment="-ln(draw) / weight; the smallest wins"),
        sa.Column("runners_up", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "rejected",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="reason -> number of bots",
        ),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_decisions_bot_id")),
        sa.ForeignKeyConstraint(["plan_run_id"], ["ops.plan_runs.id"], name=op.f("fk_decisions_plan_run_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_decisions_sender_id")),
        sa.PrimaryKeyConstraint("plan_run_id", "sender_id", "ordinal", name=op.f("pk_decisions")),
        schema="ops",
    )
    op.create_table(
        "sender_days",
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("local_day", sa.Date(), nullable=False, comment="day of the sender's own zone"),
        sa.Column(
            "ramp_day",
            sa.Integer(),
            nullable=False,
            comment="n-th day with at least one warm-up mail, from 1",
        ),
        sa.Column("ramp_volume", sa.Integer(), nullable=False),
        sa.Column(
            "score",
            sa.Double(),
            nullable=True,
            comment="reputation score read by the last plan of the day; null: too little evidence",
        ),
        sa.Column("health_multiplier", sa.Double(), nullable=False),
        sa.Column("daily_factor", sa.Double(), nullable=False),
        sa.Column("warmup_quota", sa.Integer(), nullable=False),
        sa.Column(
            "total_quota",
            sa.Integer(),
            nullable=False,
            comment="cap over warm-up, cold mail and replies together",
        ),
        sa.Column("warmup_sent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reply_sent", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("warmup_sent + reply_sent <= total_quota", name=op.f("ck_sender_days_within_total_quota")),
        sa.CheckConstraint("warmup_sent <= ramp_volume", name=op.f("ck_sender_days_within_ramp")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_sender_days_sender_id")),
        sa.PrimaryKeyConstraint("sender_id", "local_day", name=op.f("pk_sender_days")),
        schema="ops",
    )
    op.create_table(
        "scheduled_tasks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "priority_level",
            sa.SmallInteger(),
            nullable=False,
            comment="smaller goes first; queue_manager.store names them",
        ),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("target_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "payload",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="what the message is built from: script, subject, thread",
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="planned", nullable=False),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="why it is where it is: the binding cap, the reply code, the fault",
        ),
        sa.Column("from_mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("to_mailbox_id", sa.BigInteger(), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("bot_id", sa.BigInteger(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=True),
        sa.Column("parent_slot_id", sa.BigInteger(), nullable=True, comment="the slot whose mail this one answers"),
        sa.Column("turn", sa.SmallInteger(), nullable=False),
        sa.Column("local_day", sa.Date(), nullable=False, comment="day of the sending mailbox's zone at target_time"),
        sa.Column("gap_s", sa.Integer(), nullable=False, comment="seconds that this mailbox pauses after this mail"),
        sa.Column("message_id", sa.Text(), nullable=False, comment="fixed before the first attempt"),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("policy_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_run_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status = 'sent') = (sent_at is not null)", name=op.f("ck_scheduled_tasks_sent_at_iff_sent")
        ),
        sa.CheckConstraint(
            "status in ('planned', 'leased', 'submitting', 'sent', 'failed', 'uncertain', 'cancelled', 'expired')",
            name=op.f("ck_scheduled_tasks_status_known"),
        ),
        sa.CheckConstraint("task_type in ('warmup', 'reply')", name=op.f("ck_scheduled_tasks_task_type_known")),
        sa.ForeignKeyConstraint(["bot_id"], ["ops.bots.id"], name=op.f("fk_scheduled_tasks_bot_id")),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["ops.conversations.id"], name=op.f("fk_scheduled_tasks_conversation_id")
        ),
        sa.ForeignKeyConstraint(
            ["from_mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_scheduled_tasks_from_mailbox_id")
        ),
        sa.ForeignKeyConstraint(["plan_run_id"], ["ops.plan_runs.id"], name=op.f("fk_scheduled_tasks_plan_run_id")),
        sa.ForeignKeyConstraint(["policy_id"], ["ops.policies.id"], name=op.f("fk_scheduled_tasks_policy_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["ops.senders.id"], name=op.f("fk_scheduled_tasks_sender_id")),
        sa.ForeignKeyConstraint(["to_mailbox_id"], ["ops.mailboxes.id"], name=op.f("fk_scheduled_tasks_to_mailbox_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduled_tasks")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_scheduled_tasks_idempotency_key")),
        sa.UniqueConstraint("message_id", name=op.f("uq_scheduled_tasks_message_id")),
        schema="ops",
    )
    op.create_index(
        "ix_scheduled_tasks_bot_day", "scheduled_tasks", ["bot_id", "target_time"], unique=False, schema="ops"
    )
    op.create_index(
        "ix_scheduled_tasks_due",
        "scheduled_tasks",
        ["priority_level", "target_time"],
        unique=False,
        schema="ops",
        postgresql_where=sa.text("status = 'planned'"),
    )
    op.create_index("ix_scheduled_tasks_plan_run", "scheduled_tasks", ["plan_run_id"], unique=False, schema="ops")
    op.create_index(
        "ix_scheduled_tasks_sender_day",
        "scheduled_tasks",
        ["sender_id", "local_day"],
        unique=False,
        schema="ops",
    )
    op.create_index(
        "uq_scheduled_tasks_answer_once",
        "scheduled_tasks",
        ["parent_slot_id"],
        unique=True,
        schema="ops",
        postgresql_where=sa.text("parent_slot_id is not null"),
    )
    op.execute(_REFUSE_CHANGE)
    op.execute(
        "create trigger append_only before update or delete on ops.mail_events "
        "for each row execute function ops.refuse_change()"
    )
    op.execute(
        "create trigger never_truncated before truncate on ops.mail_events "
        "for each statement execute function ops.refuse_change()"
    )
    op.execute(_SENDERS_TODAY)


def downgrade() -> None:
    op.execute("drop view ops.senders_today")
    op.drop_index(
        "uq_scheduled_tasks_answer_once",
        table_name="scheduled_tasks",
        schema="ops",
        postgresql_where=sa.text("parent_slot_id is not null"),
    )
    op.drop_index("ix_scheduled_tasks_sender_day", table_name="scheduled_tasks", schema="ops")
    op.drop_index("ix_scheduled_tasks_plan_run", table_name="scheduled_tasks", schema="ops")
    op.drop_index(
        "ix_scheduled_tasks_due",
        table_name="scheduled_tasks",
        schema="ops",
        postgresql_where=sa.text("status = 'planned'"),
    )
    op.drop_index("ix_scheduled_tasks_bot_day", table_name="scheduled_tasks", schema="ops")
    op.drop_table("scheduled_tasks", schema="ops")
    op.drop_table("sender_days", schema="ops")
    op.drop_table("decisions", schema="ops")
    op.drop_index("ix_conversations_pair", table_name="conversations", schema="ops")
    op.drop_table("conversations", schema="ops")
    op.drop_table("bot_sender_interactions", schema="ops")
    op.drop_table("bot_days", schema="ops")
    op.drop_table("senders", schema="ops")
    op.drop_table("plan_runs", schema="ops")
    op.drop_table("mailbox_secrets", schema="ops")
    op.drop_table("imap_cursors", schema="ops")
    op.drop_table("bots", schema="ops")
    op.drop_table("switches", schema="ops")
    op.drop_index(
        "uq_policies_in_force",
        table_name="policies",
        schema="ops",
        postgresql_where=sa.text("valid_to is null"),
    )
    op.drop_table("policies", schema="ops")
    op.drop_table("mailboxes", schema="ops")
    op.drop_index("ix_mail_events_slot_id", table_name="mail_events", schema="ops")
    op.drop_index("ix_mail_events_occurred_at", table_name="mail_events", schema="ops")
    op.drop_table("mail_events", schema="ops")
    op.execute("drop function ops.refuse_change()")
    op.execute("drop schema ops")
