"""What name servers say of sending domains and egress addresses, and since when a check fails.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_KINDS = "('domain', 'address')"
_CHECKS = "('spf', 'dkim', 'dmarc', 'mx', 'tls', 'reverse_dns', 'block_list')"
_STATUSES = "('pass', 'fail', 'unknown')"


def _text(name: str, comment: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable, comment=comment)


def _instant(name: str, comment: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, comment=comment)


def upgrade() -> None:
    op.create_table(
        "domain_checks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("subject_kind", "domain (of senders) or address (of egress)"),
        _text("subject", "the domain in ASCII, or the IP address"),
        _text("check_name", "spf, dkim, dmarc, mx, tls, reverse_dns or block_list"),
        _text("status", "last outcome: pass, fail or unknown (nobody answered, or what was answered proves nothing)"),
        _text("summary", "the outcome in one sentence"),
        sa.Column(
            "details",
            postgresql.JSONB(),
            nullable=False,
            comment="what it rests on: records, counts, notes; never a secret",
        ),
        _instant(
            "failing_since",
            "the first failure since the last pass; kept while the outcome is unknown; null: it does not fail",
            nullable=True,
        ),
        _instant("checked_at", "when the questions were begun"),
        sa.CheckConstraint(f"subject_kind in {_KINDS}", name=op.f("ck_domain_checks_subject_kind_known")),
        sa.CheckConstraint(f"check_name in {_CHECKS}", name=op.f("ck_domain_checks_check_name_known")),
        sa.CheckConstraint(f"status in {_STATUSES}", name=op.f("ck_domain_checks_status_known")),
        sa.CheckConstraint(
            "status <> 'fail' or failing_since is not null", name=op.f("ck_domain_checks_a_failure_has_a_beginning")
        ),
        sa.CheckConstraint("status <> 'pass' or failing_since is null", name=op.f("ck_domain_checks_a_pass_ends_it")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_domain_checks")),
        sa.UniqueConstraint("subject_kind", "subject", "check_name", name="uq_domain_checks_subject"),
        comment="The last outcome of one check of a sending domain or an egress address that is in use.",
        schema="ops",
    )
    op.create_table(
        "domain_check_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("subject_kind", "domain or address"),
        _text("subject", "the domain in ASCII, or the IP address"),
        _text("check_name", "as in domain_checks"),
        _text("from_status", "null: it was not checked before", nullable=True),
        _text("to_status", "pass, fail or unknown"),
        _text("summary", "the outcome in one sentence"),
        _instant("at", "when the questions were begun"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_domain_check_changes")),
        comment="One change of a check's outcome, in the transaction of the change.",
        schema="ops",
    )
    op.create_index(
        "ix_domain_check_changes_subject", "domain_check_changes", ["subject_kind", "subject"], schema="ops"
    )
    for moment, name, each in (
        ("update or delete", "append_only", "row"),
        ("truncate", "never_truncated", "statement"),
    ):
        op.execute(
            f"create trigger {name} before {moment} on ops.domain_check_changes "
            f"for each {each} execute function ops.refuse_change()"
        )


def downgrade() -> None:
    op.drop_table("domain_check_changes", schema="ops")
    op.drop_table("domain_checks", schema="ops")
