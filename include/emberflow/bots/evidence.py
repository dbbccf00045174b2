"""Evidence: why one slot of a plan has its bot (Q-F2), written down while bots are chosen.

A witness is told what happens at the table and looks around there. It changes nothing, so a plan is the same with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pandas as pd

from emberflow.bots.ordering import Floats, Integers, Mask, order_of
from emberflow.bots.seat_order import SeatOrder


@dataclass
class Evidence:
    """Why one slot has its bot: what it asked, what was rejected, and who would have been next.

    ``weight`` is the product of ``terms``, ``key`` is -ln(``draw``) / ``weight``; all None when unfilled. ``rejected``
    counts the bots that its sender was offered until then, by the rule that refused them: ``own_domain``,
    ``own_owner``, ``own_ip_group``, ``met_in_this_plan``, ``met_before`` (offered as virgin), ``no_seat``,
    ``same_day``, ``weekly_maximum``, ``cooldown``. ``runners_up`` have bot_id, draw, weight and key. In the virgin tier
    they are the next seats of the order, among partners also those that would have been looked up next: nobody
    asked their history.
    """

    asked_tier: str
    asked_cell: int
    tier: str | None = None
    bot_id: int | None = None
    draw: float | None = None
    weight: float | None = None
    key: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    runners_up: list[dict[str, Any]] = field(default_factory=list)


class Table(Protocol):
    """What a witness sees: ``row`` (its sender) and ``bot`` (-1: open) of each slot, ``bots``, the ids of the bots.

    Slots and bots are places in these arrays.
    """

    row: Integers
    bot: Integers
    bots: Integers

    def used_tier(self, slot: int) -> str:
        """Return the tier that a filled slot's bot is of."""

    def allowed(self, slots: Integers, bots: Integers) -> Mask:
        """Return which pairs may meet, as far as senders and bots are concerned."""

    def forbidden(self, slots: Integers, bots: Integers) -> Mapping[str, Mask]:
        """Return which pairs may not, by reason."""

    def terms_of(self, bots: Integers) -> Mapping[str, Floats]:
        """Return the terms of the bots' weights."""

    def draws(self, slots: Integers, bots: Integers) -> Floats:
        """Return the draws of pairs."""


class Witness:
    """Follows one slot: ``evidence`` is what it has seen."""

    def __init__(self, table: Table, slot: int, evidence: Evidence, runners_up: int) -> None:
        self.slot, self.evidence = slot, evidence
        self._table, self._runners_up = table, runners_up
        self._refused: dict[int, str] = {}

    def saw_pairs(self, slots: Integers, bots: Integers) -> None:
        """Pairs were offered; some may not meet."""
        self.saw_refused(slots, bots, self._table.forbidden(slots, bots))

    def saw_refused(self, slots: Integers, bots: Integers, refused: Mapping[str, Mask]) -> None:
        """Pairs were refused by reasons; each bot of the slot's sender counts once, under its first reason."""
        if self.evidence.bot_id is not None:
            return
        own = self._table.row[slots] == self._table.row[self.slot]
        for reason, applies in refused.items():
            for bot in np.unique(bots[own & applies]).tolist():
                self._refused.setdefault(bot, reason)
        self.evidence.rejected = dict(Counter(self._refused.values()))

    def saw_seats(self, slots: Integers, at: Integers, free: Integers, order: SeatOrder) -> None:
        """Each slot was offered the seat ``at``; of those ``free``, the next ones are those that it might have had."""
        mine = at[slots == self.slot]
        if not self._is_settled_by(mine):
            return
        bot, weight, key = order.bots[mine], float(order.weights[mine[0]]), float(order.keys[mine[0]])
        terms = self._terms_of(bot)
        self._took(terms | {"turn": weight / math.prod(terms.values())}, math.exp(-key * weight))
        later = np.setdiff1d(free[free > mine[0]], at)
        later = later[self._table.allowed(np.full(len(later), self.slot), order.bots[later])]
        later = later[np.sort(np.unique(order.bots[later], return_index=True)[1])]
        self._came_next(order.bots[later], order.weights[later], order.keys[later])

    def saw_candidates(
        self, row: Integers, bots: Integers, draw: Floats, key: Floats, terms: Mapping[str, Floats]
    ) -> None:
        """Senders (``row``) were offered bots by their keys: the slot took one, others of its sender came next."""
        own = np.flatnonzero(row == self._table.row[self.slot])
        own = own[order_of(key[own])]
        mine = own[bots[own] == self._table.bot[self.slot]]
        if not self._is_settled_by(mine):
            return
        self._took({name: float(values[mine[0]]) for name, values in terms.items()}, float(draw[mine[0]]))
        others = own[~np.isin(bots[own], self._met())]
        self._came_next(bots[others], -np.log(draw[others]) / key[others], key[others])

    def saw_next_partners(self, tier: str, bots: Integers, keys: Floats) -> None:
        """Partners of its sender were not looked up any more, because a better one took the slot."""
        if self.evidence.tier != tier:
            return
        named = [other["bot_id"] for other in self.evidence.runners_up]
        is_rival = ~np.isin(bots, self._met()) & ~np.isin(self._table.bots[bots], named)
        bots, keys = bots[is_rival], keys[is_rival]
        draws = self._table.draws(np.full(len(bots), self.slot), bots)
        self._came_next(bots, -np.log(draws) / keys, keys)
        self.evidence.runners_up.sort(key=lambda other: float(other["key"]))

    def saw_moves(self, ways: pd.DataFrame) -> None:
        """Slots moved (``mover``) to another bot, or took (``slot``) the one that was left; nobody else was ranked."""
        if self.slot in ways[["slot", "mover"]].to_numpy():
            at = np.array([self.slot])
            bot = self._table.bot[at]
            self._took(self._terms_of(bot), float(self._table.draws(at, bot)[0]))
            self.evidence.runners_up.clear()

    def _is_settled_by(self, offers: Integers) -> bool:
        """Return whether one of the offers to the slot, which had no bot, has given it one."""
        return self.evidence.bot_id is None and len(offers) > 0 and bool(self._table.bot[self.slot] >= 0)

    def _met(self) -> Integers:
        is_own = self._table.row == self._table.row[self.slot]
        return self._table.bot[np.flatnonzero(is_own)]

    def _terms_of(self, bot: Integers) -> dict[str, float]:
        return {name: float(values[0]) for name, values in self._table.terms_of(bot).items()}

    def _took(self, terms: dict[str, float], draw: float) -> None:
        evidence = self.evidence
        evidence.tier = self._table.used_tier(self.slot)
        evidence.bot_id = int(self._table.bots[self._table.bot[self.slot]])
        evidence.terms, evidence.draw = terms, draw
        evidence.weight = math.prod(terms.values())
        evidence.key = -math.log(draw) / evidence.weight

    def _came_next(self, bots: Integers, weights: Floats, keys: Floats) -> None:
        """Name them, best first, as far as there is room."""
        ranked = zip(self._table.bots[bots].tolist(), weights.tolist(), keys.tolist(), strict=True)
        for bot, weight, key in islice(ranked, self._runners_up - len(self.evidence.runners_up)):
            draw = math.exp(-key * weight)
            self.evidence.runners_up.append({"bot_id": bot, "draw": draw, "weight": weight, "key": key})
