"""What plans, slots and their reasons look like on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from emberflow.bots.evidence import Evidence
from emberflow.cli.console import console, spell, table

if TYPE_CHECKING:
    from pandas import DataFrame
    from sqlalchemy import RowMapping

    from emberflow.bots.capacity import BotsNeeded
    from emberflow.queue_manager.capacity import BotName, Capacity
    from emberflow.queue_manager.explain import Explanation
    from emberflow.queue_manager.plan import Plan
    from emberflow.queue_manager.why_not import WhyNot

# What became of the mails of a ramp volume (`queue_manager.capacity.account`), and what an operator can do about it.
_LOSSES = {
    "by_health": ("held back by health multipliers", "look at the scores: `emberflow senders list`"),
    "by_daily_factor": ("held back by daily factors and the mix with cold mail", "nothing: the policy wants it so"),
    "used": ("sent or planned before, today", "nothing"),
    "by_total_cap": ("above the cap over mail of all kinds", "policy: quota.total_daily_cap"),
    "window_over": ("no sending time left on this local day", "policy: pacing.window_start, window_end, weekdays"),
    "later": ("left to later hours of the day", "nothing"),
    "few_bots": ("held back because fewer than 8 bots are eligible", "more bots, or wait until they wake or cool down"),
    "no_bot": ("no bot was left", "more bots: each serves a sender once a day; the pools are below"),
    "no_room": (
        "no room between the gap and the end of the window",
        "policy: pacing.gap_minimum_s, or a longer window",
    ),
}
_STATES = {
    "free": "active, with seats now",
    "asleep": "asleep",
    "cooldown": "pause between two mails",
    "at_cap": "at the full daily cap",
    "at_lower_cap": "at a lower cap (young, or its operator's limit)",
}


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


def show_preview(hour: datetime, plan: Plan, first: DataFrame, names: Mapping[int, BotName], origin: str) -> str:
    """Print the first slots of a computed hour and what it came to; return the latter as one line."""
    addresses = plan.day.set_index("sender_id")["address"]
    rows = [
        (at.to_pydatetime(), addresses[sender], names[bot].address, tier, gap_s)
        for at, sender, bot, tier, gap_s in zip(
            *(first[name] for name in ("target_time", "sender_id", "bot_id", "tier", "gap_s")), strict=True
        )
    ]
    left_out = f", the first {len(rows)}" if len(rows) < len(plan.slots) else ""
    columns = ("target time (UTC)", "sender", "bot", "tier", "gap s")
    table(f"{len(plan.slots)} slots of {spell(hour)}{left_out}", columns, rows)
    reasons = plan.selection.unfilled["reason"].astype("str").value_counts()
    lost = {f"no bot ({reason})": count for reason, count in reasons.items()}
    lost["no room"] = len(plan.selection.picks) - len(plan.slots)
    summary = ", ".join(
        [
            f"{int((plan.day['open_s_now'] > 0).sum())} senders with an open window",
            f"{int(plan.day['wanted'].sum())} wanted",
            f"{len(plan.slots)} slots",
            *(f"{count} {reason}" for reason, count in lost.items() if count),
        ]
    )
    console.print(f"{summary}. Nothing was written.")
    console.print(f"{origin}.", style="dim", markup=False)
    return summary


def show_why_not(told: WhyNot) -> None:
    """Print the answer, the slots that there are, and the numbers behind it."""
    console.print(f"{told.address}, {spell(told.hour)} UTC: {told.answer}.", markup=False, style="bold")
    if told.slots:
        rows = [
            tuple(slot[name] for name in ("id", "target_time", "bot_address", "status", "reason"))
            for slot in told.slots
        ]
        table("Its slots of this hour", ("slot", "target time (UTC)", "bot", "status", "reason"), rows)
    if told.steps:
        table("From the ramp to the slot", ("step", "mails", "how"), told.steps)


def show_capacity(found: Capacity) -> None:
    """Print supply and demand, the formula, what limits the hour's plan, and the warnings."""
    _show_need(found)
    supply = [
        (_STATES.get(row[0], row[0].replace("_", " ")), *row[1:])
        for row in found.supply.itertuples(index=False, name=None)
    ]
    supply.append(("all active bots", *found.supply.drop(columns="state").sum()))
    supply += [
        (f"{status}: never chosen", count, *[None] * 4) for status, count in found.bots.items() if status != "active"
    ]
    table(
        f"Bots at {spell(found.hour)} UTC",
        ("state", "bots", "may receive today", "received or planned", "left today", "seats this hour"),
        supply,
    )
    _show_losses(found)
    table(
        "Pools of this hour, by provider of the bots",
        ("provider", "bots", "may receive today", "seats this hour", "taken", "free"),
        [
            (provider, bots, cap, seats, taken, seats - taken)
            for provider, bots, cap, seats, taken in zip(
                *(found.pools[name] for name in ("provider", "bots", "cap_today", "seats", "taken")), strict=True
            )
        ],
    )
    table(
        "Caps over 24 hours on everybody's mail, nearest use",
        ("cap", "whose", "used", "limit"),
        [(cap.scope, cap.key or "-", cap.used, cap.limit) for cap in found.caps],
    )
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="bold yellow", markup=False)
    if not found.warnings:
        console.print("There are enough bots, now and when every ramp has reached its maximum.", style="green")


def _show_need(found: Capacity) -> None:
    def column(needed: BotsNeeded, senders: int) -> list[object]:
        return [senders, needed.largest_volume, needed.daily_mails, needed.by_load, needed.by_cooldown, needed.bots]

    cap, days = found.now.inbound_cap, found.now.cooldown_h / 24
    terms = (
        "S: active senders (now: those planned before)",
        "w: most warm-up mails a day of one sender",
        "S w: of all senders",
        f"ceil(S w / L), L = {cap} mails a day and bot",
        f"w K, K = {days:g} days until a pair may meet again",
        "bots needed: the larger of the two",
    )
    active = found.senders.get("active", 0)
    now, maximum = column(found.now, found.volumes_known), column(found.at_maximum, active)
    others = ", ".join(f"{count} {state}" for state, count in found.senders.items() if state != "active")
    table(
        f"{active} active senders, {found.bots.get('active', 0)} active bots",
        ("term", "now", "at the ramp's maximum"),
        list(zip(terms, now, maximum, strict=True)),
        caption=f"other senders: {others}" if others else None,
    )


def _show_losses(found: Capacity) -> None:
    volume = int(found.account["ramp_volume"])
    losses = sorted(((int(found.account[name]), name) for name in _LOSSES), reverse=True)
    rows = [(_LOSSES[name][0], mails, f"{mails / volume:.0%}", _LOSSES[name][1]) for mails, name in losses if mails]
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.unfilled.items())
    table(
        f"{found.account['slots']} slots of this hour from a day's ramp volume of {volume}; the rest, largest first",
        ("where it stays", "mails", "share", "what to do"),
        rows,
        caption=f"no bot: {reasons}" if reasons else None,
    )


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
    if events:
        table("Events", ("at (UTC)", "event", "details"), events)
    else:
        console.print("no events yet")


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
        f"Selection: asked {evidence.asked_tier} at {explanation.asked_at}, used {evidence.tier}{fell}",
        ("place", "bot", "weight", "draw", "key = -ln(draw) / weight"),
        rows,
        caption=f"weight of the chosen one: {terms}\nrefused before: {refused or 'nobody'}\n{again} the written plan",
    )
