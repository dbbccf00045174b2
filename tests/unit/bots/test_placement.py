"""Where mail lands in junk, fewer partners: factors by evidence, and the shares that selection is given."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.mix import partner_mix
from emberflow.bots.placement import placement_factors
from emberflow.bots.policy import PlacementPolicy, SelectionPolicy
from emberflow.bots.selection import select_bots
from tests.builders import MONDAY_NOON, a_bot, a_pair, a_slot, frame
from tests.pairs_in_memory import PairsInMemory

STANDARD = PlacementPolicy()
counts = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)), min_size=1, max_size=6)


def placed(*rows: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame([{"provider": n, "inbox": inbox, "junk": junk} for n, (inbox, junk) in enumerate(rows, 1)])


def test_without_evidence_every_provider_keeps_its_share() -> None:
    """B-F8"""
    assert placement_factors(placed((0, 0), (0, 0)), STANDARD).tolist() == [1, 1]
    assert placement_factors(placed((0, 0), (90, 10)), STANDARD).tolist() == pytest.approx([1, 1])


def test_a_provider_that_junks_half_of_many_mails_gets_about_half() -> None:
    """B-F8: 1500 of 2000 in the inbox altogether, so (500 + 15) / (1000 + 20) against 0.75."""
    assert placement_factors(placed((1000, 0), (500, 500)), STANDARD).tolist() == pytest.approx(
        [1.3268, 0.6732], abs=1e-4
    )


def test_two_junked_mails_say_less_than_two_hundred() -> None:
    """B-F8"""
    few = placement_factors(placed((900, 0), (0, 2)), STANDARD)[2]
    many = placement_factors(placed((900, 0), (0, 200)), STANDARD)[2]
    assert 0.9 < few < 1
    assert many == 0.5


def test_no_inbox_anywhere_prefers_nobody() -> None:
    assert placement_factors(placed((0, 9), (0, 500)), STANDARD).tolist() == [1, 1]


@given(counts, st.integers(0, 5), st.integers(1, 500))
def test_one_more_junked_mail_never_raises_a_providers_factor(
    rows: list[tuple[int, int]], place: int, more: int
) -> None:
    """B-F8: within bounds, whatever the counts."""
    place %= len(rows)
    worse = [(inbox, junk + more * (n == place)) for n, (inbox, junk) in enumerate(rows)]
    before, after = placement_factors(placed(*rows), STANDARD), placement_factors(placed(*worse), STANDARD)
    assert before.between(0.5, 1.5).all()
    if sum(inbox for inbox, _ in rows):
        assert after.iloc[place] <= before.iloc[place] + 1e-9


def test_senders_meet_fewer_bots_of_a_provider_that_junks_their_mail() -> None:
    """B-F8"""
    bots = frame(*(a_bot(n, provider=1 + n % 2, domain=n, seats=2, inbound_cap=2) for n in range(1, 401)))
    factors = placement_factors(placed((500, 0), (200, 300)), STANDARD)
    providers = factors.reset_index().assign(target=float("nan"))
    mix = partner_mix(bots, providers, pd.DataFrame({"domain": [], "target": []}))
    shares = dict(enumerate(mix.cells["share"]))
    bots = bots.assign(cell=mix.cell)
    demand = frame(*(a_slot(n) for n in range(1, 401)))
    history = PairsInMemory(frame(a_pair()).iloc[:0])
    picks = select_bots(demand, bots, history, SelectionPolicy(), seed=1, hour=MONDAY_NOON, shares=shares).picks
    met = Counter((1 + picks["bot_id"] % 2).tolist())
    assert met[2] / 400 == pytest.approx(shares[1], abs=0.06)
    assert shares[1] < 0.32


@pytest.mark.parametrize("rows", [[(1, 1), (1, 1)], [(-1, 1), (1, 1)]], ids=["two rows", "negative"])
def test_placements_that_cannot_be_are_refused(rows: list[tuple[float, float]]) -> None:
    placements = placed(*rows)
    if rows[0][0] > 0:
        placements["provider"] = 1
    with pytest.raises(ValueError, match="one row per provider"):
        placement_factors(placements, STANDARD)
