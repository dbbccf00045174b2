"""The quota: how much of its ramp a sender may use today, and how much of that in this hour.

    warm-up quota = ramp volume x health multiplier x daily factor
    slots of a span = what is left of the quota x the span's share of the window that is left

The quota of a day is fixed by (seed, sender, local day): asked again at any hour it is the same number. The
slots of an hour look only at what is left, so a missed hour is made up by the later ones and no day can add
up to more than its quota.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from emberflow.randomness import state, uniforms
from emberflow.senders.ramp import RampPolicy, ramp_volume

Score = Annotated[float, Field(ge=0, le=100)]
Multiplier = Annotated[float, Field(ge=0, le=1)]


class QuotaPolicy(BaseModel):
    """How health and chance shrink a ramp volume, and the cap over everything a sender sends in a day.

    ``daily_factor_low``
        Lower end of the seeded daily factor; the upper end is 1, so that chance never adds mail to a ramp.
        0.9 is our rule: it keeps a plateau from being the same number every day.
    ``total_daily_cap``
        Warm-up, cold mail and replies together (S-B5). 50 is Smartlead's published reason for disconnected
        mailboxes: "more than 50 mails, warm-up plus outbound" (helpcenter.smartlead.ai, article 65).
    ``health``
        (lowest score, multiplier) bands, best first. 80 is the score from which a ramp may advance; 0.5 and
        0.25 are the shares at which a throttled and a paused sender re-enter; 0.75 lies between (our rule).
    ``unscored_multiplier``
        A sender without enough evidence has no score (S-B7); its ramp is young and small, so it stays whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    daily_factor_low: float = Field(default=0.9, ge=0.5, le=1)
    total_daily_cap: int = Field(default=50, ge=1, le=200)
    health: tuple[tuple[Score, Multiplier], ...] = ((80, 1.0), (60, 0.75), (40, 0.5), (0, 0.25))
    unscored_multiplier: Multiplier = 1.0

    @model_validator(mode="after")
    def _bands_descend_to_zero(self) -> Self:
        descending = all(upper[0] > lower[0] and upper[1] >= lower[1] for upper, lower in pairwise(self.health))
        if not self.health or self.health[-1][0] != 0 or not descending:
            raise ValueError("health bands go from the best score down to 0, and no worse band sends more")
        return self


def daily_quota(senders: pd.DataFrame, ramp: RampPolicy, policy: QuotaPolicy, seed: int) -> pd.DataFrame:
    """Return ``senders`` with the quota of each sender's local day.

    Columns in: ``sender_id`` int64; ``local_day`` date, in the sender's zone; ``ramp_day`` int64, from 1;
    ``score`` float 0-100, null without evidence. One row per sender and day; other columns are kept.

    Columns added: ``ramp_volume`` int64; ``health_multiplier`` and ``daily_factor`` float; ``warmup_quota``
    int64; ``total_quota`` int64, the cap over mail of all kinds (S-B5).

    Health rounds down, because a throttled sender must not exceed its share; the daily factor rounds to the
    nearest mail, because rounding down would take a whole mail from every small quota. A sender that may
    send at all gets at least one, and the quota is never above the ramp volume or the total cap.
    """
    volume = ramp_volume(ramp, senders["ramp_day"])
    multiplier = _health_multiplier(policy, senders["score"])
    days = pd.to_datetime(senders["local_day"]).to_numpy(dtype="datetime64[D]").astype(np.int64)
    draw = uniforms(state(seed, "daily_factor"), senders["sender_id"].to_numpy(), days)
    factor = policy.daily_factor_low + (1 - policy.daily_factor_low) * draw

    healthy = volume.to_numpy() * multiplier
    throttled = np.where(healthy > 0, np.maximum(np.floor(healthy), 1), 0)
    quota = np.minimum(np.floor(throttled * factor + 0.5), policy.total_daily_cap)
    return senders.assign(
        ramp_volume=volume,
        health_multiplier=multiplier,
        daily_factor=factor,
        warmup_quota=quota.astype(np.int64),
        total_quota=np.full(len(senders), policy.total_daily_cap, dtype=np.int64),
    )


def slots_for_hour(day: pd.DataFrame, hour: datetime, seed: int) -> pd.Series[int]:
    """Return how many warm-up slots each sender gets in the span that is being planned, on ``day``'s index.

    Columns in: ``sender_id`` int64; ``warmup_quota``, ``warmup_used``, ``total_quota``, ``total_used`` int64
    (used = sent or reserved, of the sender's local day); ``open_s_now`` and ``open_s_left`` float, seconds of
    the sending window inside the span and from the span's start until the window closes
    (`emberflow.senders.pacing.planning_span`). ``hour`` names the draw.

    The expected share is rounded up or down by a seeded draw, so that small quotas fall into different hours
    for different senders; the last span of a window takes exactly what is left.
    """
    left_of_warmup = day["warmup_quota"] - day["warmup_used"]
    left_of_total = day["total_quota"] - day["total_used"]
    remaining = (
        left_of_warmup.where(left_of_warmup < left_of_total, left_of_total).clip(lower=0).to_numpy(dtype=np.int64)
    )
    now = day["open_s_now"].to_numpy(dtype=np.float64)
    left = day["open_s_left"].to_numpy(dtype=np.float64)

    share = np.divide(now, left, out=np.zeros_like(now), where=left > 0)
    draw = uniforms(state(seed, "slots_for_hour", hour), day["sender_id"].to_numpy())
    slots = np.minimum(np.floor(remaining * share + draw).astype(np.int64), remaining)
    return pd.Series(np.where(now > 0, slots, 0), index=day.index, name="slots", dtype="int64")


def _health_multiplier(policy: QuotaPolicy, score: pd.Series[float]) -> npt.NDArray[np.float64]:
    scores = score.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    lowest, multipliers = (np.array(column, dtype=np.float64) for column in zip(*policy.health[::-1], strict=True))
    band = np.clip(np.searchsorted(lowest, scores, side="right") - 1, 0, None)
    return np.where(np.isnan(scores), policy.unscored_multiplier, multipliers[band])
