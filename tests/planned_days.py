"""Days planned hour by hour with the planner's own functions, every mail sent at its second: a history as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from emberflow.clock import HOUR
from emberflow.policy.document import Policy
from emberflow.queue_manager.planning.hour_plan import Plan, compute
from emberflow.queue_manager.planning.inputs import PlanInputs
from tests.pairs_in_memory import PairsInMemory

INSTANT: Final = "datetime64[us, UTC]"
NOBODY = pd.DataFrame({"sender_id": [], "bot_id": [], "sent_7d": [], "last_contact": []}).astype(
    {"sender_id": "int64", "bot_id": "int64", "sent_7d": "int64", "last_contact": INSTANT}
)


class PlannedDays:
    """Senders and bots from their first day on; ``mails`` are all that were planned, and sent."""

    def __init__(
        self,
        policy: Policy,
        *,
        senders: int,
        bots: int,
        start: datetime,
        zones: tuple[str, ...] = ("UTC",),
        sending_days: int = 0,
        bot_ages: tuple[int, ...] = (400,),
        sender_profiles: tuple[str | None, ...] = (None,),
        bot_profiles: tuple[str | None, ...] = (None,),
        seed: int = 1,
    ) -> None:
        self._policy, self._seed, self._start = policy, seed, start
        number = np.arange(1, senders + 1)
        names = list(policy.numbers_of)
        self.sender_profiles = [sender_profiles[place % len(sender_profiles)] for place in range(senders)]
        self.bot_profiles = [bot_profiles[place % len(bot_profiles)] for place in range(bots)]
        self._senders = pd.DataFrame(
            {
                "sender_id": number,
                "mailbox_id": number,
                "domain": -number,
                "owner": np.full(senders, -1),
                "ip_group": np.full(senders, -1),
                "zone": [zones[place % len(zones)] for place in range(senders)],
                "placements": np.zeros(senders, dtype=np.int64),
                "score": np.nan,
                "last_multiplier": np.nan,
                "inbox_rate": np.nan,
                "domain_age_days": np.nan,
                "cold_peak": np.zeros(senders, dtype=np.int64),
                "in_campaign": np.zeros(senders, dtype=np.bool_),
                "cold_used": np.zeros(senders, dtype=np.int64),
                "idle_days": np.zeros(senders, dtype=np.int64),
                "sending_days": np.full(senders, sending_days),
                "last_row": np.full(senders, sending_days),
                "last_volume": np.full(senders, float(min(5 + 2 * sending_days, 30)) if sending_days else np.nan),
            }
        )
        place = np.arange(1, bots + 1)
        self._bots = pd.DataFrame(
            {
                "bot_id": place,
                "mailbox_id": senders + place,
                "domain": place,
                "owner": np.full(bots, -1),
                "ip_group": np.full(bots, -1),
                "provider": place % 3,
                "zone": [zones[(n // 2) % len(zones)] for n in range(bots)],
                "interaction_limits": np.nan,
                "born_at": [start - timedelta(days=bot_ages[n % len(bot_ages)]) for n in range(bots)],
            }
        ).astype({"born_at": INSTANT})
        if policy.profiles:
            self._senders["profile"] = [names.index(name) for name in self.sender_profiles]
            self._bots["profile"] = [names.index(name) for name in self.bot_profiles]
        self.mails = pd.DataFrame({"sender_id": [], "bot_id": [], "target_time": [], "gap_s": [], "tier": []}).astype(
            {"sender_id": "int64", "bot_id": "int64", "target_time": INSTANT, "gap_s": "int64"}
        )
        self._days: dict[int, dict[Any, tuple[int, int]]] = {}

    @property
    def bot_zones(self) -> pd.Series[Any]:
        """The zone of each bot, by its id."""
        return self._bots.set_index("bot_id")["zone"]

    def hours(self, count: int) -> Iterator[Plan]:
        """Plan so many hours, one after the other."""
        for number in range(count):
            yield self.plan(self._start + number * HOUR)

    def plan(self, hour: datetime) -> Plan:
        """Plan one hour and send it."""
        plan = compute(self.inputs(hour), PairsInMemory(self._pairs(hour)))
        sent = plan.slots[["sender_id", "bot_id", "target_time", "gap_s", "tier"]]
        self.mails = pd.concat([self.mails, sent.assign(tier=sent["tier"].astype("str"))], ignore_index=True)
        wrote = plan.day[plan.day["sender_id"].isin(sent["sender_id"])]
        for sender, day, row, volume in zip(
            wrote["sender_id"], wrote["local_day"], wrote["ramp_row"], wrote["ramp_volume"], strict=True
        ):
            self._days.setdefault(sender, {})[day] = (row, volume)
        return plan

    def inputs(self, hour: datetime) -> PlanInputs:
        """What the planner would read at the start of the hour."""
        senders, bots, policy = self._senders, self._bots, self._policy
        sender_day, bot_day = (
            self._local_days(frame["zone"], pd.Series(pd.Timestamp(hour), frame.index)) for frame in (senders, bots)
        )
        mails = self.mails[self.mails["target_time"] > pd.Timestamp(hour - timedelta(days=2))]
        used = self._used(mails, "sender_id", senders, sender_day)
        received = self._used(mails, "bot_id", bots, bot_day)
        last = self.mails.groupby("sender_id")[["target_time", "gap_s"]].last()
        not_before = (last["target_time"] + pd.to_timedelta(last["gap_s"], unit="s")).reindex(senders["sender_id"])
        latest = self.mails.groupby("bot_id")["target_time"].max().reindex(bots["bot_id"])
        pauses = [policy.profile(name).bots.cooldown_s for name in self.bot_profiles]
        cooldown = latest + pd.to_timedelta(pd.Series(pauses, index=latest.index), unit="s")
        moved = {
            name: senders[name].to_numpy(copy=True) for name in ("sending_days", "last_row", "last_volume", "idle_days")
        }
        for n, (sender, today) in enumerate(zip(senders["sender_id"], sender_day, strict=True)):
            days = [day for day in self._days.get(sender, ()) if day < today]
            if days:
                moved["sending_days"][n] += len(days)
                moved["last_row"][n], moved["last_volume"][n] = self._days[sender][days[-1]]
                moved["idle_days"][n] = (today - days[-1]).days - 1
        return PlanInputs(
            hour=hour,
            start=hour,
            policy_id=1,
            policy=policy,
            seed=self._seed,
            senders=senders.assign(
                **moved,
                local_day=sender_day.to_numpy(),
                not_before=pd.DatetimeIndex(not_before.astype(INSTANT)),
                warmup_used=used,
                total_used=used,
                outside_sent=0,
                zone=senders["zone"].astype("category"),
            ),
            bots=bots.assign(
                inbound_used=received,
                cooldown_until=pd.DatetimeIndex(cooldown.astype(INSTANT)),
                planned_until=pd.DatetimeIndex([pd.NaT] * len(bots), tz="UTC").as_unit("us"),
                zone=bots["zone"].astype("category"),
            ),
            providers=pd.DataFrame({"provider": [], "inbox": [], "junk": [], "target": []}).astype(
                {"provider": "int64", "inbox": "float64", "junk": "float64", "target": "float64"}
            ),
            domains=pd.DataFrame({"domain": [], "target": []}).astype({"domain": "int64", "target": "float64"}),
            appointments=pd.DataFrame({"bot_id": [], "target_time": []}).astype(
                {"bot_id": "int64", "target_time": INSTANT}
            ),
            planned=NOBODY,
        )

    def _pairs(self, hour: datetime) -> pd.DataFrame:
        if self.mails.empty:
            return NOBODY
        recent = self.mails["target_time"] > pd.Timestamp(hour - timedelta(days=7))
        pairs = self.mails.assign(recent=recent).groupby(["sender_id", "bot_id"], as_index=False)
        known = pairs.agg(last_contact=("target_time", "max"), sent_7d=("recent", "sum"))
        return known.astype({"sent_7d": "int64"})

    def _used(self, mails: pd.DataFrame, key: str, members: pd.DataFrame, today: pd.Series[Any]) -> Any:
        place = pd.Index(members[key]).get_indexer(pd.Index(mails[key].astype("int64")))
        of_day = self._local_days(members["zone"].iloc[place].reset_index(drop=True), mails["target_time"])
        is_today = of_day.to_numpy() == today.to_numpy()[place]
        return np.bincount(place[is_today], minlength=len(members))

    @staticmethod
    def _local_days(zones: pd.Series[Any], instants: pd.Series[Any]) -> pd.Series[Any]:
        zones, instants = zones.reset_index(drop=True), instants.reset_index(drop=True)
        days = pd.Series(np.datetime64("NaT", "s"), index=instants.index)
        for zone in zones.unique():
            of_zone = zones == zone
            local = instants[of_zone].dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()
            days[of_zone] = local.astype("datetime64[s]")
        return days
