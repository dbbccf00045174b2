"""Pacing: when, inside a sender's workday, each slot of this hour leaves.

A window is the piece of the sender's own local day in which the policy allows mail. A workday lies inside it: its
start, its end and its lunch are drawn once per sender and day, so that a fleet neither starts nor stops as one
(S-F5). A planning span is the part of the workday that this run plans, and ``pace`` spreads the slots over the span so
that two mails of one sender are never closer than the gap that the first of them carries (S-B6).

Everything is computed in UTC instants; only the ends of a window and the hours of lunch are wall-clock times, and they
are resolved per zone and day, so a day of 23 or 25 hours needs no special case. Cost: linear in senders and slots, and
in Python only in zones.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Self
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
_SHARE_DRAWN = 4  # neither end of a workday takes more than this part of a short window

Integers = npt.NDArray[np.int64]


class PacingPolicy(BaseModel):
    """When a sender may send, and how far apart.

    ``window_start``, ``window_end``, ``weekdays``
        Local wall-clock times, the end exclusive; midnight as the end means the end of the local day. Monday
        is 0. Sending-window defaults of outreach tools are Mon-Fri 09:00-17:00 (Smartlead campaign setup);
        half an hour is added at both ends because 50 mails at 600 s need 8 h 20 min.
    ``gap_minimum_s``, ``gap_jitter_s``
        600 s plus 0-300 s seeded (S-B6): "less than 10 minutes between mails" is a published reason for
        disconnected mailboxes (helpcenter.smartlead.ai, article 65); Warmbly's mailbox guide agrees.
    ``workday_start_spread_s``, ``workday_end_spread_s``
        A workday starts up to so long after the window opens and ends up to so long before it closes, evenly drawn:
        45 min each (our rule). Of a short window, neither takes more than a quarter.
    ``lunch_from``, ``lunch_until``, ``lunch_minimum_s``, ``lunch_maximum_s``
        A pause of 30-60 min, evenly drawn, anywhere between 11:30 and 13:30 local time (our rule); 0: none. With all
        of it at its longest 6 h 30 min are left, enough for the 30 mails of a full ramp at their mean gap of 750 s.
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
    workday_start_spread_s: int = Field(default=2700, ge=0, le=14_400)
    workday_end_spread_s: int = Field(default=2700, ge=0, le=14_400)
    lunch_from: time = time(11, 30)
    lunch_until: time = time(13, 30)
    lunch_minimum_s: int = Field(default=1800, ge=0, le=7200)
    lunch_maximum_s: int = Field(default=3600, ge=0, le=7200)
    spread_s: int | None = Field(default=None, ge=1, le=86_400)

    @model_validator(mode="after")
    def _lunch_fits_its_hours(self) -> Self:
        room_s = _seconds_of_day(self.lunch_until) - _seconds_of_day(self.lunch_from)
        if not self.lunch_minimum_s <= self.lunch_maximum_s <= room_s:
            raise ValueError(
                f"a lunch of {self.lunch_minimum_s}-{self.lunch_maximum_s} s does not fit between "
                f"{self.lunch_from} and {self.lunch_until}"
            )
        return self

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


def open_windows(senders: pd.DataFrame, at: datetime, policy: PacingPolicy, seed: int) -> pd.DataFrame:
    """Return the workday of the local day that holds ``at``, per sender.

    Columns in: ``sender_id`` int64; ``zone`` str or Categorical, IANA name. Columns out: ``sender_id``; ``local_day``
    datetime64[s], midnight of the day in the sender's zone; ``opens_at``, ``lunch_at``, ``lunch_ends_at`` and
    ``closes_at`` datetime64[us, UTC], whole seconds, half-open; lunch lies within the others and may be empty. On a
    closed weekday all four are the same instant. A wall-clock time that a clock change skips is taken by the offset
    before the change, one that happens twice by its first occurrence (PEP 495, fold=0).

    In zones that are not whole hours off UTC a local midnight falls inside an hour; what comes after it
    belongs to the next local day and is planned by the next run.
    """
    zones = pd.Categorical(senders["zone"])
    windows = [_window(zone, at, policy) for zone in zones.categories]
    days = np.array([day for day, *_ in windows], dtype="datetime64[s]")
    bounds = np.array([[_second(instant) for instant in window] for _, *window in windows], dtype=np.int64)
    place = zones.codes.astype(np.int64)
    opens, lunch, closes = (bounds.reshape(-1, 3)[place, column] for column in range(3))
    sender_ids = senders["sender_id"].to_numpy(dtype=np.int64)
    drawn = _workdays(sender_ids, days[place], opens, lunch, closes, policy, seed)
    names = ("opens_at", "lunch_at", "lunch_ends_at", "closes_at")
    return pd.DataFrame(
        {"sender_id": sender_ids, "local_day": days[place]}
        | {name: _instants(seconds) for name, seconds in zip(names, drawn, strict=True)},
        index=senders.index,
    )


def next_opening(zone: str, at: datetime, policy: PacingPolicy, *, seed: int, sender_id: int) -> datetime:
    """Return the first instant from ``at`` on that lies in the workday of a sender in ``zone``, outside its lunch."""
    for days in range(_DAYS_AHEAD):
        day = local_day(at, zone) + timedelta(days=days)
        opens_at, lunch_at, lunch_ends_at, closes_at = _workday(zone, day, policy, seed, sender_id)
        opening = max(at, opens_at)
        if lunch_at <= opening < lunch_ends_at:
            opening = lunch_ends_at
        if opening < closes_at:
            return opening
    raise ValueError(f"the window {policy.window_start}-{policy.window_end} never opens in {zone}")


def common_windows(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the windows in which both of two parties are open, row by row: the sender's zone and the campaign's.

    Columns of both, and out: ``opens_at``, ``closes_at`` datetime64[us, UTC], half-open. Where they do not meet, the
    two are the same instant. Windows of other days have to be paired by the caller: a row is one pair.
    """
    opens_at = first["opens_at"].where(first["opens_at"] > second["opens_at"], second["opens_at"])
    closes_at = first["closes_at"].where(first["closes_at"] < second["closes_at"], second["closes_at"])
    return pd.DataFrame({"opens_at": opens_at, "closes_at": closes_at.where(closes_at > opens_at, opens_at)})


def planning_span(windows: pd.DataFrame, start: datetime, hour_end: datetime, policy: PacingPolicy) -> pd.DataFrame:
    """Return the part of each workday that a run starting at ``start`` plans, until ``hour_end``.

    Columns in: those of ``open_windows``. Columns out: ``sender_id``; ``span_start``, ``span_end``
    datetime64[us, UTC], half-open; ``lunch_at``, ``lunch_ends_at``, the part of the span that is lunch; ``open_s_now``
    and ``open_s_left`` float, open seconds of the span, and from the span's start until the workday ends, without
    lunch. A sender whose workday does not meet the run has an empty span and zero seconds.

    With ``spread_s`` the span is so many seconds long wherever the hour ends, and it is all that is left.
    """
    names = ("opens_at", "lunch_at", "lunch_ends_at", "closes_at")
    opens, lunch, lunch_ends, closes = (_seconds(windows[name]) for name in names)
    first = np.maximum(opens, _ceiling(start))
    if policy.spread_s is None:
        last = np.minimum(closes, _ceiling(hour_end))
    else:
        last = np.minimum(closes, first + policy.spread_s)
    is_open = last > first
    last = np.where(is_open, last, first)
    lunch_now, lunch_ends_now = np.clip(lunch, first, last), np.clip(lunch_ends, first, last)
    now = last - first - (lunch_ends_now - lunch_now)
    left = closes - first - np.maximum(lunch_ends - np.maximum(lunch, first), 0)
    left = now if policy.spread_s is not None else np.where(is_open, left, 0)
    return pd.DataFrame(
        {
            "sender_id": windows["sender_id"],
            "span_start": _instants(first),
            "span_end": _instants(last),
            "lunch_at": _instants(lunch_now),
            "lunch_ends_at": _instants(lunch_ends_now),
            "open_s_now": now.astype(np.float64),
            "open_s_left": left.astype(np.float64),
        },
        index=windows.index,
    )


def pace(slots: pd.DataFrame, spans: pd.DataFrame, policy: PacingPolicy, seed: int, hour: datetime) -> pd.DataFrame:
    """Return a target time for every slot that fits its sender's span, ordered by sender and ordinal.

    Columns in: ``slots``: ``sender_id``, ``ordinal`` int64, unique together. ``spans``: ``sender_id``, unique;
    ``span_start``, ``span_end``, ``lunch_at``, ``lunch_ends_at`` datetime64[us, UTC]; ``not_before``
    datetime64[us, UTC], null when free: the last planned or sent mail of the sender plus the gap that it carries.

    Columns out: ``sender_id``, ``ordinal`` int64; ``target_time`` datetime64[us, UTC], whole seconds;
    ``gap_s`` int64, the pause that the sender keeps *after* this mail (minimum plus seeded jitter).

    With gaps g and n slots between the instants a and b the slack is b - a - (g_1 + ... + g_{n-1}); slot k
    stands at a, plus the gaps before it, plus a seeded position in the k-th n-th of the slack. Slots fit
    exactly as long as the slack is not negative; those with the highest ordinals beyond that are left out. Time stands
    still over lunch: what would come after its beginning comes as much later as it lasts.
    """
    order = np.lexsort((slots["ordinal"].to_numpy(), slots["sender_id"].to_numpy()))
    sender_ids = slots["sender_id"].to_numpy(dtype=np.int64)[order]
    ordinals = slots["ordinal"].to_numpy(dtype=np.int64)[order]
    gap_s = gaps_s(policy, state(seed, "gap", hour), sender_ids, ordinals)

    place = pd.Index(spans["sender_id"]).get_indexer(pd.Index(sender_ids))
    start, end, lunch, lunch_ends = (
        _seconds(spans[name])[place] for name in ("span_start", "span_end", "lunch_at", "lunch_ends_at")
    )
    earliest = np.maximum(start, _seconds(spans["not_before"], missing=np.iinfo(np.int64).min)[place])
    # On the clock that stands still over lunch.
    first = earliest - np.clip(earliest - lunch, 0, lunch_ends - lunch)
    last = end - (lunch_ends - lunch) - 1

    begins = np.flatnonzero(np.diff(sender_ids, prepend=-1))
    sizes = np.diff(np.append(begins, len(sender_ids)))
    total = np.cumsum(gap_s) - gap_s
    before = total - np.repeat(total[begins], sizes)
    fits = first + before <= last
    sender_ids, ordinals, gap_s, before = sender_ids[fits], ordinals[fits], gap_s[fits], before[fits]
    first, last, lunch, lunch_ends = first[fits], last[fits], lunch[fits], lunch_ends[fits]

    begins = np.flatnonzero(np.diff(sender_ids, prepend=-1))
    sizes = np.diff(np.append(begins, len(sender_ids)))
    count = np.repeat(sizes, sizes)
    rank = np.arange(len(sender_ids)) - np.repeat(begins, sizes)
    slack = last - first - np.repeat(before[begins + sizes - 1], sizes)
    draw = uniforms(state(seed, "pace", hour), sender_ids, ordinals)
    offset = np.minimum(((slack + 1) * (rank + draw) / np.maximum(count, 1)).astype(np.int64), slack)
    still = first + before + offset
    target = still + np.where(still >= lunch, lunch_ends - lunch, 0)
    return pd.DataFrame(
        {"sender_id": sender_ids, "ordinal": ordinals, "target_time": _instants(target), "gap_s": gap_s}
    )


def gaps_s(policy: PacingPolicy, stream: np.uint64, *entities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the pause in seconds after each mail that ``entities`` name in ``stream``: minimum plus seeded jitter."""
    jitter = uniforms(stream, *entities) * (policy.gap_jitter_s + 1)
    return np.asarray(policy.gap_minimum_s + np.minimum(jitter.astype(np.int64), policy.gap_jitter_s))


def _window(zone: str, at: datetime, policy: PacingPolicy) -> tuple[date, datetime, datetime, datetime]:
    """Return the local day that holds ``at``, when its window opens, when lunch may begin, and when it closes."""
    day = local_day(at, zone)
    return day, *_window_of(zone, day, policy)


def _window_of(zone: str, day: date, policy: PacingPolicy) -> tuple[datetime, datetime, datetime]:
    last_day = day + timedelta(days=1) if policy.window_end == MIDNIGHT else day
    opens_at = datetime.combine(day, policy.window_start, ZoneInfo(zone)).astimezone(UTC)
    lunch_from = datetime.combine(day, policy.lunch_from, ZoneInfo(zone)).astimezone(UTC)
    closes_at = datetime.combine(last_day, policy.window_end, ZoneInfo(zone)).astimezone(UTC)
    if day.weekday() not in policy.weekdays:
        return opens_at, opens_at, opens_at
    # A clock change inside a short window can put its opening after its end: then it does not open that day.
    return opens_at, lunch_from, max(opens_at, closes_at)


@lru_cache(maxsize=65_536)
def _workday(zone: str, day: date, policy: PacingPolicy, seed: int, sender_id: int) -> tuple[datetime, ...]:
    opens, lunch, closes = (np.array([_second(instant)]) for instant in _window_of(zone, day, policy))
    days = np.array([day], dtype="datetime64[s]")
    drawn = _workdays(np.array([sender_id]), days, opens, lunch, closes, policy, seed)
    return tuple(datetime.fromtimestamp(int(seconds[0]), UTC) for seconds in drawn)


def _workdays(
    sender_ids: Integers,
    days: npt.NDArray[np.datetime64],
    opens: Integers,
    lunch_from: Integers,
    closes: Integers,
    policy: PacingPolicy,
    seed: int,
) -> tuple[Integers, Integers, Integers, Integers]:
    """Draw start, lunch, its end, and end of each sender's day, in seconds since the epoch."""

    def drawn(purpose: str, low: Any, high: Any) -> Integers:
        draw = uniforms(state(seed, purpose), sender_ids, days.astype("datetime64[D]").astype(np.int64))
        return np.asarray(low + np.minimum((draw * (high - low + 1)).astype(np.int64), high - low))

    most = (closes - opens) // _SHARE_DRAWN
    start = opens + drawn("workday_start", 0, np.minimum(policy.workday_start_spread_s, most))
    end = closes - drawn("workday_end", 0, np.minimum(policy.workday_end_spread_s, most))
    length = drawn("lunch_length", policy.lunch_minimum_s, policy.lunch_maximum_s)
    hours_s = _seconds_of_day(policy.lunch_until) - _seconds_of_day(policy.lunch_from)
    lunch = lunch_from + drawn("lunch", 0, hours_s - length)
    return start, np.clip(lunch, start, end), np.clip(lunch + length, start, end), end


def _seconds_of_day(moment: time) -> int:
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def _second(instant: datetime) -> int:
    return int(instant.timestamp())


def _ceiling(instant: datetime) -> int:
    return int(-(-require_utc(instant).timestamp() // 1))


def _seconds(instants: pd.Series[pd.Timestamp], missing: int = 0) -> Integers:
    """Return whole seconds since the epoch, rounded up, and ``missing`` for null."""
    micros = instants.dt.as_unit("us").dt.tz_localize(None).to_numpy().astype(np.int64)
    return np.where(instants.isna().to_numpy(), missing, -(-micros // 1_000_000))


def _instants(seconds: Integers) -> pd.DatetimeIndex:
    return pd.DatetimeIndex((seconds * 1_000_000).view("datetime64[us]"), tz="UTC")
