"""Tiers: what a sender and a bot may do by what they had to do with each other, and the policy that says so (B-F3).

``virgin``          this sender and this bot never had contact;
``probabilistic``   they had, and the pair's cooldown is over;
``active``          they had within the cooldown: the last resort, only when nobody else is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from emberflow.bots.ordering import Integers, Mask

TIERS: Final = ("virgin", "probabilistic", "active")
VIRGIN, PROBABILISTIC, ACTIVE = TIERS
SAME_DAY_H = 24

Share = Annotated[float, Field(ge=0, le=1)]


class SelectionPolicy(BaseModel):
    """Exploration, pair limits, small pools, and how much evidence is shown.

    ``virgin_share_floor``, ``virgin_days``
        A sender explores new partners with the share ``max(floor, 1 - day / virgin_days)``: at first nearly
        always, from day 12 on one slot in five (our rule).
    ``pair_cooldown_h``, ``pair_weekly_maximum``
        72 h and 3 contacts in 7 days (B-F3), as in Warmbly's partner choice (internal/tasks/email_task.go).
        The cooldown yields when no other bot is left, the weekly maximum never does. Not more than 3, because the
        pair table remembers the last three mails.
    ``provider_shares``, ``domain_shares``
        Which share of a sender's partners is at which provider and at which domain of bots, by name (B-F4). What is not
        named shares the rest as its free seats do.
    ``minimum_bots``
        A sender that fewer bots may serve than this gets its quota times bots / minimum (B-F9): 8, the size at which
        a pair's cooldown of 72 h still leaves a few mails a day.
    ``runners_up``
        How many bots behind the chosen one an explanation names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    virgin_share_floor: float = Field(default=0.2, ge=0, le=1)
    virgin_days: int = Field(default=14, ge=1, le=365)
    pair_cooldown_h: int = Field(default=72, ge=SAME_DAY_H, le=24 * 90)
    pair_weekly_maximum: int = Field(default=3, ge=1, le=3)
    provider_shares: Mapping[str, Share] = Field(default_factory=dict)
    domain_shares: Mapping[str, Share] = Field(default_factory=dict)
    minimum_bots: int = Field(default=8, ge=1, le=1000)
    runners_up: int = Field(default=3, ge=0, le=20)

    @field_validator("provider_shares", "domain_shares")
    @classmethod
    def _shares_leave_nothing_negative(cls, shares: Mapping[str, float]) -> Mapping[str, float]:
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares.values()):g}; they are parts of 1")
        return shares


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
