"""What the guarded step re-checks: suppressions, caps of every scope, breakers, egress addresses; parked slots.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATUSES = "'planned', 'leased', 'submitting', 'sent', 'failed', 'uncertain', 'cancelled', 'expired'"
_TASK_TYPES = "'warmup', 'reply'"
_EVENT_TYPES = "'attempt', 'sent', 'placed_inbox', 'placed_junk', 'rescued', 'replied', 'token_rejected'"


def _allow(table: str, column: str, values: str) -> None:
    name = op.f(f"ck_{table}_{column}_known")
    op.drop_constraint(name, table, schema="ops")
    op.create_check_constraint(name, table, f"{column} in ({values})", schema="ops")


def _within_total_quota(total: str) -> None:
    name = op.f("ck_sender_days_within_total_quota")
    op.drop_constraint(name, "sender_days", schema="ops")
    op.create_check_constraint(name, "sender_days", f"{total} <= total_quota", schema="ops")


def upgrade() -> None:
    op.create_table(
        "egress_ips",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="source address of this machine, as text"),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("state_reason", sa.Text(), comment="why it is held: a listing, an operator's decision"),
        sa.Column("logins_per_hour", sa.Integer(), comment="SMTP and IMAP logins together; null: no cap (B-F5)"),
        sa.Column("sends_per_hour", sa.Integer(), comment="null: no cap"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("state in ('active', 'held')", name=op.f("ck_egress_ips_state_known")),
        sa.CheckConstraint(
            "(state = 'active') = (state_reason is null)", name=op.f("ck_egress_ips_reason_unless_active")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_egress_ips")),
        sa.UniqueConstraint("address", name=op.f("uq_egress_ips_address")),
        schema="ops",
    )
    op.add_column(
        "mailboxes",
        sa.Column(
            "auth_method",
            sa.Text(),
            server_default="password",
            nullable=False,
            comment="xoauth2: the secret is a refresh token",
        ),
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_mailboxes_auth_method_known"), "mailboxes", "auth_method in ('password', 'xoauth2')", schema="ops"
    )
    op.add_column("mailboxes", sa.Column("egress_ip_id", sa.BigInteger()), schema="ops")
    op.create_foreign_key(
        op.f("fk_mailboxes_egress_ip_id"),
        "mailboxes",
        "egress_ips",
        ["egress_ip_id"],
        ["id"],
        source_schema="ops",
        referent_schema="ops",
    )
    op.add_column("sender_days", sa.Column("cold_sent", sa.Integer(), server_default="0", nullable=False), schema="ops")
    _within_total_quota("warmup_sent + reply_sent + cold_sent")

    for column in (
        sa.Column("binding_cap", sa.Text(), comment="the cap that held it the last time, as scope:key used/cap"),
        sa.Column(
            "to_address",
            sa.Text(),
            comment="the recipient of cold mail, normalised; warm-up goes to to_mailbox_id",
        ),
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
    ):
        op.add_column("scheduled_tasks", column, schema="ops")
    for column_name in ("to_mailbox_id", "bot_id"):
        op.alter_column("scheduled_tasks", column_name, nullable=True, schema="ops")
    _allow("scheduled_tasks", "status", f"{_STATUSES}, 'parked'")
    _allow("scheduled_tasks", "task_type", f"{_TASK_TYPES}, 'cold_first_touch', 'cold_follow_up'")
    op.create_check_constraint(
        op.f("ck_scheduled_tasks_warmup_has_a_bot_and_cold_mail_an_address"),
        "scheduled_tasks",
        "case when task_type in ('warmup', 'reply') then bot_id is not null and to_mailbox_id is not null "
        "and to_address is null else bot_id is null and to_mailbox_id is null and to_address is not null end",
        schema="ops",
    )
    op.create_index(
        op.f("ix_scheduled_tasks_leased"),
        "scheduled_tasks",
        ["lease_until"],
        schema="ops",
        postgresql_where=sa.text("status in ('leased', 'submitting')"),
    )
    op.create_index(
        op.f("ix_scheduled_tasks_uncertain"),
        "scheduled_tasks",
        ["submitted_at"],
        schema="ops",
        postgresql_where=sa.text("status = 'uncertain'"),
    )
    _allow("mail_events", "event_type", f"{_EVENT_TYPES}, 'fenced', 'parked', 'reconciled'")

    op.create_table(
        "send_counters",
        sa.Column("scope", sa.Text(), nullable=False, comment="what the cap is about; queue_manager.caps names them"),
        sa.Column("key", sa.Text(), nullable=False, comment="whose: a mailbox id, a domain, a provider, an address"),
        sa.Column(
            "hour",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="start of the UTC hour of the last element",
        ),
        sa.Column(
            "per_hour",
            postgresql.ARRAY(sa.Integer()),
            nullable=False,
            comment="counts of the last 25 UTC hours, oldest first: together no less than any rolling 24 hours",
        ),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_send_counters")),
        schema="ops",
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "suppressions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "value",
            sa.Text(),
            nullable=False,
            comment="normalised address or domain; for domain also its subdomains",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("kind in ('address', 'domain')", name=op.f("ck_suppressions_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressions")),
        schema="ops",
    )
    op.create_index("uq_suppressions_kind_value", "suppressions", ["kind", "value"], unique=True, schema="ops")
    op.create_table(
        "host_breakers",
        sa.Column("key", sa.Text(), nullable=False, comment="host:NAME, or a key that a provider's reply names"),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="in a row, since the last success",
        ),
        sa.Column("open_until", sa.DateTime(timezone=True), comment="null: closed"),
        sa.Column("probe_until", sa.DateTime(timezone=True), comment="one worker probes until then; null: nobody does"),
        sa.Column("reason", sa.Text(), comment="the failure that opened it"),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_host_breakers")),
        schema="ops",
    )


def downgrade() -> None:
    """Drop what the guarded step adds. Slots that only it knows are cancelled or removed first."""
    op.execute("delete from ops.scheduled_tasks where task_type like 'cold%'")
    op.execute("update ops.scheduled_tasks set status = 'failed' where status = 'parked'")
    for table in ("host_breakers", "suppressions", "send_counters"):
        op.drop_table(table, schema="ops")
    # The log is append-only; its newer kinds go with the reason for them, and only here.
    op.execute("alter table ops.mail_events disable trigger user")
    op.execute("delete from ops.mail_events where event_type in ('fenced', 'parked', 'reconciled')")
    op.execute("alter table ops.mail_events enable trigger user")
    _allow("mail_events", "event_type", _EVENT_TYPES)
    for index in ("ix_scheduled_tasks_leased", "ix_scheduled_tasks_uncertain"):
        op.drop_index(op.f(index), "scheduled_tasks", schema="ops")
    op.drop_constraint(
        op.f("ck_scheduled_tasks_warmup_has_a_bot_and_cold_mail_an_address"), "scheduled_tasks", schema="ops"
    )
    _allow("scheduled_tasks", "status", _STATUSES)
    _allow("scheduled_tasks", "task_type", _TASK_TYPES)
    for column_name in ("to_mailbox_id", "bot_id"):
        op.alter_column("scheduled_tasks", column_name, nullable=False, schema="ops")
    for column_name in ("due_since", "lapses", "to_address", "binding_cap"):
        op.drop_column("scheduled_tasks", column_name, schema="ops")
    _within_total_quota("warmup_sent + reply_sent")
    op.drop_column("sender_days", "cold_sent", schema="ops")
    op.drop_column("mailboxes", "egress_ip_id", schema="ops")
    op.drop_column("mailboxes", "auth_method", schema="ops")
    op.drop_table("egress_ips", schema="ops")
