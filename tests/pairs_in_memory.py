"""A history of pairs that lies in memory, for selections without a database."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emberflow.bots.history import Integers
from emberflow.bots.ordering import find, pair_keys

_NEVER = np.datetime64("NaT", "us")


class PairsInMemory:
    """A history that is a frame of pairs: ``sender_id``, ``bot_id``, ``last_contact``, ``sent_7d``, a row per pair."""

    def __init__(self, pairs: pd.DataFrame) -> None:
        self._pairs = pairs.sort_values(["sender_id", "bot_id"], ignore_index=True)
        ids = self._pairs[["sender_id", "bot_id"]].to_numpy(dtype=np.int64)
        self._keys = pair_keys(ids[:, 0], ids[:, 1])
        if (np.diff(self._keys) == 0).any():
            raise ValueError("a pair has two rows")
        # A pair without a row is answered from one more, the last.
        self._last_contact = np.append(self._pairs["last_contact"].to_numpy(dtype="datetime64[us]"), _NEVER)
        self._sent_7d = np.append(self._pairs["sent_7d"].to_numpy(dtype=np.int64), 0)

    def of_pairs(self, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        """Look the pairs up."""
        place, is_known = find(self._keys, pair_keys(sender_ids, bot_ids))
        place = np.where(is_known, place, -1)
        last_contact = pd.DatetimeIndex(self._last_contact[place], tz="UTC")
        return pd.DataFrame({"last_contact": last_contact, "sent_7d": self._sent_7d[place]})

    def some_of(self, sender_ids: Integers, from_bot_ids: Integers, counts: Integers) -> pd.DataFrame:
        """Take so many partners of each."""
        starts = pd.DataFrame({"sender_id": sender_ids, "first": from_bot_ids, "count": counts})
        known = self._pairs.merge(starts, on="sender_id")
        known = known.assign(is_before=known["bot_id"] < known["first"])
        known = known.sort_values(["sender_id", "is_before", "bot_id"])
        known = known[known.groupby("sender_id").cumcount() < known["count"]]
        return known[["sender_id", "bot_id"]].reset_index(drop=True)

    def of_senders(self, sender_ids: Integers) -> pd.DataFrame:
        """Take all of them."""
        return self._pairs[self._pairs["sender_id"].isin(sender_ids)].reset_index(drop=True)
