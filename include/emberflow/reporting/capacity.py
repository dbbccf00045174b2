"""Capacity against the database: what the senders want, what the bots can take, and where today's mail is lost.

The formula and the bots' side are in ``bots.capacity``. Here a computed hour (``planner.preview``) is split into an
account: every mail of a sender's ramp volume gets a slot or has exactly one reason why it does not (`account`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, text

from emberflow.clock import floor_hour
from emberflow.delivery.caps import HOURS_KEPT
from emberflow.policy.document import Policy

if TYPE_CHECKING:
    import pandas as pd

    from emberflow.bots.capacity import BotsNeeded as BotsNeeded  # noqa: PLC0414 - named by commands
    from emberflow.queue_manager.planning.hour_plan import Plan

_SENDERS = text("""
    select state, count(*) as senders
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    where removed_at is null
    group by state
    order by state
""")
_BOTS = text("""
    select status, count(*) as bots
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = mailbox_id
    where removed_at is null
    group by status
    order by status
""")

# A sender's present volume is that of the last day it was planned for; before its first plan it has none.
_VOLUMES = text("""
    select
        count(latest.ramp_volume) as planned,
        coalesce(sum(latest.ramp_volume), 0) as daily_mails,
        coalesce(max(latest.ramp_volume), 0) as largest_volume
    from ops.senders
    left join lateral (
        select ramp_volume
        from ops.sender_days
        where sender_id = senders.id
        order by local_day desc
        limit 1
    ) as latest on true
    where senders.state = 'active'
""")

_PROFILES = text("""
    select senders.profile, count(*) as senders, 0 as bots
    from ops.senders
    where senders.state = 'active'
    group by senders.profile
    union all
    select bots.profile, 0, count(*)
    from ops.bots
    where bots.status = 'active'
    group by bots.profile
""")

_CAPS = text("""
    select distinct on (scope) scope, key, used
    from ops.send_counters
    cross join lateral (
        select coalesce(sum(sent), 0) as used
        from unnest(per_hour) with ordinality as hourly (sent, place)
        where send_counters.hour - (:kept - place) * interval '1 hour' > :hour - :kept * interval '1 hour'
    ) as of_day
    where scope = any(:scopes)
    order by scope, used desc, key
""")

_NAMES = text("""
    select bots.id, mailboxes.address, mailboxes.provider
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    where bots.id = any(:ids)
""")


class BotName(NamedTuple):
    """How a bot is called, and who runs its mailbox."""

    address: str
    provider: str


@dataclass(frozen=True)
class CapUse:
    """A cap over rolling 24 hours, and whose use comes nearest to it."""

    scope: str
    key: str
    used: int
    limit: int


@dataclass(frozen=True)
class Capacity:
    """What `capacity` found. ``hour`` is the hour that was looked at.

    ``senders``, ``bots``
        Their number by state and by status.
    ``volumes_known``
        Active senders that were planned at least once; ``now`` counts only these, ``at_maximum`` all active ones.
    ``supply``, ``pools``
        Frames of `supply_by_state` and `supply_by_provider`, the providers by name.
    ``account``
        Mails per column of `account`, added up over all senders.
    ``unfilled``
        Mails of ``no_bot`` by the planner's reason, most first.
    ``caps``
        The policy's caps over 24 hours that concern all senders together.
    ``warnings``
        What an operator should act on, one sentence each; empty when there are enough bots.
    """

    hour: datetime
    senders: Mapping[str, int]
    bots: Mapping[str, int]
    volumes_known: int
    now: BotsNeeded
    at_maximum: BotsNeeded
    supply: pd.DataFrame
    pools: pd.DataFrame
    account: pd.Series[int]
    unfilled: pd.Series[int]
    caps: Sequence[CapUse]
    warnings: Sequence[str]


def capacity(connection: Connection, hour: datetime, plan: Plan, policy: Policy, now: datetime) -> Capacity:
    """Return how far the bots go for the senders; ``plan`` is the computed ``hour``."""
    from emberflow.bots.capacity import BotsNeeded, supply_by_provider, supply_by_state

    senders = {row.state: row.senders for row in connection.execute(_SENDERS)}
    bots = {row.status: row.bots for row in connection.execute(_BOTS)}
    volumes = connection.execute(_VOLUMES).one()
    mean_cap, maxima = _by_profile(connection, policy)
    L, K = mean_cap, policy.selection.pair_cooldown_h  # noqa: N806 - the formula's names
    present = BotsNeeded(int(volumes.daily_mails), int(volumes.largest_volume), L, K)
    at_maximum = BotsNeeded(sum(count * maximum for maximum, count in maxima.items()), max(maxima, default=0), L, K)
    supply = supply_by_state(plan.bots, _full_caps(plan.bots, policy))
    pools = supply_by_provider(plan.bots, plan.selection.picks)
    named = bot_names(connection, pools["example_bot_id"].tolist())
    pools["provider"] = [named[bot_id].provider for bot_id in pools["example_bot_id"]]
    caps = _caps(connection, policy, now)
    lost = account(plan.day, plan.times, plan.slots).drop(columns="sender_id").sum()
    return Capacity(
        hour=hour,
        senders=senders,
        bots=bots,
        volumes_known=int(volumes.planned),
        now=present,
        at_maximum=at_maximum,
        supply=supply,
        pools=pools,
        account=lost,
        unfilled=plan.selection.unfilled["reason"].astype("str").value_counts(),
        caps=caps,
        warnings=[
            *_shortage(lost),
            *_warnings(bots.get("active", 0), present, at_maximum, supply, pools, caps),
        ],
    )


def of_hour(connection: Connection, hour: datetime, now: datetime) -> Capacity:
    """Return the capacity at ``hour``, whose plan is computed for that as of ``now``."""
    from emberflow.policy.versions import in_force
    from emberflow.queue_manager.planning import planner

    plan = planner.preview(connection, hour, now=now)
    return capacity(connection, hour, plan, in_force(connection).policy, now)


def account(day: pd.DataFrame, times: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
    """Return what became of every mail of each sender's ramp volume.

    Columns in: ``day``, one row per sender: ``sender_id``, ``ramp_volume``, ``warmup_quota``, ``warmup_used``,
    ``total_quota``, ``total_used``, ``outside_sent``, ``wanted`` int64; ``health_multiplier``, ``open_s_now``,
    ``open_s_left`` float64; ``opens_at``, ``closes_at``, ``span_start`` datetime64[us, UTC]. ``times`` and ``slots``:
    ``sender_id`` int64, one row per mail that fits in, and per planned one.

    Columns out, int64, with ``ramp_volume`` = the sum of all that follow it in every row: ``sender_id``;
    ``ramp_volume``; ``by_health`` and ``by_daily_factor`` (what the quota is below the ramp; the second includes the
    mix with cold mail); ``used`` (sent or reserved before); ``outside`` (mail that a person sent has their place);
    ``by_total_cap``; ``window_over`` (no sending time left on this local day); ``later`` (left to the later hours of
    the day); ``few_bots`` (the volume that a pool of fewer than 8 eligible bots takes away, B-F9); ``no_room`` (no
    place between the gap and the end of the span); ``no_bot`` (selection found none that is free then); ``slots``.
    """
    import pandas as pd

    from emberflow.senders.quota import left_of_day

    volume, quota, wanted = (day[name].to_numpy(np.int64) for name in ("ramp_volume", "warmup_quota", "wanted"))
    healthy = np.clip(np.floor(volume * day["health_multiplier"].to_numpy()), quota, volume).astype(np.int64)
    used = np.minimum(day["warmup_used"].to_numpy(np.int64), quota)
    left, left_of_total = left_of_day(day)
    allowed = np.minimum(left, left_of_total)
    reopens = (
        day["closes_at"] > day["opens_at"].where(day["opens_at"] > day["span_start"], day["span_start"])
    ).to_numpy()
    open_now = allowed * reopens
    few_bots = np.maximum(np.floor(expected_slots(day)).astype(np.int64) - wanted, 0)
    timed, planned = (_count(day["sender_id"], rows) for rows in (times, slots))
    return pd.DataFrame(
        {
            "sender_id": day["sender_id"].to_numpy(),
            "ramp_volume": volume,
            "by_health": volume - healthy,
            "by_daily_factor": healthy - quota,
            "used": used,
            "outside": quota - used - left,
            "by_total_cap": left - allowed,
            "window_over": allowed - open_now,
            "later": open_now - wanted - few_bots,
            "few_bots": few_bots,
            "no_room": wanted - timed,
            "no_bot": timed - planned,
            "slots": planned,
        }
    )


def expected_slots(day: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the mails that each sender's share of this hour comes to before the seeded rounding.

    It is what is left of the quota (`emberflow.senders.quota.left_of_day`), times the seconds of the window in this
    hour, over those until it closes. Columns in as in `account`.
    """
    from emberflow.senders.quota import left_of_day

    left = np.minimum(*left_of_day(day))
    now_s, left_s = (day[name].to_numpy(np.float64) for name in ("open_s_now", "open_s_left"))
    share = np.divide(now_s, left_s, out=np.zeros_like(now_s), where=left_s > 0)
    return np.asarray(left * share)


def bot_names(connection: Connection, bot_ids: Sequence[int]) -> dict[int, BotName]:
    """Return address and provider of each of ``bot_ids``."""
    rows = connection.execute(_NAMES, {"ids": list(bot_ids)})
    return {row.id: BotName(row.address, row.provider) for row in rows}


def _by_profile(connection: Connection, policy: Policy) -> tuple[int, dict[int, int]]:
    """Return the mean daily cap of the active bots when grown, and how many senders end at which daily volume."""
    caps: Counter[int] = Counter()
    maxima: Counter[int] = Counter()
    for row in connection.execute(_PROFILES):
        if row.profile is None or row.profile in policy.profiles:  # others send and receive nothing
            numbers = policy.profile(row.profile)
            caps[numbers.bots.daily_inbound_cap] += row.bots
            maxima[min(numbers.ramp.maximum, numbers.quota.total_daily_cap)] += row.senders
    bots = caps.total()
    mean_cap = sum(cap * count for cap, count in caps.items()) // bots if bots else policy.bots.daily_inbound_cap
    return mean_cap, {maximum: count for maximum, count in maxima.items() if count}


def _full_caps(bots: pd.DataFrame, policy: Policy) -> npt.NDArray[np.int64]:
    """Return the daily cap of each planned bot when it is grown."""
    caps = np.array([numbers.bots.daily_inbound_cap for numbers in policy.numbers_of.values()], dtype=np.int64)
    return np.asarray(caps[bots["profile"].to_numpy() if "profile" in bots else np.zeros(len(bots), dtype=np.int64)])


def _caps(connection: Connection, policy: Policy, now: datetime) -> list[CapUse]:
    limits = {
        "all": policy.caps.all_24h,
        "provider": policy.caps.provider_24h,
        "recipient_domain": policy.caps.recipient_domain_24h,
    }
    rows = connection.execute(_CAPS, {"scopes": list(limits), "hour": floor_hour(now), "kept": HOURS_KEPT})
    nearest = {row.scope: row for row in rows}
    return [
        CapUse(scope, nearest[scope].key, int(nearest[scope].used), limit)
        if scope in nearest
        else CapUse(scope, "", 0, limit)
        for scope, limit in limits.items()
        if limit is not None
    ]


def _shortage(lost: pd.Series[int]) -> Iterator[str]:
    """Say what this very hour lacks, whatever the numbers of a day come to."""
    few, none, asked = int(lost["few_bots"]), int(lost["no_bot"]), int(lost["slots"])
    if none:
        yield f"too few bots this hour: {none} of {none + asked} mails find none that is free"
    if few:
        yield f"too few bots this hour: {few} mails are not asked for, because their sender has few bots to write to"


def _warnings(
    active: int,
    present: BotsNeeded,
    at_maximum: BotsNeeded,
    supply: pd.DataFrame,
    pools: pd.DataFrame,
    caps: Sequence[CapUse],
) -> Iterator[str]:
    for needed, when in (
        (present, "for the present volume"),
        (at_maximum, "when all ramps have reached their maximum"),
    ):
        if active < needed.bots:
            yield f"too few bots: {active} are active, at least {needed.bots} are needed {when}"
    cap_today = int(supply["cap_today"].sum())
    if cap_today < present.daily_mails:
        yield (
            f"the active bots may take {cap_today} mails today, the present volume is {present.daily_mails}: "
            "young bots take little until they have aged"
        )
    limit = {cap.scope: cap.limit for cap in caps}
    if present.daily_mails > limit.get("all", present.daily_mails):
        yield f"the cap on all mail of 24 hours ({limit['all']}) is below the present volume ({present.daily_mails})"
    # In the long run a provider's bots receive in proportion to what they may take.
    for provider, of_provider in zip(pools["provider"], pools["cap_today"], strict=True):
        expected = present.daily_mails * int(of_provider) // max(cap_today, 1)
        if expected > limit.get("provider", expected):
            yield (
                f"the bots at {provider} would receive about {expected} mails a day, above the cap per provider "
                f"({limit['provider']})"
            )
    for cap in caps:
        if cap.used >= cap.limit:
            yield f"the cap {cap.scope} is used up{f' for {cap.key}' if cap.key else ''}: {cap.used} of {cap.limit}"


def _count(sender_ids: pd.Series[int], rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    return np.asarray(rows["sender_id"].value_counts().reindex(sender_ids, fill_value=0), dtype=np.int64)
