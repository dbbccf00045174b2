"""What follows from mail that came back: the event ``returned``, and on its row what followed.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_EVENT_TYPES = (
    "'attempt', 'sent', 'placed_inbox', 'placed_junk', 'rescued', 'replied', 'token_rejected', 'fenced', 'parked', "
    "'reconciled'"
)
_COUNTS = (
    "whether anything may follow; a bounce or complaint: only if it names a mail of this mailbox to that recipient"
)
_COUNTS_NOW = (
    "whether anything may follow; a bounce, complaint or request for no more mail: only if it names a mail of this "
    "mailbox to that recipient"
)


def upgrade() -> None:
    _allow(f"{_EVENT_TYPES}, 'returned'")
    op.add_column(
        "inbound_messages",
        sa.Column(
            "followed",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="what followed: returned, the event; suppressed, an entry for who it is about",
        ),
        schema="ops",
    )
    op.create_check_constraint(
        op.f("ck_inbound_messages_followed_known"),
        "inbound_messages",
        "followed <@ array['returned', 'suppressed']",
        schema="ops",
    )
    op.alter_column("inbound_messages", "counts", comment=_COUNTS_NOW, existing_comment=_COUNTS, schema="ops")


def downgrade() -> None:
    """Drop what came back from the events: the version before does not know it."""
    op.alter_column("inbound_messages", "counts", comment=_COUNTS, existing_comment=_COUNTS_NOW, schema="ops")
    op.drop_constraint(op.f("ck_inbound_messages_followed_known"), "inbound_messages", schema="ops", type_="check")
    op.drop_column("inbound_messages", "followed", schema="ops")
    # The log is append-only; its newer kind goes with the reason for it, and only here.
    op.execute("alter table ops.mail_events disable trigger user")
    op.execute("delete from ops.mail_events where event_type = 'returned'")
    op.execute("alter table ops.mail_events enable trigger user")
    _allow(_EVENT_TYPES)


def _allow(event_types: str) -> None:
    name = op.f("ck_mail_events_event_type_known")
    op.drop_constraint(name, "mail_events", schema="ops", type_="check")
    op.create_check_constraint(name, "mail_events", f"event_type in ({event_types})", schema="ops")
