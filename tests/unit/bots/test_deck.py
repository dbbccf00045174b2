"""The deck: whose cards are free, and who is handed which one."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.deck import Deck, hand_out

Integers = npt.NDArray[np.int64]
cells = st.lists(st.integers(0, 4), max_size=30).map(lambda values: np.array(values, dtype=np.int64))
seats = st.lists(st.integers(0, 5), min_size=1, max_size=12).map(lambda values: np.array(values, dtype=np.int64))


@given(cells, cells)
def test_each_hand_gets_the_next_card_of_its_cell_while_there_is_one(wanted: Integers, offered: Integers) -> None:
    """B-F4, Q-B7"""
    hands, cards = hand_out(wanted, offered, elsewhere=False)

    for cell in range(5):
        asking, there = np.flatnonzero(wanted == cell), np.flatnonzero(offered == cell)
        both = min(len(asking), len(there))
        given_out = dict(zip(hands.tolist(), cards.tolist(), strict=True))
        assert [given_out.get(hand) for hand in asking.tolist()] == [*there[:both], *[None] * (len(asking) - both)]


@given(cells, cells)
def test_nobody_goes_without_a_card_while_any_is_left(wanted: Integers, offered: Integers) -> None:
    """B-F4: the cell yields before the mail does."""
    hands, cards = hand_out(wanted, offered, elsewhere=True)

    assert len(hands) == len(set(cards.tolist())) == min(len(wanted), len(offered))
    assert set(hand_out(wanted, offered, elsewhere=False)[0].tolist()) <= set(hands.tolist())


@given(seats, st.randoms(use_true_random=False))
def test_a_bot_has_as_many_cards_as_seats_and_gives_its_likeliest_first(seats: Integers, chance: Random) -> None:
    """B-F10: the first card of a bot weighs four times its second."""
    ids = np.arange(1, len(seats) + 1)
    deck = Deck(ids, seats, np.ones(len(seats)), np.uint64(7))
    left = np.array([chance.randint(0, number) for number in seats.tolist()])

    assert (np.bincount(deck.bots, minlength=len(seats)) == seats).all()
    assert (np.diff(deck.keys) >= 0).all()
    free = deck.free(left)
    assert (np.bincount(deck.bots[free], minlength=len(seats)) == left).all()
    for bot in range(len(seats)):
        weights = np.sort(deck.weights[free[deck.bots[free] == bot]])
        assert weights.tolist() == sorted(1 / turn**2 for turn in range(seats[bot] - left[bot] + 1, seats[bot] + 1))
