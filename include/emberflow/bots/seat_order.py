"""Every free seat of every bot in weighted random order, and which slot is assigned which seat.

The order is a weighted random sample without replacement: each seat has an exponential key -ln(u) / w, and the smallest
comes first (Efraimidis and Spirakis, Information Processing Letters 97, 2006). So a bot comes in proportion to its
weight: its second seat as if it had rested half as long, its third a third.

Cost: one sort of all seats, and linear passes.
"""

from __future__ import annotations

import numpy as np

from emberflow.bots.ordering import Floats, Integers, order_of, order_of_whole, rank_within
from emberflow.bots.rotation import SHARPNESS
from emberflow.randomness import uniforms


class SeatOrder:
    """The seats, first to last: ``bots`` (places in what it was made from), ``weights`` and ``keys``."""

    def __init__(self, bot_ids: Integers, seats: Integers, weights: Floats, start: np.uint64) -> None:
        bots = np.repeat(np.arange(len(seats)), seats)
        turns = rank_within(bots)
        weight = weights[bots] / (1.0 + turns) ** SHARPNESS
        keys = -np.log(uniforms(start, bot_ids[bots], turns)) / weight
        order = order_of(keys)
        self.bots, self.weights, self.keys = bots[order], weight[order], keys[order]
        self._turns, self._at_first = turns[order], seats.copy()

    def free(self, seats: Integers) -> Integers:
        """Return the places of the free seats, where ``seats`` of each bot are: its first turns are taken first."""
        return np.flatnonzero(self._turns >= (self._at_first - seats)[self.bots])


def assign(wanted: Integers, offered: Integers, *, elsewhere: bool) -> tuple[Integers, Integers]:
    """Return which slots get a seat, and which one each: the next of the cell it wants, else any, if ``elsewhere``.

    ``wanted``: the cell of each slot; ``offered``: that of each seat; both in the order in which they are served.
    """
    slots, seats = order_of_whole(wanted), order_of_whole(offered)
    cell = wanted[slots]
    of_cell = np.bincount(offered, minlength=int(cell[-1]) + 1 if len(cell) else 0)
    first, rank = (np.cumsum(of_cell) - of_cell)[cell], rank_within(cell)
    has_one = rank < of_cell[cell]
    seat_of = np.full(len(wanted), -1, dtype=np.int64)
    seat_of[slots[has_one]] = seats[(first + rank)[has_one]]
    if elsewhere:
        is_left = np.ones(len(offered), dtype=np.bool_)
        is_left[seat_of[seat_of >= 0]] = False
        without, left = np.flatnonzero(seat_of < 0), np.flatnonzero(is_left)
        both = min(len(without), len(left))
        seat_of[without[:both]] = left[:both]
    has_seat = np.flatnonzero(seat_of >= 0)
    return has_seat, seat_of[has_seat]
