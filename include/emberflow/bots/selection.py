"""Selection: which bot receives each slot of the hour (Q-B7), with the evidence for every choice (Q-F2).

The candidates of a slot fall into three tiers by the history of the pair:

``virgin``          this sender and this bot never had contact;
``probabilistic``   they had, and the pair's cooldown is over;
``active``          they had within the cooldown: the last resort, only when nobody else is left (B-F3).

A seeded draw lets the slot ask ``virgin`` or ``probabilistic`` first. A tier without a free candidate falls through to
the other one and then to ``active``; the tier asked and the tier used are both recorded. Each slot also asks for a cell
(a provider, or one of its greater domains: `bots.mix`), by a sequence that keeps a sender's partners close to the
cells' shares (B-F4). A slot that asks for a partner, and finds none in its cell, takes a virgin bot there before a
partner elsewhere: else the partners that a sender happens to have would decide its mix.

**Virgin** bots are assigned in rounds. Every free seat has its place in a weighted random order (`bots.seat_order`).
Each slot is offered the next seat of its cell; only the offered pairs are looked up; a seat that a rule rejects is
offered again. When a round hardly fills anything any more, the rest is solved exactly: all seats that are left for all
slots that are open.

**Probabilistic** and **active** bots are partners of the sender. A few are listed from a random place on and ranked by
exponential keys; the best are looked up and proposed. All partners only for senders for whom those did not do.

Each slot has a time, and a piece of time around it within which it may be moved (`senders.pacing.pace`). A bot gets a
mail only while it is free: awake, and as long as its pause lasts away from every other mail that it is to get. Where it
is not free at a slot's own time, the slot moves to a drawn moment at which it is (`bots.diary`).

Slots are served by how many mails their senders have had today: everybody's first, then everybody's second. Among
equals, who has been without mail for more days comes first, then a seeded order decides. So scarcity goes round. When
there are fewer seats than slots, those at the end wait until the others are served. Every draw is addressed by what it
is about, so that the order of rows never matters (Q-F1).

Cost: linear in slots and free seats; the pair table is asked about as many pairs as are offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from emberflow.bots.diary import Diary, unix_seconds_of
from emberflow.bots.eligibility import GROUPS
from emberflow.bots.evidence import Evidence, Witness
from emberflow.bots.history import History
from emberflow.bots.ordering import (
    Floats,
    Integers,
    Mask,
    Ranked,
    by_group,
    find,
    order_of,
    order_of_whole,
    pair_keys,
    rank_within,
)
from emberflow.bots.rotation import WEIGHT_TERMS
from emberflow.bots.seat_order import SeatOrder, assign
from emberflow.clock import require_utc
from emberflow.randomness import state, uniforms

TIERS: Final = ("virgin", "probabilistic", "active")
VIRGIN, PROBABILISTIC, ACTIVE = TIERS
SAME_DAY_H = 24
UNFILLED: Final = ("no_seat", "no_eligible_bot")
LONGEST_IDLE_DAYS: Final = 1000  # who never sent has waited longest

_GOLDEN = 0.618_033_988_749_895  # the multiples of it modulo 1 spread as evenly as any (three-distance theorem)
_PLASTIC = 0.569_840_290_998_053  # from day to day, so that days fill each other's gaps (Roberts' R2 sequence, 2018)
_ROUNDS = 8
_WORTH_A_ROUND = 0.3  # of the offers taken; below, the exact end is cheaper
_PAIRS_AT_ONCE = 2_000_000
_WINDOWS = 4
_SEATS_OF_WINDOW = 50
_PER_CELL = 2  # partners in the asked cell that a lookup should bring: 86 % bring one (Poisson)
_PROPOSALS = 4  # partners per slot whose history is asked, one after the other: few of them are in their cooldown
_PARTNERS = 16  # looked up per slot at most; a cell of less than a fifth cannot miss its share by ten points
_ROUNDS_FOR_ROOM = 50
_PAIRS_FOR_ROOM = 50_000  # looked up to see who could move
_FEW_BOTS = 200  # with a seat: asking about each is cheaper than reading all partners of a sender

Share = Annotated[float, Field(ge=0, le=1)]


class SelectionPolicy(BaseModel):
    """Exploration, pair limits, small pools, and how much evidence is shown.

    ``virgin_share_floor``, ``virgin_days``
        A sender explores new partners with the share ``max(floor, 1 - day / virgin_days)``: at first nearly
        always, from day 12 on one slot in five (our rule).
    ``pair_cooldown_h``, ``pair_weekly_maximum``
        72 h and 3 contacts in 7 days (B-F3), as in Warmbly's partner choice (internal/tasks/email_task.go).
        The cooldown yields when no other bot is left, the weekly maximum never does. Not more than 3, because the
        pair table remembers the last three mails.
    ``provider_shares``, ``domain_shares``
        Which share of a sender's partners is at which provider and at which domain of bots, by name (B-F4). What is not
        named shares the rest as its free seats do.
    ``minimum_bots``
        A sender that fewer bots may serve than this gets its quota times bots / minimum (B-F9): 8, the size at which
        a pair's cooldown of 72 h still leaves a few mails a day.
    ``runners_up``
        How many bots behind the chosen one an explanation names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    virgin_share_floor: float = Field(default=0.2, ge=0, le=1)
    virgin_days: int = Field(default=14, ge=1, le=365)
    pair_cooldown_h: int = Field(default=72, ge=SAME_DAY_H, le=24 * 90)
    pair_weekly_maximum: int = Field(default=3, ge=1, le=3)
    provider_shares: Mapping[str, Share] = Field(default_factory=dict)
    domain_shares: Mapping[str, Share] = Field(default_factory=dict)
    minimum_bots: int = Field(default=8, ge=1, le=1000)
    runners_up: int = Field(default=3, ge=0, le=20)

    @field_validator("provider_shares", "domain_shares")
    @classmethod
    def _shares_leave_nothing_negative(cls, shares: Mapping[str, float]) -> Mapping[str, float]:
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares.values()):g}; they are parts of 1")
        return shares


@dataclass(frozen=True)
class Selection:
    """The outcome of `select_bots`, by sender and ordinal.

    ``picks``: ``sender_id``, ``ordinal``, ``bot_id`` int64; ``asked_tier``, ``tier`` Categorical; ``target_time``
    datetime64[us, UTC].
    ``unfilled``: ``sender_id``, ``ordinal`` int64; ``asked_tier`` Categorical; ``reason`` Categorical: ``no_seat``
    (every seat was taken) or ``no_eligible_bot`` (seats were left, at bots that this sender may not meet now).
    ``evidence``: about the slot that was asked for as witness.
    """

    picks: pd.DataFrame
    unfilled: pd.DataFrame
    evidence: Evidence | None = None


def virgin_share(policy: SelectionPolicy, ramp_day: pd.Series[int]) -> pd.Series[float]:
    """Return the probability that a slot asks the virgin tier first, on ``ramp_day``'s index."""
    share = np.maximum(1 - ramp_day.to_numpy() / policy.virgin_days, policy.virgin_share_floor)
    return pd.Series(share, index=ramp_day.index, name="virgin_share")


def select_bots(
    demand: pd.DataFrame,
    bots: pd.DataFrame,
    history: History,
    policy: SelectionPolicy,
    *,
    seed: int,
    hour: datetime,
    shares: Mapping[int, float] | None = None,
    appointments: pd.DataFrame | None = None,
    pause_s: int = 0,
    witness: tuple[int, int] | None = None,
) -> Selection:
    """Choose a bot for every slot of ``demand``, as far as eligible bots with seats go.

    Columns in:
        ``demand``: ``sender_id``, ``ordinal`` int64, unique together; ``ramp_day`` int64; ``nth`` int64, how many
        warm-up mails of the day come before; ``idle_days`` int64, days without mail before today; ``domain``,
        ``owner``, ``ip_group`` int64, -1 for none; ``target_time``, ``earliest``, ``latest`` datetime64[us, UTC]
        (`senders.pacing.pace`).
        ``bots``: ``bot_id`` int64, unique; ``cell`` int64 (`bots.mix`); ``seats`` int64, shared by all senders;
        ``free_from``, ``free_until`` int64, seconds since the epoch (`bots.limits.available_seats`);
        ``capacity``, ``rest`` float, whose product is the weight (`bots.rotation`); ``domain``, ``owner``,
        ``ip_group`` likewise.
        ``appointments``: ``bot_id`` int64; ``target_time`` datetime64[us, UTC]: mail that bots are to get anyway.
    ``hour`` (UTC) names the draws, and ages of contacts are judged at it. ``shares`` are the cells' shares of a
    sender's partners; without them, those of the seats. ``pause_s`` is that of a bot between two mails.

    Guarantees: no bot gets more than its seats, a mail outside ``free_from`` to ``free_until``, or two mails less than
    ``pause_s`` apart; a sender meets a bot at most once in the plan, never within 24 h of
    their last contact, never beyond the weekly maximum, and never one of its own domain, owner or IP group; a slot that
    asked ``virgin`` and stays open or got another tier had no virgin bot with a free seat left, and one that stays open
    had no bot at all.

    Raises:
        ValueError: a bot's weight is not positive.
    """
    is_positive = (bots[list(WEIGHT_TERMS)] > 0).all(axis=1)
    if not is_positive.all():
        raise ValueError(f"bots need a positive weight: {bots.loc[~is_positive, 'bot_id'].tolist()}")
    table = _Table(demand, bots, history, policy, seed=seed, hour=hour, shares=shares, witness=witness)
    table.open_diary(bots, appointments, pause_s)
    served = table.order[: table.seats.sum()]
    for slots in (served, table.order[len(served) :]):
        table.serve(slots)
    table.make_room(table.order)
    return table.selection()


class _Contacts(NamedTuple):
    """How long ago the last contact of each pair was (null: they never met), and how often they met in seven days."""

    age: npt.NDArray[np.timedelta64]
    sent_7d: Integers

    @classmethod
    def unknown(cls, count: int) -> _Contacts:
        return cls(np.full(count, np.timedelta64("NaT", "us")), np.zeros(count, dtype=np.int64))

    def put(self, places: Integers, contacts: _Contacts) -> None:
        self.age[places], self.sent_7d[places] = contacts

    def of(self, places: Integers) -> _Contacts:
        return _Contacts(self.age[places], self.sent_7d[places])

    def exist(self) -> Mask:
        return np.asarray(~np.isnat(self.age))

    def forbid(self, policy: SelectionPolicy) -> dict[str, Mask]:
        """Return which pairs may not meet again yet, whatever else there is, by reason."""
        return {
            "same_day": self.age < np.timedelta64(SAME_DAY_H, "h"),
            "weekly_maximum": self.sent_7d >= policy.pair_weekly_maximum,
        }

    def are_cooling(self, policy: SelectionPolicy) -> Mask:
        """Return which pairs meet again only where nobody else is left."""
        return np.asarray(self.age < np.timedelta64(policy.pair_cooldown_h, "h"))


class _Keyed(NamedTuple):
    """Candidates: the row of their sender and their bot, and what ranks them."""

    row: Integers
    bots: Integers
    draw: Floats
    key: Floats
    terms: Mapping[str, Floats]


class _Table:
    """The slots and the seats while they are matched. Slots and bots are places in arrays, by the order of ids."""

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
        witness: tuple[int, int] | None,
    ) -> None:
        self._history, self._policy, self._seed, self._hour = history, policy, seed, hour
        demand = demand.sort_values(["sender_id", "ordinal"], ignore_index=True)
        bots = bots.sort_values("bot_id", ignore_index=True)
        self.senders: Integers = demand["sender_id"].to_numpy(dtype=np.int64)
        self.ordinals: Integers = demand["ordinal"].to_numpy(dtype=np.int64)
        self.bots: Integers = bots["bot_id"].to_numpy(dtype=np.int64)
        self._place = pd.Index(self.bots)
        self.seats: Integers = bots["seats"].to_numpy(dtype=np.int64).copy()
        self._at_first = self.seats.copy()
        self._terms = {term: bots[term].to_numpy(dtype=np.float64) for term in WEIGHT_TERMS}
        self._weights: Floats = np.prod(list(self._terms.values()), axis=0)
        self._own = [demand[group].to_numpy(dtype=np.int64) for group in GROUPS]
        self._theirs = [bots[group].to_numpy(dtype=np.int64) for group in GROUPS]

        names = (self.senders, self.ordinals)
        lot = uniforms(self._stream("serve_order"), *names)
        self._earliest, self._latest, self.time = (
            unix_seconds_of(demand[name]) for name in ("earliest", "latest", "target_time")
        )
        self._first: Integers = np.unique(self.senders, return_index=True)[1]
        self._slots_of_sender: Integers = np.diff(np.append(self._first, len(self.senders)))
        self.row: Integers = np.repeat(np.arange(len(self._first)), self._slots_of_sender)
        idle_days = demand["idle_days"].to_numpy(dtype=np.int64).clip(0, LONGEST_IDLE_DAYS)
        turn = demand["nth"].to_numpy(dtype=np.int64) * (LONGEST_IDLE_DAYS + 1) + LONGEST_IDLE_DAYS - idle_days
        self.order: Integers = by_group(turn, lot)
        self.asks_virgin: Mask = uniforms(self._stream("ask_tier"), *names) < virgin_share(
            policy, demand["ramp_day"]
        ).to_numpy(dtype=np.float64)
        self._cell = self._cells_of(bots)
        self._asked = self._ask_cells(demand, shares)

        self._seat_order = SeatOrder(self.bots, self.seats, self._weights, self._stream("deck"))
        self.bot: Integers = np.full(len(demand), -1, dtype=np.int64)
        self.tier: npt.NDArray[np.int8] = np.full(len(demand), -1, dtype=np.int8)
        self._witness: Witness | None = None
        if witness is not None:
            slot = int(np.flatnonzero((self.senders == witness[0]) & (self.ordinals == witness[1]))[0])
            cell = int(self._codes[self._asked[slot]]) if len(self._codes) else -1
            evidence = Evidence(VIRGIN if self.asks_virgin[slot] else PROBABILISTIC, cell)
            self._witness = Witness(self, slot, evidence, policy.runners_up)

    def open_diary(self, bots: pd.DataFrame, appointments: pd.DataFrame | None, pause_s: int) -> None:
        """Note when bots are free and what mail they get anyway; seats without time are gone.

        A mail at an hour's end takes the start of the next one from its bot, and the next plan cannot take the end of
        this one. So each bot's own hour ends earlier by a drawn part of its pause: else busy bots crowd at the end.
        """
        ordered = bots.sort_values("bot_id", ignore_index=True)
        first, until = (ordered[name].to_numpy(dtype=np.int64) for name in ("free_from", "free_until"))
        ends_with_plan = until == until.max(initial=0)
        longest_s = np.minimum(pause_s // 4, np.maximum(until - first, 0) // 16)
        sooner_s = longest_s * uniforms(state(self._seed, "own_hour"), self.bots)
        self._diary = Diary(first, until - np.where(ends_with_plan, sooner_s, 0).astype(np.int64), pause_s)
        self._may_move = True
        self._move_draw = uniforms(self._stream("move"), self.senders, self.ordinals)
        if appointments is not None:
            place = self._place.get_indexer(pd.Index(appointments["bot_id"].to_numpy(dtype=np.int64)))
            known = np.flatnonzero(place >= 0)
            self._diary.add(place[known], unix_seconds_of(appointments["target_time"])[known])
        self.seats = np.minimum(self.seats, self._diary.room(np.arange(len(self.seats))))

    def serve(self, slots: Integers) -> None:
        """Give each of ``slots`` a bot, in this order where two want the same."""
        asks_virgin = self.asks_virgin[slots]
        explorers, others = slots[asks_virgin], slots[~asks_virgin]
        self._offer_seats(explorers)
        self._propose(others, elsewhere=False)
        self._offer_seats(others, elsewhere=False)
        self._propose(others)
        self._propose(explorers)
        self._offer_seats(others)
        self._propose_exactly(slots)

    def selection(self) -> Selection:
        """Return what came of it."""
        filled, unfilled = np.flatnonzero(self.bot >= 0), np.flatnonzero(self.bot < 0)
        picks = self._rows(filled, bot_id=self.bots[self.bot[filled]])
        reason = np.full(len(unfilled), int(self.seats.any()), dtype=np.int8)
        times = pd.DatetimeIndex((self.time[filled] * 1_000_000).view("datetime64[us]"), tz="UTC")
        return Selection(
            picks.assign(tier=_named(self.tier[filled], TIERS), target_time=times),
            self._rows(unfilled).assign(reason=_named(reason, UNFILLED)),
            evidence=self._witness.evidence if self._witness is not None else None,
        )

    def _rows(self, slots: Integers, **more: Integers) -> pd.DataFrame:
        asked = np.where(self.asks_virgin[slots], TIERS.index(VIRGIN), TIERS.index(PROBABILISTIC))
        names = {"sender_id": self.senders[slots], "ordinal": self.ordinals[slots]}
        return pd.DataFrame({**names, **more, "asked_tier": _named(asked, TIERS)})

    def used_tier(self, slot: int) -> str:
        """Return the tier that a filled slot's bot is of."""
        return TIERS[self.tier[slot]]

    # Virgin bots.

    def _offer_seats(self, slots: Integers, *, elsewhere: bool = True) -> None:
        """Fill open ``slots`` with virgin bots until none of them has one left, or a few times, in their cell."""
        # At its own time first: moved slots would crowd where the bots of the hour before are free again.
        self._may_move = False
        for number in range(_ROUNDS):
            slots = self._open(slots)
            if not len(slots) or not self.seats.any():
                break
            free = self._seat_order.free(self.seats)
            bots = self._seat_order.bots[free]
            # Later rounds change who is offered which seat: else slots that no seat fits would hold the others up.
            asking = slots if number == 0 else slots[self._shuffled(slots, number)]
            served, at = assign(self._asked[asking], self._cell[bots], elsewhere=elsewhere)
            chosen = asking[served]
            taken = self._take_virgins(chosen, bots[at])
            if self._witness is not None:
                self._witness.saw_seats(chosen, free[at], free, self._seat_order)
            if taken <= _WORTH_A_ROUND * len(chosen):
                if self._may_move:
                    break
                self._may_move = True
        self._may_move = True
        if elsewhere:
            self._offer_every_pair(self._open(slots))

    def _shuffled(self, slots: Integers, number: int) -> Integers:
        draws = uniforms(self._stream("hands", number), self.senders[slots], self.ordinals[slots])
        return order_of(draws)

    def _offer_every_pair(self, slots: Integers) -> None:
        """Offer every seat that is left to every sender of ``slots``, until no pair of them is possible.

        Where these are many pairs, each slot is offered some seats first: mostly those do, and few pairs are looked up.
        """
        for number in range(_WINDOWS):
            slots = self._open(slots)
            if len(slots) * np.count_nonzero(self.seats) <= _PAIRS_FOR_ROOM // 10:
                break
            self._offer_window(slots, number)
        for slot_of, bot_of, part in self._every_pair(self._open(slots)):
            is_virgin = ~self._contacts_of(slot_of, bot_of).exist()
            if self._witness is not None:
                self._witness.saw_refused(slot_of, bot_of, {"met_before": ~is_virgin})
            self._match_each(part, slot_of[is_virgin], bot_of[is_virgin], VIRGIN)

    def _offer_window(self, slots: Integers, number: int) -> None:
        """Offer each of ``slots`` the seats that stand together at a drawn place of the order."""
        free = self._seat_order.free(self.seats)
        draws = uniforms(self._stream("stretch", number), self.senders[slots], self.ordinals[slots])
        first = (draws * len(free)).astype(np.int64)
        at = (first[:, None] + np.arange(min(_SEATS_OF_WINDOW, len(free)))) % len(free)
        slot_of, bot_of = np.repeat(slots, at.shape[1]), self._seat_order.bots[free[at.ravel()]]
        once = ~pd.Index(pair_keys(slot_of, bot_of)).duplicated()
        slot_of, bot_of = slot_of[once], bot_of[once]
        if self._witness is not None:
            self._witness.saw_pairs(slot_of, bot_of)
        fits = np.flatnonzero(self.allowed(slot_of, bot_of))
        fits = fits[self._fit(slot_of[fits], bot_of[fits]) >= 0]
        slot_of, bot_of = slot_of[fits], bot_of[fits]
        is_virgin = ~self._contacts_of(slot_of, bot_of).exist()
        if self._witness is not None:
            self._witness.saw_refused(slot_of, bot_of, {"met_before": ~is_virgin})
        once = ~pd.Index(pair_keys(self.row[slot_of], bot_of)).duplicated() & is_virgin
        self._match_each(slots, slot_of[once], bot_of[once], VIRGIN)

    def _every_pair(self, slots: Integers) -> Iterator[tuple[Integers, Integers, Integers]]:
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
            if self._witness is not None:
                self._witness.saw_pairs(slot_of, bot_of)
            yield slot_of[allowed], bot_of[allowed], slots[np.isin(self.senders[slots], senders[part])]

    # Partners.

    def _propose(self, slots: Integers, *, elsewhere: bool = True) -> None:
        """Fill open ``slots`` from a few partners of each sender whose cooldown is over."""
        slots = self._open(slots)
        if not len(slots) or not self.seats.any():
            return
        senders, counts = self._partners_to_ask(slots)
        start = self.bots[(uniforms(self._stream("partners"), senders) * len(self.bots)).astype(np.int64)]
        ranked = self._ranked_partners(slots, self._history.some_of(senders, start, counts), elsewhere=elsewhere)
        contacts = _Contacts.unknown(len(ranked.keys))
        known = np.empty(0, dtype=np.int64)
        for proposal in range(_PROPOSALS):
            slots = self._open(slots)
            next_ones = ranked.take(self._group_of(self.row[slots], self._asked[slots], elsewhere=elsewhere))
            known = np.concatenate([known, next_ones])
            if not len(known):
                return
            contacts.put(next_ones, self._contacts_of(ranked.slots[next_ones], ranked.bots[next_ones]))
            # Repeated contact only lowers a partner's rank: who stays ahead of all that were not looked up is chosen.
            is_ahead = ranked.keys[known] * np.exp2(contacts.sent_7d[known]) <= ranked.next_key(known)
            is_ahead |= proposal == _PROPOSALS - 1
            ahead, known = known[is_ahead], known[~is_ahead]
            pairs = (ranked.slots[ahead], ranked.bots[ahead], contacts.of(ahead))
            self._may_move = proposal == _PROPOSALS - 1
            self._match_partners(slots, *pairs, (PROBABILISTIC,), elsewhere=elsewhere)
            self._may_move = True
            if self._witness is not None:
                at = np.array([self._witness.slot])
                rest = ranked.rest(int(self._group_of(self.row[at], self._asked[at], elsewhere=elsewhere)[0]))
                rest = rest[self.seats[ranked.bots[rest]] > 0]
                self._witness.saw_next_partners(PROBABILISTIC, ranked.bots[rest], ranked.keys[rest])

    def _ranked_partners(self, slots: Integers, found: pd.DataFrame, *, elsewhere: bool) -> Ranked:
        """Return the pairs of ``found`` that ``slots`` ask for and that may meet, best first as far as is known."""
        slot_of, bot_of, _ = self._places_of(found)
        if self._witness is not None:
            self._witness.saw_pairs(slot_of, bot_of)
            self._witness.saw_refused(slot_of, bot_of, {"no_seat": self.seats[bot_of] == 0})
        has_seat = np.flatnonzero(self.seats[bot_of])
        slot_of, bot_of = slot_of[has_seat], bot_of[has_seat]
        asked = np.sort(self._group_of(self.row[slots], self._asked[slots], elsewhere=elsewhere))
        group = self._group_of(self.row[slot_of], self._cell[bot_of], elsewhere=elsewhere)
        is_asked = np.flatnonzero(find(asked, group)[1])
        keep = is_asked[self.allowed(slot_of[is_asked], bot_of[is_asked])]
        slot_of, bot_of, group = slot_of[keep], bot_of[keep], group[keep]
        weight = self._weights[bot_of] * self._headroom(bot_of)
        key = -np.log(self.draws(slot_of, bot_of)) / weight
        order = by_group(group, key)
        return Ranked(slot_of[order], bot_of[order], group[order], key[order])

    def _group_of(self, row: Integers, cell: Integers, *, elsewhere: bool) -> Integers:
        return row if elsewhere else row * len(self._codes) + cell

    def _partners_to_ask(self, slots: Integers) -> tuple[Integers, Integers]:
        """Return the senders of ``slots``, and how many partners of each very likely serve the cells they ask.

        Slots that ask different cells look among the same partners.
        """
        asks, slots_of_ask = np.unique(pair_keys(self.row[slots], self._asked[slots]), return_counts=True)
        asked = asks & 0xFFFF_FFFF
        has_seat = np.bincount(self._cell[self.seats > 0], minlength=len(self._codes)) / np.bincount(self._cell)
        of_one = np.minimum(_PER_CELL / np.maximum(self._share * has_seat, 1e-9)[asked], _PARTNERS)
        rows, first = np.unique(asks >> 32, return_index=True)
        count = np.maximum.reduceat(of_one * slots_of_ask, first)
        return self.senders[self._first[rows]], np.ceil(count).astype(np.int64)

    def _propose_exactly(self, slots: Integers) -> None:
        """Fill slots that nothing filled from all partners of their senders: the last resort, ``active``, at last."""
        slots = self._open(slots)
        if not len(slots) or not self.seats.any():
            return
        tiers = (PROBABILISTIC, ACTIVE)
        if np.count_nonzero(self.seats) > _FEW_BOTS:
            known = self._history.of_senders(np.unique(self.senders[slots]))
            slot_of, bot_of, takes_part = self._places_of(known)
            contacts = self._told_by(known).of(takes_part)
            self._match_partners(slots, slot_of, bot_of, contacts, tiers, each_slot=True)
            return
        for slot_of, bot_of, part in self._every_pair(slots):
            contacts = self._contacts_of(slot_of, bot_of)
            have_met = np.flatnonzero(contacts.exist())
            met = contacts.of(have_met)
            self._match_partners(part, slot_of[have_met], bot_of[have_met], met, tiers, each_slot=True)

    def _match_partners(
        self,
        slots: Integers,
        slot_of: Integers,
        bot_of: Integers,
        contacts: _Contacts,
        tiers: tuple[str, ...],
        *,
        elsewhere: bool = True,
        each_slot: bool = False,
    ) -> None:
        """Fill open ``slots`` from partners, each beside any slot of its sender, as their contacts allow it.

        With ``each_slot`` a partner that is not free at the time of one slot is offered to the others of its sender.
        """
        refused = {"no_seat": self.seats[bot_of] == 0} | contacts.forbid(self._policy)
        is_cooling = contacts.are_cooling(self._policy)
        allowed = np.flatnonzero(~_any(refused))
        allowed = allowed[self.allowed(slot_of[allowed], bot_of[allowed])]
        if self._witness is not None:
            self._witness.saw_pairs(slot_of, bot_of)
            cooling = is_cooling & np.isin(np.arange(len(bot_of)), allowed)
            self._witness.saw_refused(slot_of, bot_of, refused | {"cooldown": cooling})
        for tier in tiers:
            of_tier = allowed[is_cooling[allowed] == (tier == ACTIVE)]
            pairs = (slot_of[of_tier], bot_of[of_tier], tier, contacts.sent_7d[of_tier])
            if each_slot:
                self._match_each(slots, *pairs)
            else:
                self._match(slots, *pairs, elsewhere=elsewhere)

    def _match(
        self,
        slots: Integers,
        slot_of: Integers,
        bot_of: Integers,
        tier: str,
        sent_7d: Integers | None = None,
        *,
        elsewhere: bool = True,
    ) -> None:
        """Give open ``slots`` the candidates of their senders, ranked by exponential keys, while these have seats.

        A candidate is a bot and any slot of its sender, and allowed by the rules. Each round proposes to every open
        slot another candidate, first of the cell that it asks, then, ``elsewhere``, of any.
        """
        told = self._keyed(slot_of, bot_of, sent_7d)
        row, bots, key = told.row, told.bots, told.key
        for asks_cell in (True, False) if elsewhere else (True,):
            group = row * len(self._codes) + self._cell[bots] if asks_cell else row
            order = by_group(group, key)
            group, row, bots, key = group[order], row[order], bots[order], key[order]
            while True:
                slots = self._open(slots)
                wanted = self.row[slots]
                wanted = wanted * len(self._codes) + self._asked[slots] if asks_cell else wanted
                slot_order = order_of_whole(wanted)
                wanted = wanted[slot_order]
                at = np.searchsorted(group, wanted) + rank_within(wanted)
                is_offered = at < np.searchsorted(group, wanted, side="right")
                if not is_offered.any():
                    break
                chosen, at = slot_order[is_offered], at[is_offered]
                back = np.argsort(chosen)
                chosen, at = slots[chosen[back]], at[back]
                is_settled = self._take(chosen, bots[at], tier)
                is_left = self.seats[bots] > 0
                is_left[at[is_settled]] = False
                is_left &= np.isin(np.arange(len(self._first)), self.row[self._open(slots)])[row]
                group, row, bots, key = group[is_left], row[is_left], bots[is_left], key[is_left]
        if self._witness is not None:
            self._witness.saw_candidates(*told)

    def _match_each(
        self, slots: Integers, slot_of: Integers, bot_of: Integers, tier: str, sent_7d: Integers | None = None
    ) -> None:
        """Do the same until no open slot has a candidate that is free at its time: each is offered to every slot."""
        told = self._keyed(slot_of, bot_of, sent_7d)
        slots = self._open(slots)
        by_row = slots[np.argsort(self.row[slots], kind="stable")]
        first = np.searchsorted(self.row[by_row], told.row)
        times = np.searchsorted(self.row[by_row], told.row, side="right") - first
        pair = np.repeat(np.arange(len(times)), times)
        group = by_row[np.repeat(first - np.cumsum(times) + times, times) + np.arange(len(pair))]
        bots, key = told.bots[pair], told.key[pair]
        # Whom a slot asks for in its cell comes before all others.
        is_elsewhere = (self._cell[bots] != self._asked[group]).astype(np.int64)
        order = by_group(group * 2 + is_elsewhere, key)
        group, bots = group[order], bots[order]
        while len(group):
            is_left = (self.bot[group] < 0) & (self.seats[bots] > 0)
            group, bots = group[is_left], bots[is_left]
            is_left = (self._fit(group, bots) >= 0) & ~self._has_met(group, bots)
            group, bots = group[is_left], bots[is_left]
            offered = np.flatnonzero(np.diff(group, prepend=-1))
            # In the order in which slots are served.
            at = np.full(len(self.bot), -1, dtype=np.int64)
            at[group[offered]] = offered
            chosen = slots[at[slots] >= 0]
            at = at[chosen]
            is_first = ~pd.Index(pair_keys(self.row[chosen], bots[at])).duplicated()
            self._take(chosen[is_first], bots[at[is_first]], tier)
        if self._witness is not None:
            self._witness.saw_candidates(*told)

    def _keyed(self, slot_of: Integers, bot_of: Integers, sent_7d: Integers | None) -> _Keyed:
        """Return the candidates that have a seat, with their draws, exponential keys and the terms of their weights."""
        free = self.seats[bot_of] > 0
        row, bots = self.row[slot_of[free]], bot_of[free]
        terms = self.terms_of(bots) | {"headroom": self._headroom(bots)}
        if sent_7d is not None:
            terms["repeats"] = np.exp2(-sent_7d[free].astype(np.float64))
        draw = self.draws(self._first[row], bots)
        return _Keyed(row, bots, draw, -np.log(draw) / np.prod(list(terms.values()), axis=0), terms)

    # Moving others.

    def make_room(self, slots: Integers) -> None:
        """Fill open ``slots`` with bots of slots that can move, within their tier, to a bot with a free seat.

        One such step is an augmenting path of length three in the matching of slots and seats. Filled slots are looked
        at as far as their pairs stay few; in a large plan that is a sample, and next to nothing is open there.
        """
        free = np.flatnonzero(self.seats)
        slots = self._open(slots)[: _PAIRS_FOR_ROOM // max(len(free), 1)]
        if not len(slots) or not len(free):
            return
        filled = self.order[self.bot[self.order] >= 0][: _PAIRS_FOR_ROOM // max(len(slots), len(free))]
        taken = np.unique(self.bot[filled])
        slot_of, bot_of = np.repeat(slots, len(taken)), np.tile(taken, len(slots))
        tier = self._tier_of(slot_of, bot_of)
        wishes = pd.DataFrame({"slot": slot_of, "bot": bot_of, "tier": tier})[tier >= 0]
        filled = filled[np.isin(self.bot[filled], wishes["bot"])]
        mover, target = np.repeat(filled, len(free)), np.tile(free, len(filled))
        is_move = self._tier_of(mover, target) == self.tier[mover]
        moves = pd.DataFrame({"mover": mover, "bot": self.bot[mover], "target": target})[is_move]
        for _ in range(_ROUNDS_FOR_ROOM):
            ways = wishes.assign(wish=wishes.index).merge(
                moves.assign(move=moves.index).drop_duplicates("mover"), on="bot"
            )
            ways["sender"], ways["other"] = self.row[ways["slot"]], self.row[ways["mover"]]
            for once in ("sender", "mover", "other", "target", *(["bot"] if self._diary.pause_s else [])):
                ways = ways.drop_duplicates(once)
            if ways.empty:
                return
            self._move(ways)
            if self._witness is not None:
                self._witness.saw_moves(ways[self.bot[ways["slot"]] == ways["bot"]])
            # What was tried is not tried again.
            wishes = wishes.drop(index=ways["wish"].tolist())
            wishes = wishes[self.bot[wishes["slot"]] < 0]
            wishes = wishes[~self._has_met(wishes["slot"].to_numpy(), wishes["bot"].to_numpy())]
            moves = moves.drop(index=ways["move"].tolist())
            moves = moves[(self.seats[moves["target"]] > 0) & (self.bot[moves["mover"]] == moves["bot"])]
            moves = moves[~self._has_met(moves["mover"].to_numpy(), moves["target"].to_numpy())]

    def _move(self, ways: pd.DataFrame) -> None:
        """Move each ``mover`` from its ``bot`` to ``target``, and give ``slot`` that bot, where all have time."""
        slot, mover, bot, target = (ways[name].to_numpy() for name in ("slot", "mover", "bot", "target"))
        times = self._fit(mover, target)
        is_possible = (times >= 0) & (self._fit(slot, bot) >= 0)
        slot, mover, bot, target, times, tier = (
            column[is_possible] for column in (slot, mover, bot, target, times, ways["tier"].to_numpy())
        )
        self._diary.remove(bot, self.time[mover])
        self._book(mover, target, times, self.tier[mover])
        # Another mover may have come to the bot meanwhile.
        times = self._fit(slot, bot)
        free = times >= 0
        np.add.at(self.seats, bot, 1)
        self.seats[bot] = np.minimum(self.seats[bot], self._diary.room(bot))
        self._book(slot[free], bot[free], times[free], tier[free].astype(np.int8))

    def _tier_of(self, slots: Integers, bots: Integers) -> npt.NDArray[np.int8]:
        """Return the place in `TIERS` of each pair as the history has it, -1 where a rule refuses it."""
        tier = np.full(len(slots), -1, dtype=np.int8)
        allowed = np.flatnonzero(self.allowed(slots, bots))
        allowed = allowed[self._fit(slots[allowed], bots[allowed]) >= 0]
        contacts = self._contacts_of(slots[allowed], bots[allowed])
        cases = [~contacts.exist(), _any(contacts.forbid(self._policy)), contacts.are_cooling(self._policy)]
        tier[allowed] = np.select(cases, [0, -1, 2], default=1)
        return tier

    # Taking a bot.

    def _take_virgins(self, slots: Integers, bots: Integers) -> int:
        """Give slots the bots beside them where rules and seats allow it and they never met; return how many."""
        is_free = self._fit(slots, bots) >= 0
        keep = np.flatnonzero(is_free & self.allowed(slots, bots))
        keep = keep[~pd.Index(pair_keys(self.senders[slots[keep]], bots[keep])).duplicated()]
        have_met = self._contacts_of(slots[keep], bots[keep]).exist()
        if self._witness is not None:
            self._witness.saw_pairs(slots, bots)
            self._witness.saw_refused(slots, bots, {"not_free_then": ~is_free})
            self._witness.saw_refused(slots[keep], bots[keep], {"met_before": have_met})
        chosen = slots[keep[~have_met]]
        self._take(chosen, bots[keep[~have_met]], VIRGIN)
        return int(np.count_nonzero(self.bot[chosen] >= 0))

    def _take(self, slots: Integers, bots: Integers, tier: str) -> Mask:
        """Give slots the bots beside them while these have seats and time, the earlier slot first.

        Returns which of the offers are settled: taken, or impossible for good because the bot is not free then.
        """
        is_settled = np.zeros(len(slots), dtype=np.bool_)
        waiting = np.flatnonzero(self.seats[bots] > 0)
        while len(waiting):
            times = self._fit(slots[waiting], bots[waiting])
            is_settled[waiting[times < 0]] = True
            waiting, times = waiting[times >= 0], times[times >= 0]
            by_bot = order_of_whole(bots[waiting])
            rank = np.empty(len(waiting), dtype=np.int64)
            rank[by_bot] = rank_within(bots[waiting[by_bot]])
            # Those of one bot change each other's times, unless it needs no pause.
            now = np.flatnonzero(rank < (self.seats[bots[waiting]] if self._diary.pause_s == 0 else 1))
            taken = waiting[now]
            is_settled[taken] = True
            self._book(slots[taken], bots[taken], times[now], tier)
            waiting = np.delete(waiting, now)
            waiting = waiting[self.seats[bots[waiting]] > 0]
        return is_settled

    def _book(self, slots: Integers, bots: Integers, times: Integers, tier: str | npt.NDArray[np.int8]) -> None:
        self.bot[slots], self.time[slots] = bots, times
        self.tier[slots] = TIERS.index(tier) if isinstance(tier, str) else tier
        self.seats -= np.bincount(bots, minlength=len(self.seats))
        self._diary.add(bots, times)
        booked = np.unique(bots)
        self.seats[booked] = np.minimum(self.seats[booked], self._diary.room(booked))

    def _fit(self, slots: Integers, bots: Integers) -> Integers:
        """Return when each slot can reach the bot beside it, -1 for never: at its own time, else moved, if it may."""
        if not self._may_move:
            return np.where(self._diary.is_free(bots, self.time[slots]), self.time[slots], -1)
        return self._diary.fit(
            bots, self.time[slots], self._earliest[slots], self._latest[slots], self._move_draw[slots]
        )

    def allowed(self, slots: Integers, bots: Integers) -> Mask:
        """Return which pairs share nothing and do not meet in this plan yet."""
        return ~_any(self.forbidden(slots, bots))

    def forbidden(self, slots: Integers, bots: Integers) -> dict[str, Mask]:
        """Return which pairs are not allowed, by reason."""
        shared = {
            f"own_{group}": (own[slots] == theirs[bots]) & (own[slots] != -1)
            for group, own, theirs in zip(GROUPS, self._own, self._theirs, strict=True)
        }
        return shared | {"met_in_this_plan": self._has_met(slots, bots)}

    def _has_met(self, slots: Integers, bots: Integers) -> Mask:
        """Return whether any slot of the same sender has the bot: a look at each of them, mostly two or three."""
        has_met = np.zeros(len(slots), dtype=np.bool_)
        row = self.row[slots]
        at, left = self._first[row], self._slots_of_sender[row]
        places = np.arange(len(slots))
        while len(places):
            has_met[places] |= self.bot[at] == bots[places]
            more = left > 1
            places, at, left = places[more], at[more] + 1, left[more] - 1
        return has_met

    def _contacts_of(self, slots: Integers, bots: Integers) -> _Contacts:
        """Ask about pairs in the order of their ids, and return the answers in the order given."""
        order = np.argsort(pair_keys(self.senders[slots], bots))
        contacts = _Contacts.unknown(len(order))
        contacts.put(order, self._told_by(self._history.of_pairs(self.senders[slots[order]], self.bots[bots[order]])))
        return contacts

    def _told_by(self, answer: pd.DataFrame) -> _Contacts:
        last_contact = answer["last_contact"].to_numpy(dtype="datetime64[us]")
        now = np.datetime64(require_utc(self._hour).replace(tzinfo=None), "us")
        return _Contacts(np.asarray(now - last_contact), answer["sent_7d"].to_numpy(dtype=np.int64))

    def _places_of(self, pairs: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
        """Return the first slot and the bot of each pair, and which pairs these are: those whose bot takes part."""
        bots = self._place.get_indexer(pd.Index(pairs["bot_id"].to_numpy(dtype=np.int64)))
        takes_part = np.flatnonzero(bots >= 0)
        slots = np.searchsorted(self.senders, pairs["sender_id"].to_numpy(dtype=np.int64)[takes_part])
        return slots, bots[takes_part], takes_part

    def _open(self, slots: Integers) -> Integers:
        return slots[self.bot[slots] < 0]

    # Weights and draws.

    def terms_of(self, bots: Integers) -> dict[str, Floats]:
        """Return the terms of the bots' weights."""
        return {term: values[bots] for term, values in self._terms.items()}

    def _headroom(self, bots: Integers) -> Floats:
        return np.asarray(self.seats[bots] / self._at_first[bots])

    def draws(self, slots: Integers, bots: Integers) -> Floats:
        """Return the draw of each slot's sender and a bot."""
        return uniforms(self._stream("pair"), self.senders[slots], self.bots[bots])

    def _stream(self, purpose: str, *more: int) -> np.uint64:
        # What a purpose is called decides what is drawn: these names stay, whatever the code is called.
        return state(self._seed, purpose, self._hour, *more)

    def _cells_of(self, bots: pd.DataFrame) -> Integers:
        self._codes, places = np.unique(bots["cell"].to_numpy(dtype=np.int64), return_inverse=True)
        return places.reshape(-1)

    def _ask_cells(self, demand: pd.DataFrame, shares: Mapping[int, float] | None) -> Integers:
        if not len(self._codes):
            return np.zeros(len(demand), dtype=np.int64)
        free = np.bincount(self._cell, weights=self.seats, minlength=len(self._codes))
        asked = np.array([shares.get(int(code), 0.0) for code in self._codes]) if shares else free.astype(np.float64)
        wanted = asked if asked.any() else np.ones(len(self._codes))
        bounds = np.cumsum(wanted) / wanted.sum()
        self._share = wanted / wanted.sum()
        offset = uniforms(state(self._seed, "ask_cell"), self.senders)
        day = require_utc(self._hour).date().toordinal()
        position = (offset + day * _PLASTIC + demand["nth"].to_numpy(dtype=np.int64) * _GOLDEN) % 1.0
        return np.minimum(np.searchsorted(bounds, position, side="right"), len(bounds) - 1)


def _any(reasons: Mapping[str, Mask]) -> Mask:
    return np.asarray(np.logical_or.reduce(list(reasons.values())))


def _named(codes: npt.NDArray[Any], names: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes.astype(np.int8), pd.Index(list(names), dtype="str"))
