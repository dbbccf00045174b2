"""The deck: a card for every free seat of every bot, shuffled by weight, and how cards are handed out.

Cards are shuffled by exponential keys -ln(u) / w, of which the smallest lies on top (Efraimidis and Spirakis,
Information Processing Letters 97, 2006), so that a bot comes in proportion to its weight: the second card of a bot as
if it had rested half as long, the third a third.

Cost: one sort of all cards, and linear passes.
"""

from __future__ import annotations

import numpy as np

from emberflow.bots.ordering import Floats, Integers, order_of, order_of_whole, rank_within
from emberflow.bots.rotation import SHARPNESS
from emberflow.randomness import uniforms


class Deck:
    """The cards from the top: ``bots`` (places in what it was made from), ``weights`` and ``keys``."""

    def __init__(self, bot_ids: Integers, seats: Integers, weights: Floats, start: np.uint64) -> None:
        bots = np.repeat(np.arange(len(seats)), seats)
        turns = rank_within(bots)
        weight = weights[bots] / (1.0 + turns) ** SHARPNESS
        keys = -np.log(uniforms(start, bot_ids[bots], turns)) / weight
        order = order_of(keys)
        self.bots, self.weights, self.keys = bots[order], weight[order], keys[order]
        self._turns, self._seats = turns[order], seats.copy()

    def free(self, seats: Integers) -> Integers:
        """Return the places of the cards that are left where ``seats`` are: a bot's first turns are gone first."""
        return np.flatnonzero(self._turns >= (self._seats - seats)[self.bots])


def hand_out(wanted: Integers, offered: Integers, *, elsewhere: bool) -> tuple[Integers, Integers]:
    """Return which hands get a card, and which one each: the next of the cell it wants, else any, if ``elsewhere``.

    ``wanted``: the cell of each hand; ``offered``: that of each card; both in the order in which they are served.
    """
    hands, cards = order_of_whole(wanted), order_of_whole(offered)
    cell = wanted[hands]
    of_cell = np.bincount(offered, minlength=int(cell[-1]) + 1 if len(cell) else 0)
    first, rank = (np.cumsum(of_cell) - of_cell)[cell], rank_within(cell)
    has_one = rank < of_cell[cell]
    card_of = np.full(len(wanted), -1, dtype=np.int64)
    card_of[hands[has_one]] = cards[(first + rank)[has_one]]
    if elsewhere:
        is_left = np.ones(len(offered), dtype=np.bool_)
        is_left[card_of[card_of >= 0]] = False
        without, left = np.flatnonzero(card_of < 0), np.flatnonzero(is_left)
        both = min(len(without), len(left))
        card_of[without[:both]] = left[:both]
    has_card = np.flatnonzero(card_of >= 0)
    return has_card, card_of[has_card]
