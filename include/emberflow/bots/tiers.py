"""Tiers: what a sender and a bot may do by what they had to do with each other (B-F3).

``virgin``          this sender and this bot never had contact;
``probabilistic``   they had, and the pair's cooldown is over;
``active``          they had within the cooldown: the last resort, only when nobody else is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.ordering import Integers, Mask
from emberflow.bots.policy import SAME_DAY_H, SelectionPolicy


def virgin_share(policy: SelectionPolicy, ramp_day: pd.Series[int]) -> pd.Series[float]:
    """Return the probability that a slot asks the virgin tier first, on ``ramp_day``'s index."""
    share = np.maximum(1 - ramp_day.to_numpy() / policy.virgin_days, policy.virgin_share_floor)
    return pd.Series(share, index=ramp_day.index, name="virgin_share")


class Contacts(NamedTuple):
    """How long ago the last contact of each pair was (null: they never met), and how often they met in seven days."""

    age: npt.NDArray[np.timedelta64]
    sent_7d: Integers

    @classmethod
    def unknown(cls, count: int) -> Contacts:
        """Return the contacts of so many pairs that never met, or of which nothing is known yet."""
        return cls(np.full(count, np.timedelta64("NaT", "us")), np.zeros(count, dtype=np.int64))

    def put(self, places: Integers, contacts: Contacts) -> None:
        """Enter what is known of the pairs at ``places``."""
        self.age[places], self.sent_7d[places] = contacts

    def of(self, places: Integers) -> Contacts:
        """Return the contacts of the pairs at ``places``."""
        return Contacts(self.age[places], self.sent_7d[places])

    def exist(self) -> Mask:
        """Return which pairs ever met."""
        return np.asarray(~np.isnat(self.age))

    def forbid(self, policy: SelectionPolicy) -> dict[str, Mask]:
        """Return which pairs may not meet again yet, whatever else there is, by reason."""
        return {
            "same_day": self.age < np.timedelta64(SAME_DAY_H, "h"),
            "weekly_maximum": self.sent_7d >= policy.pair_weekly_maximum,
        }

    def are_cooling(self, policy: SelectionPolicy) -> Mask:
        """Return which pairs meet again only where nobody else is left."""
        return np.asarray(self.age < np.timedelta64(policy.pair_cooldown_h, "h"))
