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

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.clock import clock_of, local_day, require_utc
from emberflow.randomness import state, uniforms
from emberflow.senders.policy import MIDNIGHT, PacingPolicy

INSTANT: Final = "datetime64[us, UTC]"
_DAYS_AHEAD = 15  # a weekly window that a clock change swallows opens again two weeks later
_DAY_S = 86_400
_NO_LUNCH_S = 6 * 3600  # a workday that is not longer has none
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOUNDS = ("opens_at", "lunch_at", "lunch_ends_at", "closes_at")

Integers = npt.NDArray[np.int64]


def open_windows(senders: pd.DataFrame, at: datetime, policy: PacingPolicy, seed: int) -> pd.DataFrame:
    """Return the workday of the local day that holds ``at``, per sender, on the index of ``senders``.

    Columns in: ``sender_id`` int64; ``zone`` str or Categorical, IANA name. Columns out: ``sender_id``; ``local_day``
    datetime64[s], midnight of the day in the sender's zone; ``opens_at``, ``lunch_at``, ``lunch_ends_at`` and
    ``closes_at`` datetime64[us, UTC], whole seconds, half-open; lunch lies within the others and may be empty. On a
    closed weekday all four are the same instant. A wall-clock time that a clock change skips is taken by the offset
    before the change, one that happens twice by its first occurrence (PEP 495, fold=0).

    In zones that are not whole hours off UTC a local midnight falls inside an hour; what comes after it
    belongs to the next local day and is planned by the next run.
    """
    zones = pd.Categorical(senders["zone"])
    clocks = [clock_of(zone) for zone in zones.categories]
    today = [require_utc(at).astimezone(clock).date() for clock in clocks]
    windows = [_window(clock, day, policy) for clock, day in zip(clocks, today, strict=True)]
    bounds = np.array(windows, dtype=np.int64).reshape(-1, 3).T[:, zones.codes]
    days = np.array(today, dtype="datetime64[s]")[zones.codes]
    sender_id = senders["sender_id"].to_numpy(dtype=np.int64)
    drawn = _drawn(sender_id, days, *bounds, policy=policy, seed=seed)
    instants = {name: _instants(seconds) for name, seconds in zip(_BOUNDS, drawn, strict=True)}
    return pd.DataFrame({"sender_id": sender_id, "local_day": days} | instants, index=senders.index)


def next_opening(zone: str, at: datetime, policy: PacingPolicy, *, seed: int, sender_id: int) -> datetime:
    """Return the first instant from ``at`` on that lies in the workday of a sender in ``zone``, outside its lunch.

    Raises:
        ValueError: no window opens within two weeks.
    """
    today = local_day(at, zone)
    for days in range(_DAYS_AHEAD):
        workday = _workday(zone, today + timedelta(days=days), policy, seed, sender_id)
        opens_at, lunch_at, lunch_ends_at, closes_at = workday
        opening = max(at, opens_at)
        if lunch_at <= opening < lunch_ends_at:
            opening = lunch_ends_at
        if opening < closes_at:
            return opening
    raise ValueError(f"the window {policy.window_start}-{policy.window_end} never opens in {zone}")


def first_opening(senders: pd.DataFrame, policy: PacingPolicy, seed: int) -> tuple[datetime, int] | None:
    """Return the first instant at which one of ``senders`` may send, and its ``sender_id``; None: not in two weeks.

    Columns in: those of `open_windows`; ``not_before`` datetime64[us, UTC], rounded up to a second. It is the
    least `next_opening`, at the cost of a few columns.
    """
    if senders.empty:
        return None
    not_before = _seconds(senders["not_before"])
    start = _EPOCH + timedelta(seconds=int(not_before.min()))
    found: tuple[datetime, int] | None = None
    # Half a day is shorter than every local day, so that none is stepped over.
    for half_days in range(2 * _DAYS_AHEAD):
        moment = start + half_days * timedelta(hours=12)
        windows = open_windows(senders, moment, policy, seed)
        opens, lunch, lunch_ends, closes = (_seconds(windows[name]) for name in _BOUNDS)
        opening = np.maximum(opens, not_before)
        opening = np.where((lunch <= opening) & (opening < lunch_ends), lunch_ends, opening)
        may_send = np.flatnonzero(opening < closes)
        if len(may_send):
            first = may_send[opening[may_send].argmin()]
            candidate = _EPOCH + timedelta(seconds=int(opening[first])), int(windows["sender_id"].iloc[first])
            found = candidate if found is None else min(found, candidate)
        if found is not None and moment >= found[0]:
            break
    return found


def planning_span(windows: pd.DataFrame, start: datetime, hour_end: datetime, policy: PacingPolicy) -> pd.DataFrame:
    """Return the part of each workday that a run starting at ``start`` plans, until ``hour_end``.

    Columns in: those of `open_windows`. Columns out, on its index: ``sender_id``; ``span_start``, ``span_end``
    datetime64[us, UTC], whole seconds, half-open; ``lunch_at``, ``lunch_ends_at`` datetime64[us, UTC], the part of the
    span that is lunch; ``open_s_now``, ``open_s_left`` and ``open_s`` float64, open seconds of the span, from the
    span's start until the workday ends, and of the whole workday, all without lunch. A sender whose workday
    does not meet the run has an empty span, and zero seconds in the first two.

    With ``spread_s`` the span is so many seconds long wherever the hour ends, and it is all that is left.
    """
    opens, lunch, lunch_ends, closes = (_seconds(windows[name]) for name in _BOUNDS)
    first = np.maximum(opens, _second(start))
    until = _second(hour_end) if policy.spread_s is None else first + policy.spread_s
    last = np.maximum(np.minimum(closes, until), first)
    lunch_now, lunch_ends_now = np.clip(lunch, first, last), np.clip(lunch_ends, first, last)
    now = last - first - (lunch_ends_now - lunch_now)
    until_close = closes - first - (np.maximum(lunch_ends, first) - np.maximum(lunch, first))
    left = np.where(last > first, until_close, 0) if policy.spread_s is None else now
    whole = closes - opens - (lunch_ends - lunch) if policy.spread_s is None else now
    return pd.DataFrame(
        {
            "sender_id": windows["sender_id"],
            "span_start": _instants(first),
            "span_end": _instants(last),
            "lunch_at": _instants(lunch_now),
            "lunch_ends_at": _instants(lunch_ends_now),
            "open_s_now": now.astype(np.float64),
            "open_s_left": left.astype(np.float64),
            "open_s": whole.astype(np.float64),
        },
        index=windows.index,
    )


def pace(slots: pd.DataFrame, spans: pd.DataFrame, policy: PacingPolicy, seed: int, hour: datetime) -> pd.DataFrame:
    """Return a target time for every slot that fits its sender's span, by sender and ordinal, on ``slots``' index.

    Columns in: ``slots``: ``sender_id``, ``ordinal`` int64, unique together. ``spans``: ``sender_id``, unique;
    ``span_start``, ``span_end``, ``lunch_at``, ``lunch_ends_at`` datetime64[us, UTC]; ``open_s_now``, ``open_s_left``
    float64 (`planning_span`); ``first_s``, ``every_s`` float64, the places of its slots in open seconds from the span's
    start (`emberflow.senders.quota.slots_for_hour`); ``not_before`` datetime64[us, UTC], null when free: the last
    planned or sent mail of the sender plus the gap that it carries.

    Columns out: ``sender_id``, ``ordinal`` int64; ``target_time`` datetime64[us, UTC], whole seconds;
    ``gap_s`` int64, the pause that the sender keeps *after* this mail (minimum plus seeded jitter); ``earliest``,
    ``latest`` datetime64[us, UTC]: between these, ends included, any of its slots may be moved, each by itself, and all
    gaps still hold.

    A slot leaves at its place, moved by a seeded draw as far as the longest gaps to its neighbours allow; at the ends
    of the span it is moved back into it, so that every minute of an hour is as likely. Where gaps are longer than
    places are apart, it waits for the gap before. Those that are too late then are left to later hours. In the last
    span of a workday they close up instead, and only what cannot fit is left out. All of this is told by a clock that
    stands still over lunch, so a gap that lunch interrupts lasts as much longer.

    Raises:
        ValueError: a slot's sender has no span.
    """
    sender_id, ordinal = (slots[name].to_numpy(dtype=np.int64) for name in ("sender_id", "ordinal"))
    # One key is sorted several times as fast as two.
    order = np.argsort(sender_id * (ordinal.max(initial=0) + 1) + ordinal)
    sender_id, ordinal = sender_id[order], ordinal[order]
    gap_s = gaps_s(policy, state(seed, "gap", hour), sender_id, ordinal)

    # Per sender.
    begins = np.flatnonzero(np.diff(sender_id, prepend=-1))
    place = pd.Index(spans["sender_id"]).get_indexer(sender_id[begins])
    if (place < 0).any():
        raise ValueError(f"sender {sender_id[begins][place < 0][0]} has slots but no span")
    start, end, lunch, lunch_ends, not_before = (
        _seconds(spans[name])[place] for name in ("span_start", "span_end", "lunch_at", "lunch_ends_at", "not_before")
    )
    now_s, left_s, first_s, every_s = (
        spans[name].to_numpy(dtype=np.float64)[place] for name in ("open_s_now", "open_s_left", "first_s", "every_s")
    )
    lunch_s = lunch_ends - lunch
    free_at = np.maximum(start, not_before)
    free_at -= np.clip(free_at - lunch, 0, lunch_s)
    last = end - lunch_s - 1
    is_last_span = now_s >= left_s
    longest_gap_s = policy.gap_minimum_s + policy.gap_jitter_s
    reach_s = np.minimum(np.maximum((every_s - longest_gap_s) / 2, 0), now_s / 2)

    # Per slot.
    sender = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(sender_id)))
    rank = np.arange(len(sender_id)) - begins[sender]
    before_s = np.cumsum(gap_s) - gap_s
    before_s -= before_s[begins][sender]
    draw = uniforms(state(seed, "pace", hour), sender_id, ordinal)
    at_s = first_s[sender] + rank * every_s[sender] + (2 * draw - 1) * reach_s[sender]
    at_s = np.abs(at_s)
    at_s = np.where(at_s < now_s[sender], at_s, np.maximum(2 * now_s[sender] - at_s, 0)) if len(at_s) else at_s
    wished = np.maximum(start[sender] + at_s.astype(np.int64), free_at[sender])
    target = before_s + _highest_so_far(wished - before_s, sender)
    fits = np.where(is_last_span[sender], free_at[sender] + before_s, target) <= last[sender]
    kept = np.flatnonzero(fits)
    order, sender_id, ordinal, gap_s, sender, before_s, target = (
        column[kept] for column in (order, sender_id, ordinal, gap_s, sender, before_s, target)
    )
    longest_s = np.zeros_like(last)
    longest_s[sender] = before_s
    target = np.minimum(target, (last - longest_s)[sender] + before_s)

    spare_s = np.diff(target, append=0) - gap_s
    is_followed = np.append(sender[1:] == sender[:-1], False)[: len(sender)]
    # The last one leaves the next hour's first its place.
    count = np.bincount(sender, minlength=len(begins))
    next_place = start + np.minimum(first_s + count * every_s, 2 * _DAY_S).astype(np.int64)
    at_most = np.minimum(last, np.where(is_last_span, last, next_place))[sender] - np.where(is_followed, 0, gap_s)
    at_most = np.where(is_last_span[sender], last[sender], at_most)
    later_s = np.where(is_followed, spare_s // 2, np.maximum(np.minimum(at_most, last[sender]) - target, 0))
    sooner_s = np.concatenate([[0], (spare_s - spare_s // 2)[:-1]])[: len(sender)]
    sooner_s = np.where(np.concatenate([[False], is_followed[:-1]])[: len(sender)], sooner_s, target - free_at[sender])
    is_after_lunch = target >= lunch[sender]
    earliest, latest = target - sooner_s, target + later_s
    earliest = np.where(is_after_lunch, np.maximum(earliest, lunch[sender]), earliest)
    latest = np.where(is_after_lunch, latest, np.minimum(latest, lunch[sender] - 1))
    pause_s = np.where(is_after_lunch, lunch_s[sender], 0)
    return pd.DataFrame(
        {
            "sender_id": sender_id,
            "ordinal": ordinal,
            "target_time": _instants(target + pause_s),
            "gap_s": gap_s,
            "earliest": _instants(earliest + pause_s),
            "latest": _instants(latest + pause_s),
        },
        index=slots.index[order],
    )


def _highest_so_far(values: Integers, group: Integers) -> Integers:
    """Return the running maximum of ``values`` within each run of equal ``group``, numbered upwards from 0."""
    if not len(values):
        return values
    lowest, spread = values.min(), np.ptp(values) + 1
    return np.asarray(np.maximum.accumulate(values - lowest + group * spread) - group * spread + lowest)


def gaps_s(policy: PacingPolicy, stream: np.uint64, *entities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the pause in seconds after each mail that ``entities`` name in ``stream``: minimum plus seeded jitter."""
    return policy.gap_minimum_s + _up_to(policy.gap_jitter_s, uniforms(stream, *entities))


def _window(clock: ZoneInfo, day: date, policy: PacingPolicy) -> tuple[int, int, int]:
    """Return when the window of a local day opens, lunch may begin, and the window closes: seconds since the epoch."""
    opens_at = datetime.combine(day, policy.window_start, clock).astimezone(UTC)
    last_day = day + timedelta(days=1) if policy.window_end == MIDNIGHT else day
    opens = _second(opens_at)
    # Where a zone changed sides of the date line, a date never happened (Apia, 30 December 2011).
    if day.weekday() not in policy.weekdays or opens_at.astimezone(clock).date() != day:
        return opens, opens, opens
    lunch, closes = (
        _second(datetime.combine(on, wall, clock))
        for on, wall in ((day, policy.lunch_from), (last_day, policy.window_end))
    )
    # A clock change inside a short window can put its opening after its end: then it does not open that day.
    return opens, lunch, max(opens, closes)


@lru_cache(maxsize=65_536)
def _workday(zone: str, day: date, policy: PacingPolicy, seed: int, sender_id: int) -> tuple[datetime, ...]:
    """Return one row of ``open_windows``, kept because a mailbox asks before each of its mails."""
    bounds = (np.array([bound]) for bound in _window(clock_of(zone), day, policy))
    drawn = _drawn(np.array([sender_id]), np.array([day], dtype="datetime64[s]"), *bounds, policy=policy, seed=seed)
    return tuple(_EPOCH + timedelta(seconds=int(seconds[0])) for seconds in drawn)


def _drawn(
    sender_id: Integers,
    day: npt.NDArray[np.datetime64],
    opens: Integers,
    lunch_from: Integers,
    closes: Integers,
    *,
    policy: PacingPolicy,
    seed: int,
) -> tuple[Integers, Integers, Integers, Integers]:
    """Draw the start, the lunch, its end and the end of workdays from their windows: seconds since the epoch."""
    days = day.astype("datetime64[D]").astype(np.int64)

    def up_to(most: Integers | int, part: str) -> Integers:
        return _up_to(most, uniforms(state(seed, "workday", part), sender_id, days))

    quarter = (closes - opens) // 4
    starts = opens + up_to(np.minimum(policy.workday_start_spread_s, quarter), "start")
    ends = closes - up_to(np.minimum(policy.workday_end_spread_s, quarter), "end")
    lunch_s = policy.lunch_minimum_s + up_to(policy.lunch_maximum_s - policy.lunch_minimum_s, "lunch_s")
    lunch = lunch_from + up_to(policy.lunch_span_s - lunch_s, "lunch")
    lunch_s = np.where(ends - starts > _NO_LUNCH_S, lunch_s, 0)
    return starts, np.clip(lunch, starts, ends), np.clip(lunch + lunch_s, starts, ends), ends


def _up_to(most: Integers | int, draw: npt.NDArray[np.float64]) -> Integers:
    """Turn draws into whole numbers from 0 to ``most``, each as likely."""
    return np.minimum((draw * (most + 1)).astype(np.int64), most)


def _second(instant: datetime) -> int:
    """Return seconds since the epoch, rounded up."""
    return -((_EPOCH - require_utc(instant)) // timedelta(seconds=1))


def _seconds(instants: pd.Series[pd.Timestamp]) -> Integers:
    """Return seconds since the epoch, rounded up; a null is long ago."""
    return (instants.to_numpy(dtype="datetime64[us]").astype(np.int64) + 999_999) // 1_000_000


def _instants(seconds: Integers) -> pd.DatetimeIndex:
    return pd.DatetimeIndex((seconds * 1_000_000).view("datetime64[us]"), tz="UTC")
