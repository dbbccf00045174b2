"""A mail in doubt that was found nowhere is *unresolved*: since when, and when it is looked for again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COLUMNS = {
    "unresolved_at": "when an uncertain mail was found nowhere; it stays counted and is not sent again by itself",
    "look_again_at": "when an uncertain mail is looked for again; null: as soon as it is settled, or no more",
}
_CHECK = "ck_slot_states_in_doubt_only_if_uncertain"


def upgrade() -> None:
    for name, comment in _COLUMNS.items():
        op.add_column(
            "slot_states", sa.Column(name, sa.DateTime(timezone=True), nullable=True, comment=comment), schema="ops"
        )
    op.create_check_constraint(
        op.f(_CHECK),
        "slot_states",
        "status = 'uncertain' or (unresolved_at is null and look_again_at is null)",
        schema="ops",
    )


def downgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "slot_states", schema="ops")
    for name in reversed(_COLUMNS):
        op.drop_column("slot_states", name, schema="ops")
