"""Pacing: when, inside a sender's window, each slot of this hour leaves.

A window is a piece of the sender's own local day, a planning span is the part of it that this run plans, and
``pace`` spreads the slots over the span so that two mails of one sender are never closer than the gap that
the first of them carries (S-B6). Everything is computed in UTC instants; only the two ends of a window are
wall-clock times, and they are resolved per zone and day, so a day of 23 or 25 hours needs no special case.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from emberflow.clock import local_day, require_utc
from emberflow.randomness import state, uniforms

MIDNIGHT = time(0)
INSTANT: Final = "datetime64[us, UTC]"
_SHORTEST_PRODUCTION_GAP_S = 20
_DAYS_AHEAD = 15  # a weekly window that a clock change swallows opens again two weeks later


class PacingPolicy(BaseModel):
    """When a sender may send, and how far apart.

    ``window_start``, ``window_end``, ``weekdays``
        Local wall-clock times, the end exclusive; midnight as the end means the end of the local day. Monday
        is 0. Sending-window defaults of outreach tools are Mon-Fri 09:00-17:00 (Smartlead campaign setup);
        half an hour is added at both ends because 50 mails at 600 s need 8 h 20 min.
    ``gap_minimum_s``, ``gap_jitter_s``
        600 s plus 0-300 s seeded (S-B6): "less than 10 minutes between mails" is a published reason for
        disconnected mailboxes (helpcenter.smartlead.ai, article 65); Warmbly's mailbox guide agrees.
    ``spread_s``
        None: a run plans the rest of its hour. A number is for labelled demonstration policies only: all that
        is left today is planned at once over so many seconds, and only then may gaps be under 20 s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_start: time = time(8, 30)
    window_end: time = time(17, 30)
    weekdays: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    gap_minimum_s: int = Field(default=600, ge=1, le=86_400)
    gap_jitter_s: int = Field(default=300, ge=0, le=86_400)
    spread_s: int | None = Field(default=None, ge=1, le=86_400)

    @model_validator(mode="after")
    def _window_does_not_wrap(self) -> Self:
        if self.window_end != MIDNIGHT and self.window_start >= self.window_end:
            raise ValueError(f"the window {self.window_start}-{self.window_end} must end after it starts")
        return self

    @model_validator(mode="after")
    def _short_gaps_are_for_demonstrations(self) -> Self:
        if self.spread_s is None and self.gap_minimum_s < _SHORTEST_PRODUCTION_GAP_S:
            raise ValueError(f"gaps under {_SHORTEST_PRODUCTION_GAP_S} s need a demonstration policy (spread_s)")
        return self


def open_windows(zones: pd.DataFrame, at: datetime, policy: PacingPolicy) -> pd.DataFrame:
    """Return the sending window of the local day that holds ``at``, per sender.

    Columns in: ``sender_id`` int64; ``zone`` str, IANA name. Columns out: ``sender_id``; ``local_day`` date
    in the sender's zone; ``opens_at`` and ``closes_at`` datetime64[us, UTC], half-open. On a closed weekday
    both are the same instant. A wall-clock time that a clock change skips is taken by the offset before the
    change, one that happens twice by its first occurrence (PEP 495, fold=0).

    In zones that are not whole hours off UTC a local midnight falls inside an hour; what comes after it
    belongs to the next local day and is planned by the next run.
    """
    windows = {zone: _window(zone, at, policy) for zone in zones["zone"].unique()}
    rows = [windows[zone] for zone in zones["zone"]]
    return pd.DataFrame(
        {
            "sender_id": zones["sender_id"],
            "local_day": pd.Series([day for day, _, _ in rows], index=zones.index, dtype="object"),
            "opens_at": pd.Series([opens for _, opens, _ in rows], index=zones.index, dtype=INSTANT),
            "closes_at": pd.Series([closes for _, _, closes in rows], index=zones.index, dtype=INSTANT),
        }
    )


def next_opening(zone: str, at: datetime, policy: PacingPolicy) -> datetime:
    """Return the first instant from ``at`` on that lies in the sending window of a mailbox in ``zone``."""
    for days in range(_DAYS_AHEAD):
        _, opens_at, closes_at = _window(zone, at + timedelta(days=days), policy)
        if max(at, opens_at) < closes_at:
            return max(at, opens_at)
    raise ValueError(f"the window {policy.window_start}-{policy.window_end} never opens in {zone}")


def planning_span(windows: pd.DataFrame, start: datetime, hour_end: datetime, policy: PacingPolicy) -> pd.DataFrame:
    """Return the part of each window that a run starting at ``start`` plans, until ``hour_end``.

    Columns in: ``sender_id`` int64; ``opens_at``, ``closes_at`` datetime64[us, UTC]. Columns out:
    ``sender_id``; ``span_start``, ``span_end`` datetime64[us, UTC], half-open; ``open_s_now`` float, seconds
    of the span; ``open_s_left`` float, seconds from the span's start until the window closes. A sender whose
    window does not meet the run has an empty span and zero seconds.

    With ``spread_s`` the span is so many seconds long wherever the hour ends, and it is all that is left.
    """
    opens_at, closes_at = windows["opens_at"], windows["closes_at"]
    span_start = opens_at.where(opens_at > start, pd.Timestamp(require_utc(start)))
    if policy.spread_s is None:
        span_end = closes_at.where(closes_at < hour_end, pd.Timestamp(require_utc(hour_end)))
    else:
        stretched = span_start + pd.Timedelta(seconds=policy.spread_s)
        span_end = stretched.where(stretched < closes_at, closes_at)
    is_open = span_end > span_start
    span_end = span_end.where(is_open, span_start)
    open_s_now = (span_end - span_start).dt.total_seconds()
    until_close = (closes_at - span_start).dt.total_seconds()
    return pd.DataFrame(
        {
            "sender_id": windows["sender_id"],
            "span_start": span_start.astype(INSTANT),
            "span_end": span_end.astype(INSTANT),
            "open_s_now": open_s_now,
            "open_s_left": open_s_now if policy.spread_s is not None else until_close.where(is_open, 0.0),
        }
    )


def pace(slots: pd.DataFrame, spans: pd.DataFrame, policy: PacingPolicy, seed: int, hour: datetime) -> pd.DataFrame:
    """Return a target time for every slot that fits its sender's span, ordered by sender and ordinal.

    Columns in: ``slots``: ``sender_id``, ``ordinal`` int64, unique together. ``spans``: ``sender_id``;
    ``span_start``, ``span_end`` datetime64[us, UTC]; ``not_before`` datetime64[us, UTC], null when free: the
    last planned or sent mail of the sender plus the gap that it carries.

    Columns out: ``sender_id``, ``ordinal`` int64; ``target_time`` datetime64[us, UTC], whole seconds;
    ``gap_s`` int64, the pause that the sender keeps *after* this mail (minimum plus seeded jitter).

    With gaps g and n slots between the instants a and b the slack is b - a - (g_1 + ... + g_{n-1}); slot k
    stands at a, plus the gaps before it, plus a seeded position in the k-th n-th of the slack. Slots fit
    exactly as long as the slack is not negative; those with the highest ordinals beyond that are left out.
    """
    paced = slots[["sender_id", "ordinal"]].merge(spans, on="sender_id", validate="many_to_one")
    paced = paced.sort_values(["sender_id", "ordinal"], ignore_index=True)
    ids = paced["sender_id"].to_numpy(), paced["ordinal"].to_numpy()
    gap_s = gaps_s(policy, state(seed, "gap", hour), *ids)

    earliest = pd.to_datetime(paced["not_before"], utc=True).fillna(paced["span_start"])
    first_s = _seconds(earliest.where(earliest > paced["span_start"], paced["span_start"]).dt.ceil("s"))
    last_s = _seconds(paced["span_end"].dt.ceil("s")) - 1
    paced = paced.assign(gap_s=gap_s, first_s=first_s, last_s=last_s)
    paced["before_s"] = paced.groupby("sender_id")["gap_s"].cumsum() - paced["gap_s"]
    paced = paced[paced["first_s"] + paced["before_s"] <= paced["last_s"]].reset_index(drop=True)

    of_sender = paced.groupby("sender_id")
    rank = of_sender.cumcount().to_numpy()
    count = of_sender["ordinal"].transform("size").to_numpy()
    slack_s = (paced["last_s"] - paced["first_s"] - of_sender["before_s"].transform("max")).to_numpy()
    draw = uniforms(state(seed, "pace", hour), paced["sender_id"].to_numpy(), paced["ordinal"].to_numpy())
    offset_s = np.minimum(((slack_s + 1) * (rank + draw) / count).astype(np.int64), slack_s)
    target_s = paced["first_s"] + paced["before_s"] + offset_s
    return paced[["sender_id", "ordinal"]].assign(
        target_time=pd.to_datetime(target_s, unit="s", utc=True).astype(INSTANT), gap_s=paced["gap_s"]
    )


def gaps_s(policy: PacingPolicy, stream: np.uint64, *entities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the pause in seconds after each mail that ``entities`` name in ``stream``: minimum plus seeded jitter."""
    jitter = uniforms(stream, *entities) * (policy.gap_jitter_s + 1)
    return np.asarray(policy.gap_minimum_s + np.minimum(jitter.astype(np.int64), policy.gap_jitter_s))


def _window(zone: str, at: datetime, policy: PacingPolicy) -> tuple[date, datetime, datetime]:
    day = local_day(at, zone)
    last_day = day + timedelta(days=1) if policy.window_end == MIDNIGHT else day
    opens_at = datetime.combine(day, policy.window_start, ZoneInfo(zone)).astimezone(UTC)
    closes_at = datetime.combine(last_day, policy.window_end, ZoneInfo(zone)).astimezone(UTC)
    if day.weekday() not in policy.weekdays:
        return day, opens_at, opens_at
    # A clock change inside a short window can put its opening after its end: then it does not open that day.
    return day, opens_at, max(opens_at, closes_at)


def _seconds(instants: pd.Series[pd.Timestamp]) -> npt.NDArray[np.int64]:
    return instants.to_numpy(dtype="datetime64[s]").astype(np.int64)
