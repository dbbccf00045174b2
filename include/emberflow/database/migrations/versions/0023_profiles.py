"""A sender or a bot names the profile of the policy whose numbers it goes by.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_COMMENT = "the profile of the policy whose numbers it goes by; null: the document's own"
_REFUSE_LOSS = """
do $$
begin
    if exists (select from ops.senders where profile is not null)
        or exists (select from ops.bots where profile is not null) then
        raise exception 'mailboxes name profiles, which the schema of before cannot hold'
            using hint = 'Run `emberflow senders set ADDRESS --profile none` and `bots set` for each, then go down.';
    end if;
end
$$
"""


def upgrade() -> None:
    for table in ("senders", "bots"):
        op.add_column(table, sa.Column("profile", sa.Text(), comment=_COMMENT), schema="ops")


def downgrade() -> None:
    op.execute(_REFUSE_LOSS)
    for table in ("senders", "bots"):
        op.drop_column(table, "profile", schema="ops")
