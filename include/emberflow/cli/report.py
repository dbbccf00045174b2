"""What plans, slots and their reasons look like on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from emberflow.console import Section, console, print_json, records, show, show_facts, spell

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from emberflow.reporting.capacity import BotsNeeded, Capacity
    from emberflow.reporting.plan import Preview
    from emberflow.reporting.slot import Evidence, Explanation
    from emberflow.reporting.why_not import WhyNot

# What became of the mails of a ramp volume (`reporting.capacity.account`), and what an operator can do about it.
_LOSSES = {
    "by_health": ("held back by health multipliers", "look at the scores: `emberflow senders list`"),
    "by_daily_factor": ("held back by daily factors and the mix with cold mail", "nothing: the policy wants it so"),
    "used": ("sent or planned before, today", "nothing"),
    "outside": ("sent outside: a person's own mail, found under Sent", "nothing"),
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


def hours_section(hours: Sequence[RowMapping]) -> Section:
    """Return the planned hours, newest first."""
    rows = [
        (run["hour"], run["outcome"], run["senders"], run["bots"], run["wanted"], run["slots"],
         run["cancelled"], run["policy_name"], run["plan_sha256"][:12])
        for run in hours
    ]  # fmt: skip
    columns = ("hour (UTC)", "outcome", "senders", "bots free", "wanted", "slots", "cancelled", "policy", "plan sha256")
    return Section("hours", "Planned hours", columns, rows, least=("plan sha256", "policy", "bots free"))


def slots_section(hour: datetime, slots: Sequence[RowMapping]) -> Section:
    """Return the slots of one hour in the order of their target times."""
    rows = [
        (slot["id"], slot["target_time"], slot["sender_address"], slot["bot_address"], slot["tier"], slot["status"],
         slot["reason"])
        for slot in slots
    ]  # fmt: skip
    columns = ("slot", "target time (UTC)", "sender", "bot", "tier", "status", "reason")
    cancelled = sum(slot["status"] == "cancelled" for slot in slots)
    title = f"{len(rows)} slots of {spell(hour)}{f', {cancelled} cancelled' if cancelled else ''}"
    return Section("slots", title, columns, rows, least=("tier", "reason"))


def preview_section(preview: Preview) -> Section:
    """Return the first slots of a computed hour."""
    rows = [(slot.target_time, slot.sender, slot.bot, slot.tier, slot.gap_s) for slot in preview.first]
    left_out = f", the first {len(rows)}" if len(rows) < preview.count else ""
    columns = ("target time (UTC)", "sender", "bot", "tier", "gap s")
    title = f"{preview.count} slots of {spell(preview.hour)}{left_out}"
    return Section("slots", title, columns, rows, least=("gap s", "tier"))


def show_why_not(found: WhyNot, *, as_json: bool) -> None:
    """Print the answer, the slots that there are, and the numbers behind it."""
    rows = [
        tuple(slot[name] for name in ("id", "target_time", "bot_address", "status", "reason")) for slot in found.slots
    ]
    slots = Section("slots", "Its slots of this hour", ("slot", "target time (UTC)", "bot", "status", "reason"), rows)
    steps = Section("steps", "From the ramp to the slot", ("step", "mails", "how"), list(found.steps))
    if as_json:
        answer = {"sender": found.address, "hour": found.hour, "answer": found.answer}
        print_json(answer | records(slots, steps))
        return
    console.print(f"{found.address}, {spell(found.hour)} UTC: {found.answer}.", markup=False, style="bold")
    show(*(section for section in (slots, steps) if section.rows))


def show_why_empty(hour: datetime, why: str | None) -> None:
    """Print why nobody has a slot in the hour, if that is so."""
    if why is not None:
        console.print(f"{spell(hour)} UTC: {why}.", markup=False, style="bold")


def show_capacity(found: Capacity, *, as_json: bool) -> None:
    """Print supply and demand, the formula, what limits the hour's plan, and the warnings."""
    supply = [
        (_STATES.get(row[0], row[0].replace("_", " ")), *row[1:])
        for row in found.supply.itertuples(index=False, name=None)
    ]
    supply.append(("all active bots", *found.supply.drop(columns="state").sum()))
    supply += [
        (f"{status}: never chosen", count, *[None] * 4) for status, count in found.bots.items() if status != "active"
    ]
    pools = [
        (provider, bots, cap, seats, taken, seats - taken)
        for provider, bots, cap, seats, taken in zip(
            *(found.pools[name] for name in ("provider", "bots", "cap_today", "seats", "taken")), strict=True
        )
    ]
    sections = (
        _need(found),
        Section(
            "bots",
            f"Bots at {spell(found.hour)} UTC",
            ("state", "bots", "may receive today", "received or planned", "left today", "seats this hour"),
            supply,
        ),
        _losses(found),
        Section(
            "pools",
            "Pools of this hour, by provider of the bots",
            ("provider", "bots", "may receive today", "seats this hour", "taken", "free"),
            pools,
        ),
        Section(
            "caps",
            "Caps over 24 hours on everybody's mail, nearest use",
            ("cap", "whose", "used", "limit"),
            [(cap.scope, cap.key or "-", cap.used, cap.limit) for cap in found.caps],
        ),
    )
    if as_json:
        print_json({"hour": found.hour, "warnings": found.warnings} | records(*sections))
        return
    show(*sections)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="bold yellow", markup=False)
    if not found.warnings:
        console.print("There are enough bots, now and when every ramp has reached its maximum.", style="green")


def _need(found: Capacity) -> Section:
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
    return Section(
        "need",
        f"{active} active senders, {found.bots.get('active', 0)} active bots",
        ("term", "now", "at the ramp's maximum"),
        list(zip(terms, now, maximum, strict=True)),
        caption=f"other senders: {others}" if others else None,
    )


def _losses(found: Capacity) -> Section:
    volume = int(found.account["ramp_volume"])
    losses = sorted(((int(found.account[name]), name) for name in _LOSSES), reverse=True)
    rows = [(_LOSSES[name][0], mails, f"{mails / volume:.0%}", _LOSSES[name][1]) for mails, name in losses if mails]
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.unfilled.items())
    return Section(
        "left_out",
        f"{found.account['slots']} slots of this hour from a day's ramp volume of {volume}; the rest, largest first",
        ("where it stays", "mails", "share", "what to do"),
        rows,
        caption=f"no bot: {reasons}" if reasons else None,
    )


def show_explanation(explanation: Explanation, *, as_json: bool) -> None:
    """Print a slot, how its bot was chosen, and its events."""
    slot = explanation.slot
    facts: list[tuple[str, Any]] = [
        ("from", slot["from_address"]),
        ("to", slot["recipient_address"]),
        ("kind", f"{slot['task_type']}, turn {slot['turn']}, priority {slot['priority_level']}"),
        ("target time (UTC)", slot["target_time"]),
        ("status", slot["status"] if slot["reason"] is None else f"{slot['status']}: {slot['reason']}"),
        *([] if slot["binding_cap"] is None else [("binding cap", slot["binding_cap"])]),
        ("message id", slot["message_id"]),
        ("idempotency key", slot["idempotency_key"]),
        ("policy", f"{slot['policy_name']} (version {slot['policy_id']})"),
    ]
    if any(explanation.profiles.values()):
        named = (f"{who}: {name or 'none'}" for who, name in explanation.profiles.items())
        facts.append(("profiles", ", ".join(named)))
    if slot["hour"] is not None:
        facts.append(("plan", f"{spell(slot['hour'])}, seed {slot['seed']}, sha256 {slot['plan_sha256'][:12]}"))
    events = [(event["occurred_at"], event["event_type"], event["details"]) for event in explanation.events]
    if as_json:
        section = Section("events", "Events", ("at (UTC)", "event", "details"), events)
        print_json(
            {
                "slot": dict(slot),
                "selection": _selection_as_json(explanation),
                "profiles": dict(explanation.profiles),
            }
            | records(section)
        )
        return
    show_facts(f"Slot {slot['id']}", facts)
    if explanation.evidence is None and not explanation.kind.has_bot:
        console.print(f"This is {explanation.kind.label} mail to an address: it needs no bot.")
    elif explanation.evidence is None and slot["payload"].get("test") is not None:
        console.print(f"The draw of a placement test chose it: `emberflow placement show {slot['payload']['test']}`.")
    elif explanation.evidence is None:
        answered = slot["parent_slot_id"]
        console.print(f"A reply chooses no bot: it answers slot {answered} in its own thread.")
    else:
        show(_evidence(explanation, explanation.evidence))
    if events:
        worded = [
            (at, kind, ", ".join(f"{k} {v}" for k, v in said.items() if v is not None)) for at, kind, said in events
        ]
        show(Section("events", "Events", ("at (UTC)", "event", "details"), worded))
    else:
        console.print("no events yet")


def _selection_as_json(explanation: Explanation) -> dict[str, Any] | None:
    evidence = explanation.evidence
    if evidence is None:
        return None
    return {
        "asked_tier": evidence.asked_tier,
        "tier": evidence.tier,
        "terms": evidence.terms,
        "rejected": evidence.rejected,
        "is_replayed": explanation.is_replayed,
    } | records(_evidence(explanation, evidence))


def _evidence(explanation: Explanation, evidence: Evidence) -> Section:
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
    return Section(
        "places",
        f"Selection: asked {evidence.asked_tier} at {explanation.asked_at}, used {evidence.tier}{fell}",
        ("place", "bot", "weight", "draw", "key = -ln(draw) / weight"),
        rows,
        caption=f"weight of the chosen one: {terms}\nrefused before: {refused or 'nobody'}\n{again} the written plan",
    )
