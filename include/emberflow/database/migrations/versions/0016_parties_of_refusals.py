"""Who said that a recipient is unknown, and what its server took since: columns of ``recipient_refusals``.

What was said before is kept; its servers are known by the domains in their names alone.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


_BACKFILL = r"""
update ops.recipient_refusals
set
    organisation = case
        when host ~ '[.][0-9]+$' then smtp_host
        else coalesce(
            substring(host from '([^.]+[.](ac|co|com|edu|go|gov|ne|net|or|org)[.][^.]{2})$'),
            substring(host from '([^.]+[.][^.]+)$'),
            smtp_host
        )
    end,
    contradicted_at = accepted_at,
    server_served_at = served_at
from (
    select distinct smtp_host as name, regexp_replace(smtp_host, '[:][0-9]+$', '') as host
    from ops.recipient_refusals
) as hosts
where hosts.name = smtp_host
"""


def upgrade() -> None:
    for column in (
        sa.Column("organisation", sa.Text(), comment="the registered domain in the server's name"),
        sa.Column("network", sa.Text(), comment="what the connection reached; null: not recorded"),
        sa.Column(
            "contradicted_at",
            sa.DateTime(timezone=True),
            comment="another party reached the recipient first after that, and this server has not since",
        ),
        sa.Column(
            "server_served_at",
            sa.DateTime(timezone=True),
            comment="this server took other mail after that, of whichever mailbox",
        ),
    ):
        op.add_column("recipient_refusals", column, schema="ops")
    op.execute(_BACKFILL)
    op.alter_column("recipient_refusals", "organisation", nullable=False, schema="ops")


def downgrade() -> None:
    for name in ("server_served_at", "contradicted_at", "network", "organisation"):
        op.drop_column("recipient_refusals", name, schema="ops")
