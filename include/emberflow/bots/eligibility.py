"""Eligibility: mailboxes that share a domain, an owner or a source address never warm each other up."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.ordering import find

GROUPS: Final = ("domain", "owner", "ip_group")

Integers = npt.NDArray[np.int64]


def eligible_bots(senders: pd.DataFrame, bots: pd.DataFrame) -> pd.Series[int]:
    """Return how many of ``bots`` share neither domain, owner nor IP group with each sender, on ``senders``' index.

    Columns of both: ``domain``, ``owner``, ``ip_group`` int64, -1 for none. Counted by inclusion and exclusion: those
    of its domain, of its owner and of its IP group, less those of two of them, and again those of all three. Cost:
    linear in senders and bots.
    """
    shared = [_shared_codes(senders[group].to_numpy(np.int64), bots[group].to_numpy(np.int64)) for group in GROUPS]
    excluded = np.zeros(len(senders), dtype=np.int64)
    for size in range(1, len(GROUPS) + 1):
        for groups in combinations(shared, size):
            own, theirs = np.zeros(len(senders), dtype=np.int64), np.zeros(len(bots), dtype=np.int64)
            for own_code, its_code, count in groups:
                own = np.where((own < 0) | (own_code < 0), -1, own * count + own_code)
                theirs = np.where((theirs < 0) | (its_code < 0), -1, theirs * count + its_code)
            present, counts = np.unique(theirs[theirs >= 0], return_counts=True)
            at, is_present = find(present, own)
            excluded[is_present] += (-1) ** (size + 1) * counts[at[is_present]]
    return pd.Series(len(bots) - excluded, index=senders.index, name="eligible_bots")


def _shared_codes(own: Integers, theirs: Integers) -> tuple[Integers, Integers, int]:
    """Number the values that both sides have, from 0; return each side's numbers, -1 for any other, and how many."""
    both = np.intersect1d(own, theirs)
    both = both[both != -1]
    (own_at, is_own), (its_at, is_its) = find(both, own), find(both, theirs)
    return np.where(is_own, own_at, -1), np.where(is_its, its_at, -1), len(both)
