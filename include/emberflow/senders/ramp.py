"""The ramp: how much warm-up mail a sender may plan on its n-th sending day (S-B3).

A ramp day is a *sending* day: days on which the sender was paused or had no window are not counted (S-B4),
so the position is an input here and never derived from the calendar.
"""

from __future__ import annotations

from typing import Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator


class RampPolicy(BaseModel):
    """The shape and the three numbers of a ramp, in mails per sending day.

    Sources: ``start`` 5 and ``step`` 2 are Smartlead's published minimum and ``daily_rampup``
    (api.smartlead.ai/core/email-accounts); ``maximum`` 30 is the middle of the 20-40 of its warm-up guide.
    The ranges span what mailbox warm-up products accept (start 1-20, step 0-10, at most 50).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Literal["linear"] = "linear"
    start: int = Field(default=5, ge=1, le=20)
    step: int = Field(default=2, ge=0, le=10)
    maximum: int = Field(default=30, ge=1, le=50)

    @model_validator(mode="after")
    def _starts_below_its_maximum(self) -> Self:
        if self.start > self.maximum:
            raise ValueError(f"the ramp starts at {self.start}, above its maximum {self.maximum}")
        return self


def ramp_volume(policy: RampPolicy, ramp_day: pd.Series[int]) -> pd.Series[int]:
    """Return the planned warm-up volume of each ramp day: ``min(start + step * (n - 1), maximum)``.

    ``ramp_day`` (int64) counts sending days from 1; a day before the first plans nothing. The index is kept.
    """
    volume = (policy.start + policy.step * (ramp_day - 1)).clip(upper=policy.maximum)
    return volume.where(ramp_day >= 1, 0).astype("int64").rename("ramp_volume")
