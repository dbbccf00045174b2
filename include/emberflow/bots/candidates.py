"""Candidates: bots that senders may meet, ranked by exponential keys, and offered to the senders' open slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from emberflow.bots.matching import Matching
from emberflow.bots.ordering import Floats, Integers, by_group, order_of_whole, pair_keys, rank_within


class Candidates(NamedTuple):
    """Pairs: the row of their sender and their bot, and what ranks them."""

    row: Integers
    bots: Integers
    draw: Floats
    key: Floats
    terms: Mapping[str, Floats]


def offer_in_turn(
    matching: Matching,
    slots: Integers,
    slot_of: Integers,
    bot_of: Integers,
    tier: str,
    sent_7d: Integers | None = None,
    *,
    elsewhere: bool = True,
) -> None:
    """Give open ``slots`` the candidates of their senders, ranked by exponential keys, while these have seats.

    A candidate is a bot and any slot of its sender, and allowed by the rules. Each round offers every open
    slot another candidate, first of the cell that it asks, then, ``elsewhere``, of any.
    """
    candidates = _keyed(matching, slot_of, bot_of, sent_7d)
    row, bots, key = candidates.row, candidates.bots, candidates.key
    for asks_cell in (True, False) if elsewhere else (True,):
        group = row * len(matching.codes) + matching.cell[bots] if asks_cell else row
        order = by_group(group, key)
        group, row, bots, key = group[order], row[order], bots[order], key[order]
        while True:
            slots = matching.open(slots)
            wanted = matching.row[slots]
            wanted = wanted * len(matching.codes) + matching.asked[slots] if asks_cell else wanted
            slot_order = order_of_whole(wanted)
            wanted = wanted[slot_order]
            at = np.searchsorted(group, wanted) + rank_within(wanted)
            is_offered = at < np.searchsorted(group, wanted, side="right")
            if not is_offered.any():
                break
            chosen, at = slot_order[is_offered], at[is_offered]
            back = np.argsort(chosen)
            chosen, at = slots[chosen[back]], at[back]
            is_settled = matching.take(chosen, bots[at], tier)
            is_left = matching.seats[bots] > 0
            is_left[at[is_settled]] = False
            is_left &= np.isin(np.arange(len(matching.first)), matching.row[matching.open(slots)])[row]
            group, row, bots, key = group[is_left], row[is_left], bots[is_left], key[is_left]
    matching.trace.note_candidates(*candidates)


def offer_to_every_slot(
    matching: Matching, slots: Integers, slot_of: Integers, bot_of: Integers, tier: str, sent_7d: Integers | None = None
) -> None:
    """Do the same with each candidate offered to all slots of its sender, until none is free at the time of any."""
    candidates = _keyed(matching, slot_of, bot_of, sent_7d)
    slots = matching.open(slots)
    by_row = slots[np.argsort(matching.row[slots], kind="stable")]
    first = np.searchsorted(matching.row[by_row], candidates.row)
    times = np.searchsorted(matching.row[by_row], candidates.row, side="right") - first
    pair = np.repeat(np.arange(len(times)), times)
    group = by_row[np.repeat(first - np.cumsum(times) + times, times) + np.arange(len(pair))]
    bots, key = candidates.bots[pair], candidates.key[pair]
    # Whom a slot asks for in its cell comes before all others.
    is_elsewhere = (matching.cell[bots] != matching.asked[group]).astype(np.int64)
    order = by_group(group * 2 + is_elsewhere, key)
    group, bots = group[order], bots[order]
    while len(group):
        is_left = (matching.bot[group] < 0) & (matching.seats[bots] > 0)
        group, bots = group[is_left], bots[is_left]
        is_left = (matching.fit(group, bots) >= 0) & ~matching.has_met(group, bots)
        group, bots = group[is_left], bots[is_left]
        offered = np.flatnonzero(np.diff(group, prepend=-1))
        # In the order in which slots are served.
        at = np.full(len(matching.bot), -1, dtype=np.int64)
        at[group[offered]] = offered
        chosen = slots[at[slots] >= 0]
        at = at[chosen]
        is_first = ~pd.Index(pair_keys(matching.row[chosen], bots[at])).duplicated()
        matching.take(chosen[is_first], bots[at[is_first]], tier)
    matching.trace.note_candidates(*candidates)


def _keyed(matching: Matching, slot_of: Integers, bot_of: Integers, sent_7d: Integers | None) -> Candidates:
    """Return the candidates that have a seat, with their draws, exponential keys and the terms of their weights."""
    free = matching.seats[bot_of] > 0
    row, bots = matching.row[slot_of[free]], bot_of[free]
    terms = matching.terms_of(bots) | {"headroom": matching.headroom(bots)}
    if sent_7d is not None:
        terms["repeats"] = np.exp2(-sent_7d[free].astype(np.float64))
    draw = matching.draws(matching.first[row], bots)
    return Candidates(row, bots, draw, -np.log(draw) / np.prod(list(terms.values()), axis=0), terms)
