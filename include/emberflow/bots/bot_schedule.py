"""When each bot is free, what mail it is to get, and when one mail more fits in between.

A bot is free in one piece of time, and between two mails it needs its pause. All times are whole seconds since the
epoch; bots are places in arrays.

Cost: linear in the pairs that are asked about, times the most mails of one bot.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.ordering import Floats, Integers, Mask, order_of_whole, rank_within

_NEVER: Final = 2**40


def unix_seconds_of(instants: pd.Series[Any]) -> Integers:
    """Return seconds since the epoch; the instants are whole seconds."""
    return np.asarray(instants.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64) // 1_000_000)


class BotSchedule:
    """The mails of every bot that is free from ``first`` until ``until`` (half-open), ``pause_s`` apart.

    ``pauses`` says whether any bot needs a pause. A bot that needs none has no mails here: they are in nobody's way.
    """

    def __init__(self, first: Integers, until: Integers, pause_s: Integers) -> None:
        self.pauses = bool(pause_s.any())
        self._pause_s = pause_s
        self._same_pause_s = int(pause_s[0]) if len(pause_s) and (pause_s == pause_s[0]).all() else None
        self._first, self._last = first, until - 1
        self._times: Integers = np.full((len(first), 1), _NEVER, dtype=np.int64)
        self._count = np.zeros(len(first), dtype=np.int64)

    def add(self, bots: Integers, times: Integers) -> None:
        """Enter mails; a bot may stand several times in ``bots``."""
        bots, times = self._of_pausing(bots, times)
        if not len(bots):
            return
        order = order_of_whole(bots)
        bots, times = bots[order], times[order]
        column = self._count[bots] + rank_within(bots)
        missing = int(column.max()) + 1 - self._times.shape[1]
        if missing > 0:
            self._times = np.pad(self._times, ((0, 0), (0, missing)), constant_values=_NEVER)
        self._times[bots, column] = times
        self._count += np.bincount(bots, minlength=len(self._count))

    def remove(self, bots: Integers, times: Integers) -> None:
        """Remove mails; each bot at most once."""
        bots, times = self._of_pausing(bots, times)
        if not len(bots):
            return
        column = np.argmax(self._times[bots] == times[:, None], axis=1)
        last = self._count[bots] - 1
        self._times[bots, column] = self._times[bots, last]
        self._times[bots, last] = _NEVER
        self._count[bots] -= 1

    def is_free(self, bots: Integers, times: Integers) -> Mask:
        """Return which bots are free at the times beside them."""
        is_free = (self._first[bots] <= times) & (times <= self._last[bots])
        if self.pauses:
            entered = self._times[bots, : int(self._count.max(initial=0))]
            is_free &= (np.abs(entered - times[:, None]) >= self._pause_of(bots)).all(axis=1)
        return np.asarray(is_free)

    def fit(self, bots: Integers, times: Integers, earliest: Integers, latest: Integers, draws: Floats) -> Integers:
        """Return when each bot can get a mail between ``earliest`` and ``latest``, ends included; -1 for never.

        It is the time given if the bot is free then. If another mail is too near, it is the nearest at which none is,
        which keeps the minutes of an hour as even as they were. If the bot is asleep or rests, each second at which it
        is free is as likely, so that nobody waits for it to wake up.
        """
        earliest, latest = np.maximum(earliest, self._first[bots]), np.minimum(latest, self._last[bots])
        found = np.where(self.is_free(bots, times), times, -1)
        moved = np.flatnonzero((found < 0) & (earliest <= latest))
        if len(moved):
            found[moved] = self._moved(bots[moved], times[moved], earliest[moved], latest[moved], draws[moved])
        return found

    def needs_pause(self, bots: Integers) -> Mask:
        """Return which bots need time between two mails."""
        return np.asarray(self._pause_s[bots] > 0)

    def headroom(self, bots: Integers) -> Integers:
        """Return how many mails more fit into the time of each bot, if they stand as close as they may."""
        if not self.pauses:
            return np.full(len(bots), _NEVER, dtype=np.int64)
        _, lengths = self._free(bots, self._first[bots], self._last[bots])
        pause_s = np.maximum(self._pause_of(bots), 1)
        room = ((lengths + pause_s - 1) // pause_s).sum(axis=1)
        return np.asarray(np.where(self.needs_pause(bots), room, _NEVER))

    def _moved(self, bots: Integers, times: Integers, earliest: Integers, latest: Integers, draws: Floats) -> Integers:
        starts, lengths = self._free(bots, earliest, latest)
        rows = np.arange(len(bots))
        nearest = np.clip(times[:, None], starts, starts + lengths - 1)
        distance = np.where(lengths > 0, np.abs(nearest - times[:, None]), _NEVER)
        near = nearest[rows, np.argmin(distance, axis=1)]

        ends = np.cumsum(lengths, axis=1)
        total = ends[:, -1]
        second = np.minimum((draws * total).astype(np.int64), np.maximum(total - 1, 0))
        piece = np.argmax(ends > second[:, None], axis=1)
        drawn = starts[rows, piece] + second - (ends - lengths)[rows, piece]
        is_inside = (self._first[bots] <= times) & (times <= self._last[bots])
        return np.where(total > 0, np.where(is_inside, near, drawn), -1)

    def _of_pausing(self, bots: Integers, times: Integers) -> tuple[Integers, Integers]:
        if self._same_pause_s is not None:
            return (bots, times) if self.pauses else (bots[:0], times[:0])
        pausing = self.needs_pause(bots)
        return bots[pausing], times[pausing]

    def _pause_of(self, bots: Integers) -> Any:
        """Return the pause beside the mails of each bot; one number if it is the same for all, which is quicker."""
        return self._pause_s[bots][:, None] if self._same_pause_s is None else self._same_pause_s

    def _free(self, bots: Integers, earliest: Integers, latest: Integers) -> tuple[Integers, Integers]:
        """Return the starts and the lengths of the pieces between the mails of each bot, pauses left out."""
        entered: npt.NDArray[np.int64] = np.sort(self._times[bots], axis=1)
        pause_s = self._pause_of(bots)
        starts = np.concatenate([earliest[:, None], entered + pause_s], axis=1)
        ends = np.concatenate([entered - pause_s, latest[:, None]], axis=1)
        starts, ends = np.maximum(starts, earliest[:, None]), np.minimum(ends, latest[:, None])
        return starts, np.maximum(ends - starts + 1, 0)
