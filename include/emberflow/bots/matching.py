"""The slots of a plan and the seats of bots, as far as they are matched: the state that a selection changes.

Slots and bots are places in arrays, in the order of their ids. What one step gives away is gone for the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.bot_schedule import BotSchedule, unix_seconds_of
from emberflow.bots.eligibility import GROUPS
from emberflow.bots.evidence import NullTrace
from emberflow.bots.history import History
from emberflow.bots.ordering import Floats, Integers, Mask, any_of, by_group, order_of_whole, pair_keys, rank_within
from emberflow.bots.policy import SelectionPolicy
from emberflow.bots.rotation import WEIGHT_TERMS
from emberflow.bots.seat_order import SeatOrder
from emberflow.bots.tiers import Contacts, virgin_share
from emberflow.clock import require_utc
from emberflow.domain.tiers import TIERS
from emberflow.randomness import state, uniforms

LONGEST_IDLE_DAYS: Final = 1000  # who never sent has waited longest

_GOLDEN = 0.618_033_988_749_895  # the multiples of it modulo 1 spread as evenly as any (three-distance theorem)
_PLASTIC = 0.569_840_290_998_053  # from day to day, so that days fill each other's gaps (Roberts' R2 sequence, 2018)
_PAIRS_AT_ONCE = 2_000_000


class Matching:
    """Which slot has which bot (``bot``, -1: none yet), when (``time``) and of which tier; and what is left.

    Of slots: ``senders``, ``ordinals``, ``row`` (their sender's number), ``order`` (in which they are served),
    ``asks_virgin``, ``asked`` (the cell). Of bots: ``bots`` (their ids), ``seats`` that are free, ``cell``,
    ``weights``. Of senders: ``first``, their first slot. Of cells: ``codes``, ``share``. ``may_move`` says whether a
    slot is moved to a time at which its bot is free. ``trace`` writes down why a slot has its bot.
    """

    def __init__(
        self,
        demand: pd.DataFrame,
        bots: pd.DataFrame,
        history: History,
        policy: SelectionPolicy,
        *,
        seed: int,
        hour: datetime,
        shares: Mapping[int, float] | None,
        appointments: pd.DataFrame | None,
    ) -> None:
        self.history, self.policy, self._seed, self._hour = history, policy, seed, hour
        demand = demand.sort_values(["sender_id", "ordinal"], ignore_index=True)
        bots = bots.sort_values("bot_id", ignore_index=True)
        self.senders: Integers = demand["sender_id"].to_numpy(dtype=np.int64)
        self.ordinals: Integers = demand["ordinal"].to_numpy(dtype=np.int64)
        self.bots: Integers = bots["bot_id"].to_numpy(dtype=np.int64)
        self._place = pd.Index(self.bots)
        self.seats: Integers = bots["seats"].to_numpy(dtype=np.int64).copy()
        self._at_first = self.seats.copy()
        self._terms = {term: bots[term].to_numpy(dtype=np.float64) for term in WEIGHT_TERMS}
        self.weights: Floats = np.prod(list(self._terms.values()), axis=0)
        self._own = [demand[group].to_numpy(dtype=np.int64) for group in GROUPS]
        self._theirs = [bots[group].to_numpy(dtype=np.int64) for group in GROUPS]

        names = (self.senders, self.ordinals)
        lot = uniforms(self.stream("serve_order"), *names)
        self._earliest, self._latest, self.time = (
            unix_seconds_of(demand[name]) for name in ("earliest", "latest", "target_time")
        )
        self.first: Integers = np.unique(self.senders, return_index=True)[1]
        self._slots_of_sender: Integers = np.diff(np.append(self.first, len(self.senders)))
        self.row: Integers = np.repeat(np.arange(len(self.first)), self._slots_of_sender)
        idle_days = demand["idle_days"].to_numpy(dtype=np.int64).clip(0, LONGEST_IDLE_DAYS)
        turn = demand["nth"].to_numpy(dtype=np.int64) * (LONGEST_IDLE_DAYS + 1) + LONGEST_IDLE_DAYS - idle_days
        self.order: Integers = by_group(turn, lot)
        self.asks_virgin: Mask = uniforms(self.stream("ask_tier"), *names) < virgin_share(
            policy, demand["ramp_day"]
        ).to_numpy(dtype=np.float64)
        self.cell = self._cells_of(bots)
        self.asked = self._ask_cells(demand, shares)

        self.seat_order = SeatOrder(self.bots, self.seats, self.weights, self.stream("deck"))
        self.bot: Integers = np.full(len(demand), -1, dtype=np.int64)
        self.tier: npt.NDArray[np.int8] = np.full(len(demand), -1, dtype=np.int8)
        self.trace = NullTrace()

        self.may_move = True
        self._move_draw = uniforms(self.stream("move"), *names)
        self.schedule = self._schedule_of(bots)
        if appointments is not None:
            place = self._place.get_indexer(pd.Index(appointments["bot_id"].to_numpy(dtype=np.int64)))
            known = np.flatnonzero(place >= 0)
            self.schedule.add(place[known], unix_seconds_of(appointments["target_time"])[known])
        # Seats without time are gone.
        self.seats = np.minimum(self.seats, self.schedule.headroom(np.arange(len(self.seats))))

    def _schedule_of(self, bots: pd.DataFrame) -> BotSchedule:
        """Return when bots are free, before any mail is entered.

        A mail at an hour's end takes the start of the next one from its bot, and the next plan cannot take the end of
        this one. So each bot's own hour ends earlier by a drawn part of its pause: else busy bots crowd at the end.
        """
        first, until, pause_s = (bots[name].to_numpy(dtype=np.int64) for name in ("free_from", "free_until", "pause_s"))
        ends_with_plan = until == until.max(initial=0)
        longest_s = np.minimum(pause_s // 4, np.maximum(until - first, 0) // 16)
        sooner_s = longest_s * uniforms(state(self._seed, "own_hour"), self.bots)
        return BotSchedule(first, until - np.where(ends_with_plan, sooner_s, 0).astype(np.int64), pause_s)

    def used_tier(self, slot: int) -> str:
        """Return the tier that a filled slot's bot is of."""
        return TIERS[self.tier[slot]]

    # Slots and seats.

    def open(self, slots: Integers) -> Integers:
        """Return those of ``slots`` that have no bot yet."""
        return slots[self.bot[slots] < 0]

    def take(self, slots: Integers, bots: Integers, tier: str) -> Mask:
        """Give slots the bots beside them while these have seats and time, the earlier slot first.

        Returns which of the offers are settled: taken, or impossible for good because the bot is not free then.
        """
        is_settled = np.zeros(len(slots), dtype=np.bool_)
        waiting = np.flatnonzero(self.seats[bots] > 0)
        while len(waiting):
            times = self.fit(slots[waiting], bots[waiting])
            is_settled[waiting[times < 0]] = True
            waiting, times = waiting[times >= 0], times[times >= 0]
            by_bot = order_of_whole(bots[waiting])
            rank = np.empty(len(waiting), dtype=np.int64)
            rank[by_bot] = rank_within(bots[waiting[by_bot]])
            # Those of one bot change each other's times, unless it needs no pause.
            at_once = np.where(self.schedule.needs_pause(bots[waiting]), 1, self.seats[bots[waiting]])
            now = np.flatnonzero(rank < at_once)
            taken = waiting[now]
            is_settled[taken] = True
            self.book(slots[taken], bots[taken], times[now], tier)
            waiting = np.delete(waiting, now)
            waiting = waiting[self.seats[bots[waiting]] > 0]
        return is_settled

    def book(self, slots: Integers, bots: Integers, times: Integers, tier: str | npt.NDArray[np.int8]) -> None:
        """Enter that slots have the bots beside them at ``times``, of which each bot has a seat."""
        self.bot[slots], self.time[slots] = bots, times
        self.tier[slots] = TIERS.index(tier) if isinstance(tier, str) else tier
        self.seats -= np.bincount(bots, minlength=len(self.seats))
        self.schedule.add(bots, times)
        booked = np.unique(bots)
        self.seats[booked] = np.minimum(self.seats[booked], self.schedule.headroom(booked))

    def fit(self, slots: Integers, bots: Integers) -> Integers:
        """Return when each slot can reach the bot beside it, -1 for never: at its own time, else moved, if it may."""
        if not self.may_move:
            return np.where(self.schedule.is_free(bots, self.time[slots]), self.time[slots], -1)
        return self.schedule.fit(
            bots, self.time[slots], self._earliest[slots], self._latest[slots], self._move_draw[slots]
        )

    # Rules and history.

    def allowed(self, slots: Integers, bots: Integers) -> Mask:
        """Return which pairs share nothing and do not meet in this plan yet."""
        return ~any_of(self.forbidden(slots, bots))

    def forbidden(self, slots: Integers, bots: Integers) -> dict[str, Mask]:
        """Return which pairs are not allowed, by reason."""
        shared = {
            f"own_{group}": (own[slots] == theirs[bots]) & (own[slots] != -1)
            for group, own, theirs in zip(GROUPS, self._own, self._theirs, strict=True)
        }
        return shared | {"met_in_this_plan": self.has_met(slots, bots)}

    def has_met(self, slots: Integers, bots: Integers) -> Mask:
        """Return whether any slot of the same sender has the bot: a look at each of them, mostly two or three."""
        has_met = np.zeros(len(slots), dtype=np.bool_)
        row = self.row[slots]
        at, left = self.first[row], self._slots_of_sender[row]
        places = np.arange(len(slots))
        while len(places):
            has_met[places] |= self.bot[at] == bots[places]
            more = left > 1
            places, at, left = places[more], at[more] + 1, left[more] - 1
        return has_met

    def contacts_of(self, slots: Integers, bots: Integers) -> Contacts:
        """Ask about pairs in the order of their ids, and return the answers in the order given."""
        order = np.argsort(pair_keys(self.senders[slots], bots))
        contacts = Contacts.unknown(len(order))
        contacts.put(order, self.contacts_in(self.history.of_pairs(self.senders[slots[order]], self.bots[bots[order]])))
        return contacts

    def contacts_in(self, answer: pd.DataFrame) -> Contacts:
        """Return what the history answered, by age."""
        last_contact = answer["last_contact"].to_numpy(dtype="datetime64[us]")
        now = np.datetime64(require_utc(self._hour).replace(tzinfo=None), "us")
        return Contacts(np.asarray(now - last_contact), answer["sent_7d"].to_numpy(dtype=np.int64))

    def places_of(self, pairs: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
        """Return the first slot and the bot of each pair, and which pairs these are: those whose bot takes part."""
        bots = self._place.get_indexer(pd.Index(pairs["bot_id"].to_numpy(dtype=np.int64)))
        takes_part = np.flatnonzero(bots >= 0)
        slots = np.searchsorted(self.senders, pairs["sender_id"].to_numpy(dtype=np.int64)[takes_part])
        return slots, bots[takes_part], takes_part

    def every_pair(self, slots: Integers) -> Iterator[tuple[Integers, Integers, Integers]]:
        """Yield every allowed pair of ``slots``' senders with bots that have a seat, some senders at a time.

        Of each pair the sender's first slot and the bot, and of each portion all its slots.
        """
        senders, first = np.unique(self.senders[slots], return_index=True)
        start = 0
        while start < len(senders) and self.seats.any():
            bots = np.flatnonzero(self.seats)
            part = slice(start, start + max(_PAIRS_AT_ONCE // len(bots), 1))
            start = part.stop
            slot_of, bot_of = np.repeat(slots[first[part]], len(bots)), np.tile(bots, len(first[part]))
            allowed = self.allowed(slot_of, bot_of)
            self.trace.note_offers(slot_of, bot_of)
            yield slot_of[allowed], bot_of[allowed], slots[np.isin(self.senders[slots], senders[part])]

    def group_of(self, row: Integers, cell: Integers, *, elsewhere: bool) -> Integers:
        """Return the groups that are ranked apart: senders where any cell will do, else senders by cell."""
        return row if elsewhere else row * len(self.codes) + cell

    # Weights and draws.

    def terms_of(self, bots: Integers) -> dict[str, Floats]:
        """Return the terms of the bots' weights."""
        return {term: values[bots] for term, values in self._terms.items()}

    def headroom(self, bots: Integers) -> Floats:
        """Return which part of the seats of each bot is still free."""
        return np.asarray(self.seats[bots] / self._at_first[bots])

    def draws(self, slots: Integers, bots: Integers) -> Floats:
        """Return the draw of each slot's sender and a bot."""
        return uniforms(self.stream("pair"), self.senders[slots], self.bots[bots])

    def stream(self, purpose: str, *more: int) -> np.uint64:
        """Return the start of the draws of one purpose, whose name decides them: it stays, whatever code is called."""
        return state(self._seed, purpose, self._hour, *more)

    def _cells_of(self, bots: pd.DataFrame) -> Integers:
        self.codes, places = np.unique(bots["cell"].to_numpy(dtype=np.int64), return_inverse=True)
        return places.reshape(-1)

    def _ask_cells(self, demand: pd.DataFrame, shares: Mapping[int, float] | None) -> Integers:
        if not len(self.codes):
            self.share: Floats = np.empty(0)
            return np.zeros(len(demand), dtype=np.int64)
        free = np.bincount(self.cell, weights=self.seats, minlength=len(self.codes))
        asked = np.array([shares.get(int(code), 0.0) for code in self.codes]) if shares else free.astype(np.float64)
        wanted = asked if asked.any() else np.ones(len(self.codes))
        bounds = np.cumsum(wanted) / wanted.sum()
        self.share = wanted / wanted.sum()
        offset = uniforms(state(self._seed, "ask_cell"), self.senders)
        day = require_utc(self._hour).date().toordinal()
        position = (offset + day * _PLASTIC + demand["nth"].to_numpy(dtype=np.int64) * _GOLDEN) % 1.0
        return np.minimum(np.searchsorted(bounds, position, side="right"), len(bounds) - 1)
