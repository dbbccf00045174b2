"""Limits: how many mails each bot may still receive today, and why a bot is not available at all.

A bot is a mailbox that the operator owns. A young one receives little (B-B2), every one has a daily cap
(B-B3), a pause between tasks, and waking hours in its own zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.policy import BotPolicy
from emberflow.clock import clock_of, require_utc

_DAY_S = 86_400
_HOUR_S = 3600
UNAVAILABLE = ("cooldown", "asleep", "at_cap")


def inbound_cap(policy: BotPolicy, age_days: pd.Series[int]) -> pd.Series[int]:
    """Return the daily inbound cap by age, ``min(cap, new + step * age)``, on ``age_days``' index (B-B2)."""
    grown = policy.new_bot_cap + policy.cap_step_per_day * age_days.clip(lower=0)
    return grown.clip(upper=policy.daily_inbound_cap).astype("int64").rename("inbound_cap")


def cap_today(policy: BotPolicy, born_at: datetime, own_limit: int | None, now: datetime) -> int:
    """Return the inbound cap of one bot at ``now``: by age (B-B2), and never above its operator's own limit."""
    age_days = max(int((require_utc(now) - born_at).total_seconds() // _DAY_S), 0)
    cap = min(policy.new_bot_cap + policy.cap_step_per_day * age_days, policy.daily_inbound_cap)
    return cap if own_limit is None else min(cap, own_limit)


def available_seats(bots: pd.DataFrame, at: datetime, until: datetime, policy: BotPolicy) -> pd.DataFrame:
    """Return how many warm-up mails each active bot may still take from ``at`` until ``until``, on ``bots``' index.

    Columns in: ``bot_id`` int64; ``born_at`` datetime64[us, UTC]; ``zone`` str or Categorical, IANA name;
    ``interaction_limits`` float64, null unless the operator caps this bot lower; ``cooldown_until``
    datetime64[us, UTC] or null; ``inbound_used`` int64, received or reserved on the bot's present local day.

    Columns out: ``bot_id``; ``age_days`` int64, whole days of 24 h since birth; ``inbound_cap`` int64, by age
    and operator; ``free_from``, ``free_until`` int64, seconds since the epoch, half-open: when it is awake
    (`waking_span`) and the pause after its last mail is over; ``pause_s`` int64, its pause between two mails;
    ``seats`` int64, what is free of the cap, and not more than fit in with these pauses; ``reason`` Categorical, null
    while there are seats, else the first of ``cooldown``, ``asleep``, ``at_cap``.
    """
    now = pd.Timestamp(require_utc(at))
    age_days = np.maximum((now - bots["born_at"]).to_numpy(dtype="timedelta64[s]").astype(np.int64) // _DAY_S, 0)
    caps = inbound_cap(policy, pd.Series(age_days, dtype="int64")).to_numpy()
    cap = np.fmin(caps, bots["interaction_limits"].to_numpy(dtype=np.float64)).astype(np.int64)
    free = np.maximum(cap - bots["inbound_used"].to_numpy(dtype=np.int64), 0)
    zones = pd.Categorical(bots["zone"])
    spans = [waking_span(zone, unix_seconds(at), unix_seconds(until), policy) for zone in zones.categories]
    wakes, sleeps = np.array(spans, dtype=np.int64).reshape(-1, 2).T[:, zones.codes]
    rested = bots["cooldown_until"].dt.ceil("s").dt.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    free_from = np.maximum(wakes, rested)  # a null is long ago
    places = 1 + (sleeps - free_from - 1) // policy.cooldown_s if policy.cooldown_s else free
    is_resting = (rested > wakes) & (rested >= np.maximum(sleeps, unix_seconds(at) + 1))
    code = np.select([is_resting, wakes == sleeps, free == 0], [0, 1, 2], default=-1)
    return pd.DataFrame(
        {
            "bot_id": bots["bot_id"],
            "age_days": age_days,
            "inbound_cap": cap,
            "free_from": free_from,
            "free_until": sleeps,
            "pause_s": np.full(len(bots), policy.cooldown_s, dtype=np.int64),
            "seats": np.where(code < 0, np.minimum(free, places), 0),
            "reason": pd.Categorical.from_codes(code, pd.Index(list(UNAVAILABLE), dtype="str")),
        },
        index=bots.index,
    )


def waking_span(zone: str, start_s: int, end_s: int, policy: BotPolicy) -> tuple[int, int]:
    """Return the longest piece of a span in which a bot in ``zone`` is awake, half-open; empty if it sleeps all along.

    All in seconds since the epoch. A bot is awake while its wall clock shows waking hours, so an hour that a clock
    change repeats counts twice, and what it skips not at all. Only a night of less than an hour, or a change, makes
    more than one piece of an hour.
    """
    opens, closes = seconds_of_day(policy.wake_start), seconds_of_day(policy.wake_end, closing=True)
    pieces: list[list[int]] = []
    for first, last, east in _steady_pieces(zone, start_s, end_s):
        for midnight in range((first + east) // _DAY_S * _DAY_S - east, last, _DAY_S):
            wakes, sleeps = max(first, midnight + opens), min(last, midnight + closes)
            if wakes >= sleeps:
                continue
            if pieces and pieces[-1][1] == wakes:
                pieces[-1][1] = sleeps
            else:
                pieces.append([wakes, sleeps])
    wakes, sleeps = max(pieces, key=lambda piece: piece[1] - piece[0], default=[start_s, start_s])
    return wakes, sleeps


def _steady_pieces(zone: str, start_s: int, end_s: int) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces of a span within which the zone's offset from UTC stays the same, and that offset in seconds."""
    clock = clock_of(zone)

    def east(second: int) -> int:
        offset = datetime.fromtimestamp(second, UTC).astimezone(clock).utcoffset()
        return int((offset or timedelta()).total_seconds())

    first = start_s
    while first < end_s:
        # No zone changes its clock twice within an hour.
        last, offset = min(first + _HOUR_S, end_s), east(first)
        if east(last - 1) != offset:
            steady, changed = first, last - 1
            while changed - steady > 1:
                middle = (steady + changed) // 2
                steady, changed = (middle, changed) if east(middle) == offset else (steady, middle)
            last = changed
        yield first, last, offset
        first = last


def next_waking(zone: str, at: datetime, policy: BotPolicy) -> datetime:
    """Return the first instant from ``at`` on at which a bot in ``zone`` is awake."""
    local = require_utc(at).astimezone(clock_of(zone))
    opens, closes = seconds_of_day(policy.wake_start), seconds_of_day(policy.wake_end, closing=True)
    if opens <= seconds_of_day(local.time()) < closes:
        return at
    day = local.date() if seconds_of_day(local.time()) < opens else local.date() + timedelta(days=1)
    return require_utc(datetime.combine(day, policy.wake_start, clock_of(zone)))


def unix_seconds(at: datetime) -> int:
    """Return the whole seconds from the epoch to an instant."""
    return int(require_utc(at).timestamp())


def seconds_east(zones: pd.Series[Any], at: datetime) -> npt.NDArray[np.int64]:
    """Return by how many seconds the clocks of ``zones`` (str or Categorical, IANA) are ahead of UTC at ``at``."""
    named, now = pd.Categorical(zones), require_utc(at)
    offsets = [(now.astimezone(clock_of(zone)).utcoffset() or timedelta()).total_seconds() for zone in named.categories]
    return np.asarray(np.array(offsets, dtype=np.int64)[named.codes])


def seconds_of_day(moment: time, *, closing: bool = False) -> int:
    """Return the wall-clock seconds since midnight; with ``closing`` midnight is the end of the day."""
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    return _DAY_S if closing and seconds == 0 else seconds
