"""Leads, the files that brought them in, and a verdict for each row: leads, lead_imports, lead_import_rows.

Tables match ``emberflow.database.tables``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_VERDICTS = ("added", "filled", "replaced", "duplicate", "suppressed", "invalid")
_BASES = ("consent", "implied_consent", "contract", "legitimate_interests")


_OLD_COMMENTS = {
    "scheduled_tasks": "One slot: one mail, as it was planned. A row never changes and is never deleted.",
    "mail_events": "One thing that happened to a mail. Rows are only ever added.",
}
_COMMENTS = {
    "scheduled_tasks": "One slot: one mail, as it was planned. A row never changes and is never deleted; only the "
    "address of somebody who was erased becomes a pseudonym.",
    "mail_events": "One thing that happened to a mail. Rows are only ever added; only an address that was erased is "
    "replaced.",
}

_WITHOUT_ADDRESS = """
create function ops.without_address(written text, address text, pseudonym text) returns text
language sql immutable as $$
    select regexp_replace(written, '***=' || address, pseudonym, 'gi')
$$
"""

_REFUSE_SLOT_CHANGE = """
create function ops.refuse_slot_change() returns trigger language plpgsql as $$
declare
    as_it_was ops.scheduled_tasks := old;
begin
    if old.to_address is not null and new.to_address like 'erased-%@erased.invalid' then
        as_it_was.to_address := new.to_address;
        if new is not distinct from as_it_was then
            return new;
        end if;
    end if;
    raise exception '% is append-only: write a correcting row instead of a %', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end
$$
"""

_REFUSE_EVENT_CHANGE = """
create function ops.refuse_event_change() returns trigger language plpgsql as $$
declare
    as_it_was ops.mail_events := old;
    address text := nullif(current_setting('emberflow.erased_address', true), '');
    pseudonym text := current_setting('emberflow.erased_pseudonym', true);
begin
    if tg_op = 'UPDATE' and address is not null and pseudonym like 'erased-%@erased.invalid' then
        as_it_was.details := cast(ops.without_address(cast(old.details as text), address, pseudonym) as jsonb);
        if new is not distinct from as_it_was then
            return new;
        end if;
    end if;
    raise exception '% is append-only: write a correcting row instead of a %', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end
$$
"""


def _triggers(slots: str, events: str) -> None:
    op.execute("drop trigger never_changed on ops.scheduled_tasks")
    op.execute(
        f"create trigger never_changed before update on ops.scheduled_tasks for each row execute function ops.{slots}()"
    )
    op.execute("drop trigger append_only on ops.mail_events")
    op.execute(
        "create trigger append_only before update or delete on ops.mail_events "
        f"for each row execute function ops.{events}()"
    )


def _say(comments: dict[str, str]) -> None:
    for table, comment in comments.items():
        op.execute(f"comment on table ops.{table} is '{comment}'")


def _instant(name: str, comment: str, *, nullable: bool = False) -> sa.Column[object]:
    default = None if nullable else sa.text("clock_timestamp()")
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=nullable, comment=comment)


def upgrade() -> None:
    verdicts, bases = (", ".join(f"'{one}'" for one in known) for known in (_VERDICTS, _BASES))
    op.create_table(
        "lead_imports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False, comment="without its folder"),
        sa.Column("file_hash", sa.Text(), nullable=False, comment="SHA-256 of its bytes"),
        sa.Column(
            "mode", sa.Text(), nullable=False, comment="add, fill or replace: what happens to leads that are known"
        ),
        sa.Column(
            "defaults",
            postgresql.JSONB(),
            nullable=False,
            comment="facts for leads whose row gives none, by name",
        ),
        *(
            sa.Column(verdict, sa.Integer(), nullable=False, comment=f"rows with the verdict {verdict}")
            for verdict in _VERDICTS
        ),
        sa.Column("rows", sa.Integer(), nullable=False, comment="rows with a value; the verdicts add up to them"),
        sa.Column("imported_by", sa.Text(), nullable=False, comment="who imported it"),
        sa.Column("reason", sa.Text(), nullable=False, comment="why"),
        _instant("imported_at", "when"),
        _instant("undone_at", "when it was undone; null: it was not", nullable=True),
        sa.Column("undone_by", sa.Text(), comment="who undid it"),
        sa.CheckConstraint("mode in ('add', 'fill', 'replace')", name=op.f("ck_lead_imports_mode_known")),
        sa.CheckConstraint(f"rows = {' + '.join(_VERDICTS)}", name=op.f("ck_lead_imports_verdicts_add_up")),
        sa.CheckConstraint(
            "(undone_at is null) = (undone_by is null)", name=op.f("ck_lead_imports_undone_by_somebody")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lead_imports")),
        schema="ops",
        comment="One file of leads that was imported.",
    )
    op.create_index("ix_lead_imports_file_hash", "lead_imports", ["file_hash"], schema="ops")
    op.create_table(
        "leads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="normalised"),
        sa.Column("zone", sa.Text(), comment="IANA time zone; null: nobody gave one"),
        sa.Column("country", sa.Text(), comment="ISO 3166-1 alpha-2; null: nobody gave one"),
        sa.Column("source", sa.Text(), comment="where the data comes from; null: nobody said"),
        sa.Column(
            "lawful_basis",
            sa.Text(),
            comment="consent, implied_consent, contract or legitimate_interests; null: nobody said",
        ),
        sa.Column(
            "fields",
            postgresql.JSONB(),
            nullable=False,
            comment="custom fields by name: text, number, true or false",
        ),
        sa.Column("import_id", sa.BigInteger(), nullable=False, comment="lead_imports.id that added it"),
        _instant("created_at", "when it was added"),
        _instant("updated_at", "when a file changed it the last time"),
        sa.CheckConstraint(f"lawful_basis in ({bases})", name=op.f("ck_leads_lawful_basis_known")),
        sa.ForeignKeyConstraint(["import_id"], ["ops.lead_imports.id"], name=op.f("fk_leads_import_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leads")),
        sa.UniqueConstraint("address", name=op.f("uq_leads_address")),
        schema="ops",
        comment="A person who may be written to. What a person wants is in suppressions, never here.",
    )
    op.create_index("ix_leads_import_id", "leads", ["import_id"], schema="ops")
    op.create_table(
        "lead_import_rows",
        sa.Column("import_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="lead_imports.id"),
        sa.Column(
            "row_number",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="its last line in the file; the header is 1",
        ),
        sa.Column(
            "verdict",
            sa.Text(),
            nullable=False,
            comment="added, filled, replaced, duplicate, suppressed or invalid",
        ),
        sa.Column("column_name", sa.Text(), comment="what is wrong with an invalid row"),
        sa.Column("reason", sa.Text(), comment="why, for a row that brought nothing; it repeats no value of the row"),
        sa.Column(
            "lead_id",
            sa.BigInteger(),
            comment="leads.id that it added or changed; null: none, or it is gone",
        ),
        sa.Column(
            "before",
            postgresql.JSONB(),
            comment="what the row changed of a lead, as it was; undoing puts it back",
        ),
        sa.CheckConstraint(f"verdict in ({verdicts})", name=op.f("ck_lead_import_rows_verdict_known")),
        sa.ForeignKeyConstraint(["import_id"], ["ops.lead_imports.id"], name=op.f("fk_lead_import_rows_import_id")),
        sa.ForeignKeyConstraint(
            ["lead_id"], ["ops.leads.id"], name=op.f("fk_lead_import_rows_lead_id"), ondelete="set null"
        ),
        sa.PrimaryKeyConstraint("import_id", "row_number", name=op.f("pk_lead_import_rows")),
        schema="ops",
        comment="What became of one row of a file of leads. It holds nothing that is not the lead's, and goes with it.",
    )
    op.create_index(
        "ix_lead_import_rows_lead_id",
        "lead_import_rows",
        ["lead_id"],
        schema="ops",
        postgresql_where=sa.text("lead_id is not null"),
    )
    op.create_index(
        "ix_scheduled_tasks_to_address",
        "scheduled_tasks",
        ["to_address"],
        schema="ops",
        postgresql_where=sa.text("to_address is not null"),
    )
    for function in (_WITHOUT_ADDRESS, _REFUSE_SLOT_CHANGE, _REFUSE_EVENT_CHANGE):
        op.execute(function)
    _triggers("refuse_slot_change", "refuse_event_change")
    _say(_COMMENTS)


def downgrade() -> None:
    _say(_OLD_COMMENTS)
    _triggers("refuse_change", "refuse_change")
    for function in ("refuse_event_change()", "refuse_slot_change()", "without_address(text, text, text)"):
        op.execute(f"drop function ops.{function}")
    op.drop_index("ix_scheduled_tasks_to_address", "scheduled_tasks", schema="ops")
    for table in ("lead_import_rows", "leads", "lead_imports"):
        op.drop_table(table, schema="ops")
