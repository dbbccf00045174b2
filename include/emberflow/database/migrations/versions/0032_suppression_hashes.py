"""Suppressions have a cause of a fixed list, and may be a keyed hash, whose key stands in ``suppression_key``.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_CAUSES = ("opt_out", "complaint", "hard_bounce", "erasure", "imported", "operator")
_KIND = "ck_suppressions_kind_known"


def upgrade() -> None:
    causes = ", ".join(f"'{cause}'" for cause in _CAUSES)
    _comment("ops.suppressions.kind", "address, domain or hash")
    _comment("ops.suppressions.reason", "why, in words")
    _comment(
        "ops.suppressions.value",
        "normalised address; normalised domain, for it and its subdomains; the fingerprint of the key, a colon and the "
        "keyed hash of a normalised address",
    )
    op.drop_constraint(op.f(_KIND), "suppressions", schema="ops", type_="check")
    op.create_check_constraint(op.f(_KIND), "suppressions", "kind in ('address', 'domain', 'hash')", schema="ops")
    op.add_column(
        "suppressions",
        sa.Column(
            "cause",
            sa.Text(),
            comment="opt_out, complaint, hard_bounce, erasure, imported (by a list without causes) or operator",
        ),
        schema="ops",
    )
    # Two have added entries by themselves until now, in words of their own.
    op.execute("""
        update ops.suppressions
        set cause = case
            when added_by = 'dispatch' then 'hard_bounce'
            when added_by = 'inbox' and reason = 'it asked for no more mail' then 'opt_out'
            when added_by = 'inbox' and reason like '%complaint%' then 'complaint'
            when added_by = 'inbox' then 'hard_bounce'
            when reason = 'imported' then 'imported'
            else 'operator'
        end
    """)
    op.alter_column("suppressions", "cause", nullable=False, schema="ops")
    op.create_check_constraint(
        op.f("ck_suppressions_cause_known"), "suppressions", f"cause in ({causes})", schema="ops"
    )
    op.create_table(
        "suppression_key",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False, comment="always 1"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="HMAC-SHA256 under the key itself; says nothing of the key",
        ),
        sa.Column("key_id", sa.Text(), nullable=False, comment="key of EMBERFLOW_SECRET_KEYS that encrypts it"),
        sa.Column("nonce", sa.LargeBinary(), nullable=False, comment="of AES-256-GCM"),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False, comment="the key, encrypted"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="when it was made",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_suppression_key_is_the_only_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppression_key")),
        schema="ops",
        comment="The key of the hashes in suppressions. Never replaced while there are any: without it they say "
        "nothing.",
    )


def downgrade() -> None:
    op.execute("""
        do $$ begin
            if exists (select from ops.suppressions where kind = 'hash') then
                raise exception 'hashes of erased people are on record, which the schema of before cannot hold';
            end if;
        end $$
    """)
    op.drop_table("suppression_key", schema="ops")
    op.drop_constraint(op.f("ck_suppressions_cause_known"), "suppressions", schema="ops", type_="check")
    op.drop_column("suppressions", "cause", schema="ops")
    op.drop_constraint(op.f(_KIND), "suppressions", schema="ops", type_="check")
    op.create_check_constraint(op.f(_KIND), "suppressions", "kind in ('address', 'domain')", schema="ops")
    _comment("ops.suppressions.kind", "address or domain")
    _comment("ops.suppressions.reason", "why")
    _comment("ops.suppressions.value", "normalised address or domain; for domain also its subdomains")


def _comment(column: str, comment: str) -> None:
    op.execute(f"comment on column {column} is '{comment}'")
