"""``slot_states`` is vacuumed after a number of dead versions, not after a fifth of a table that only grows.

A claim walks from the earliest planned slot on. What was planned there before is gone from the table, but not from its
index until a vacuum, so each claim would walk past every slot of days.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "alter table ops.slot_states set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000)"
    )


def downgrade() -> None:
    op.execute("alter table ops.slot_states reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
