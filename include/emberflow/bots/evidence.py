"""Evidence: why one slot of a plan has its bot (Q-F2), written down while bots are chosen.

A trace follows one slot through the steps of a selection. It changes nothing, so a plan is the same with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emberflow.bots.ordering import Floats, Integers, Mask, Ranked, order_of
from emberflow.bots.seat_order import SeatOrder
from emberflow.domain.tiers import PROBABILISTIC, VIRGIN

if TYPE_CHECKING:
    from emberflow.bots.matching import Matching


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


class NullTrace:
    """What a selection reports at each step; this one follows no slot. Slots and bots are places in a ``Matching``."""

    evidence: Evidence | None = None

    def note_offers(self, slots: Integers, bots: Integers) -> None:
        """Pairs were offered; some may not meet."""

    def note_refusals(self, slots: Integers, bots: Integers, refused: Mapping[str, Mask]) -> None:
        """Pairs were refused by reasons; each bot of the slot's sender counts once, under its first reason."""

    def note_seats(self, slots: Integers, at: Integers, free: Integers, order: SeatOrder) -> None:
        """Each slot was offered the seat ``at``; of those ``free``, the next ones are those that it might have had."""

    def note_candidates(
        self, row: Integers, bots: Integers, draw: Floats, key: Floats, terms: Mapping[str, Floats]
    ) -> None:
        """Senders (``row``) were offered bots by their keys: the slot took one, others of its sender came next."""

    def note_next_partners(self, tier: str, ranked: Ranked, groups: Integers) -> None:
        """Partners of its sender were not looked up any more, because a better one took the slot."""

    def note_moves(self, paths: pd.DataFrame) -> None:
        """Slots moved (``mover``) to another bot, or took (``slot``) the one that was left; nobody else was ranked."""


class Trace(NullTrace):
    """Follows one slot: ``evidence`` is what was found."""

    evidence: Evidence

    def __init__(self, matching: Matching, sender_id: int, ordinal: int, runners_up: int) -> None:
        is_slot = (matching.senders == sender_id) & (matching.ordinals == ordinal)
        self._matching, self._runners_up = matching, runners_up
        self._slot = int(np.flatnonzero(is_slot)[0])
        asked_cell = int(matching.codes[matching.asked[self._slot]]) if len(matching.codes) else -1
        self.evidence = Evidence(VIRGIN if matching.asks_virgin[self._slot] else PROBABILISTIC, asked_cell)
        self._refused: dict[int, str] = {}

    def note_offers(self, slots: Integers, bots: Integers) -> None:
        self.note_refusals(slots, bots, self._matching.forbidden(slots, bots))

    def note_refusals(self, slots: Integers, bots: Integers, refused: Mapping[str, Mask]) -> None:
        if self.evidence.bot_id is not None:
            return
        own = self._matching.row[slots] == self._matching.row[self._slot]
        for reason, applies in refused.items():
            for bot in np.unique(bots[own & applies]).tolist():
                self._refused.setdefault(bot, reason)
        self.evidence.rejected = dict(Counter(self._refused.values()))

    def note_seats(self, slots: Integers, at: Integers, free: Integers, order: SeatOrder) -> None:
        mine = at[slots == self._slot]
        if not self._is_settled_by(mine):
            return
        bot, weight, key = order.bots[mine], float(order.weights[mine[0]]), float(order.keys[mine[0]])
        terms = self._terms_of(bot)
        self._took(terms | {"turn": weight / math.prod(terms.values())}, math.exp(-key * weight))
        later = np.setdiff1d(free[free > mine[0]], at)
        later = later[self._matching.allowed(np.full(len(later), self._slot), order.bots[later])]
        later = later[np.sort(np.unique(order.bots[later], return_index=True)[1])]
        self._came_next(order.bots[later], order.weights[later], order.keys[later])

    def note_candidates(
        self, row: Integers, bots: Integers, draw: Floats, key: Floats, terms: Mapping[str, Floats]
    ) -> None:
        own = np.flatnonzero(row == self._matching.row[self._slot])
        own = own[order_of(key[own])]
        mine = own[bots[own] == self._matching.bot[self._slot]]
        if not self._is_settled_by(mine):
            return
        self._took({name: float(values[mine[0]]) for name, values in terms.items()}, float(draw[mine[0]]))
        others = own[~np.isin(bots[own], self._met())]
        self._came_next(bots[others], -np.log(draw[others]) / key[others], key[others])

    def note_next_partners(self, tier: str, ranked: Ranked, groups: Integers) -> None:
        if self.evidence.tier != tier:
            return
        rest = ranked.rest(int(groups[self._slot]))
        rest = rest[self._matching.seats[ranked.bots[rest]] > 0]
        bots, keys = ranked.bots[rest], ranked.keys[rest]
        named = [other["bot_id"] for other in self.evidence.runners_up]
        is_rival = ~np.isin(bots, self._met()) & ~np.isin(self._matching.bots[bots], named)
        bots, keys = bots[is_rival], keys[is_rival]
        draws = self._matching.draws(np.full(len(bots), self._slot), bots)
        self._came_next(bots, -np.log(draws) / keys, keys)
        self.evidence.runners_up.sort(key=lambda other: float(other["key"]))

    def note_moves(self, paths: pd.DataFrame) -> None:
        if self._slot in paths[["slot", "mover"]].to_numpy():
            at = np.array([self._slot])
            bot = self._matching.bot[at]
            self._took(self._terms_of(bot), float(self._matching.draws(at, bot)[0]))
            self.evidence.runners_up.clear()

    def _is_settled_by(self, offers: Integers) -> bool:
        """Return whether one of the offers to the slot, which had no bot, has given it one."""
        return self.evidence.bot_id is None and len(offers) > 0 and bool(self._matching.bot[self._slot] >= 0)

    def _met(self) -> Integers:
        is_own = self._matching.row == self._matching.row[self._slot]
        return self._matching.bot[np.flatnonzero(is_own)]

    def _terms_of(self, bot: Integers) -> dict[str, float]:
        return {name: float(values[0]) for name, values in self._matching.terms_of(bot).items()}

    def _took(self, terms: dict[str, float], draw: float) -> None:
        evidence = self.evidence
        evidence.tier = self._matching.used_tier(self._slot)
        evidence.bot_id = int(self._matching.bots[self._matching.bot[self._slot]])
        evidence.terms, evidence.draw = terms, draw
        evidence.weight = math.prod(terms.values())
        evidence.key = -math.log(draw) / evidence.weight

    def _came_next(self, bots: Integers, weights: Floats, keys: Floats) -> None:
        """Name them, best first, as many as are shown."""
        ranked = zip(self._matching.bots[bots].tolist(), weights.tolist(), keys.tolist(), strict=True)
        for bot, weight, key in islice(ranked, self._runners_up - len(self.evidence.runners_up)):
            draw = math.exp(-key * weight)
            self.evidence.runners_up.append({"bot_id": bot, "draw": draw, "weight": weight, "key": key})
