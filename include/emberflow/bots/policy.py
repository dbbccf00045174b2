"""The sections of the policy that bots go by: limits, selection, placement, replies and actions.

Each is applied by its module.

Plain numbers and what they mean: reading a policy loads neither pandas nor NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MIDNIGHT = time(0)
SAME_DAY_H = 24
_HOUR_S = 3600
_DAY_S = 86_400

Share = Annotated[float, Field(ge=0, le=1)]


class BotPolicy(BaseModel):
    """The limits of a bot; days are the bot's local days.

    ``daily_inbound_cap``
        40 (B-B3), between the floor 10 and the ceiling 60 of Warmbly's inbound cap (warmbly issue 634).
    ``daily_reply_cap``
        20: half of the inbound cap, room for a 30 % reply rate plus later turns (our rule).
    ``new_bot_cap``, ``cap_step_per_day``
        B-B2: 5 on the first day, 2 more each day: bounded exploration of mailboxes without a record.
    ``cooldown_s``
        Pause between two mails that one bot receives, from whomever; 15 min is the longest gap a sender keeps by
        default (our rule).
    ``wake_start``, ``wake_end``
        07:00-22:00, the end exclusive: people answer less at night, and so does a bot (Kooti et al., WWW
        2015, arXiv 1504.00704, for the direction; the hours are ours). Midnight ends the local day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    daily_inbound_cap: int = Field(default=40, ge=1, le=200)
    daily_reply_cap: int = Field(default=20, ge=0, le=200)
    new_bot_cap: int = Field(default=5, ge=1, le=200)
    cap_step_per_day: int = Field(default=2, ge=0, le=50)
    cooldown_s: int = Field(default=900, ge=0, le=_DAY_S)
    wake_start: time = time(7, 0)
    wake_end: time = time(22, 0)

    @model_validator(mode="after")
    def _waking_hours_do_not_wrap(self) -> Self:
        if self.wake_end != MIDNIGHT and self.wake_start >= self.wake_end:
            raise ValueError(f"the waking hours {self.wake_start}-{self.wake_end} must end after they start")
        return self


@dataclass(frozen=True)
class Rests:
    """How many seconds a bot rests after a mail: ``own_s`` by the document, or what its profile says, by name."""

    own_s: int
    of_profiles: Mapping[str, int] = field(default_factory=dict)


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


class PlacementPolicy(BaseModel):
    """How far placement moves the shares of providers.

    ``pseudo_placements``
        The weight of the common rate, in mails: 20, as in the placement component of the sender score (our rule).
    ``least_factor``, ``greatest_factor``
        0.5 and 1.5 (our rule): a provider loses or gains at most half of its share, before shares are made to sum to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pseudo_placements: float = Field(default=20, gt=0, le=10_000)
    least_factor: float = Field(default=0.5, gt=0, le=1)
    greatest_factor: float = Field(default=1.5, ge=1, le=10)


class ReplyPolicy(BaseModel):
    """How often and how late a warm-up mail is answered.

    ``rate``, ``continue_rate``, ``maximum_turns``
        30 % of first mails (published default of Instantly and Smartlead), half of the later ones (thread
        depth is geometric with stop probability 0.5), and no thread longer than 5 turns (B-F7).
    ``floor_s``, ``ceiling_s``
        2 min and 72 h. Delays are drawn from the distribution *given* these bounds: clipping would pile up
        replies at both ends.
    ``fast_share``, ``fast_median_s``, ``fast_sigma``, ``slow_median_s``, ``slow_sigma``
        0.5 x LN(median 8.6 min, sigma 1.21) + 0.5 x LN(median 387 min, sigma 1.50): unbounded it has its mode
        at 2 min, its median at 47 min and 90.5 % within 24 h.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.30, ge=0, le=1)
    continue_rate: float = Field(default=0.5, ge=0, le=1)
    maximum_turns: int = Field(default=5, ge=1, le=20)
    floor_s: float = Field(default=120, gt=0)
    ceiling_s: float = Field(default=72 * _HOUR_S, le=7 * 24 * _HOUR_S)
    fast_share: float = Field(default=0.5, ge=0, le=1)
    fast_median_s: float = Field(default=516, gt=0)
    fast_sigma: float = Field(default=1.21, gt=0, le=5)
    slow_median_s: float = Field(default=23_220, gt=0)
    slow_sigma: float = Field(default=1.50, gt=0, le=5)

    @model_validator(mode="after")
    def _medians_lie_within_the_bounds(self) -> Self:
        if not self.floor_s < self.fast_median_s <= self.slow_median_s < self.ceiling_s:
            raise ValueError("reply delays need floor_s < fast_median_s <= slow_median_s < ceiling_s")
        return self


class ActionPolicy(BaseModel):
    """How often a bot does what with a warm-up mail that it got; each is the probability for one mail (B-F2).

    ``rescue``
        Of a mail in Junk: it is moved to the inbox, where all else is decided. 1 (our rule): what is left in Junk tells
        its provider that the filter was right. A mail that is not rescued is not answered and ends its conversation.
    ``read``
        Of a mail in the inbox: it is marked as read. 1 (B-B9: what was handled is not left unread). A mail that is
        answered is read, whatever this says.
    ``important``, ``star``, ``archive``
        0.1, 0.05 and 0.15: within the 5 to 15 %, 3 to 7 % and 10 to 25 % of the one published plan that has numbers for
        each action (HarunUcan/MailWarmup, WarmupActionPlan.cs). It reads 50 to 70 % and rescues 60 to 90 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rescue: Share = 1.0
    read: Share = 1.0
    important: Share = 0.1
    star: Share = 0.05
    archive: Share = 0.15
