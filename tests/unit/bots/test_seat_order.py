"""Seats in weighted random order: which are free, and which slot is assigned which one."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.seat_order import SeatOrder, assign

Integers = npt.NDArray[np.int64]
cells = st.lists(st.integers(0, 4), max_size=30).map(lambda values: np.array(values, dtype=np.int64))
seats = st.lists(st.integers(0, 5), min_size=1, max_size=12).map(lambda values: np.array(values, dtype=np.int64))


@given(cells, cells)
def test_each_slot_gets_the_next_seat_of_its_cell_while_there_is_one(wanted: Integers, offered: Integers) -> None:
    """B-F4, Q-B7"""
    slots, taken = assign(wanted, offered, elsewhere=False)

    for cell in range(5):
        asking, there = np.flatnonzero(wanted == cell), np.flatnonzero(offered == cell)
        both = min(len(asking), len(there))
        seat_of = dict(zip(slots.tolist(), taken.tolist(), strict=True))
        assert [seat_of.get(slot) for slot in asking.tolist()] == [*there[:both], *[None] * (len(asking) - both)]


@given(cells, cells)
def test_no_slot_goes_without_a_seat_while_any_is_left(wanted: Integers, offered: Integers) -> None:
    """B-F4: the cell yields before the mail does."""
    slots, taken = assign(wanted, offered, elsewhere=True)

    assert len(slots) == len(set(taken.tolist())) == min(len(wanted), len(offered))
    assert set(assign(wanted, offered, elsewhere=False)[0].tolist()) <= set(slots.tolist())


@given(seats, st.randoms(use_true_random=False))
def test_a_bots_seats_are_all_there_and_the_likeliest_are_taken_first(seats: Integers, chance: Random) -> None:
    """B-F10: the first seat of a bot weighs four times its second."""
    ids = np.arange(1, len(seats) + 1)
    order = SeatOrder(ids, seats, np.ones(len(seats)), np.uint64(7))
    left = np.array([chance.randint(0, number) for number in seats.tolist()])

    assert (np.bincount(order.bots, minlength=len(seats)) == seats).all()
    assert (np.diff(order.keys) >= 0).all()
    free = order.free(left)
    assert (np.bincount(order.bots[free], minlength=len(seats)) == left).all()
    for bot in range(len(seats)):
        weights = np.sort(order.weights[free[order.bots[free] == bot]])
        assert weights.tolist() == sorted(1 / turn**2 for turn in range(seats[bot] - left[bot] + 1, seats[bot] + 1))
