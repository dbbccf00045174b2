"""`mailbox_readings.read_at` is when the last whole reading began, no longer when it was recorded; only its comment.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_BEFORE = "when every folder was read the last time; null: never"
_AFTER = "when the last reading of every folder began; null: never"


def upgrade() -> None:
    op.alter_column("mailbox_readings", "read_at", comment=_AFTER, existing_comment=_BEFORE, schema="ops")


def downgrade() -> None:
    op.alter_column("mailbox_readings", "read_at", comment=_BEFORE, existing_comment=_AFTER, schema="ops")
