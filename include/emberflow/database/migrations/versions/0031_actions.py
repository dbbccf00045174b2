"""What a bot does with a mail is an event, a mark that fails is set aside, and a thread's mails are found by it.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_EVENTS_BEFORE = (
    "attempt", "sent", "placed_inbox", "placed_junk", "rescued", "replied", "token_rejected", "fenced", "parked",
    "reconciled", "returned",
)  # fmt: skip
_STEPS_BEFORE = ("read", "rescue")
_MARKS = ("mark_read", "important", "star", "archive")
_COMMENT_BEFORE = "what failed: read, or rescue (the move from Junk to INBOX)"
_COMMENT = "what failed: read, rescue (the move from Junk to INBOX), mark_read, important, star or archive"


def upgrade() -> None:
    _allow("mail_events", "event_type", (*_EVENTS_BEFORE, "acted"))
    _allow("message_faults", "step", (*_STEPS_BEFORE, *_MARKS))
    op.alter_column("message_faults", "step", comment=_COMMENT, existing_type=sa.Text(), schema="ops")
    op.create_index(
        "ix_scheduled_tasks_conversation",
        "scheduled_tasks",
        ["conversation_id"],
        schema="ops",
        postgresql_where=sa.text("conversation_id is not null"),
    )


def downgrade() -> None:
    op.drop_index("ix_scheduled_tasks_conversation", "scheduled_tasks", schema="ops")
    op.alter_column("message_faults", "step", comment=_COMMENT_BEFORE, existing_type=sa.Text(), schema="ops")
    op.execute(f"delete from ops.message_faults where step not in {_STEPS_BEFORE}")  # noqa: S608 - names of this file
    _allow("message_faults", "step", _STEPS_BEFORE)
    # Events are only ever added; the version before knows none of these.
    op.execute("alter table ops.mail_events disable trigger user")
    op.execute("delete from ops.mail_events where event_type = 'acted'")
    op.execute("alter table ops.mail_events enable trigger user")
    _allow("mail_events", "event_type", _EVENTS_BEFORE)


def _allow(table: str, column: str, values: Sequence[str]) -> None:
    name = f"ck_{table}_{column}_known"
    listed = ", ".join(f"'{value}'" for value in values)
    op.drop_constraint(op.f(name), table, schema="ops")
    op.create_check_constraint(op.f(name), table, f"{column} in ({listed})", schema="ops")
