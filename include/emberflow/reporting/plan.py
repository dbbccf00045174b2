"""What an hour's plan is or would be: as numbers, as a list of slots, and as what a timeline is drawn from.

Nothing here is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, RowMapping

from emberflow.clock import HOUR
from emberflow.errors import EmberflowError

if TYPE_CHECKING:
    from pandas import DataFrame

    from emberflow.queue_manager.planning.hour_plan import Plan


@dataclass(frozen=True)
class PreviewedSlot:
    """A slot that would be written."""

    target_time: datetime
    sender: str
    bot: str
    tier: str
    gap_s: int


@dataclass(frozen=True)
class Preview:
    """What would be made of an hour: the first of ``count`` slots, and in words what it came to, from what, and if.

    ``day`` and ``slots`` are DataFrames, for a timeline.
    """

    hour: datetime
    first: Sequence[PreviewedSlot]
    count: int
    summary: str
    origin: str
    remark: str
    day: DataFrame
    slots: DataFrame


@dataclass(frozen=True)
class Timeline:
    """The slots of a planned hour over the spans that their senders had then, as DataFrames, and their origin."""

    day: DataFrame
    slots: DataFrame
    origin: str


def preview(connection: Connection, hour: datetime, *, limit: int, now: datetime) -> Preview:
    """Compute an hour as a run would at ``now``, with its first ``limit`` slots."""
    from emberflow.policy.versions import in_force
    from emberflow.queue_manager.planning import planner
    from emberflow.reporting.capacity import bot_names

    force = in_force(connection)
    plan = planner.preview(connection, hour, now=now)
    ahead = plan.slots.sort_values(["target_time", "sender_id", "ordinal"]).head(limit)
    names = bot_names(connection, ahead["bot_id"].tolist())
    addresses = plan.day.set_index("sender_id")["address"]
    columns = ("target_time", "sender_id", "bot_id", "tier", "gap_s")
    first = [
        PreviewedSlot(at.to_pydatetime(), addresses[sender], names[bot].address, tier, gap_s)
        for at, sender, bot, tier, gap_s in zip(*(ahead[name] for name in columns), strict=True)
    ]
    return Preview(
        hour=hour,
        first=first,
        count=len(plan.slots),
        summary=_summary(plan),
        origin=f"policy {force.policy.label} (version {force.policy_id}), seed {force.seed}",
        remark=_remark(connection, hour, now),
        day=plan.day,
        slots=plan.slots,
    )


def timeline(connection: Connection, hour: datetime, slots: Sequence[RowMapping]) -> Timeline:
    """Return what a planned hour's ``slots`` (``slot.slots_of_hour``) are drawn from.

    Raises:
        EmberflowError: the hour is not planned.
    """
    import pandas as pd

    from emberflow.queue_manager.plan_runs import run_of
    from emberflow.queue_manager.planning import planner

    run = run_of(connection, hour)
    if run is None:
        raise EmberflowError(f"{hour:%Y-%m-%dT%H} is not planned; `emberflow plan run --dry-run --at ...` previews it")
    if run["outcome"] == "planned":
        day = planner.with_addresses(connection, planner.replay(connection, run["id"]).plan.day)
    else:
        day = planner.preview(connection, hour, now=run["planned_at"]).day
    written = [(slot["sender_address"], slot["target_time"], slot["tier"]) for slot in slots]
    planned = pd.DataFrame(written, columns=["address", "target_time", "tier"])
    planned = planned.astype({"target_time": "datetime64[us, UTC]"})
    planned["sender_id"] = planned["address"].map(day.set_index("address")["sender_id"])
    origin = f"policy version {run['policy_id']}, seed {run['seed']}, planned at {run['planned_at']:%Y-%m-%d %H:%M} UTC"
    counts = f"{run['senders']} senders, {run['wanted']} wanted, {run['slots']} slots"
    return Timeline(day, planned, f"{origin}\n{counts}")


def _remark(connection: Connection, hour: datetime, now: datetime) -> str:
    from emberflow.queue_manager.plan_runs import run_of
    from emberflow.queue_manager.planning.planner import FURTHEST_AHEAD, is_settled

    run = run_of(connection, hour)
    if run is not None and is_settled(run, now):
        return "the hour is planned already and a run changes nothing; this would come on top"
    if hour + HOUR <= now:
        return "the hour is over and a run plans nothing; this is what the present state would have given"
    if hour > now + FURTHEST_AHEAD:
        return "a run would write this with --force only, so far ahead is the hour"
    return "a run would write this"


def _summary(plan: Plan) -> str:
    reasons = plan.selection.unfilled["reason"].astype("str").value_counts()
    lost = {f"no bot ({reason})": count for reason, count in reasons.items()}
    lost["no room"] = len(plan.selection.picks) - len(plan.slots)
    return ", ".join(
        [
            f"{int((plan.day['open_s_now'] > 0).sum())} senders with an open window",
            f"{int(plan.day['wanted'].sum())} wanted",
            f"{len(plan.slots)} slots",
            *(f"{count} {reason}" for reason, count in lost.items() if count),
        ]
    )
