"""Cells: providers and their greater domains, and the share that a sender's partners should have in each."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.bots.mix import ANY_DOMAIN, Mix, partner_mix
from emberflow.bots.policy import SelectionPolicy
from emberflow.bots.selection import select_bots
from tests.builders import MONDAY_NOON, Row, a_bot, a_pair, a_slot, frame
from tests.pairs_in_memory import PairsInMemory

NOT_SET = float("nan")


def a_seated_bot(bot_id: int, seats: int = 5, **changes: int) -> Row:
    """A bot whose cap is its seats."""
    return a_bot(bot_id, seats=seats, inbound_cap=seats, **changes)


def providers(*rows: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["provider", "target", "factor"])


def domains(targets: dict[int, float] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"domain": list(targets or {}), "target": list((targets or {}).values())})


def by(mix: Mix, key: str) -> dict[int, float]:
    shares = mix.cells.groupby(key)["share"].sum()
    return {int(code): float(share) for code, share in zip(shares.index, shares, strict=True)}


def test_without_targets_providers_share_as_their_free_seats_do() -> None:
    """B-F4"""
    mix = partner_mix(
        frame(*(a_seated_bot(n, provider=n, domain=n, seats=n) for n in range(1, 5))), providers(), domains()
    )
    assert by(mix, "provider") == pytest.approx({n: n / 10 for n in range(1, 5)})


def test_a_provider_that_junks_gives_up_share_to_the_others() -> None:
    """B-F8"""
    bots = frame(*(a_seated_bot(n, provider=n, domain=n) for n in (1, 2)))
    assert by(partner_mix(bots, providers((2, NOT_SET, 0.5)), domains()), "provider") == pytest.approx(
        {1: 2 / 3, 2: 1 / 3}
    )


def test_who_has_no_target_shares_what_the_targets_leave() -> None:
    """B-F4: by seats; a provider without a seat gets nothing, whatever its target."""
    bots = frame(*(a_seated_bot(n, provider=n, domain=n, seats=[0, 5, 1, 3, 0][n]) for n in range(1, 5)))
    mix = partner_mix(bots, providers((1, 0.6, 1.0), (4, 0.2, 1.0)), domains())
    assert by(mix, "provider") == pytest.approx({1: 0.75, 2: 0.0625, 3: 0.1875, 4: 0})


def test_a_greater_domain_is_a_cell_of_its_own_at_each_of_its_providers_and_the_small_ones_are_one() -> None:
    """B-F4"""
    bots = frame(*(a_seated_bot(n, provider=n % 2, domain=777 if n <= 20 else n) for n in range(1, 101)))
    mix = partner_mix(bots, providers(), domains())
    assert set(zip(mix.cells["provider"], mix.cells["domain"], strict=True)) == {
        (0, ANY_DOMAIN), (0, 777), (1, ANY_DOMAIN), (1, 777),
    }  # fmt: skip
    assert by(mix, "domain") == pytest.approx({777: 0.2, ANY_DOMAIN: 0.8})
    assert mix.cells.loc[mix.cell, "provider"].tolist() == bots["provider"].tolist()


def test_the_targets_of_domains_and_of_providers_hold_together() -> None:
    """B-F4"""
    bots = frame(*(a_seated_bot(n, provider=n % 2, domain=n % 3) for n in range(1, 61)))
    mix = partner_mix(bots, providers((0, 0.7, 1.0)), domains({0: 0.5, 1: 0.05}))
    assert by(mix, "provider") == pytest.approx({0: 0.7, 1: 0.3})
    assert by(mix, "domain") == pytest.approx({0: 0.5, 1: 0.05, 2: 0.45})


targets = st.dictionaries(st.integers(1, 6), st.floats(0, 0.2))
cells = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4)), max_size=25)


@given(cells, targets, targets)
def test_shares_are_of_one_and_no_cell_without_a_seat_has_any(
    rows: list[tuple[int, int, int]], of_providers: dict[int, float], of_domains: dict[int, float]
) -> None:
    """B-F4: whatever is configured; with targets of zero everywhere nothing is left to share."""
    rows = [*rows, (1, 1, 0)]
    bots = frame(*(a_seated_bot(n, provider=p, domain=d, seats=s) for n, (p, d, s) in enumerate(rows, 1)))
    mix = partner_mix(bots, providers(*((p, t, 1.0) for p, t in of_providers.items())), domains(of_domains))
    total = mix.cells["share"].sum()
    assert total == pytest.approx(1) or total == 0
    seats = bots["seats"].groupby(mix.cell).sum()
    assert (mix.cells["share"][seats == 0] == 0).all()


def test_the_domains_of_a_senders_partners_keep_to_their_shares() -> None:
    """B-F4: within ten points over seven days of five mails, of 20 senders; a third of the bots are at one domain."""
    bots = frame(*(a_seated_bot(n, provider=n % 2, domain=777 if n % 3 == 0 else n, seats=5) for n in range(1, 301)))
    mix = partner_mix(bots, providers(), domains())
    bots = bots.assign(cell=mix.cell)
    shares = dict(enumerate(mix.cells["share"]))
    history = PairsInMemory(frame(a_pair()).iloc[:0])
    seen: Counter[tuple[int, int]] = Counter()
    for day in range(7):
        demand = frame(*(a_slot(sender, nth) for sender in range(1, 21) for nth in range(1, 6)))
        hour = MONDAY_NOON + timedelta(days=day)
        picks = select_bots(demand, bots, history, SelectionPolicy(), seed=2, hour=hour, shares=shares).picks
        seen.update(zip(picks["sender_id"], picks["bot_id"] % 3 == 0, strict=True))
    assert all(abs(seen[sender, True] / 35 - 1 / 3) <= 0.1 for sender in range(1, 21))


def test_shares_beyond_one_are_refused() -> None:
    """B-F4"""
    with pytest.raises(ValidationError, match=r"add up to 1\.2"):
        SelectionPolicy(provider_shares={"alpha": 0.7, "beta": 0.5})
