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

**Virgin** bots are dealt. Every free seat of every bot is a card; the deck is shuffled by exponential keys -ln(u) / w,
of which the smallest lies on top (Efraimidis and Spirakis, Information Processing Letters 97, 2006), so that a bot
comes in proportion to its weight, the second card of a bot as if it had rested half as long, the third a third. Each
slot takes the next card of its cell; only the dealt pairs are looked up; cards that a rule rejects go back and are
dealt again. When dealing hardly fills anything any more, the rest is solved exactly: all cards that are left for all
slots that are open.

**Probabilistic** and **active** bots are partners of the sender. A few are listed from a random place on and ranked by
exponential keys; the best are looked up and proposed. All partners only for senders for whom those did not do.

Slots are served in rounds: everybody's first, in a seeded order, then everybody's second. When there are fewer seats
than slots, those at the end of the order wait until the others are served. Every draw is addressed by what it is about,
so that the order of rows never matters (Q-F1).

Cost: linear in slots and free seats; the pair table is asked about as many pairs as are dealt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from emberflow.bots.eligibility import GROUPS
from emberflow.bots.history import History
from emberflow.bots.ordering import Ranked, by_group, find, order_of, order_of_whole, pair_keys, rank_within
from emberflow.bots.rotation import SHARPNESS, WEIGHT_TERMS
from emberflow.clock import require_utc
from emberflow.randomness import state, uniforms

TIERS: Final = ("virgin", "probabilistic", "active")
VIRGIN, PROBABILISTIC, ACTIVE = TIERS
SAME_DAY_H = 24
UNFILLED: Final = ("no_seat", "no_eligible_bot")

_GOLDEN = 0.618_033_988_749_895  # the multiples of it modulo 1 spread as evenly as any (three-distance theorem)
_PLASTIC = 0.569_840_290_998_053  # from day to day, so that days fill each other's gaps (Roberts' R2 sequence, 2018)
_DEALS = 8
_WORTH_DEALING = 0.3  # of the cards; below, the exact end is cheaper
_PAIRS_AT_ONCE = 2_000_000
_PER_CELL = 2  # partners in the asked cell that a lookup should bring: 86 % bring one (Poisson)
_PROPOSALS = 4  # partners per slot whose history is asked, one after the other: few of them are in their cooldown
_PARTNERS = 16  # looked up per slot at most; a cell of less than a fifth cannot miss its share by ten points
_PAIRS_FOR_ROOM = 50_000  # looked up to see who could move
_FEW_BOTS = 200  # with a seat: asking about each is cheaper than reading all partners of a sender

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
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


@dataclass
class Evidence:
    """Why one slot has its bot: what it asked, what was rejected, and who would have been next.

    ``weight`` is the product of ``terms``, ``key`` is -ln(``draw``) / ``weight``; all None when unfilled. ``rejected``
    counts the bots that its sender was dealt or proposed until then, by the rule that refused them: ``own_domain``,
    ``own_owner``, ``own_ip_group``, ``met_in_this_plan``, ``met_before`` (dealt as virgin), ``no_seat``, ``same_day``,
    ``weekly_maximum``, ``cooldown``. ``runners_up`` have bot_id, draw, weight and key. In the virgin tier they are the
    next cards of the deck, among partners also those that would have been looked up next: nobody asked their history.
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


@dataclass(frozen=True)
class Selection:
    """The outcome of `select_bots`, by sender and ordinal.

    ``picks``: ``sender_id``, ``ordinal``, ``bot_id`` int64; ``asked_tier``, ``tier`` Categorical.
    ``unfilled``: ``sender_id``, ``ordinal`` int64; ``asked_tier`` Categorical; ``reason`` Categorical: ``no_seat``
    (every seat was taken) or ``no_eligible_bot`` (seats were left, at bots that this sender may not meet now).
    ``evidence``: about the slot that was asked for as witness.
    """

    picks: pd.DataFrame
    unfilled: pd.DataFrame
    evidence: Evidence | None = None


def virgin_share(policy: SelectionPolicy, ramp_day: pd.Series[int]) -> pd.Series[float]:
    """Return the probability that a slot asks the virgin tier first, on ``ramp_day``'s index."""
    return (1 - ramp_day / policy.virgin_days).clip(lower=policy.virgin_share_floor).rename("virgin_share")


def select_bots(
    demand: pd.DataFrame,
    bots: pd.DataFrame,
    history: History,
    policy: SelectionPolicy,
    *,
    seed: int,
    hour: datetime,
    shares: Mapping[int, float] | None = None,
    witness: tuple[int, int] | None = None,
) -> Selection:
    """Choose a bot for every slot of ``demand``, as far as eligible bots with seats go.

    Columns in:
        ``demand``: ``sender_id``, ``ordinal`` int64, unique together; ``ramp_day`` int64; ``nth`` int64, how many
        warm-up mails of the day come before; ``domain``, ``owner``, ``ip_group`` int64, -1 for none.
        ``bots``: ``bot_id`` int64, unique; ``cell`` int64 (`bots.mix`); ``seats`` int64, shared by all senders;
        ``capacity``, ``rest`` float, whose product is the weight (`bots.rotation`); ``domain``, ``owner``,
        ``ip_group`` likewise.
    ``hour`` (UTC) names the draws, and ages of contacts are judged at it. ``shares`` are the cells' shares of a
    sender's partners; without them, those of the seats.

    Guarantees: no bot gets more than its seats; a sender meets a bot at most once in the plan, never within 24 h of
    their last contact, never beyond the weekly maximum, and never one of its own domain, owner or IP group; a slot that
    asked ``virgin`` and stays open or got another tier had no virgin bot with a free seat left, and one that stays open
    had no bot at all.

    Raises:
        ValueError: a bot's weight is not positive, or there are 65,536 cells or more.
    """
    is_positive = (bots[list(WEIGHT_TERMS)] > 0).all(axis=1)
    if not is_positive.all():
        raise ValueError(f"bots need a positive weight: {bots.loc[~is_positive, 'bot_id'].tolist()}")
    table = _Table(demand, bots, history, policy, seed=seed, hour=hour, shares=shares, witness=witness)
    served = table.order[: table.seats.sum()]
    for slots in (served, table.order[len(served) :]):
        table.serve(slots)
    table.make_room(table.order)
    return table.selection()


class _Deck(NamedTuple):
    """One card per seat: its bot's place, which of the bot's turns it is, its weight, and its key, smallest on top."""

    bots: Integers
    turns: Integers
    weights: Floats
    keys: Floats


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


class _Table:
    """The slots and the cards while a plan is dealt. Slots and bots are places in arrays, in the order of their ids."""

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
        self._first: Integers = np.unique(self.senders, return_index=True)[1]
        self._slots_of_sender: Integers = np.diff(np.append(self._first, len(self.senders)))
        self._row: Integers = np.repeat(np.arange(len(self._first)), self._slots_of_sender)
        rounds = np.arange(len(self.senders)) - self._first[self._row]
        self.order: Integers = by_group(rounds, lot)
        self.asks_virgin: Mask = uniforms(self._stream("ask_tier"), *names) < virgin_share(
            policy, demand["ramp_day"]
        ).to_numpy(dtype=np.float64)
        self._cell = self._cells_of(bots)
        self._asked = self._ask_cells(demand, shares)

        self._deck = self._shuffle()
        self.bot: Integers = np.full(len(demand), -1, dtype=np.int64)
        self.tier: npt.NDArray[np.int8] = np.full(len(demand), -1, dtype=np.int8)
        self._witness = -1
        self._evidence: Evidence | None = None
        self._refused: dict[int, str] = {}
        if witness is not None:
            self._witness = int(np.flatnonzero((self.senders == witness[0]) & (self.ordinals == witness[1]))[0])
            asked = VIRGIN if self.asks_virgin[self._witness] else PROBABILISTIC
            self._evidence = Evidence(asked, int(self._codes[self._asked[self._witness]]) if len(self._codes) else -1)

    def serve(self, slots: Integers) -> None:
        """Give each of ``slots`` a bot, in this order where two want the same."""
        asks_virgin = self.asks_virgin[slots]
        explorers, others = slots[asks_virgin], slots[~asks_virgin]
        self._deal(explorers)
        self._propose(others, elsewhere=False)
        self._deal(others, elsewhere=False)
        self._propose(others)
        self._propose(explorers)
        self._deal(others)
        self._propose_exactly(slots)

    def selection(self) -> Selection:
        """Return what came of it."""
        filled, unfilled = np.flatnonzero(self.bot >= 0), np.flatnonzero(self.bot < 0)
        picks = self._rows(filled, bot_id=self.bots[self.bot[filled]])
        reason = np.full(len(unfilled), int(self.seats.any()), dtype=np.int8)
        return Selection(
            picks.assign(tier=_named(self.tier[filled], TIERS)),
            self._rows(unfilled).assign(reason=_named(reason, UNFILLED)),
            evidence=self._evidence,
        )

    def _rows(self, slots: Integers, **more: Integers) -> pd.DataFrame:
        asked = np.where(self.asks_virgin[slots], TIERS.index(VIRGIN), TIERS.index(PROBABILISTIC))
        names = {"sender_id": self.senders[slots], "ordinal": self.ordinals[slots]}
        return pd.DataFrame({**names, **more, "asked_tier": _named(asked, TIERS)})

    # The deck.

    def _deal(self, slots: Integers, *, elsewhere: bool = True) -> None:
        """Fill open ``slots`` with virgin bots until none of them has one left, or a few times, in their cell."""
        for deal in range(_DEALS):
            slots = self._open(slots)
            if not len(slots) or not self.seats.any():
                return
            cards = self._free_cards()
            bots = self._deck.bots[cards]
            # Later deals change who gets which card: else slots that no card fits would hold the others up.
            hands = slots if deal == 0 else slots[self._shuffled(slots, deal)]
            chosen, at = self._hand_out(hands, bots, elsewhere=elsewhere)
            taken = self._take_virgins(chosen, bots[at])
            if self._evidence is not None:
                self._tell_card(chosen, cards[at], cards)
            if taken <= _WORTH_DEALING * len(chosen):
                break
        if elsewhere:
            self._deal_exactly(self._open(slots))

    def _shuffle(self) -> _Deck:
        """Return a card per seat, in the order of their keys.

        The first card of a bot is the likeliest, so that the first ones of all bots come before second ones.
        """
        bots = np.repeat(np.arange(len(self.bots)), self.seats)
        turns = np.arange(len(bots)) - np.repeat(np.cumsum(self.seats) - self.seats, self.seats)
        weights = self._weights[bots] / (1.0 + turns) ** SHARPNESS
        keys = -np.log(uniforms(self._stream("deck"), self.bots[bots], turns)) / weights
        order = order_of(keys)
        return _Deck(bots[order], turns[order], weights[order], keys[order])

    def _free_cards(self) -> Integers:
        """Return the places of the cards that are left: a bot that got mail has as many fewer, of its first turns."""
        return np.flatnonzero(self._deck.turns >= (self._at_first - self.seats)[self._deck.bots])

    def _shuffled(self, slots: Integers, deal: int) -> Integers:
        draws = uniforms(self._stream("hands", deal), self.senders[slots], self.ordinals[slots])
        return order_of(draws)

    def _hand_out(self, slots: Integers, cards: Integers, *, elsewhere: bool) -> tuple[Integers, Integers]:
        """Return slots and the place of each one's card: of the cell it asks, else, ``elsewhere``, any left."""
        # Of two bytes, because NumPy sorts these in linear time.
        wanted, offered = self._asked[slots].astype(np.uint16), self._cell[cards].astype(np.uint16)
        slot_order, card_order = np.argsort(wanted, kind="stable"), np.argsort(offered, kind="stable")
        rank = rank_within(wanted[slot_order])
        of_cell = np.bincount(offered, minlength=len(self._codes))
        first_card = (np.cumsum(of_cell) - of_cell)[wanted[slot_order]]
        has_one = rank < of_cell[wanted[slot_order]]
        card_of = np.full(len(slots), -1, dtype=np.int64)
        card_of[slot_order[has_one]] = card_order[(first_card + rank)[has_one]]
        if elsewhere:
            is_left = np.ones(len(cards), dtype=bool)
            is_left[card_of[card_of >= 0]] = False
            without, left = np.flatnonzero(card_of < 0), np.flatnonzero(is_left)
            both = min(len(without), len(left))
            card_of[without[:both]] = left[:both]
        has_card = card_of >= 0
        return slots[has_card], card_of[has_card]

    def _deal_exactly(self, slots: Integers) -> None:
        """Offer every card that is left to every sender of ``slots``, until no pair of them is possible."""
        for slot_of, bot_of, part in self._every_pair(slots):
            is_virgin = np.isnat(self._contacts_of(slot_of, bot_of).age)
            if self._evidence is not None:
                self._tell_refused(slot_of, bot_of, {"met_before": ~is_virgin})
            self._match(part, slot_of[is_virgin], bot_of[is_virgin], VIRGIN)

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
            allowed = self._allowed(slot_of, bot_of)
            if self._evidence is not None:
                self._tell_groups(slot_of, bot_of)
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
            next_ones = ranked.take(self._group_of(self._row[slots], self._asked[slots], elsewhere=elsewhere))
            known = np.concatenate([known, next_ones])
            if not len(known):
                return
            contacts.put(next_ones, self._contacts_of(ranked.slots[next_ones], ranked.bots[next_ones]))
            # Repeated contact only lowers a partner's rank: who stays ahead of all that were not looked up is chosen.
            is_ahead = ranked.keys[known] * np.exp2(contacts.sent_7d[known]) <= ranked.next_key(known)
            is_ahead |= proposal == _PROPOSALS - 1
            ahead, known = known[is_ahead], known[~is_ahead]
            pairs = (ranked.slots[ahead], ranked.bots[ahead], contacts.of(ahead))
            self._match_partners(slots, *pairs, (PROBABILISTIC,), elsewhere=elsewhere)
            if self._evidence is not None:
                self._tell_next_partners(ranked, elsewhere=elsewhere)

    def _ranked_partners(self, slots: Integers, found: pd.DataFrame, *, elsewhere: bool) -> Ranked:
        """Return the pairs of ``found`` that ``slots`` ask for and that may meet, best first as far as is known."""
        slot_of, bot_of, _ = self._places_of(found)
        has_seat = self.seats[bot_of] > 0
        if self._evidence is not None:
            self._tell_groups(slot_of, bot_of)
            self._tell_refused(slot_of, bot_of, {"no_seat": ~has_seat})
        asked = np.unique(self._group_of(self._row[slots], self._asked[slots], elsewhere=elsewhere))
        group = self._group_of(self._row[slot_of], self._cell[bot_of], elsewhere=elsewhere)
        _, is_asked = find(asked, group)
        keep = np.flatnonzero(has_seat & is_asked)
        keep = keep[self._allowed(slot_of[keep], bot_of[keep])]
        slot_of, bot_of, group = slot_of[keep], bot_of[keep], group[keep]
        weight = self._weights[bot_of] * self.seats[bot_of] / self._at_first[bot_of]
        key = -np.log(uniforms(self._stream("pair"), self.senders[slot_of], self.bots[bot_of])) / weight
        order = by_group(group, key)
        return Ranked(slot_of[order], bot_of[order], group[order], key[order])

    def _group_of(self, row: Integers, cell: Integers, *, elsewhere: bool) -> Integers:
        return row if elsewhere else row * len(self._codes) + cell

    def _partners_to_ask(self, slots: Integers) -> tuple[Integers, Integers]:
        """Return the senders of ``slots``, and how many partners of each very likely serve the cells they ask.

        Slots that ask different cells look among the same partners.
        """
        asks, slots_of_ask = np.unique(pair_keys(self._row[slots], self._asked[slots]), return_counts=True)
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
            self._match_partners(slots, slot_of, bot_of, self._told_by(known).of(takes_part), tiers)
            return
        for slot_of, bot_of, part in self._every_pair(slots):
            contacts = self._contacts_of(slot_of, bot_of)
            have_met = np.flatnonzero(~np.isnat(contacts.age))
            self._match_partners(part, slot_of[have_met], bot_of[have_met], contacts.of(have_met), tiers)

    def _match_partners(
        self,
        slots: Integers,
        slot_of: Integers,
        bot_of: Integers,
        contacts: _Contacts,
        tiers: tuple[str, ...],
        *,
        elsewhere: bool = True,
    ) -> None:
        """Fill open ``slots`` from partners, each beside any slot of its sender, as their contacts allow it."""
        refused = {
            "no_seat": self.seats[bot_of] == 0,
            "same_day": contacts.age < np.timedelta64(SAME_DAY_H, "h"),
            "weekly_maximum": contacts.sent_7d >= self._policy.pair_weekly_maximum,
        }
        is_cooling = contacts.age < np.timedelta64(self._policy.pair_cooldown_h, "h")
        allowed = np.flatnonzero(~np.logical_or.reduce(list(refused.values())))
        allowed = allowed[self._allowed(slot_of[allowed], bot_of[allowed])]
        if self._evidence is not None:
            self._tell_groups(slot_of, bot_of)
            cooling = is_cooling & np.isin(np.arange(len(bot_of)), allowed)
            self._tell_refused(slot_of, bot_of, refused | {"cooldown": cooling})
        for tier in tiers:
            of_tier = allowed[is_cooling[allowed] == (tier == ACTIVE)]
            self._match(slots, slot_of[of_tier], bot_of[of_tier], tier, contacts.sent_7d[of_tier], elsewhere=elsewhere)

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
        free = self.seats[bot_of] > 0
        row, bots = self._row[slot_of[free]], bot_of[free]
        terms = {term: values[bots] for term, values in self._terms.items()}
        terms["headroom"] = self.seats[bots] / self._at_first[bots]
        if sent_7d is not None:
            terms["repeats"] = np.exp2(-sent_7d[free].astype(np.float64))
        weight = np.prod(list(terms.values()), axis=0)
        draw = uniforms(self._stream("pair"), self.senders[self._first[row]], self.bots[bots])
        key = -np.log(draw) / weight
        told = (row, bots, draw, key, terms)
        for asks_cell in (True, False) if elsewhere else (True,):
            group = row * len(self._codes) + self._cell[bots] if asks_cell else row
            order = by_group(group, key)
            group, row, bots, key = group[order], row[order], bots[order], key[order]
            while True:
                slots = self._open(slots)
                wanted = self._row[slots]
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
                self._take(chosen, bots[at], tier)
                is_left = self.seats[bots] > 0
                is_left[at[self.bot[chosen] == bots[at]]] = False
                is_left &= np.isin(np.arange(len(self._first)), self._row[self._open(slots)])[row]
                group, row, bots, key = group[is_left], row[is_left], bots[is_left], key[is_left]
        if self._evidence is not None:
            self._tell_choice(tier, *told)

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
        while len(wishes) and len(moves):
            ways = wishes.merge(moves.drop_duplicates("mover"), on="bot")
            ways["sender"], ways["other"] = self._row[ways["slot"]], self._row[ways["mover"]]
            for once in ("sender", "mover", "other", "target"):
                ways = ways.drop_duplicates(once)
            if ways.empty:
                return
            self.bot[ways["mover"]], self.bot[ways["slot"]] = ways["target"], ways["bot"]
            self.tier[ways["slot"]] = ways["tier"]
            self.seats[ways["target"]] -= 1
            if self._evidence is not None:
                self._tell_moves(ways)
            wishes = wishes[self.bot[wishes["slot"]] < 0]
            wishes = wishes[~self._has_met(wishes["slot"].to_numpy(), wishes["bot"].to_numpy())]
            moves = moves[(self.seats[moves["target"]] > 0) & (self.bot[moves["mover"]] == moves["bot"])]
            moves = moves[~self._has_met(moves["mover"].to_numpy(), moves["target"].to_numpy())]

    def _tier_of(self, slots: Integers, bots: Integers) -> npt.NDArray[np.int8]:
        """Return the place in `TIERS` of each pair as the history has it, -1 where a rule refuses it."""
        tier = np.full(len(slots), -1, dtype=np.int8)
        allowed = np.flatnonzero(self._allowed(slots, bots))
        age, sent_7d = self._contacts_of(slots[allowed], bots[allowed])
        refused = (age < np.timedelta64(SAME_DAY_H, "h")) | (sent_7d >= self._policy.pair_weekly_maximum)
        is_cooling = age < np.timedelta64(self._policy.pair_cooldown_h, "h")
        tier[allowed] = np.select([np.isnat(age), refused, is_cooling], [0, -1, 2], default=1)
        return tier

    # Taking a bot.

    def _take_virgins(self, slots: Integers, bots: Integers) -> int:
        """Give slots the bots beside them where rules and seats allow it and they never met; return how many."""
        keep = np.flatnonzero(self._allowed(slots, bots))
        keep = keep[~pd.Index(pair_keys(self.senders[slots[keep]], bots[keep])).duplicated()]
        have_met = ~np.isnat(self._contacts_of(slots[keep], bots[keep]).age)
        if self._evidence is not None:
            self._tell_groups(slots, bots)
            self._tell_refused(slots[keep], bots[keep], {"met_before": have_met})
        return self._take(slots[keep[~have_met]], bots[keep[~have_met]], VIRGIN)

    def _take(self, slots: Integers, bots: Integers, tier: str) -> int:
        """Give slots the bots beside them while these have seats, the earlier slot first; return how many."""
        by_bot = order_of_whole(bots)
        rank = np.empty(len(bots), dtype=np.int64)
        rank[by_bot] = rank_within(bots[by_bot])
        keep = rank < self.seats[bots]
        self.bot[slots[keep]] = bots[keep]
        self.tier[slots[keep]] = TIERS.index(tier)
        self.seats -= np.bincount(bots[keep], minlength=len(self.seats))
        return int(keep.sum())

    def _allowed(self, slots: Integers, bots: Integers) -> Mask:
        """Return which pairs share nothing and do not meet in this plan yet."""
        allowed = ~self._has_met(slots, bots)
        for own, theirs in zip(self._own, self._theirs, strict=True):
            allowed &= (own[slots] != theirs[bots]) | (own[slots] == -1)
        return allowed

    def _has_met(self, slots: Integers, bots: Integers) -> Mask:
        """Return whether any slot of the same sender has the bot: a look at each of them, mostly two or three."""
        has_met = np.zeros(len(slots), dtype=np.bool_)
        row = self._row[slots]
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

    # Draws.

    def _stream(self, purpose: str, *more: int) -> np.uint64:
        return state(self._seed, purpose, self._hour, *more)

    def _cells_of(self, bots: pd.DataFrame) -> Integers:
        self._codes, places = np.unique(bots["cell"].to_numpy(dtype=np.int64), return_inverse=True)
        if len(self._codes) > np.iinfo(np.uint16).max:
            raise ValueError(f"there are {len(self._codes)} cells; a plan deals with {np.iinfo(np.uint16).max} at most")
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

    # Evidence: what happens to the witness. Nothing here may change a plan.

    def _tell_card(self, slots: Integers, at: Integers, cards: Integers) -> None:
        """The card that the witness took, and the next of the deck that it might have had."""
        deck, evidence, mine = self._deck, self._told, np.flatnonzero(slots == self._witness)
        if evidence.bot_id is not None or not len(mine) or self.bot[self._witness] < 0:
            return
        place = int(at[mine[0]])
        bot, weight = int(deck.bots[place]), float(deck.weights[place])
        terms = self._terms_of(bot) | {"turn": weight / float(self._weights[bot])}
        self._tell_bot(bot, VIRGIN, terms, float(np.exp(-deck.keys[place] * weight)))
        later = np.setdiff1d(cards[cards > place], at)
        later = later[self._allowed(np.full(len(later), self._witness), deck.bots[later])]
        _, first = np.unique(deck.bots[later], return_index=True)
        for other in later[np.sort(first)][: self._policy.runners_up].tolist():
            weight, key = float(deck.weights[other]), float(deck.keys[other])
            evidence.runners_up.append(
                {"bot_id": int(self.bots[deck.bots[other]]), "weight": weight, "key": key,
                 "draw": math.exp(-key * weight)}
            )  # fmt: skip

    def _tell_choice(
        self, tier: str, row: Integers, bots: Integers, draw: Floats, key: Floats, terms: Mapping[str, Floats]
    ) -> None:
        """The candidate that the witness took, and its sender's others, best first."""
        evidence, bot = self._told, self.bot[self._witness]
        own = np.flatnonzero(row == self._row[self._witness])
        own = own[order_of(key[own])]
        mine = own[bots[own] == bot]
        if evidence.bot_id is not None or bot < 0 or not len(mine):
            return
        self._tell_bot(
            bot, tier, {name: float(values[mine[0]]) for name, values in terms.items()}, float(draw[mine[0]])
        )
        for other in own[~np.isin(bots[own], self.bot[self._row == row[mine[0]]])][: self._policy.runners_up]:
            evidence.runners_up.append(
                {"bot_id": int(self.bots[bots[other]]), "weight": float(-np.log(draw[other]) / key[other]),
                 "draw": float(draw[other]), "key": float(key[other])}
            )  # fmt: skip

    def _tell_next_partners(self, ranked: Ranked, *, elsewhere: bool) -> None:
        """The partners of the witness's sender that were not looked up, because a better one took the slot."""
        evidence = self._told
        at = slice(self._witness, self._witness + 1)
        rest = ranked.rest(int(self._group_of(self._row[at], self._asked[at], elsewhere=elsewhere)[0]))
        rivals = ranked.bots[rest]
        rivals = rivals[self.seats[rivals] > 0]
        missing = self._policy.runners_up - len(evidence.runners_up)
        if evidence.bot_id is None or evidence.tier != PROBABILISTIC or missing <= 0:
            return
        named = {other["bot_id"] for other in evidence.runners_up}
        met = set(self.bots[self.bot[(self._row == self._row[self._witness]) & (self.bot >= 0)]].tolist())
        others = [bot for bot in rivals.tolist() if int(self.bots[bot]) not in named | met][:missing]
        for bot in others:
            draw = float(uniforms(self._stream("pair"), self.senders[[self._witness]], self.bots[[bot]])[0])
            weight = float(self._weights[bot] * self.seats[bot] / self._at_first[bot])
            evidence.runners_up.append(
                {"bot_id": int(self.bots[bot]), "weight": weight, "draw": draw, "key": -math.log(draw) / weight}
            )
        evidence.runners_up.sort(key=lambda other: float(other["key"]))

    def _tell_moves(self, ways: pd.DataFrame) -> None:
        """The bot that the witness moved to, or that another slot left to it."""
        if self._witness in ways["slot"].to_numpy() or self._witness in ways["mover"].to_numpy():
            bot, sender = int(self.bot[self._witness]), self.senders[[self._witness]]
            draw = float(uniforms(self._stream("pair"), sender, self.bots[[bot]])[0])
            self._tell_bot(bot, TIERS[self.tier[self._witness]], self._terms_of(bot), draw)
            self._told.runners_up.clear()

    def _terms_of(self, bot: int) -> dict[str, float]:
        return {term: float(values[bot]) for term, values in self._terms.items()}

    def _tell_bot(self, bot: int, tier: str, terms: dict[str, float], draw: float) -> None:
        evidence = self._told
        evidence.tier, evidence.bot_id, evidence.terms, evidence.draw = tier, int(self.bots[bot]), terms, draw
        evidence.weight = float(np.prod(list(terms.values())))
        evidence.key = float(-np.log(draw) / evidence.weight)

    def _tell_groups(self, slot_of: Integers, bot_of: Integers) -> None:
        own, theirs = slot_of, bot_of
        shared = {
            f"own_{group}": (mine[own] == its[theirs]) & (mine[own] != -1)
            for group, mine, its in zip(GROUPS, self._own, self._theirs, strict=True)
        }
        self._tell_refused(slot_of, bot_of, shared | {"met_in_this_plan": self._has_met(own, theirs)})

    def _tell_refused(self, slot_of: Integers, bot_of: Integers, refused: Mapping[str, Mask]) -> None:
        """Count what refused a bot to the witness's sender, each bot once, under its first reason."""
        if self._told.bot_id is not None:
            return
        own = self.senders[slot_of] == self.senders[self._witness]
        for reason, applies in refused.items():
            for bot in np.unique(bot_of[own & applies]).tolist():
                self._refused.setdefault(bot, reason)
        self._told.rejected = dict(Counter(self._refused.values()))

    @property
    def _told(self) -> Evidence:
        if self._evidence is None:
            raise ValueError("nobody asked for evidence")
        return self._evidence


def _named(codes: npt.NDArray[Any], names: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes.astype(np.int8), pd.Index(list(names), dtype="str"))
