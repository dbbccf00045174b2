"""The quota: how much of its ramp a sender may use today, how much cold mail goes with it, and how much in this hour.

    healthy volume = ramp volume x health multiplier, rounded down
    cold quota     = least of (step limit, published mix, cap) x daily factor; 0 before graduation
    warm-up quota  = healthy volume x daily factor, at most the total cap less the cold quota
    slots of a span = what is left of the quota x the span's share of the window that is left, on the day's own grid
    what is left    = quota - used - mail that a person sent from the mailbox

The daily factor is fixed by (seed, sender, local day), so the quota of a day is the same number at any hour until
the evidence changes. The slots of an hour look only at what is left, so a missed hour is made up by the later ones
and no day, of 23, 24 or 25 hours, adds up to more than its quota. Caps over rolling 24 hours are held where mail
is submitted, because only there is it known what was really sent.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from emberflow.randomness import state, uniforms
from emberflow.senders.policy import ColdPolicy, QuotaPolicy, RampPolicy
from emberflow.senders.ramp import Floats, Integers, ramp_today

_NEXT_PLACE: Final = 1 - 1e-9
COLD_GATES: Final = ("open", "no_campaign", "too_few_sending_days", "too_few_placements", "placement_too_low")


def daily_quota(senders: pd.DataFrame, ramp: RampPolicy, policy: QuotaPolicy, seed: int) -> pd.DataFrame:
    """Return ``senders`` with the quota of each sender's local day and with every factor that made it.

    Columns in, one row per sender; other columns are kept:
        ``sender_id`` int64; ``local_day`` datetime64[s], naive, midnight of the day in the sender's zone;
        ``sending_days``, ``last_row``, ``idle_days`` int64, ``last_volume``, ``score`` float64
        (`emberflow.senders.ramp.ramp_today`);
        ``last_multiplier`` float64, 0-1: the health multiplier of the last plan, null without one;
        ``in_campaign`` bool: an active campaign uses this sender;
        ``domain_age_days`` float64, null unknown;
        ``inbox_rate`` float64, 0-1: share of recent warm-up mail found in the inbox, null without any;
        ``placements`` int64: the number of mails behind ``inbox_rate``;
        ``cold_peak`` int64: most cold mails sent on one local day of the last 30, today excluded; 0 if none. Providers
        forget a sender after 30 days (see ``ramp``), so an older peak is no permission.

    Columns added:
        ``ramp_day``, ``ramp_row``, ``ramp_volume`` int64, ``ramp_move`` Categorical (`ramp_today`);
        ``health_multiplier``, ``daily_factor`` float64, 0-1; ``healthy_volume`` int64;
        ``cold_gate`` Categorical of `COLD_GATES`: ``open``, or the first reason why there is no cold mail;
        ``cold_by_step``, ``cold_by_mix`` int64: the most that the step and the published mix allow;
        ``warmup_quota``, ``cold_quota``, ``total_quota`` int64, mails; the total is over mail of all kinds (S-B5).

    Health rounds down, because a throttled sender must not exceed its share; the daily factor rounds to the
    nearest mail, because rounding down would take a whole mail from every small quota. A sender that may
    send at all gets at least one warm-up mail, none of the quotas is above its volume or cap, and the two of a sender
    in a campaign fit under the total together: there warm-up mail makes room for cold mail, as in the schedule.
    """
    today = ramp_today(ramp, senders)
    score, last_multiplier = (senders[name].to_numpy(dtype=np.float64) for name in ("score", "last_multiplier"))
    multiplier = _health_multiplier(policy, score, last_multiplier)
    factor = _daily_factor(policy, senders, seed)
    healthy = np.floor(today["ramp_volume"].to_numpy() * multiplier).astype(np.int64)
    healthy = np.where(multiplier > 0, np.maximum(healthy, 1), 0)

    gate = _cold_gate(policy.cold, senders, today["ramp_day"].to_numpy() - 1)
    by_step = senders["cold_peak"].to_numpy(dtype=np.int64) + policy.cold.daily_step
    by_mix = _cold_by_mix(policy, healthy)
    most_cold = np.minimum(np.minimum(by_step, by_mix), policy.cold.cap)
    cold_quota = np.where(gate == COLD_GATES.index("open"), _rounded(most_cold * factor), 0)
    warmup_quota = np.minimum(_rounded(healthy * factor), policy.total_daily_cap - cold_quota)
    return senders.assign(
        **today,
        health_multiplier=multiplier,
        daily_factor=factor,
        healthy_volume=healthy,
        cold_gate=pd.Categorical.from_codes(gate, categories=pd.Index(COLD_GATES)),
        cold_by_step=by_step,
        cold_by_mix=by_mix,
        warmup_quota=warmup_quota,
        cold_quota=cold_quota,
        total_quota=np.full(len(senders), policy.total_daily_cap, dtype=np.int64),
    )


def within_the_pool(day: pd.DataFrame, eligible_bots: pd.Series[int], minimum_bots: int) -> pd.DataFrame:
    """Shrink the quotas of senders whom fewer than ``minimum_bots`` may serve (B-F9), to one mail while there is a bot.

    ``day`` as of :func:`daily_quota`; ``eligible_bots``, of the same senders in the same order, becomes a column of it.
    """
    eligible = eligible_bots.to_numpy()
    quota = day["warmup_quota"].to_numpy()
    shrunk = np.maximum(quota * eligible // minimum_bots, np.minimum(quota, np.minimum(eligible, 1)))
    return day.assign(eligible_bots=eligible, warmup_quota=np.where(eligible < minimum_bots, shrunk, quota))


def reserved_for_warmup(policy: QuotaPolicy, warmup_quota: Integers, total_quota: Integers) -> Integers:
    """Return how many of a day's mails only warm-up mail may use (Q-B2): its share of the total, at most its quota."""
    share = np.maximum(np.floor(total_quota * policy.warmup_reserve), 1)
    return np.asarray(np.minimum(share, warmup_quota), dtype=np.int64)


def beside_outside_mail(warmup_quota: Integers, outside: Integers) -> Integers:
    """Return how many warm-up mails a day holds beside ``outside``, what a person sent from the mailbox (S-F7).

    Providers count what a mailbox sends, whoever wrote it, so the ramp's volume is that of both together. One warm-up
    mail is left, as health and chance leave one: or the ramp of a mailbox in daily use would never begin.
    """
    return np.asarray(np.maximum(warmup_quota - outside, np.minimum(warmup_quota, 1)), dtype=np.int64)


def left_of_day(day: pd.DataFrame) -> tuple[Integers, Integers]:
    """Return how many warm-up mails are left of each day, and how many mails of all kinds.

    Columns in: ``warmup_quota``, ``warmup_used``, ``total_quota``, ``total_used``, ``outside_sent`` int64.
    """
    warmup_quota, warmup_used, total_quota, total_used, outside = (
        day[name].to_numpy(dtype=np.int64)
        for name in ("warmup_quota", "warmup_used", "total_quota", "total_used", "outside_sent")
    )
    of_warmup = np.maximum(beside_outside_mail(warmup_quota, outside) - warmup_used, 0)
    return of_warmup, np.maximum(total_quota - total_used - outside, 0)


def slots_for_hour(day: pd.DataFrame, policy: QuotaPolicy, seed: int) -> pd.DataFrame:
    """Return how many slots each sender gets in the span that is being planned, on the index of ``day``.

    Columns in: ``sender_id``; ``local_day`` datetime64[s]; ``warmup_quota``, ``warmup_used``, ``cold_quota``,
    ``cold_used``, ``total_quota``, ``total_used`` int64 (used = sent or reserved, of the sender's local day);
    ``outside_sent`` int64, what a person sent on it;
    ``open_s_now``, ``open_s_left`` and ``open_s`` float64, seconds of the sending window inside the span, from the
    span's start until the window closes, and in all (`emberflow.senders.pacing.planning_span`).

    Columns out: ``warmup_slots``, ``cold_slots`` int64; ``first_s``, ``every_s`` float64, the open seconds from the
    span's start to the place of its first warm-up slot, and from one to the next.

    What replies have taken of the total is missed by warm-up mail first, down to its reserve (`reserved_for_warmup`);
    below that cold mail makes room (Q-B2). The places of a day's mails are a grid over its window, moved by a seeded
    phase of the sender and the day: so hours round up and down in turn, each expects its share, small quotas fall into
    different hours for different senders, and one hour goes on where the last one ended. What an hour missed is spread
    over the rest; the last span of a window takes exactly what is left.
    """
    warmup_left, left_of_total = left_of_day(day)
    cold_left = (day["cold_quota"] - day["cold_used"]).clip(lower=0).to_numpy(dtype=np.int64)
    quotas = (day[name].to_numpy(dtype=np.int64) for name in ("warmup_quota", "total_quota"))
    unused_reserve = np.maximum(reserved_for_warmup(policy, *quotas) - day["warmup_used"].to_numpy(dtype=np.int64), 0)
    unused_reserve = np.minimum(unused_reserve, warmup_left)
    cold_left = np.minimum(cold_left, np.maximum(left_of_total - unused_reserve, 0))
    warmup_left = np.minimum(warmup_left, left_of_total - cold_left)
    now, until_close, whole = (day[name].to_numpy(dtype=np.float64) for name in ("open_s_now", "open_s_left", "open_s"))
    elapsed = np.divide(whole - until_close, whole, out=np.zeros_like(whole), where=whole > 0)
    days = day["local_day"].to_numpy(dtype="datetime64[D]").astype(np.int64)

    def places(kind: str, left: Integers) -> tuple[Integers, Floats, Floats]:
        phase = uniforms(state(seed, "day_phase", kind), day["sender_id"].to_numpy(), days)
        passed = phase + day[f"{kind}_quota"].to_numpy(dtype=np.float64) * elapsed
        to_first = np.minimum(1 - passed % 1, _NEXT_PLACE)
        every = np.divide(until_close, left, out=np.full_like(now, np.inf), where=left > 0)
        reached = np.ceil(np.divide(now, every, out=np.zeros_like(now), where=every > 0) - to_first)
        slots = np.where(now < until_close, np.clip(reached, 0, left), left).astype(np.int64)
        return np.where(now > 0, slots, 0), to_first * every, every

    warmup_slots, first_s, every_s = places("warmup", warmup_left)
    return pd.DataFrame(
        {
            "warmup_slots": warmup_slots,
            "cold_slots": places("cold", cold_left)[0],
            "first_s": first_s,
            "every_s": every_s,
        },
        index=day.index,
    )


def _health_multiplier(policy: QuotaPolicy, score: Floats, last_multiplier: Floats) -> Floats:
    lowest, multipliers = (np.array(column, dtype=np.float64) for column in zip(*policy.health[::-1], strict=True))
    band = np.clip(np.searchsorted(lowest, score, side="right") - 1, 0, None)
    return np.where(np.isnan(score), np.fmin(last_multiplier, policy.unscored_multiplier), multipliers[band])


def _daily_factor(policy: QuotaPolicy, senders: pd.DataFrame, seed: int) -> Floats:
    days = senders["local_day"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    sender_id = senders["sender_id"].to_numpy()
    draw = uniforms(state(seed, "daily_factor"), sender_id, days)
    factor = policy.daily_factor_low + (policy.daily_factor_high - policy.daily_factor_low) * draw
    is_quiet = uniforms(state(seed, "quiet_day"), sender_id, days) < policy.quiet_day_share
    return np.where(is_quiet, policy.quiet_day_factor, np.minimum(factor, 1))


def _cold_gate(policy: ColdPolicy, senders: pd.DataFrame, sending_days: Integers) -> npt.NDArray[np.int64]:
    # An unknown age compares false: the domain is taken to be new.
    is_grown = senders["domain_age_days"].to_numpy(dtype=np.float64) >= policy.new_domain_days
    days_needed = np.where(is_grown, policy.sending_days, policy.sending_days_of_new_domain)
    sends_cold = senders["cold_peak"].to_numpy() > 0
    placement_needed = np.where(sends_cold, policy.keep_placement, policy.placement)
    inbox_rate = senders["inbox_rate"].to_numpy(dtype=np.float64)
    reasons = {
        "no_campaign": ~senders["in_campaign"].to_numpy(dtype=bool),
        "too_few_sending_days": sending_days < days_needed,
        "too_few_placements": (senders["placements"].to_numpy() < policy.placements) | np.isnan(inbox_rate),
        "placement_too_low": inbox_rate < placement_needed,
    }
    codes = [COLD_GATES.index(name) for name in reasons]
    return np.select(list(reasons.values()), codes, default=COLD_GATES.index("open"))


def _cold_by_mix(policy: QuotaPolicy, warmup: Integers) -> Integers:
    """Return the cold mail that the best row of the mix within reach allows, as far as the total holds both."""
    most = [0]
    for warmup_mails, cold_mails in policy.cold.mix:
        most.append(max(most[-1], min(cold_mails, policy.total_daily_cap - warmup_mails)))
    begins = np.array([warmup_mails for warmup_mails, _ in policy.cold.mix])
    return np.array(most)[np.searchsorted(begins, warmup, side="right")]


def _rounded(mails: Floats) -> Integers:
    return np.floor(mails + 0.5).astype(np.int64)
