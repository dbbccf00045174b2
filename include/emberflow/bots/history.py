"""What senders and bots had to do with each other: the questions that selection asks.

The pair table may hold fifty million rows, of which one hour concerns a few hundred thousand. So selection never takes
the table: it asks about the pairs that it offers, who a few partners of a sender are, and about all partners of the
few senders for whom that was not enough. ``emberflow.queue_manager.planning.pair_history`` answers from PostgreSQL.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

Integers = npt.NDArray[np.int64]


class History(Protocol):
    """The contacts of every pair up to now, made or planned.

    Answers have ``last_contact`` datetime64[us, UTC], the latest mail of either side (null: never), and ``sent_7d``
    int64, the first mails of the last seven days.
    """

    def of_pairs(self, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        """Return ``last_contact`` and ``sent_7d`` of each pair, in the order asked; cheapest in the order of ids."""

    def some_of(self, sender_ids: Integers, from_bot_ids: Integers, counts: Integers) -> pd.DataFrame:
        """Return up to so many partners per sender in the order of bot_id, from ``from_bot_ids`` on and around once.

        Columns: ``sender_id``, ``bot_id`` int64; rows in any order.
        """

    def of_senders(self, sender_ids: Integers) -> pd.DataFrame:
        """Return all partners of the senders with their contacts: hundreds of rows each.

        Columns: ``sender_id``, ``bot_id``, ``last_contact``, ``sent_7d``; rows in any order.
        """
