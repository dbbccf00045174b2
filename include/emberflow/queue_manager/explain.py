"""Why a slot is what it is: its decision, its attempts and its events, and what an hour came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, text

from emberflow.errors import EmberflowError

_SLOT = text("""
    select slots.*, sender_box.address as sender_address, bot_box.address as bot_address,
        plan_runs.hour, plan_runs.seed, plan_runs.plan_sha256, policies.name as policy_name
    from ops.slots
    inner join ops.senders on senders.id = slots.sender_id
    inner join ops.mailboxes as sender_box on sender_box.id = senders.mailbox_id
    inner join ops.bots on bots.id = slots.bot_id
    inner join ops.mailboxes as bot_box on bot_box.id = bots.mailbox_id
    inner join ops.policies on policies.id = slots.policy_id
    left join ops.plan_runs on plan_runs.id = slots.plan_run_id
    where slots.id = :id
""")

_DECISION = text("""
    select decisions.*
    from ops.decisions
    inner join ops.plan_runs on plan_runs.id = decisions.plan_run_id
    where decisions.plan_run_id = :plan_run_id
        and :idempotency_key = 'warmup:' || to_char(plan_runs.hour at time zone 'UTC', 'YYYY-MM-DD"T"HH24')
            || ':' || decisions.sender_id || ':' || decisions.ordinal
""")

_EVENTS = text("""
    select occurred_at, event_type, details from ops.mail_events where slot_id = :id order by occurred_at, id
""")

_HOURS = text("""
    select plan_runs.*, policies.name as policy_name
    from ops.plan_runs
    inner join ops.policies on policies.id = plan_runs.policy_id
    order by hour desc
    limit :limit
""")

_SLOTS_OF_HOUR = text("""
    select slots.id, slots.target_time, sender_box.address as sender_address, bot_box.address as bot_address,
        slots.payload ->> 'tier' as tier, slots.status, slots.reason
    from ops.slots
    inner join ops.plan_runs on plan_runs.id = slots.plan_run_id
    inner join ops.mailboxes as sender_box on sender_box.id = slots.from_mailbox_id
    inner join ops.mailboxes as bot_box on bot_box.id = slots.to_mailbox_id
    where plan_runs.hour = :hour
    order by slots.target_time, slots.id
""")

_ADDRESSES = text("""
    select bots.id, mailboxes.address
    from ops.bots inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    where bots.id = any(:ids)
""")


@dataclass(frozen=True)
class Explanation:
    """A slot's row, its selection decision (None for replies) and its events, oldest first."""

    slot: RowMapping
    decision: RowMapping | None
    bot_addresses: Mapping[int, str]
    events: Sequence[RowMapping]


def explain(connection: Connection, slot_id: int) -> Explanation:
    """Return everything that is known about one slot.

    Raises:
        EmberflowError: there is no such slot.
    """
    slot = connection.execute(_SLOT, {"id": slot_id}).mappings().one_or_none()
    if slot is None:
        raise EmberflowError(f"there is no slot {slot_id}; `emberflow plan show` lists the slots of an hour")
    decision = None
    if slot["plan_run_id"] is not None:
        key = {"plan_run_id": slot["plan_run_id"], "idempotency_key": slot["idempotency_key"]}
        decision = connection.execute(_DECISION, key).mappings().one_or_none()
    named = [] if decision is None else [decision["bot_id"], *(bot["bot_id"] for bot in decision["runners_up"])]
    addresses = {row.id: row.address for row in connection.execute(_ADDRESSES, {"ids": named})}
    events = connection.execute(_EVENTS, {"id": slot_id}).mappings().all()
    return Explanation(slot, decision, addresses, events)


def planned_hours(connection: Connection, limit: int = 24) -> Sequence[RowMapping]:
    """Return the latest planned hours, newest first."""
    return connection.execute(_HOURS, {"limit": limit}).mappings().all()


def slots_of_hour(connection: Connection, hour: datetime) -> Sequence[RowMapping]:
    """Return the slots of one planned hour in the order of their target times."""
    return connection.execute(_SLOTS_OF_HOUR, {"hour": hour}).mappings().all()
