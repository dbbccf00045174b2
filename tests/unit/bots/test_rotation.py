"""Turns: how much a bot is due, by its cap and by how long it has rested."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from emberflow.bots.limits import available_seats
from emberflow.bots.mix import partner_mix
from emberflow.bots.policy import BotPolicy, SelectionPolicy
from emberflow.bots.rotation import turn_terms
from emberflow.bots.selection import select_bots
from tests.builders import MONDAY_NOON, a_bot, a_pair, a_slot, frame
from tests.pairs_in_memory import PairsInMemory

POLICY = BotPolicy(daily_inbound_cap=40, cooldown_s=900)


def terms_of(cap: int = 40, **bot: Any) -> tuple[float, float]:
    bots = frame(a_bot(inbound_cap=cap, **bot))
    row = turn_terms(bots, MONDAY_NOON, POLICY).iloc[0]
    return float(row["capacity"]), float(row["rest"])


def ago(**span: float) -> datetime:
    return MONDAY_NOON - timedelta(**span)


def test_a_bot_with_half_the_cap_is_due_after_twice_the_hours() -> None:
    """B-F10"""
    grown, young = terms_of(40, cooldown_until=ago(hours=1.75)), terms_of(20, cooldown_until=ago(hours=3.75))
    assert grown == pytest.approx((1.0, 2.0**2))
    assert young == pytest.approx((0.5, grown[1]))


@pytest.mark.parametrize(
    ("bot", "hours"),
    [
        ({"born_at": ago(hours=4)}, 4),
        ({"cooldown_until": ago(hours=1), "planned_until": ago(hours=0.5)}, 0.5),
        ({"cooldown_until": ago(hours=1), "planned_until": ago(hours=9)}, 1.25),
        ({"cooldown_until": ago(days=2, hours=-0.25)}, 2 * 15),
        ({"zone": "America/New_York", "cooldown_until": ago(hours=2.25)}, 1),
        ({"planned_until": MONDAY_NOON + timedelta(hours=1)}, 1 / 60),
        ({"born_at": ago(days=400)}, 14 * 15),
    ],
    ids=["never used", "planned since", "before", "two days", "since it woke", "planned for later", "idle for long"],
)
def test_rest_counts_from_the_last_task_made_or_planned(bot: dict[str, Any], hours: float) -> None:
    """B-F10"""
    assert terms_of(**bot)[1] == pytest.approx(hours**2)


def test_a_bot_whose_cap_is_nothing_still_has_a_weight() -> None:
    assert terms_of(0)[0] > 0


@pytest.mark.parametrize("mails_per_hour", [20, 60, 240])
def test_over_a_fortnight_bots_share_the_load_by_their_caps(mails_per_hour: int) -> None:
    """B-F10: Jain's index of load over cap, with 70 mails per bot, with 210, and with all that the caps allow."""
    bots = frame(*(a_bot(n, provider=n % 3, domain=n, interaction_limits=[40, 20, 10, 5][n % 4]) for n in range(1, 41)))
    bots = bots.drop(columns=["capacity", "rest", "seats"])
    cap = bots["interaction_limits"].to_numpy()
    providers = pd.DataFrame({"provider": [1], "target": [float("nan")], "factor": [1.0]})
    domains = pd.DataFrame({"domain": [], "target": []})
    never_met = PairsInMemory(frame(a_pair()).iloc[:0])
    explore = SelectionPolicy(virgin_share_floor=1)
    load: Counter[int] = Counter()
    for day in range(14):
        today: Counter[int] = Counter()
        for hour in range(-4, 6):
            at = MONDAY_NOON + timedelta(days=day, hours=hour)
            bots["inbound_used"] = [today[bot_id] for bot_id in bots["bot_id"]]
            offered = bots.assign(**available_seats(bots, at, at + timedelta(hours=1), POLICY).drop(columns="bot_id"))
            offered = offered.assign(**turn_terms(offered, at, POLICY))
            mix = partner_mix(offered, providers, domains)
            slots = (a_slot(100_000 * day + 1000 * (hour + 4) + n + 1) for n in range(mails_per_hour))
            times = {"target_time": at + timedelta(minutes=30), "earliest": at, "latest": at + timedelta(minutes=59)}
            demand = frame(*(slot | times for slot in slots))
            shares = dict(enumerate(mix.cells["share"]))
            offered = offered.assign(cell=mix.cell)
            picks = select_bots(demand, offered, never_met, explore, seed=5, hour=at, shares=shares).picks
            today.update(picks["bot_id"])
            rested_at = pd.Timestamp(at + timedelta(minutes=30, seconds=POLICY.cooldown_s))
            bots.loc[bots["bot_id"].isin(picks["bot_id"]), "cooldown_until"] = rested_at
        load.update(today)
    per_cap = [load[bot_id] / limit for bot_id, limit in zip(bots["bot_id"], cap, strict=True)]
    assert sum(per_cap) ** 2 / (len(per_cap) * sum(x * x for x in per_cap)) >= 0.98
