"""Selection: which bot receives each slot of the hour (Q-B7), with the evidence for every choice (Q-F2).

The candidates of a slot fall into three tiers by the history of the pair: virgin, probabilistic and active
(`bots.tiers`).

A seeded draw lets the slot ask ``virgin`` or ``probabilistic`` first. A tier without a free candidate falls through to
the other one and then to ``active``; the tier asked and the tier used are both recorded. Each slot also asks for a cell
(a provider, or one of its greater domains: `bots.mix`), by a sequence that keeps a sender's partners close to the
cells' shares (B-F4). A slot that asks for a partner, and finds none in its cell, takes a virgin bot there before a
partner elsewhere: else the partners that a sender happens to have would decide its mix.

Virgin bots are assigned in rounds, in weighted random order (`bots.assign_new`); partners are ranked by exponential
keys (`bots.assign_partners`); slots that are still open get a bot from slots that can move (`bots.augment`). All three
change one state (`bots.matching`).

Each slot has a time, and a piece of time around it within which it may be moved (`senders.pacing.pace`). A bot gets a
mail only while it is free: awake, and as long as its pause lasts away from every other mail that it is to get. Where it
is not free at a slot's own time, the slot moves to a drawn moment at which it is (`bots.bot_schedule`).

Slots are served by how many mails their senders have had today: everybody's first, then everybody's second. Among
equals, who has been without mail for more days comes first, then a seeded order decides. So scarcity goes round. When
there are fewer seats than slots, those at the end wait until the others are served. Every draw is addressed by what it
is about, so that the order of rows never matters (Q-F1).

Cost: linear in slots and free seats; the pair table is asked about as many pairs as are offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.bots.assign_new import assign_new
from emberflow.bots.assign_partners import assign_any_partner, assign_partners
from emberflow.bots.augment import augment
from emberflow.bots.evidence import Evidence, Trace
from emberflow.bots.history import History
from emberflow.bots.matching import Matching
from emberflow.bots.ordering import Integers
from emberflow.bots.policy import SelectionPolicy
from emberflow.bots.rotation import WEIGHT_TERMS
from emberflow.domain.tiers import PROBABILISTIC, TIERS, VIRGIN

UNFILLED: Final = ("no_seat", "no_eligible_bot")


@dataclass(frozen=True)
class Selection:
    """The outcome of `select_bots`, by sender and ordinal.

    ``picks``: ``sender_id``, ``ordinal``, ``bot_id`` int64; ``asked_tier``, ``tier`` Categorical; ``target_time``
    datetime64[us, UTC].
    ``unfilled``: ``sender_id``, ``ordinal`` int64; ``asked_tier`` Categorical; ``reason`` Categorical: ``no_seat``
    (every seat was taken) or ``no_eligible_bot`` (seats were left, at bots that this sender may not meet now).
    ``evidence``: about the slot that was to be traced.
    """

    picks: pd.DataFrame
    unfilled: pd.DataFrame
    evidence: Evidence | None = None


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
    traced_slot: tuple[int, int] | None = None,
) -> Selection:
    """Choose a bot for every slot of ``demand``, as far as eligible bots with seats go.

    Columns in:
        ``demand``: ``sender_id``, ``ordinal`` int64, unique together; ``ramp_day`` int64; ``nth`` int64, how many
        warm-up mails of the day come before; ``idle_days`` int64, days without mail before today; ``domain``,
        ``owner``, ``ip_group`` int64, -1 for none; ``target_time``, ``earliest``, ``latest`` datetime64[us, UTC]
        (`senders.pacing.pace`).
        ``bots``: ``bot_id`` int64, unique; ``cell`` int64 (`bots.mix`); ``seats`` int64, shared by all senders;
        ``free_from``, ``free_until`` int64, seconds since the epoch, and ``pause_s`` int64, the seconds that it needs
        between two mails (`bots.limits.available_seats`);
        ``capacity``, ``rest`` float, whose product is the weight (`bots.rotation`); ``domain``, ``owner``,
        ``ip_group`` likewise.
        ``appointments``: ``bot_id`` int64; ``target_time`` datetime64[us, UTC]: mail that bots are to get anyway.
    ``hour`` (UTC) names the draws, and ages of contacts are judged at it. ``shares`` are the cells' shares of a
    sender's partners; without them, those of the seats. ``traced_slot``: the sender_id and the ordinal of the slot
    whose evidence is kept.

    Guarantees: no bot gets more than its seats, a mail outside ``free_from`` to ``free_until``, or two mails less than
    its ``pause_s`` apart; a sender meets a bot at most once in the plan, never within 24 h of
    their last contact, never beyond the weekly maximum, and never one of its own domain, owner or IP group; a slot that
    asked ``virgin`` and stays open or got another tier had no virgin bot with a free seat left, and one that stays open
    had no bot at all.

    Raises:
        ValueError: a bot's weight is not positive.
    """
    is_positive = (bots[list(WEIGHT_TERMS)] > 0).all(axis=1)
    if not is_positive.all():
        raise ValueError(f"bots need a positive weight: {bots.loc[~is_positive, 'bot_id'].tolist()}")
    matching = Matching(demand, bots, history, policy, seed=seed, hour=hour, shares=shares, appointments=appointments)
    if traced_slot is not None:
        matching.trace = Trace(matching, *traced_slot, policy.runners_up)
    served = matching.order[: matching.seats.sum()]
    for slots in (served, matching.order[len(served) :]):
        _serve(matching, slots)
    augment(matching, matching.order)
    return _selection(matching)


def _serve(matching: Matching, slots: Integers) -> None:
    """Give each of ``slots`` a bot, in this order where two want the same."""
    asks_virgin = matching.asks_virgin[slots]
    explorers, others = slots[asks_virgin], slots[~asks_virgin]
    assign_new(matching, explorers)
    assign_partners(matching, others, elsewhere=False)
    assign_new(matching, others, elsewhere=False)
    assign_partners(matching, others)
    assign_partners(matching, explorers)
    assign_new(matching, others)
    assign_any_partner(matching, slots)


def _selection(matching: Matching) -> Selection:
    filled, unfilled = np.flatnonzero(matching.bot >= 0), np.flatnonzero(matching.bot < 0)
    picks = _rows(matching, filled, bot_id=matching.bots[matching.bot[filled]])
    reason = np.full(len(unfilled), int(matching.seats.any()), dtype=np.int8)
    times = pd.DatetimeIndex((matching.time[filled] * 1_000_000).view("datetime64[us]"), tz="UTC")
    return Selection(
        picks.assign(tier=_named(matching.tier[filled], TIERS), target_time=times),
        _rows(matching, unfilled).assign(reason=_named(reason, UNFILLED)),
        evidence=matching.trace.evidence,
    )


def _rows(matching: Matching, slots: Integers, **more: Integers) -> pd.DataFrame:
    asked = np.where(matching.asks_virgin[slots], TIERS.index(VIRGIN), TIERS.index(PROBABILISTIC))
    names = {"sender_id": matching.senders[slots], "ordinal": matching.ordinals[slots]}
    return pd.DataFrame({**names, **more, "asked_tier": _named(asked, TIERS)})


def _named(codes: npt.NDArray[Any], names: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes.astype(np.int8), pd.Index(list(names), dtype="str"))
