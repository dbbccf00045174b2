"""What plans, slots and their reasons look like on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping

from emberflow.bots.selection import Evidence
from emberflow.cli.console import console, spell, table
from emberflow.queue_manager.explain import Explanation


def show_hours(hours: Sequence[RowMapping]) -> None:
    """Print the planned hours, newest first."""
    rows = [
        (run["hour"], run["outcome"], run["senders"], run["bots"], run["wanted"], run["slots"],
         run["policy_name"], run["plan_sha256"][:12])
        for run in hours
    ]  # fmt: skip
    columns = ("hour (UTC)", "outcome", "senders", "bots free", "wanted", "slots", "policy", "plan sha256")
    table("Planned hours", columns, rows)


def show_slots(hour: datetime, slots: Sequence[RowMapping]) -> None:
    """Print the slots of one hour in the order of their target times."""
    rows = [
        (slot["id"], slot["target_time"], slot["sender_address"], slot["bot_address"], slot["tier"], slot["status"],
         slot["reason"])
        for slot in slots
    ]  # fmt: skip
    columns = ("slot", "target time (UTC)", "sender", "bot", "tier", "status", "reason")
    table(f"{len(rows)} slots of {spell(hour)}", columns, rows)


def show_explanation(explanation: Explanation) -> None:
    """Print a slot, how its bot was chosen, and its events."""
    slot = explanation.slot
    facts = [
        ("from", slot["sender_address"] if slot["turn"] % 2 else slot["bot_address"]),
        ("to", slot["bot_address"] if slot["turn"] % 2 else slot["sender_address"]),
        ("kind", f"{slot['task_type']}, turn {slot['turn']}, priority {slot['priority_level']}"),
        ("target time (UTC)", slot["target_time"]),
        ("status", slot["status"] if slot["reason"] is None else f"{slot['status']}: {slot['reason']}"),
        ("message id", slot["message_id"]),
        ("idempotency key", slot["idempotency_key"]),
        ("policy", f"{slot['policy_name']} (version {slot['policy_id']})"),
    ]
    if slot["hour"] is not None:
        facts.append(("plan", f"{spell(slot['hour'])}, seed {slot['seed']}, sha256 {slot['plan_sha256'][:12]}"))
    table(f"Slot {slot['id']}", ("", ""), facts)
    if explanation.evidence is None:
        answered = slot["parent_slot_id"]
        console.print(f"A reply chooses no bot: it answers slot {answered} in its own thread.")
    else:
        _show_evidence(explanation, explanation.evidence)
    events = [
        (
            event["occurred_at"],
            event["event_type"],
            ", ".join(f"{k} {v}" for k, v in event["details"].items() if v is not None),
        )
        for event in explanation.events
    ]
    table("Events", ("at (UTC)", "event", "details"), events)


def _show_evidence(explanation: Explanation, evidence: Evidence) -> None:
    addresses = explanation.bot_addresses
    fell = "" if evidence.asked_tier == evidence.tier else " (fell through)"
    terms = " x ".join(f"{name} {spell(value)}" for name, value in evidence.terms.items())
    chosen = {"bot_id": evidence.bot_id, "weight": evidence.weight, "draw": evidence.draw, "key": evidence.key}
    rows = [
        (place, addresses.get(bot["bot_id"], bot["bot_id"]), bot["weight"], bot["draw"], bot["key"])
        for place, bot in enumerate([chosen, *evidence.runners_up], start=1)
    ]
    refused = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in evidence.rejected.items())
    again = "computed again, and equal to" if explanation.is_replayed else "computed again, but it DIFFERS from"
    table(
        f"Selection: asked {evidence.asked_tier}, used {evidence.tier}{fell}",
        ("place", "bot", "weight", "draw", "key = -ln(draw) / weight"),
        rows,
        caption=f"weight of the chosen one: {terms}\nrefused before: {refused or 'nobody'}\n{again} the written plan",
    )
