"""Augmenting paths: a slot without a bot gets that of another slot, which moves to a free seat.

One such step is an augmenting path of length three in the bipartite matching of slots and seats.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.matching import Matching
from emberflow.bots.ordering import Integers, any_of

_ROUNDS = 50
_MOST_PAIRS = 50_000  # looked up to see who could move


def augment(matching: Matching, slots: Integers) -> None:
    """Fill open ``slots`` with bots of slots that can move, within their tier, to a bot with a free seat.

    Filled slots are looked at as far as their pairs stay few; in a large plan that is a sample, and next to nothing is
    open there.
    """
    free = np.flatnonzero(matching.seats)
    slots = matching.open(slots)[: _MOST_PAIRS // max(len(free), 1)]
    if not len(slots) or not len(free):
        return
    filled = matching.order[matching.bot[matching.order] >= 0][: _MOST_PAIRS // max(len(slots), len(free))]
    taken = np.unique(matching.bot[filled])
    slot_of, bot_of = np.repeat(slots, len(taken)), np.tile(taken, len(slots))
    tier = _tier_of(matching, slot_of, bot_of)
    wishes = pd.DataFrame({"slot": slot_of, "bot": bot_of, "tier": tier})[tier >= 0]
    filled = filled[np.isin(matching.bot[filled], wishes["bot"])]
    mover, target = np.repeat(filled, len(free)), np.tile(free, len(filled))
    is_move = _tier_of(matching, mover, target) == matching.tier[mover]
    moves = pd.DataFrame({"mover": mover, "bot": matching.bot[mover], "target": target})[is_move]
    for _ in range(_ROUNDS):
        paths = wishes.assign(wish=wishes.index).merge(
            moves.assign(move=moves.index).drop_duplicates("mover"), on="bot"
        )
        paths["sender"], paths["other"] = matching.row[paths["slot"]], matching.row[paths["mover"]]
        for once in ("sender", "mover", "other", "target", *(["bot"] if matching.schedule.pauses else [])):
            paths = paths.drop_duplicates(once)
        if paths.empty:
            return
        _move(matching, paths)
        matching.trace.note_moves(paths[matching.bot[paths["slot"]] == paths["bot"]])
        # What was tried is not tried again.
        wishes = wishes.drop(index=paths["wish"].tolist())
        wishes = wishes[matching.bot[wishes["slot"]] < 0]
        wishes = wishes[~matching.has_met(wishes["slot"].to_numpy(), wishes["bot"].to_numpy())]
        moves = moves.drop(index=paths["move"].tolist())
        moves = moves[(matching.seats[moves["target"]] > 0) & (matching.bot[moves["mover"]] == moves["bot"])]
        moves = moves[~matching.has_met(moves["mover"].to_numpy(), moves["target"].to_numpy())]


def _move(matching: Matching, paths: pd.DataFrame) -> None:
    """Move each ``mover`` from its ``bot`` to ``target``, and give ``slot`` that bot, where all have time."""
    slot, mover, bot, target = (paths[name].to_numpy() for name in ("slot", "mover", "bot", "target"))
    times = matching.fit(mover, target)
    is_possible = (times >= 0) & (matching.fit(slot, bot) >= 0)
    slot, mover, bot, target, times, tier = (
        column[is_possible] for column in (slot, mover, bot, target, times, paths["tier"].to_numpy())
    )
    matching.schedule.remove(bot, matching.time[mover])
    matching.book(mover, target, times, matching.tier[mover])
    # Another mover may have come to the bot meanwhile.
    times = matching.fit(slot, bot)
    free = times >= 0
    np.add.at(matching.seats, bot, 1)
    matching.seats[bot] = np.minimum(matching.seats[bot], matching.schedule.headroom(bot))
    matching.book(slot[free], bot[free], times[free], tier[free].astype(np.int8))


def _tier_of(matching: Matching, slots: Integers, bots: Integers) -> npt.NDArray[np.int8]:
    """Return the place in `TIERS` of each pair as the history has it, -1 where a rule refuses it."""
    tier = np.full(len(slots), -1, dtype=np.int8)
    allowed = np.flatnonzero(matching.allowed(slots, bots))
    allowed = allowed[matching.fit(slots[allowed], bots[allowed]) >= 0]
    contacts = matching.contacts_of(slots[allowed], bots[allowed])
    cases = [~contacts.exist(), any_of(contacts.forbid(matching.policy)), contacts.are_cooling(matching.policy)]
    tier[allowed] = np.select(cases, [0, -1, 2], default=1)
    return tier
