"""Virgin bots, which a sender never met: assigned in rounds, and exactly in the end.

Every free seat has its place in a weighted random order (`bots.seat_order`). Each slot is offered the next seat of its
cell; only the offered pairs are looked up; a seat that a rule rejects is offered again. When a round hardly fills
anything any more, all seats that are left are offered to all slots that are open.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from emberflow.bots.candidates import offer_to_every_slot
from emberflow.bots.matching import Matching
from emberflow.bots.ordering import Integers, order_of, pair_keys
from emberflow.bots.seat_order import assign
from emberflow.domain.tiers import VIRGIN
from emberflow.randomness import uniforms

_ROUNDS = 8
_WORTH_A_ROUND = 0.3  # of the offers taken; below, the exact end is cheaper
_WINDOWS = 4
_SEATS_OF_WINDOW = 50
_FEW_PAIRS = 5_000  # all of them are looked up at once


def assign_new(matching: Matching, slots: Integers, *, elsewhere: bool = True) -> None:
    """Fill open ``slots`` with virgin bots until none of them has one left, or a few times, in their cell."""
    # At its own time first: moved slots would crowd where the bots of the hour before are free again.
    matching.may_move = False
    for number in range(_ROUNDS):
        slots = matching.open(slots)
        if not len(slots) or not matching.seats.any():
            break
        free = matching.seat_order.free(matching.seats)
        bots = matching.seat_order.bots[free]
        # Later rounds change who is offered which seat: else slots that no seat fits would hold the others up.
        asking = slots if number == 0 else slots[_shuffled(matching, slots, number)]
        served, at = assign(matching.asked[asking], matching.cell[bots], elsewhere=elsewhere)
        chosen = asking[served]
        taken = _take_new(matching, chosen, bots[at])
        matching.trace.note_seats(chosen, free[at], free, matching.seat_order)
        if taken <= _WORTH_A_ROUND * len(chosen):
            if matching.may_move:
                break
            matching.may_move = True
    matching.may_move = True
    if elsewhere:
        _offer_every_pair(matching, matching.open(slots))


def _shuffled(matching: Matching, slots: Integers, number: int) -> Integers:
    draws = uniforms(matching.stream("hands", number), matching.senders[slots], matching.ordinals[slots])
    return order_of(draws)


def _offer_every_pair(matching: Matching, slots: Integers) -> None:
    """Offer every seat that is left to every sender of ``slots``, until no pair of them is possible.

    Where these are many pairs, each slot is offered some seats first: mostly those do, and few pairs are looked up.
    """
    for number in range(_WINDOWS):
        slots = matching.open(slots)
        if len(slots) * np.count_nonzero(matching.seats) <= _FEW_PAIRS:
            break
        _offer_window(matching, slots, number)
    for slot_of, bot_of, part in matching.every_pair(matching.open(slots)):
        is_virgin = ~matching.contacts_of(slot_of, bot_of).exist()
        matching.trace.note_refusals(slot_of, bot_of, {"met_before": ~is_virgin})
        offer_to_every_slot(matching, part, slot_of[is_virgin], bot_of[is_virgin], VIRGIN)


def _offer_window(matching: Matching, slots: Integers, number: int) -> None:
    """Offer each of ``slots`` the seats that stand together at a drawn place of the order."""
    free = matching.seat_order.free(matching.seats)
    draws = uniforms(matching.stream("stretch", number), matching.senders[slots], matching.ordinals[slots])
    first = (draws * len(free)).astype(np.int64)
    at = (first[:, None] + np.arange(min(_SEATS_OF_WINDOW, len(free)))) % len(free)
    slot_of, bot_of = np.repeat(slots, at.shape[1]), matching.seat_order.bots[free[at.ravel()]]
    once = ~pd.Index(pair_keys(slot_of, bot_of)).duplicated()
    slot_of, bot_of = slot_of[once], bot_of[once]
    matching.trace.note_offers(slot_of, bot_of)
    fits = np.flatnonzero(matching.allowed(slot_of, bot_of))
    fits = fits[matching.fit(slot_of[fits], bot_of[fits]) >= 0]
    slot_of, bot_of = slot_of[fits], bot_of[fits]
    is_virgin = ~matching.contacts_of(slot_of, bot_of).exist()
    matching.trace.note_refusals(slot_of, bot_of, {"met_before": ~is_virgin})
    once = ~pd.Index(pair_keys(matching.row[slot_of], bot_of)).duplicated() & is_virgin
    offer_to_every_slot(matching, slots, slot_of[once], bot_of[once], VIRGIN)


def _take_new(matching: Matching, slots: Integers, bots: Integers) -> int:
    """Give slots the bots beside them where rules and seats allow it and they never met; return how many."""
    is_free = matching.fit(slots, bots) >= 0
    keep = np.flatnonzero(is_free & matching.allowed(slots, bots))
    keep = keep[~pd.Index(pair_keys(matching.senders[slots[keep]], bots[keep])).duplicated()]
    have_met = matching.contacts_of(slots[keep], bots[keep]).exist()
    matching.trace.note_offers(slots, bots)
    matching.trace.note_refusals(slots, bots, {"not_free_then": ~is_free})
    matching.trace.note_refusals(slots[keep], bots[keep], {"met_before": have_met})
    chosen = slots[keep[~have_met]]
    matching.take(chosen, bots[keep[~have_met]], VIRGIN)
    return int(np.count_nonzero(matching.bot[chosen] >= 0))
