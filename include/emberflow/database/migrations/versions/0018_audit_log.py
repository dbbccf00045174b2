"""What people did, each row with the hash of the row before it.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False, comment="the name of who did it"),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="what was done, like senders.pause"),
        sa.Column("subject", sa.Text(), nullable=False, comment="to what: an address, an hour, slots, a file"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", JSONB(), nullable=False, comment="what was given, and what it came to"),
        sa.Column("previous_hash", sa.Text(), nullable=False, comment="of the row before it: the chain has no fork"),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 over the row and the hash before it"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_audit_log_previous_hash")),
        schema="ops",
    )
    op.execute(
        "create trigger append_only before update or delete on ops.audit_log "
        "for each row execute function ops.refuse_change()"
    )
    op.execute(
        "create trigger never_truncated before truncate on ops.audit_log "
        "for each statement execute function ops.refuse_change()"
    )


def downgrade() -> None:
    op.drop_table("audit_log", schema="ops")
