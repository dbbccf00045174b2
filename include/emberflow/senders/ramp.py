"""The ramp: how much warm-up mail a sender may plan on its next sending day (S-B3, S-F1).

A ramp is a list of rows, one volume per *sending* day, that rises to the policy's maximum; six shapes say what
the rows ask for. Whatever a shape asks for, its rows are lowered until three rules hold: the first row is at most
``start``, a row is at most ``max_daily_growth`` times the row before it or 5 mails above it, and no row is above
``maximum``. So a policy is never refused for being steep; it is followed as fast as the rules allow.

A sender's place follows from its last sending day: the row that applied then, and the volume that it gave. Days
without warm-up mail (paused, a closed weekday, no window) are not sending days: they move nothing and are not made up
for (S-B4). Only long silence counts, whatever its reason, because mailbox providers forget a sender (S-F10).
"""

from __future__ import annotations

import csv
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.senders.policy import (
    PUBLISHED,
    EngagementRamp,
    GeometricRamp,
    LinearRamp,
    LogisticRamp,
    Ramp,
    RampPolicy,
    StepRamp,
    TableRamp,
    published_ramps,
)

MOVES: Final = ("starts", "advances", "holds", "score_steps_back", "idle_steps_back", "idle_restarts")

_LONGEST = 1500  # rows: more than the slowest allowed ramp needs (a step of 1 every 30 days, from 1 to 50)
_SMALL_STEP = 5
_DORMANT_DAYS = 7
_FORGOTTEN_DAYS = 30

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


def ramp_rows(policy: RampPolicy) -> Integers:
    """Return the volumes of a ramp, one per sending day, up to the first row on which it stays for ever."""
    day = np.arange(_LONGEST)
    asked: npt.NDArray[np.floating[Any]]
    match policy:
        case LinearRamp() | EngagementRamp():
            asked = policy.start + policy.step * day.astype(np.float64)
        case StepRamp():
            asked = policy.start + policy.step * (day // policy.hold_days).astype(np.float64)
        case GeometricRamp():
            asked = policy.start * policy.growth**day
        case LogisticRamp():
            asked = policy.maximum / (1 + (policy.maximum / policy.start - 1) * policy.growth**-day)
        case TableRamp():
            table = np.array(policy.rows) if policy.rows else published_table(policy.table or "")
            asked = table[np.minimum(day, len(table) - 1)].astype(np.float64)

    asked = np.minimum(np.floor(asked + 0.5), policy.maximum)
    volumes = [min(asked[0], policy.start)]
    while volumes[-1] < asked[-1]:
        volumes.append(min(asked[len(volumes)], _most_after(volumes[-1], policy)))
    return np.array(volumes, dtype=np.int64)


@cache
def published_table(name: str) -> Integers:
    """Return a published table as mails per day, one per sending day: the only place where units are converted.

    A row holds until the next one begins. The first day of week w is day 7 (w - 1) + 1, that of age a is day a + 1;
    an hourly limit allows 24 times as much in a day.
    """
    with (PUBLISHED / f"{name}.csv").open(newline="") as lines:
        rows = [(int(row["position"]), int(row["volume"])) for row in csv.DictReader(lines)]
    source = published_ramps()[name]
    days_each, first = {"day": (1, 1), "week": (7, 1), "age_in_days": (1, 0)}[source["position_unit"]]
    hours = {"mails_per_day": 1, "mails_per_hour": 24}[source["volume_unit"]]
    begins = np.array([(position - first) * days_each for position, _ in rows])
    volumes = np.array([volume * hours for _, volume in rows], dtype=np.int64)
    return volumes[np.searchsorted(begins, np.arange(begins[-1] + 1), side="right") - 1]


def ramp_today(policy: RampPolicy, senders: pd.DataFrame) -> pd.DataFrame:
    """Return each sender's place on the ramp today, on the index of ``senders``.

    Columns in:
        ``sending_days`` int64: earlier local days with warm-up mail since the ramp's start.
        ``last_row`` int64: ``ramp_row`` of the last such day; 0 if there is none.
        ``last_volume`` float64, mails: ``ramp_volume`` of the last such day; null if there is none.
        ``idle_days`` int64: local days without warm-up mail between that day and today, counting neither; 0 when it
        was yesterday or there is none.
        ``score`` float64, 0-100, null without evidence; read by an engagement-driven ramp only.

    Columns out:
        ``ramp_day`` int64: the number of this sending day, from 1; a ramp that starts again counts from 1 again.
        ``ramp_row`` int64: the row of the ramp that applies, from 1.
        ``ramp_volume`` int64, mails.
        ``ramp_move`` Categorical of `MOVES`: what brought the sender to that row.

    After 7-30 idle days the sender goes ceil(idle / 7) rows back from its last row, after more than 30 it starts
    again: SendGrid re-warms after 30 days, and "most ISPs only store reputation data for 30 days" (Braze); the
    rows in between are our rule. After a change of policy the last row is the one that has the last volume in the new
    ramp, else the last row below it, and the growth bound holds across the change. Without a last volume the ramp
    starts at row 1, whatever else is known: an error must never look like a warm sender.
    """
    rows = ramp_rows(policy)
    idle = senders["idle_days"].to_numpy(dtype=np.int64)
    last_volume = senders["last_volume"].to_numpy(dtype=np.float64)
    never = np.isnan(last_volume)
    forgotten = idle > _FORGOTTEN_DAYS

    first_alike = np.searchsorted(rows, last_volume, side="left") + 1
    last_alike = np.searchsorted(rows, last_volume, side="right")
    last_row = np.minimum(np.maximum(senders["last_row"].to_numpy(dtype=np.int64), first_alike), last_alike)

    score_move = np.ones(len(senders), dtype=np.int64)
    if isinstance(policy, EngagementRamp):
        score = senders["score"].to_numpy(dtype=np.float64)
        score_move = (score >= policy.advance_from).astype(np.int64) - (score < policy.step_back_below)

    cases = [never, forgotten, idle >= _DORMANT_DAYS]
    rows_back = np.ceil(idle / _DORMANT_DAYS).astype(np.int64)
    row = np.clip(np.select(cases, [1, 1, last_row - rows_back], default=last_row + score_move), 1, len(rows))
    move = np.select(
        [*cases, row > last_row, row < last_row],
        [MOVES.index(name) for name in ("starts", "idle_restarts", "idle_steps_back", "advances", "score_steps_back")],
        default=MOVES.index("holds"),
    )
    volume = np.where(never, rows[row - 1], np.fmin(rows[row - 1], _most_after(last_volume, policy)))
    return pd.DataFrame(
        {
            "ramp_day": np.where(never | forgotten, 0, senders["sending_days"].to_numpy(dtype=np.int64)) + 1,
            "ramp_row": row,
            "ramp_volume": volume.astype(np.int64),
            "ramp_move": pd.Categorical.from_codes(move, categories=pd.Index(MOVES)),
        },
        index=senders.index,
    )


def _most_after(volume: Any, policy: Ramp) -> Any:
    """Return the most that may follow ``volume`` on the next sending day."""
    return np.maximum(np.floor(volume * policy.max_daily_growth), volume + _SMALL_STEP)
