"""Slots, plan runs and conversations are never removed, and what has ended stays as it ended.

A slot that is gone, or set back from ``sent``, could be planned and sent a second time. The trigger on ``slot_states``
decides by its condition alone, without a call, so that the three to five updates of every mail stay as cheap as before.
The tables whose rows slots name refused DELETE already; they now refuse TRUNCATE as well.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_RECORDS = ("scheduled_tasks", "slot_states", "plan_runs", "conversations")
_NAMED = ("mailboxes", "senders", "bots", "policies")

_REFUSE_REMOVAL = """
create function ops.refuse_removal() returns trigger language plpgsql as $$
begin
    raise exception '% are never deleted: they are the record of what was planned and sent', tg_table_name
        using errcode = 'restrict_violation', hint = 'A mail that shall not leave is cancelled.';
end
$$
"""

_REFUSE_REVIVAL = """
create function ops.refuse_revival() returns trigger language plpgsql as $$
begin
    raise exception 'slot % is %, which is final: it cannot become %', old.slot_id, old.status, new.status
        using errcode = 'restrict_violation', hint = 'What shall be sent after all is a new slot.';
end
$$
"""

_ENDS_ARE_FINAL = """
create trigger ends_are_final before update on ops.slot_states for each row
when (
    old.status in ('sent', 'failed', 'cancelled', 'expired')
    and (new.status <> old.status or new.sent_at is distinct from old.sent_at or new.slot_id <> old.slot_id)
)
execute function ops.refuse_revival()
"""

_FORGET_SLOT_STATES = """
create function ops.forget_slot_states() returns trigger language plpgsql as $$
begin
    delete from ops.slot_states using removed where slot_states.slot_id = removed.id;
    return null;
end
$$
"""


def upgrade() -> None:
    op.execute("drop trigger forget_slot_states on ops.scheduled_tasks")
    op.execute("drop function ops.forget_slot_states()")
    op.execute(_REFUSE_REMOVAL)
    for table in _RECORDS:
        op.execute(
            f"create trigger never_removed before delete or truncate on ops.{table} "
            "for each statement execute function ops.refuse_removal()"
        )
    for table in _NAMED:
        op.execute(
            f"create trigger never_truncated before truncate on ops.{table} "
            "for each statement execute function ops.refuse_delete()"
        )
    op.execute(_REFUSE_REVIVAL)
    op.execute(_ENDS_ARE_FINAL)


def downgrade() -> None:
    op.execute("drop trigger ends_are_final on ops.slot_states")
    op.execute("drop function ops.refuse_revival()")
    for table in _NAMED:
        op.execute(f"drop trigger never_truncated on ops.{table}")
    for table in _RECORDS:
        op.execute(f"drop trigger never_removed on ops.{table}")
    op.execute("drop function ops.refuse_removal()")
    op.execute(_FORGET_SLOT_STATES)
    op.execute(
        "create trigger forget_slot_states after delete on ops.scheduled_tasks "
        "referencing old table as removed for each statement execute function ops.forget_slot_states()"
    )
