"""Selection: which bot receives each slot of the hour (Q-B7), with the evidence for every choice (Q-F2).

The candidates of a slot fall into three tiers by the history of the pair:

``virgin``          this sender and this bot never had contact;
``probabilistic``   they had, and the pair's cooldown is over;
``active``          they had within the cooldown: the last resort, only when nobody else is left (B-F3).

A seeded draw lets the slot ask ``virgin`` or ``probabilistic`` first. An empty tier falls through to the
other one and then to ``active``; both the tier asked and the tier used are recorded. Inside a tier a
bot is drawn with probability proportional to its weight, by exponential keys -ln(u) / w of which the smallest
wins (Efraimidis and Spirakis, Information Processing Letters 97, 2006). Because u is addressed by (hour,
sender, ordinal, bot), a plan does not depend on the order of any input's rows (Q-F1).

This is the reference: an exact greedy loop over the slots, vectorised over the bots, O(slots x bots).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from emberflow.clock import require_utc
from emberflow.randomness import state, uniforms

VIRGIN, PROBABILISTIC, ACTIVE = "virgin", "probabilistic", "active"
SAME_DAY_H = 24

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class SelectionPolicy(BaseModel):
    """Exploration, pair limits, and how much evidence is kept.

    ``virgin_share_floor``, ``virgin_days``
        A sender explores new partners with the share ``max(floor, 1 - day / virgin_days)``: at first nearly
        always, from day 12 on one slot in five (our rule).
    ``pair_cooldown_h``, ``pair_weekly_maximum``
        72 h and 3 contacts in 7 days (B-F3), as in Warmbly's partner choice (internal/tasks/email_task.go).
        The cooldown yields when no other bot is left, the weekly maximum never does.
    ``runners_up``
        How many bots behind the chosen one a decision names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    virgin_share_floor: float = Field(default=0.2, ge=0, le=1)
    virgin_days: int = Field(default=14, ge=1, le=365)
    pair_cooldown_h: int = Field(default=72, ge=SAME_DAY_H, le=24 * 90)
    pair_weekly_maximum: int = Field(default=3, ge=1, le=7)
    runners_up: int = Field(default=3, ge=0, le=20)


@dataclass(frozen=True)
class Selection:
    """The outcome of `select_bots`; rows stand in the order in which the slots were served.

    ``picks``
        ``sender_id``, ``ordinal``, ``bot_id`` int64; ``tier`` str. One row per filled slot.
    ``decisions``
        One row per slot: ``sender_id``, ``ordinal`` int64; ``bot_id`` Int64, null when unfilled;
        ``asked_tier`` str; ``tier`` str, null when unfilled; ``weight``, ``draw``, ``key`` float of the
        chosen bot; ``terms`` dict of the factors of its weight (``bot``, ``headroom``, ``repeats``), null
        when unfilled; ``runners_up`` list of {bot_id, weight, draw, key} of the same tier, next best first;
        ``rejected`` dict reason -> number of bots, without zeros: ``own_domain``, ``same_day``,
        ``weekly_maximum``, ``no_seat`` (the first that applies), and ``cooldown`` for bots that were set
        aside because another one was left.
    """

    picks: pd.DataFrame
    decisions: pd.DataFrame


def virgin_share(policy: SelectionPolicy, ramp_day: pd.Series[int]) -> pd.Series[float]:
    """Return the probability that a slot asks the virgin tier first, on ``ramp_day``'s index."""
    return (1 - ramp_day / policy.virgin_days).clip(lower=policy.virgin_share_floor).rename("virgin_share")


def select_bots(
    demand: pd.DataFrame,
    bots: pd.DataFrame,
    pairs: pd.DataFrame,
    policy: SelectionPolicy,
    *,
    seed: int,
    hour: datetime,
) -> Selection:
    """Choose a bot for every slot of ``demand``, as far as eligible bots with seats go.

    Columns in:
        ``demand``: ``sender_id``, ``ordinal`` int64, unique together; ``ramp_day`` int64; ``domain`` str, of
        the sender's address.
        ``bots``: ``bot_id`` int64, unique; ``domain`` str; ``seats`` int64, shared by all senders; ``weight``
        float > 0.
        ``pairs``: ``sender_id``, ``bot_id`` int64, unique together; ``sent_7d`` int64, warm-up mails of the
        last 7 days; ``last_contact`` datetime64[us, UTC]. Only pairs that ever had contact.
    ``hour`` (UTC) names the draws, and ages of contacts are judged at it.

    Guarantees: no bot gets more than its seats; a sender meets a bot at most once in the plan, never within
    24 h of their last contact, never beyond the weekly maximum, and never at its own domain; a slot stays
    unfilled only if no bot was eligible when it was served. All first ordinals are served in a seeded order,
    then all second ones, and so on, so that scarcity is shared and no sender starves.

    The weight of a bot for a slot is ``weight x headroom x repeats``: headroom is the part of the seats it
    entered this plan with that is still free, repeats is 2 ** -sent_7d of the pair.

    Raises:
        ValueError: a bot's weight is not positive.
    """
    if not (bots["weight"] > 0).all():
        raise ValueError(f"bots need a positive weight: {bots.loc[~(bots['weight'] > 0), 'bot_id'].tolist()}")
    pool = _Pool(bots, pairs, policy, hour, state(seed, "select_bots", hour))
    order = _in_serving_order(demand, policy, seed, hour)
    decisions = [
        pool.serve(int(sender_id), int(ordinal), domain, asked)
        for sender_id, ordinal, domain, asked in zip(*(order[name] for name in _SLOT), strict=True)
    ]
    table = pd.DataFrame(decisions, columns=list(_DECISION_TYPES)).astype(_DECISION_TYPES)
    picks = table.loc[table["bot_id"].notna(), ["sender_id", "ordinal", "bot_id", "tier"]]
    return Selection(picks.astype({"bot_id": "int64"}).reset_index(drop=True), table)


_SLOT = ("sender_id", "ordinal", "domain", "asked_tier")
_DECISION_TYPES = {
    "sender_id": "int64",
    "ordinal": "int64",
    "bot_id": "Int64",
    "asked_tier": "str",
    "tier": "str",
    "weight": "float64",
    "draw": "float64",
    "key": "float64",
    "terms": "object",
    "runners_up": "object",
    "rejected": "object",
}


def _in_serving_order(demand: pd.DataFrame, policy: SelectionPolicy, seed: int, hour: datetime) -> pd.DataFrame:
    slots = demand[["sender_id", "ordinal", "ramp_day", "domain"]].sort_values(["sender_id", "ordinal"])
    ids = slots["sender_id"].to_numpy(), slots["ordinal"].to_numpy()
    asks_virgin = uniforms(state(seed, "ask_tier", hour), *ids) < virgin_share(policy, slots["ramp_day"])
    slots = slots.assign(
        asked_tier=np.where(asks_virgin, VIRGIN, PROBABILISTIC),
        round=slots.groupby("sender_id").cumcount(),
        lot=uniforms(state(seed, "serve_order", hour), *ids),
    )
    return slots.sort_values(["round", "lot", "sender_id"])


class _Pool:
    """The bots while a plan is made, as arrays in the order of bot_id; serving a slot takes a seat."""

    def __init__(
        self,
        bots: pd.DataFrame,
        pairs: pd.DataFrame,
        policy: SelectionPolicy,
        hour: datetime,
        stream: np.uint64,
    ) -> None:
        bots = bots.sort_values("bot_id")
        self._policy = policy
        self._stream = stream
        self._ids: Integers = bots["bot_id"].to_numpy(dtype=np.int64)
        self._domains = bots["domain"].str.lower().to_numpy(dtype=object)
        self._weights: Floats = bots["weight"].to_numpy(dtype=np.float64)
        self._seats: Integers = bots["seats"].to_numpy(dtype=np.int64)
        self._free: Integers = self._seats.copy()
        self._met: dict[int, list[int]] = {}

        known = pairs[pairs["bot_id"].isin(self._ids)]
        age = pd.Timestamp(require_utc(hour)) - known["last_contact"]
        known = known.assign(at=np.searchsorted(self._ids, known["bot_id"]), age_h=age.dt.total_seconds() / 3600)
        self._history = {
            sender: (rows["at"].to_numpy(), rows["sent_7d"].to_numpy(), rows["age_h"].to_numpy())
            for sender, rows in known.groupby("sender_id")
        }

    def serve(self, sender_id: int, ordinal: int, domain: str, asked: str) -> dict[str, Any]:
        """Choose for one slot and return its decision."""
        sent_7d, age_h = self._contacts(sender_id)
        rejected, eligible = self._screen(sender_id, domain, sent_7d, age_h)
        contacted = np.isfinite(age_h)
        cooling = age_h < self._policy.pair_cooldown_h
        members = {
            VIRGIN: eligible & ~contacted,
            PROBABILISTIC: eligible & contacted & ~cooling,
            ACTIVE: eligible & cooling,
        }
        order = (VIRGIN, PROBABILISTIC, ACTIVE) if asked == VIRGIN else (PROBABILISTIC, VIRGIN, ACTIVE)
        tier = next((name for name in order if members[name].any()), None)
        if tier in (VIRGIN, PROBABILISTIC):
            rejected["cooldown"] = int(members[ACTIVE].sum())
        decision: dict[str, Any] = {
            "sender_id": sender_id,
            "ordinal": ordinal,
            "asked_tier": asked,
            "tier": tier,
            "terms": None,
            "runners_up": [],
            "rejected": {reason: count for reason, count in rejected.items() if count},
        }
        if tier is None:
            return decision

        at = np.flatnonzero(members[tier])
        headroom = self._free[at] / self._seats[at]
        repeats = 2.0 ** -sent_7d[at]
        weight = self._weights[at] * headroom * repeats
        draw = uniforms(self._stream, np.full(at.size, sender_id), np.full(at.size, ordinal), self._ids[at])
        key = -np.log(draw) / weight
        ranked = [
            {
                "bot_id": int(self._ids[at[i]]),
                "weight": float(weight[i]),
                "draw": float(draw[i]),
                "key": float(key[i]),
            }
            for i in np.argsort(key, kind="stable")[: 1 + self._policy.runners_up]
        ]
        best = int(np.argmin(key))
        self._free[at[best]] -= 1
        self._met.setdefault(sender_id, []).append(int(at[best]))
        terms = {"bot": self._weights[at[best]], "headroom": headroom[best], "repeats": repeats[best]}
        return (
            decision
            | ranked[0]
            | {
                "terms": {name: float(value) for name, value in terms.items()},
                "runners_up": ranked[1:],
            }
        )

    def _contacts(self, sender_id: int) -> tuple[Integers, Floats]:
        """Per bot: mails of the pair in 7 days, and hours since the last contact (infinite without one)."""
        sent_7d = np.zeros(self._ids.size, dtype=np.int64)
        age_h = np.full(self._ids.size, np.inf)
        if sender_id in self._history:
            at, sent, age = self._history[sender_id]
            sent_7d[at], age_h[at] = sent, age
        return sent_7d, age_h

    def _screen(self, sender_id: int, domain: str, sent_7d: Integers, age_h: Floats) -> tuple[dict[str, int], Mask]:
        """Count the bots that a hard rule excludes, each under its first reason, and return who is left."""
        same_day = age_h < SAME_DAY_H
        same_day[self._met.get(sender_id, [])] = True
        rules = {
            "own_domain": self._domains == domain.lower(),
            "same_day": same_day,
            "weekly_maximum": sent_7d >= self._policy.pair_weekly_maximum,
            "no_seat": self._free < 1,
        }
        eligible = np.ones(self._ids.size, dtype=np.bool_)
        rejected = {}
        for reason, applies in rules.items():
            rejected[reason] = int((eligible & applies).sum())
            eligible &= ~applies
        return rejected, eligible
