"""The plan of one hour, computed: quota, bots, selection, pacing. A pure function of what it is given.

Equal inputs and equal answers about pairs give an equal plan, byte by byte (Q-F1): every draw is addressed by the seed
and by what it is about, and rows are in the order of their ids.

A sender or bot goes by the numbers of its profile (S-B11, B-B11). Each rule is called once per profile, with all of its
mailboxes, and what comes out is put back into their order: no draw depends on who else is in a call.

Cost: linear in senders, bots and slots, with a call per profile; the pair table is only asked about the pairs that are
offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emberflow.bots.eligibility import GROUPS, eligible_bots
from emberflow.bots.history import History
from emberflow.bots.limits import available_seats
from emberflow.bots.matching import LONGEST_IDLE_DAYS
from emberflow.bots.mix import partner_mix
from emberflow.bots.placement import placement_factors
from emberflow.bots.rotation import turn_terms
from emberflow.bots.selection import Selection, select_bots
from emberflow.clock import HOUR
from emberflow.policy.document import Policy
from emberflow.policy.profiles import Profile
from emberflow.queue_manager.planning.inputs import PROFILE, PlanInputs, sha256
from emberflow.senders.pacing import open_windows, pace, planning_span
from emberflow.senders.quota import daily_quota, slots_for_hour, within_the_pool

Phase = Callable[[str], None]
Rule = Callable[[pd.DataFrame, Profile], pd.DataFrame]


@dataclass(frozen=True)
class Plan:
    """A computed hour, before it is written.

    ``day``: one row per active sender, with the columns of ``PlanInputs.senders`` and those of ``open_windows``,
    ``planning_span`` and ``daily_quota``, ``first_s`` and ``every_s`` of ``slots_for_hour``, and ``wanted`` int64, the
    slots that it asks for in this hour.
    ``times``: as of ``pace``: those of them that fit in, before bots are chosen.
    ``bots``: the columns of ``PlanInputs.bots``, ``available_seats`` and ``turn_terms``, and ``cell`` int64.
    ``cells``: as of ``partner_mix``.
    ``slots``: ``sender_id``, ``ordinal``, ``bot_id`` int64; ``asked_tier``, ``tier`` Categorical; ``target_time``
    datetime64[us, UTC]; ``gap_s`` int64. By sender and ordinal.
    """

    day: pd.DataFrame
    times: pd.DataFrame
    bots: pd.DataFrame
    cells: pd.DataFrame
    selection: Selection
    slots: pd.DataFrame

    @property
    def sha256(self) -> str:
        """The hash of the slots."""
        return sha256("", self.slots)


def compute(inputs: PlanInputs, history: History, *, traced_slot: tuple[int, int] | None = None) -> Plan:
    """Compute the plan: `quotas`, then `choose`."""
    return choose(inputs, quotas(inputs), history, traced_slot=traced_slot)


def quotas(inputs: PlanInputs) -> pd.DataFrame:
    """Return ``Plan.day``."""
    policy, seed, hour = inputs.policy, inputs.seed, inputs.hour
    eligible = eligible_bots(inputs.senders, inputs.bots)

    def windows_of(senders: pd.DataFrame, by: Profile) -> pd.DataFrame:
        return open_windows(senders, inputs.start, by.pacing, seed)

    windows = by_profile(inputs.senders, policy, windows_of)
    spans = planning_span(windows, inputs.start, hour + HOUR, policy.pacing)  # its one number is no profile's
    day = _beside(inputs.senders, spans, windows)
    day = by_profile(day, policy, lambda senders, by: daily_quota(senders, by.ramp, by.quota, seed))
    day = within_the_pool(day, eligible, policy.selection.minimum_bots)
    slots = by_profile(day, policy, lambda senders, by: slots_for_hour(senders, by.quota, seed))
    return day.assign(wanted=slots["warmup_slots"], first_s=slots["first_s"], every_s=slots["every_s"])


def choose(
    inputs: PlanInputs,
    day: pd.DataFrame,
    history: History,
    *,
    on_phase: Phase = lambda name: None,
    traced_slot: tuple[int, int] | None = None,
) -> Plan:
    """Choose bots and times for what ``day`` wants; ``on_phase`` hears the name of each phase when it is over.

    ``traced_slot`` names a slot (sender_id, ordinal) for which the selection keeps its evidence.
    """
    policy, seed, hour = inputs.policy, inputs.seed, inputs.hour
    asked = _demand(day)
    times = by_profile(asked, policy, lambda slots, by: pace(slots, day, by.pacing, seed, hour))
    on_phase("pace")

    until = max(hour + HOUR, day["span_end"].max()) if len(day) else hour + HOUR
    seats = by_profile(inputs.bots, policy, lambda bots, by: available_seats(bots, inputs.start, until, by.bots))
    bots = _beside(inputs.bots, seats)
    factors = placement_factors(inputs.providers[["provider", "inbox", "junk"]], policy.placement)
    mix = partner_mix(bots, inputs.providers.assign(factor=factors.to_numpy()), inputs.domains)
    full_cap = policy.bots.daily_inbound_cap  # of all: a bot whose profile lets it take less has fewer turns
    terms = by_profile(bots, policy, lambda some, by: turn_terms(some, inputs.start, by.bots, full_cap))
    bots = _beside(bots, terms).assign(cell=mix.cell)
    shares = dict(enumerate(mix.cells["share"].tolist()))
    selection = select_bots(
        _beside(asked.loc[times.index], times),
        bots,
        history,
        policy.selection,
        seed=seed,
        hour=hour,
        shares=shares,
        appointments=inputs.appointments,
        traced_slot=traced_slot,
    )
    slots = selection.picks.merge(
        times[["sender_id", "ordinal", "gap_s"]], on=["sender_id", "ordinal"], validate="one_to_one"
    )
    on_phase("select")
    return Plan(day, times, bots, mix.cells, selection, slots)


def by_profile(mailboxes: pd.DataFrame, policy: Policy, rule: Rule) -> pd.DataFrame:
    """Apply ``rule`` to the mailboxes of each profile, and return its rows in the order of their index.

    ``mailboxes`` has a unique, rising index and, where the policy has profiles, the column ``profile`` int64: the
    place of its profile in ``Policy.numbers_of``. ``rule`` may leave rows out.
    """
    numbers = list(policy.numbers_of.values())
    if PROFILE not in mailboxes:
        return rule(mailboxes, numbers[0])
    codes = mailboxes[PROFILE].to_numpy()
    present = np.unique(codes)
    if len(present) <= 1:
        return rule(mailboxes, numbers[present[0] if len(present) else 0])
    return pd.concat([rule(mailboxes[codes == code], numbers[code]) for code in present]).sort_index()


def _demand(day: pd.DataFrame) -> pd.DataFrame:
    """Return one row per wanted slot, numbered from 1 within its sender."""
    wanted = day["wanted"].to_numpy()
    columns = ["sender_id", "ramp_day", *GROUPS, "warmup_used", "sending_days", "idle_days"]
    columns += [PROFILE] if PROFILE in day else []
    asked = day.loc[day.index.repeat(wanted), columns]
    ordinal = np.arange(len(asked)) - np.repeat(np.cumsum(wanted) - wanted, wanted) + 1
    idle_days = np.where(asked["sending_days"] == 0, LONGEST_IDLE_DAYS, asked["idle_days"])
    asked = asked.assign(ordinal=ordinal, nth=asked["warmup_used"] + ordinal - 1, idle_days=idle_days)
    return asked.reset_index(drop=True)


def _beside(*frames: pd.DataFrame) -> pd.DataFrame:
    """Return frames of the same rows as one; of a column that several have, the first is kept."""
    joined = frames[0]
    for frame in frames[1:]:
        joined = joined.assign(**{str(name): frame[name].array for name in frame.columns if name not in joined})
    return joined
