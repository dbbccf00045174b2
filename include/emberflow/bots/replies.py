"""Replies: whether a received warm-up mail is answered, and when (B-B6, B-B7).

Reply delays are a superposition of two lognormals, people who answer at once and people who answer later
(Stouffer, Malmgren, Amaral 2006, arXiv physics/0605027), fitted to the moments that Kooti et al. published
for 16 billion mails (WWW 2015, arXiv 1504.00704: most likely reply after 2 min, half within 47 min, 90 %
within a day). The model spreads load and makes measurements realistic; it claims nothing about looking human.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.draws import Floats, stratified
from emberflow.bots.limits import seconds_of_day
from emberflow.bots.policy import ReplyPolicy
from emberflow.clock import clock_of, end_of_gap
from emberflow.randomness import state, uniforms

INSTANT: Final = "datetime64[us, UTC]"
WAKE_SPREAD_S = 1800
_DAYS_AHEAD = 3
_HOUR_S = 3600
_DAY_S = 86_400
_SECOND = 1_000_000
_NEVER = np.iinfo(np.int64).min  # what numpy and pandas store for a moment that is missing

Microseconds = npt.NDArray[np.int64]
_STANDARD_NORMAL = NormalDist()
_quantile = np.frompyfunc(_STANDARD_NORMAL.inv_cdf, 1, 1)


def decide_replies(received: pd.DataFrame, policy: ReplyPolicy, seed: int) -> pd.DataFrame:
    """Return ``received`` with the decision about each mail; index, order and other columns are kept.

    Columns in: ``slot_id`` int64, unique, the slot of the mail that was received; ``turn`` int64, its place
    in the thread, 1 = first; ``received_at`` datetime64[us, UTC]; ``responder_id`` int64, the mailbox that
    would answer; ``zone`` str, ``wake_start``, ``wake_end`` datetime.time, its waking hours on its wall
    clock, the end exclusive, midnight = end of the day; ``replies_left`` int64, what its daily reply cap
    still allows.

    Columns added: ``replies`` bool; ``reason`` str: ``turns`` (the thread is long enough), ``rate`` (the draw
    said no), ``reply_cap`` (willing, but mails with lower slot ids took what was left) or ``replies``;
    ``draw`` float; ``delay_s`` float and ``reply_at`` datetime64[us, UTC] in whole seconds, both null without
    a reply; ``target_turn`` int64.

    ``reply_at`` is never earlier than ``received_at`` plus the delay and never outside waking hours: a reply
    that falls into the night moves to the next opening plus a seeded part of up to 30 min.

    Raises:
        ValueError: waking hours that do not end after they start.
    """
    mails = received.reset_index(drop=True)
    slot_id = mails["slot_id"].to_numpy(dtype=np.int64)
    turn = mails["turn"].to_numpy(dtype=np.int64)
    draw = stratified("reply", slot_id, seed)
    too_long = turn >= policy.maximum_turns
    willing = ~too_long & (draw < np.where(turn == 1, policy.rate, policy.continue_rate))
    place = _places(slot_id, mails["responder_id"].to_numpy(dtype=np.int64), willing)
    capped = willing & (place >= mails["replies_left"].to_numpy())
    replies = willing & ~capped
    reason = np.select([too_long, capped, replies], ["turns", "reply_cap", "replies"], default="rate")

    delay_s = pd.Series(_delays(slot_id, policy, seed)).where(replies)
    earliest = (mails["received_at"] + pd.to_timedelta(delay_s, unit="s")).dt.ceil("s").astype(INSTANT)
    spread = uniforms(state(seed, "reply_wake_spread"), slot_id)
    reply_at = _into_waking_hours(mails.assign(earliest=earliest, spread=spread)[replies])
    return mails.assign(
        replies=replies,
        reason=pd.Series(reason, dtype="str"),
        draw=draw,
        delay_s=delay_s,
        reply_at=reply_at.reindex(mails.index),
        target_turn=turn + 1,
    ).set_axis(received.index)


def _places(
    slot_id: npt.NDArray[np.int64], responder_id: npt.NDArray[np.int64], willing: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Count for each mail that would be answered those of its responder with lower slot ids; 0 for the others."""
    rows = np.flatnonzero(willing)
    rows = rows[np.lexsort((slot_id[rows], responder_id[rows]))]
    own, number = responder_id[rows], np.arange(rows.size)
    is_first = np.concatenate(([True], own[1:] != own[:-1]))[: rows.size]
    place = np.zeros(slot_id.size, dtype=np.int64)
    place[rows] = number - np.maximum.accumulate(np.where(is_first, number, 0))
    return place


def _delays(slot_id: npt.NDArray[np.int64], policy: ReplyPolicy, seed: int) -> Floats:
    """Draw from the mixture truncated to [floor, ceiling], by the inverse distribution function.

    Truncating a mixture re-weighs its components by the mass that each has within the bounds, and truncates
    each of them: the same law as drawing again until the delay is in bounds.
    """
    medians = np.array([policy.fast_median_s, policy.slow_median_s])
    sigmas = np.array([policy.fast_sigma, policy.slow_sigma])
    bounds = np.log(np.array([[policy.floor_s], [policy.ceiling_s]]) / medians) / sigmas
    below_floor, below_ceiling = np.vectorize(_STANDARD_NORMAL.cdf)(bounds)
    mass = np.array([policy.fast_share, 1 - policy.fast_share]) * (below_ceiling - below_floor)

    is_slow = (uniforms(state(seed, "reply_component"), slot_id) >= mass[0] / mass.sum()).astype(np.int64)
    within = uniforms(state(seed, "reply_delay"), slot_id)
    level = below_floor[is_slow] + within * (below_ceiling - below_floor)[is_slow]
    score = _quantile(np.clip(level, 2.0**-1022, 1 - 2.0**-53)).astype(np.float64)
    delays = medians[is_slow] * np.exp(sigmas[is_slow] * score)
    return np.asarray(np.clip(delays, policy.floor_s, policy.ceiling_s))


def _into_waking_hours(replies: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    """Return ``earliest`` where the responder is awake, else a moment after its next opening."""
    # Arrays, not columns: an inbox asks about a handful of mails, mailbox by mailbox, and each operation on a column
    # costs as much as on a thousand of them.
    wakes_s = np.array([seconds_of_day(start) for start in replies["wake_start"]], dtype=np.int64)
    sleeps_s = np.array([seconds_of_day(end, closing=True) for end in replies["wake_end"]], dtype=np.int64)
    if (wakes_s >= sleeps_s).any():
        raise ValueError(f"waking hours must end after they start: slots {replies['slot_id'].tolist()}")
    earliest = pd.DatetimeIndex(replies["earliest"])
    zones, spread = replies["zone"].to_numpy(), replies["spread"].to_numpy()
    moved = _microseconds(earliest)
    for zone in pd.unique(zones):
        rows = np.flatnonzero(zones == zone)
        local = earliest[rows].tz_convert(clock_of(str(zone))).tz_localize(None)
        wall_s = _microseconds(local) // _SECOND % _DAY_S
        asleep = (wall_s < wakes_s[rows]) | (wall_s >= sleeps_s[rows])
        night = rows[asleep]
        if night.size:
            midnight = local[asleep].normalize()
            moved[night] = _after_opening(
                moved[night], midnight, wakes_s[night], sleeps_s[night], spread[night], str(zone)
            )
    return pd.Series(pd.DatetimeIndex(moved.view("datetime64[us]"), tz="UTC"), index=replies.index)


def _after_opening(
    earliest: Microseconds,
    midnight: pd.DatetimeIndex,
    wakes_s: npt.NDArray[np.int64],
    sleeps_s: npt.NDArray[np.int64],
    spread: Floats,
    zone: str,
) -> Microseconds:
    """Return a moment after the first opening that is not before ``earliest``; ``midnight`` began its day there."""
    target = np.full(len(earliest), _NEVER)
    for ahead in range(_DAYS_AHEAD):
        day = midnight + pd.Timedelta(days=ahead)
        # Of a time that happens twice the opening takes the second and the closing the first.
        opens = _instant(day + pd.to_timedelta(wakes_s, unit="s"), zone, first=False)
        closes = _instant(day + pd.to_timedelta(sleeps_s, unit="s"), zone, first=True)
        room_s = np.minimum((closes - opens) / _SECOND, WAKE_SPREAD_S)
        later = opens + (spread * room_s // 1).astype(np.int64) * _SECOND
        usable = (target == _NEVER) & (opens >= earliest) & (closes > opens)
        target = np.where(usable, later, target)
        if (target != _NEVER).all():
            break
    return target


def _instant(wall: pd.DatetimeIndex, zone: str, *, first: bool) -> Microseconds:
    """Return when a clock shows ``wall``: where it never does, when it is put beyond it."""
    ambiguous = np.full(len(wall), first)
    local = wall.tz_localize(clock_of(zone), nonexistent="NaT", ambiguous=ambiguous)
    instants = _microseconds(local)
    for row in np.flatnonzero(local.isna()).tolist():
        change = end_of_gap(wall[row].to_pydatetime(), zone).replace(tzinfo=None)
        instants[row] = np.datetime64(change, "us").astype(np.int64)
    return instants


def _microseconds(moments: pd.DatetimeIndex) -> Microseconds:
    """Return microseconds since 1970, in UTC or on the wall clock of moments without a zone."""
    return np.array(moments.as_unit("us").asi8)
