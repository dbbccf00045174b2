"""Rotation: bots take turns, each in proportion to its cap (B-F10).

How much a bot is due is its cap times its waking hours since its last task. The chance of its seat grows with the
square of that, so that its intervals follow a Weibull distribution of shape 3, whose spread is 0.36 of their mean where
pure chance has 1: loads are fair after a few mails per bot already, and a bot that has just been busy is unlikely, not
impossible. Hours asleep do not count: else everybody would be due in the morning, whatever its cap.

Nothing has to be counted for it: the end of a bot's pause tells when its last task was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.limits import seconds_east, seconds_of_day, unix_seconds
from emberflow.bots.policy import BotPolicy

SHARPNESS: Final = 2
WEIGHT_TERMS: Final = ("capacity", "rest")
_DAY_S = 86_400
_LONGEST_S, _SHORTEST_S = 14 * _DAY_S, 60


def turn_terms(bots: pd.DataFrame, at: datetime, policy: BotPolicy, full_cap: int | None = None) -> pd.DataFrame:
    """Return the terms of each bot's weight in `select_bots`, on ``bots``' index.

    Columns in: ``inbound_cap`` int64, as of `available_seats`; ``zone`` str or Categorical, IANA name; ``born_at``
    datetime64[us, UTC]; ``cooldown_until`` and ``planned_until``, the last task that it is planned for,
    datetime64[us, UTC] or null.

    Columns out: ``capacity`` float64, the cap as a share of ``full_cap``, above 0; ``rest`` float64, the square of
    capacity times the waking hours of the last 14 days since the last task, a minute at least. A bot without any task
    counts from its birth. The clock's hours are those of the offset from UTC at ``at``. ``full_cap``, by default the
    policy's ``daily_inbound_cap``, must be the same for all bots that take turns, whatever the profile of each.
    """
    finished = bots["cooldown_until"] - pd.Timedelta(seconds=policy.cooldown_s)
    latest = finished.fillna(bots["born_at"])
    latest = latest.where(~(bots["planned_until"] > latest), bots["planned_until"])
    now_s, offset_s = unix_seconds(at), seconds_east(bots["zone"], at)
    latest_s = latest.dt.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    since_s = np.maximum(latest_s, now_s - _LONGEST_S)
    awake_s = _awake_until(now_s + offset_s, policy) - _awake_until(since_s + offset_s, policy)
    awake_s = np.maximum(awake_s, _SHORTEST_S)
    capacity = np.maximum(bots["inbound_cap"].to_numpy(), 1) / (full_cap or policy.daily_inbound_cap)
    return pd.DataFrame({"capacity": capacity, "rest": (capacity * awake_s / 3600) ** SHARPNESS}, index=bots.index)


def _awake_until(local_s: npt.NDArray[np.int64], policy: BotPolicy) -> npt.NDArray[np.int64]:
    """Return how many waking seconds lie between the epoch and these moments of a wall clock."""
    opens, closes = seconds_of_day(policy.wake_start), seconds_of_day(policy.wake_end, closing=True)
    days, second = np.divmod(local_s, _DAY_S)
    return np.asarray(days * (closes - opens) + np.clip(second - opens, 0, closes - opens))
