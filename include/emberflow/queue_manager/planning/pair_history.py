"""What senders and bots had to do with each other: the lookups that selection asks, answered by the database.

The pair table is the largest of all, and an hour touches one row in a hundred of it. So nothing here reads it whole:
keys go to a temporary table, and the primary key (sender, bot) is probed for each. The nested loop is forced, because
the planner's estimate of a fresh temporary table makes it hash all pairs instead. Few keys are part of the query; many
are shared out to several sessions.

Contacts that are planned and not yet made count like made ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection, text

from emberflow.bots.history import History
from emberflow.bots.ordering import find, pair_keys
from emberflow.database.bulk import copy_numbers, read_numbers
from emberflow.database.sessions import Sessions

Integers = npt.NDArray[np.int64]

_ASKED: Final = text("""
    create temporary table asked (place integer, sender_id bigint, bot_id bigint, partners integer) on commit drop
""")
_PROBE: Final = text("""
    set local enable_hashjoin = off;
    set local enable_mergejoin = off;
    set local enable_seqscan = off;
    set local enable_bitmapscan = off
""")
_FORGET: Final = text("truncate asked")
# Stands before a query in place of the temporary table.
_GIVEN: Final = "with asked as (select * from unnest({arrays}) as given ({columns}))"
_CONTACTS: Final = """
    pairs.last_contact,
    (coalesce(pairs.sent_at_1 > %(since)s, false)::integer
        + coalesce(pairs.sent_at_2 > %(since)s, false)::integer
        + coalesce(pairs.sent_at_3 > %(since)s, false)::integer) as sent_7d
"""
_OF_PAIRS: Final = f"""
    select asked.place, {_CONTACTS}
    from asked
    inner join ops.bot_sender_interactions as pairs using (sender_id, bot_id)
"""  # noqa: S608 - a constant of this module
# Ids alone, so that the primary key answers without the table.
_SOME_OF: Final = """
    select asked.sender_id, partners.bot_id
    from asked
    cross join lateral (
        (
            select pairs.bot_id
            from ops.bot_sender_interactions as pairs
            where pairs.sender_id = asked.sender_id and pairs.bot_id >= asked.bot_id
            order by pairs.bot_id
            limit asked.partners
        )
        union all
        (
            select pairs.bot_id
            from ops.bot_sender_interactions as pairs
            where pairs.sender_id = asked.sender_id and pairs.bot_id < asked.bot_id
            order by pairs.bot_id
            limit asked.partners
        )
        limit asked.partners
    ) as partners
"""
_OF_SENDERS: Final = f"""
    select asked.sender_id, pairs.bot_id, {_CONTACTS}
    from asked
    inner join ops.bot_sender_interactions as pairs using (sender_id)
"""  # noqa: S608 - a constant of this module
_WEEK: Final = pd.Timedelta(days=7)
_WORTH_SHARING: Final = 2_000  # keys; fewer are answered sooner than a second session has begun
_WORTH_A_TABLE: Final = 300  # keys; fewer are part of the query: one round trip instead of three


class PairHistory:
    """The pair table as it is now, with the contacts that are planned and still to be made (`bots.history.History`).

    ``planned``: ``sender_id``, ``bot_id`` int64; ``target_time`` datetime64[us, UTC]; ``is_first`` bool, whether it is
    a first mail. ``hour`` (UTC): contacts of the seven days before it count as ``sent_7d``. ``sessions``, and the plans
    of what they read, are the history's own until their transactions end.
    """

    def __init__(self, sessions: Sessions, hour: datetime, planned: pd.DataFrame) -> None:
        self._sessions = sessions
        self._since = hour - _WEEK
        keys = pair_keys(planned["sender_id"].to_numpy(), planned["bot_id"].to_numpy())
        target = planned["target_time"].dt.tz_localize(None).to_numpy()
        counted = planned["is_first"].to_numpy() & (planned["target_time"] > self._since).to_numpy()
        self._planned, place = np.unique(keys, return_inverse=True)
        self._planned_at = np.full(len(self._planned), np.datetime64(0, "us"))
        np.maximum.at(self._planned_at, place.reshape(-1), target)
        self._planned_7d = np.bincount(place.reshape(-1)[counted], minlength=len(self._planned))
        sessions.each(_prepare)

    def of_pairs(self, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        """Return ``last_contact`` (null: they never met) and ``sent_7d`` of each pair, in the order asked.

        Cost: one probe of the primary key per pair, cheapest in its order.
        """
        places = np.arange(len(sender_ids), dtype=np.int32)
        met = self._ask(_OF_PAIRS, place=places, sender_id=sender_ids, bot_id=bot_ids)
        last_contact = np.full(len(sender_ids), np.datetime64("NaT"), dtype="datetime64[us]")
        sent_7d = np.zeros(len(sender_ids), dtype=np.int64)
        last_contact[met["place"]] = met["last_contact"].dt.tz_localize(None)
        sent_7d[met["place"]] = met["sent_7d"]
        answer = pd.DataFrame({"last_contact": pd.DatetimeIndex(last_contact, tz="UTC"), "sent_7d": sent_7d})
        return self._with_planned(answer, sender_ids, bot_ids)

    def some_of(self, sender_ids: Integers, from_bot_ids: Integers, counts: Integers) -> pd.DataFrame:
        """Return up to so many partners per sender in the order of bot_id, from ``from_bot_ids`` on and around once.

        Columns: ``sender_id``, ``bot_id``, in any order of rows. Partners with whom contact is only planned are not
        among them. Cost: one or two ranges of the primary key per sender.
        """
        counts = counts.astype(np.int32)
        return self._ask(_SOME_OF, sender_id=sender_ids, bot_id=from_bot_ids, partners=counts)

    def of_senders(self, sender_ids: Integers) -> pd.DataFrame:
        """Return all partners of the senders: ``sender_id``, ``bot_id``, ``last_contact``, ``sent_7d``.

        Cost: all their rows.
        """
        found = self._ask(_OF_SENDERS, sender_id=sender_ids)
        return self._with_planned(found, found["sender_id"].to_numpy(), found["bot_id"].to_numpy())

    def _ask(self, query: str, **keys: npt.NDArray[Any]) -> pd.DataFrame:
        frame = pd.DataFrame(keys, copy=False)
        parts = len(self._sessions) if len(frame) >= _WORTH_SHARING else 1
        bounds = np.linspace(0, len(frame), parts + 1).astype(int).tolist()
        answers = self._sessions.map(
            partial(self._answer, query), [frame[first:end] for first, end in pairwise(bounds)]
        )
        return answers[0] if parts == 1 else pd.concat(answers, ignore_index=True)

    def _answer(self, query: str, connection: Connection, keys: pd.DataFrame) -> pd.DataFrame:
        if len(keys) < _WORTH_A_TABLE:
            lists = {str(name): keys[name].tolist() for name in keys}
            arrays = ", ".join(f"%({name})s::bigint[]" for name in lists)
            given = _GIVEN.format(arrays=arrays, columns=", ".join(lists))
            return read_numbers(connection, given + query, since=self._since, **lists)
        connection.execute(_FORGET)
        copy_numbers(connection, "asked", keys)
        return read_numbers(connection, query, since=self._since)

    def _with_planned(self, answer: pd.DataFrame, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        if not len(self._planned):
            return answer
        at, is_planned = find(self._planned, pair_keys(sender_ids, bot_ids))
        known = answer["last_contact"].dt.tz_localize(None).to_numpy()
        later = np.where(is_planned, np.fmax(known, self._planned_at[at]), known)
        answer["last_contact"] = pd.DatetimeIndex(later, tz="UTC")
        answer["sent_7d"] += np.where(is_planned, self._planned_7d[at], 0)
        return answer


class Recorder:
    """A history that keeps what it answers: with these ``answers`` a plan can be computed again."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.answers: list[pd.DataFrame] = []

    def of_pairs(self, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        """Ask, and keep the answer."""
        return self._keep(self._history.of_pairs(sender_ids, bot_ids))

    def some_of(self, sender_ids: Integers, from_bot_ids: Integers, counts: Integers) -> pd.DataFrame:
        """Ask, and keep the answer."""
        return self._keep(self._history.some_of(sender_ids, from_bot_ids, counts))

    def of_senders(self, sender_ids: Integers) -> pd.DataFrame:
        """Ask, and keep the answer."""
        return self._keep(self._history.of_senders(sender_ids))

    def _keep(self, answer: pd.DataFrame) -> pd.DataFrame:
        self.answers.append(answer)
        return answer


class Replay:
    """A history that gives recorded answers, in the order in which they were given."""

    def __init__(self, answers: Iterable[pd.DataFrame]) -> None:
        self._answers = iter(answers)

    def of_pairs(self, sender_ids: Integers, bot_ids: Integers) -> pd.DataFrame:
        """Answer as then."""
        return next(self._answers)

    def some_of(self, sender_ids: Integers, from_bot_ids: Integers, counts: Integers) -> pd.DataFrame:
        """Answer as then."""
        return next(self._answers)

    def of_senders(self, sender_ids: Integers) -> pd.DataFrame:
        """Answer as then."""
        return next(self._answers)


def _prepare(connection: Connection) -> None:
    connection.execute(_ASKED)
    connection.execute(_PROBE)
