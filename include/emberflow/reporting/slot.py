"""Why a slot is what it is: its decision, its attempts and its events, and what an hour came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, RowMapping, text

from emberflow.domain.mail_kind import MailKind, kind_of
from emberflow.domain.tiers import VIRGIN
from emberflow.errors import EmberflowError
from emberflow.reporting import profiles

if TYPE_CHECKING:
    from emberflow.bots.evidence import Evidence as Evidence  # noqa: PLC0414 - named by commands

_SLOT = text("""
    select slots.*, sender_box.address as sender_address, bot_box.address as bot_address,
        from_box.address as from_address, coalesce(to_box.address, slots.to_address) as recipient_address,
        plan_runs.kind as plan_kind, plan_runs.hour, plan_runs.seed, plan_runs.plan_sha256,
        policies.name as policy_name
    from ops.slots
    inner join ops.senders on senders.id = slots.sender_id
    inner join ops.mailboxes as sender_box on sender_box.id = senders.mailbox_id
    inner join ops.mailboxes as from_box on from_box.id = slots.from_mailbox_id
    inner join ops.policies on policies.id = slots.policy_id
    left join ops.mailboxes as to_box on to_box.id = slots.to_mailbox_id
    left join ops.bots on bots.id = slots.bot_id
    left join ops.mailboxes as bot_box on bot_box.id = bots.mailbox_id
    left join ops.plan_runs on plan_runs.id = slots.plan_run_id
    where slots.id = :id
""")

# A virgin runner-up is only known to be next in the order; whether they had met is asked here, as of that plan.
_MET_BEFORE = text("""
    select bot_id
    from ops.bot_sender_interactions
    where sender_id = :sender_id and bot_id = any(:bot_ids) and first_contact < :planned_at
""")

_EVENTS = text("""
    select occurred_at, event_type, details from ops.mail_events where slot_id = :id order by occurred_at, id
""")

_HOURS = text("""
    select plan_runs.*, policies.name as policy_name, cancelled.slots as cancelled
    from ops.plan_runs
    inner join ops.policies on policies.id = plan_runs.policy_id
    cross join lateral (
        select count(*) as slots from ops.slots where slots.plan_run_id = plan_runs.id and slots.status = 'cancelled'
    ) as cancelled
    where plan_runs.kind = 'warmup'
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
    where plan_runs.kind = 'warmup' and plan_runs.hour = :hour
    order by slots.target_time, slots.id
""")

_CELL = text("""
    select
        (select min(provider) from ops.mailboxes where hashtextextended(provider, 0) = :provider) as provider,
        (
            select min(split_part(address, '@', 2))
            from ops.mailboxes
            where hashtextextended(split_part(address, '@', 2), 0) = :domain
        ) as domain
""")

_ADDRESSES = text("""
    select bots.id, mailboxes.address
    from ops.bots inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    where bots.id = any(:ids)
""")


@dataclass(frozen=True)
class Explanation:
    """A slot's row, the evidence for its bot and its events, oldest first.

    ``evidence`` is computed again from what the plan was computed from; None for what no warm-up plan chose a bot for.
    ``is_replayed`` says whether that computation gave the very plan that was written. ``asked_at`` names the provider,
    and the domain if one alone, at which the slot asked for a bot. ``profiles`` are those that decided, by who goes by
    them (sender, bot, or who answers); None: the policy's own numbers.
    """

    slot: RowMapping
    kind: MailKind
    evidence: Evidence | None
    is_replayed: bool | None
    asked_at: str | None
    bot_addresses: Mapping[int, str]
    profiles: Mapping[str, str | None]
    events: Sequence[RowMapping]


def explain(connection: Connection, slot_id: int) -> Explanation:
    """Return everything that is known about one slot.

    Raises:
        EmberflowError: there is no such slot, or the inputs of its plan are gone.
    """
    from emberflow.queue_manager.planning.planner import planned_ordinal, replay

    slot = connection.execute(_SLOT, {"id": slot_id}).mappings().one_or_none()
    if slot is None:
        raise EmberflowError(f"there is no slot {slot_id}; `emberflow plan show` lists the slots of an hour")
    events = connection.execute(_EVENTS, {"id": slot_id}).mappings().all()
    kind = kind_of(slot["task_type"], slot["turn"])
    if slot["plan_kind"] != "warmup":
        decided = {} if slot["parent_slot_id"] is None else {"who answers": slot["payload"].get("profile")}
        return Explanation(slot, kind, None, None, None, {}, decided, events)
    again = replay(
        connection, slot["plan_run_id"], traced_slot=(slot["sender_id"], planned_ordinal(slot["idempotency_key"]))
    )
    evidence = again.plan.selection.evidence
    if evidence is None:
        raise EmberflowError(f"the plan of slot {slot_id} gave no evidence for it")
    if evidence.tier == VIRGIN:
        named = [other["bot_id"] for other in evidence.runners_up]
        key = {"sender_id": slot["sender_id"], "bot_ids": named, "planned_at": again.inputs.start}
        met: set[int] = set(connection.execute(_MET_BEFORE, key).scalars())
        evidence.runners_up = [other for other in evidence.runners_up if other["bot_id"] not in met]
    named = [slot["bot_id"], *(other["bot_id"] for other in evidence.runners_up)]
    addresses = {row.id: row.address for row in connection.execute(_ADDRESSES, {"ids": named})}
    # Column by column: a row of the frame would be floats, in which the hashes lose digits.
    codes = {name: int(again.plan.cells[name].iloc[evidence.asked_cell]) for name in ("provider", "domain")}
    asked = connection.execute(_CELL, codes).one()
    asked_at = ", ".join(dict.fromkeys(name for name in asked if name is not None))
    planned = {
        who: profiles.of_planned(again.inputs.policy, mailboxes[mailboxes[f"{who}_id"] == slot[f"{who}_id"]])
        for who, mailboxes in (("sender", again.inputs.senders), ("bot", again.inputs.bots))
    }
    return Explanation(slot, kind, evidence, again.is_same, asked_at, addresses, planned, events)


def planned_hours(connection: Connection, limit: int = 24) -> Sequence[RowMapping]:
    """Return the latest planned hours, newest first; ``cancelled`` is how many of its slots are."""
    return connection.execute(_HOURS, {"limit": limit}).mappings().all()


def cancelled_slots(connection: Connection, hour: datetime) -> int:
    """Return how many slots of a planned hour are cancelled."""
    return sum(slot["status"] == "cancelled" for slot in slots_of_hour(connection, hour))


def slots_of_hour(connection: Connection, hour: datetime) -> Sequence[RowMapping]:
    """Return the warm-up slots of one planned hour in the order of their target times."""
    return connection.execute(_SLOTS_OF_HOUR, {"hour": hour}).mappings().all()
