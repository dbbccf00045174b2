"""Partners, which a sender met before: a few that are looked up, and all of them where those did not do.

A few are listed from a random place on and ranked by exponential keys; the best are looked up and offered. All partners
only for senders for whom those were not enough, and those within their cooldown last (B-F3).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from emberflow.bots.candidates import offer_in_turn, offer_to_every_slot
from emberflow.bots.matching import Matching
from emberflow.bots.ordering import Integers, Ranked, any_of, by_group, find, pair_keys
from emberflow.bots.tiers import Contacts
from emberflow.domain.tiers import ACTIVE, PROBABILISTIC
from emberflow.randomness import uniforms

_PER_CELL = 2  # partners in the asked cell that a lookup should bring: 86 % bring one (Poisson)
_OFFERS = 4  # partners per slot whose history is asked, one after the other: few of them are in their cooldown
_PARTNERS = 16  # looked up per slot at most; a cell of less than a fifth cannot miss its share by ten points
_FEW_BOTS = 200  # with a seat: asking about each is cheaper than reading all partners of a sender


def assign_partners(matching: Matching, slots: Integers, *, elsewhere: bool = True) -> None:
    """Fill open ``slots`` from a few partners of each sender whose cooldown is over."""
    slots = matching.open(slots)
    if not len(slots) or not matching.seats.any():
        return
    senders, counts = _partners_to_ask(matching, slots)
    start = matching.bots[(uniforms(matching.stream("partners"), senders) * len(matching.bots)).astype(np.int64)]
    ranked = _ranked(matching, slots, matching.history.some_of(senders, start, counts), elsewhere=elsewhere)
    groups = matching.group_of(matching.row, matching.asked, elsewhere=elsewhere)
    contacts = Contacts.unknown(len(ranked.keys))
    known = np.empty(0, dtype=np.int64)
    for number in range(_OFFERS):
        slots = matching.open(slots)
        next_ones = ranked.take(groups[slots])
        known = np.concatenate([known, next_ones])
        if not len(known):
            return
        contacts.put(next_ones, matching.contacts_of(ranked.slots[next_ones], ranked.bots[next_ones]))
        # Repeated contact only lowers a partner's rank: who stays ahead of all that were not looked up is chosen.
        is_ahead = ranked.keys[known] * np.exp2(contacts.sent_7d[known]) <= ranked.next_key(known)
        is_ahead |= number == _OFFERS - 1
        ahead, known = known[is_ahead], known[~is_ahead]
        pairs = (ranked.slots[ahead], ranked.bots[ahead], contacts.of(ahead))
        matching.may_move = number == _OFFERS - 1
        _offer_partners(matching, slots, *pairs, (PROBABILISTIC,), elsewhere=elsewhere)
        matching.may_move = True
        matching.trace.note_next_partners(PROBABILISTIC, ranked, groups)


def assign_any_partner(matching: Matching, slots: Integers) -> None:
    """Fill slots that nothing filled from all partners of their senders: the last resort, ``active``, at last."""
    slots = matching.open(slots)
    if not len(slots) or not matching.seats.any():
        return
    tiers = (PROBABILISTIC, ACTIVE)
    if np.count_nonzero(matching.seats) > _FEW_BOTS:
        known = matching.history.of_senders(np.unique(matching.senders[slots]))
        slot_of, bot_of, takes_part = matching.places_of(known)
        contacts = matching.contacts_in(known).of(takes_part)
        _offer_partners(matching, slots, slot_of, bot_of, contacts, tiers, each_slot=True)
        return
    for slot_of, bot_of, part in matching.every_pair(slots):
        contacts = matching.contacts_of(slot_of, bot_of)
        have_met = np.flatnonzero(contacts.exist())
        met = contacts.of(have_met)
        _offer_partners(matching, part, slot_of[have_met], bot_of[have_met], met, tiers, each_slot=True)


def _ranked(matching: Matching, slots: Integers, found: pd.DataFrame, *, elsewhere: bool) -> Ranked:
    """Return the pairs of ``found`` that ``slots`` ask for and that may meet, best first as far as is known."""
    slot_of, bot_of, _ = matching.places_of(found)
    matching.trace.note_offers(slot_of, bot_of)
    matching.trace.note_refusals(slot_of, bot_of, {"no_seat": matching.seats[bot_of] == 0})
    has_seat = np.flatnonzero(matching.seats[bot_of])
    slot_of, bot_of = slot_of[has_seat], bot_of[has_seat]
    asked = np.sort(matching.group_of(matching.row[slots], matching.asked[slots], elsewhere=elsewhere))
    group = matching.group_of(matching.row[slot_of], matching.cell[bot_of], elsewhere=elsewhere)
    is_asked = np.flatnonzero(find(asked, group)[1])
    keep = is_asked[matching.allowed(slot_of[is_asked], bot_of[is_asked])]
    slot_of, bot_of, group = slot_of[keep], bot_of[keep], group[keep]
    weight = matching.weights[bot_of] * matching.headroom(bot_of)
    key = -np.log(matching.draws(slot_of, bot_of)) / weight
    order = by_group(group, key)
    return Ranked(slot_of[order], bot_of[order], group[order], key[order])


def _partners_to_ask(matching: Matching, slots: Integers) -> tuple[Integers, Integers]:
    """Return the senders of ``slots``, and how many partners of each very likely serve the cells they ask.

    Slots that ask different cells look among the same partners.
    """
    asks, slots_of_ask = np.unique(pair_keys(matching.row[slots], matching.asked[slots]), return_counts=True)
    asked = asks & 0xFFFF_FFFF
    with_seats = np.bincount(matching.cell[matching.seats > 0], minlength=len(matching.codes))
    has_seat = with_seats / np.bincount(matching.cell)
    of_one = np.minimum(_PER_CELL / np.maximum(matching.share * has_seat, 1e-9)[asked], _PARTNERS)
    rows, first = np.unique(asks >> 32, return_index=True)
    count = np.maximum.reduceat(of_one * slots_of_ask, first)
    return matching.senders[matching.first[rows]], np.ceil(count).astype(np.int64)


def _offer_partners(
    matching: Matching,
    slots: Integers,
    slot_of: Integers,
    bot_of: Integers,
    contacts: Contacts,
    tiers: tuple[str, ...],
    *,
    elsewhere: bool = True,
    each_slot: bool = False,
) -> None:
    """Fill open ``slots`` from partners, each beside any slot of its sender, as their contacts allow it.

    With ``each_slot`` a partner that is not free at the time of one slot is offered to the others of its sender.
    """
    refused = {"no_seat": matching.seats[bot_of] == 0} | contacts.forbid(matching.policy)
    is_cooling = contacts.are_cooling(matching.policy)
    allowed = np.flatnonzero(~any_of(refused))
    allowed = allowed[matching.allowed(slot_of[allowed], bot_of[allowed])]
    matching.trace.note_offers(slot_of, bot_of)
    is_allowed = np.zeros(len(bot_of), dtype=np.bool_)
    is_allowed[allowed] = True
    matching.trace.note_refusals(slot_of, bot_of, refused | {"cooldown": is_cooling & is_allowed})
    for tier in tiers:
        of_tier = allowed[is_cooling[allowed] == (tier == ACTIVE)]
        pairs = (slot_of[of_tier], bot_of[of_tier], tier, contacts.sent_7d[of_tier])
        if each_slot:
            offer_to_every_slot(matching, slots, *pairs)
        else:
            offer_in_turn(matching, slots, *pairs, elsewhere=elsewhere)
