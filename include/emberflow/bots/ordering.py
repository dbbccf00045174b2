"""Ordered arrays: sorting, finding, and the best of every group at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_TWO_BYTES = np.iinfo(np.uint16).max


class Ranked:
    """Partners by group (a sender, or a sender and a cell), best first, and how far each group was looked up."""

    def __init__(self, slots: Integers, bots: Integers, groups: Integers, keys: Floats) -> None:
        self.slots, self.bots, self.groups, self.keys = slots, bots, groups, keys
        self._present, self._next = np.unique(groups, return_index=True)
        self._ends = np.append(self._next[1:], len(groups))
        self._group_at = np.repeat(np.arange(len(self._present)), self._ends - self._next)

    def take(self, wanted: Integers) -> Integers:
        """Return the places of the next partners: as many of each group as it stands in ``wanted``."""
        asking, asks = np.unique(wanted, return_counts=True)
        at, is_present = find(self._present, asking)
        at, asks = at[is_present], asks[is_present]
        first = self._next[at].copy()
        self._next[at] = np.minimum(first + asks, self._ends[at])
        counts = self._next[at] - first
        return np.asarray(np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum()))

    def next_key(self, places: Integers) -> Floats:
        """Return, of each of these partners, the key of the next one of its group, infinity where all were taken."""
        following = self._next[self._group_at[places]]
        is_there = following < self._ends[self._group_at[places]]
        return np.where(is_there, np.append(self.keys, np.inf)[following], np.inf)

    def rest(self, group: int) -> Integers:
        """Return the places of the partners of one group that were not taken."""
        at, is_present = find(self._present, np.array([group], dtype=np.int64))
        return np.arange(self._next[at[0]], self._ends[at[0]]) if is_present[0] else np.empty(0, dtype=np.int64)


def find(ordered: Integers, wanted: Integers) -> tuple[Integers, Mask]:
    """Return where each of ``wanted`` stands in ``ordered``, and whether it does; else its place means nothing."""
    if not len(ordered):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, np.asarray(ordered[at] == wanted)


def pair_keys(first: Integers, second: Integers) -> Integers:
    """Return one number per pair; ids are counted from 1 and stay below 2**31 for two thousand million mailboxes."""
    return (np.asarray(first, dtype=np.int64) << 32) | np.asarray(second, dtype=np.int64)


def order_of(keys: Floats) -> Integers:
    """Return the order of ``keys``, equal ones as their rows stand; several times quicker than a stable sort."""
    order = np.argsort(keys)
    ordered = keys[order]
    return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def order_of_whole(numbers: Integers) -> Integers:
    """Return the stable order of numbers from 0 to 2**63 divided by their count; quicker than a stable sort."""
    if len(numbers) and numbers.max() <= _TWO_BYTES:  # NumPy sorts these in linear time
        return np.argsort(numbers.astype(np.uint16), kind="stable")
    return np.argsort(numbers * len(numbers) + np.arange(len(numbers)))


def by_group(groups: Integers, keys: Floats) -> Integers:
    """Return the order by group, and by key within; quicker than a sort by two keys."""
    order = order_of(keys)
    return np.asarray(order[order_of_whole(groups[order])])


def rank_within(ordered: npt.NDArray[Any]) -> Integers:
    """Return the place of each row within its run of equal values."""
    if not len(ordered):
        return np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))


def any_of(masks: Mapping[str, Mask]) -> Mask:
    """Return where any of the masks holds."""
    return np.asarray(np.logical_or.reduce(list(masks.values())))
