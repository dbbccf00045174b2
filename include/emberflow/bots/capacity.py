"""Capacity: how many bots the senders need, and what the bots that there are can still take today (B-F6).

    B >= max( ceil(S w / L), w K )

S senders that each send w warm-up mails a day fill ceil(S w / L) bots of L inbound mails a day, and each sender
needs w K distinct bots if no pair may meet again within K days. It is a lower bound: young bots take less than L,
and sleeping ones nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

_DAY_H = 24


@dataclass(frozen=True)
class BotsNeeded:
    """The terms of the formula, for senders that stand on different days of their ramps.

    ``daily_mails``
        S w: the warm-up mails that all active senders together send in a day.
    ``largest_volume``
        w: the most that one of them sends in a day.
    ``inbound_cap``
        L: what a grown bot receives in a day (`BotPolicy.daily_inbound_cap`), the mean of their profiles.
    ``cooldown_h``
        K in hours (`SelectionPolicy.pair_cooldown_h`).
    """

    daily_mails: int
    largest_volume: int
    inbound_cap: int
    cooldown_h: int

    @property
    def by_load(self) -> int:
        """ceil(S w / L)."""
        return -(-self.daily_mails // self.inbound_cap)

    @property
    def by_cooldown(self) -> int:
        """w K, rounded up where K is no whole number of days."""
        return -(-self.largest_volume * self.cooldown_h // _DAY_H)

    @property
    def bots(self) -> int:
        """The fewest bots with which the volume is possible."""
        return max(self.by_load, self.by_cooldown)


def supply_by_state(bots: pd.DataFrame, full_cap: int | npt.NDArray[np.int64]) -> pd.DataFrame:
    """Return what active bots can take, added up by why they take nothing now.

    Columns in, one row per bot: ``seats`` int64, first mails that it may take in the hour; ``reason`` str or
    Categorical, null while it has seats; ``inbound_cap``, ``inbound_used`` int64, of the bot's present local day.
    ``full_cap`` is the daily cap of a grown bot, of all or of each.

    Columns out: ``state`` str; ``bots``, ``cap_today``, ``used_today``, ``left_today``, ``seats_now`` int64. The state
    is ``free``, the reason, or ``at_lower_cap``: at a cap below the full one, by age (B-B2) or by its operator's own
    limit. ``free`` comes first, then the states with the most bots.
    """
    reason = bots["reason"].astype("str")
    held_lower = (reason == "at_cap") & (bots["inbound_cap"] < full_cap)
    state = reason.fillna("free").mask(held_lower, "at_lower_cap")
    left = np.maximum(bots["inbound_cap"] - bots["inbound_used"], 0)
    each = pd.DataFrame(
        {
            "state": state,
            "bots": np.ones(len(bots), dtype=np.int64),
            "cap_today": bots["inbound_cap"],
            "used_today": bots["inbound_used"],
            "left_today": left,
            "seats_now": bots["seats"],
        }
    )
    added = each.groupby("state", as_index=False).sum()
    added = added.assign(later=added["state"] != "free").sort_values(
        ["later", "bots", "state"], ascending=[True, False, True]
    )
    return added.drop(columns="later").reset_index(drop=True)


def supply_by_provider(bots: pd.DataFrame, picks: pd.DataFrame) -> pd.DataFrame:
    """Return the pool of each provider in this hour, the most used first.

    Columns in: ``bots``: ``bot_id``, ``provider`` (a code), ``seats``, ``inbound_cap`` int64; ``picks``: ``bot_id``
    int64, one row per seat that the plan takes. Columns out: ``provider``, ``example_bot_id`` (any bot of it),
    ``bots``, ``cap_today``, ``seats``, ``taken`` int64.
    """
    taken = bots["bot_id"].map(picks["bot_id"].value_counts()).fillna(0).astype("int64")
    pools = (
        bots.assign(taken=taken)
        .groupby("provider", as_index=False)
        .agg(
            example_bot_id=("bot_id", "min"),
            bots=("bot_id", "size"),
            cap_today=("inbound_cap", "sum"),
            seats=("seats", "sum"),
            taken=("taken", "sum"),
        )
    )
    use = pools["taken"] / pools["seats"].clip(lower=1)
    return (
        pools.assign(use=use)
        .sort_values(["use", "provider"], ascending=[False, True])
        .drop(columns="use")
        .reset_index(drop=True)
    )
