"""Selection as a slow, obviously correct loop: slot after slot, bot after bot, every rule written out."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from emberflow.bots.eligibility import GROUPS
from emberflow.bots.policy import SelectionPolicy

Row = dict[str, Any]


def tier_of(slot: Row, bot: Row, pair: Row | None, policy: SelectionPolicy, hour: datetime) -> str | None:
    """The tier of a bot for a slot, apart from seats and the rest of the plan; None: a rule forbids it."""
    if any(slot[group] == bot[group] != -1 for group in GROUPS):
        return None
    if pair is None:
        return "virgin"
    hours = (hour - pair["last_contact"]) / timedelta(hours=1)
    if hours < 24 or pair["sent_7d"] >= policy.pair_weekly_maximum:
        return None
    return "active" if hours < policy.pair_cooldown_h else "probabilistic"


def fill(
    slots: list[Row], bots: list[Row], pairs: list[Row], policy: SelectionPolicy, hour: datetime, luck: random.Random
) -> int:
    """How many slots a greedy loop in random order fills."""
    history = {(pair["sender_id"], pair["bot_id"]): pair for pair in pairs}
    free = {bot["bot_id"]: bot["seats"] for bot in bots}
    met: set[tuple[int, int]] = set()
    for slot in luck.sample(slots, len(slots)):
        sender = slot["sender_id"]
        eligible = [
            bot["bot_id"]
            for bot in bots
            if free[bot["bot_id"]]
            and (sender, bot["bot_id"]) not in met
            and tier_of(slot, bot, history.get((sender, bot["bot_id"])), policy, hour)
        ]
        if eligible:
            chosen = luck.choice(eligible)
            free[chosen] -= 1
            met.add((sender, chosen))
    return len(met)
