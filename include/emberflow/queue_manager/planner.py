"""The plan of one hour: quota, bots, selection, pacing, and the slots that come of it.

``plan_hour`` reads whole tables, hands them to the pure functions of ``senders`` and ``bots`` and writes the
result in one transaction, under the hour's row in ``plan_runs``. The hour is unique there: planning it again,
by a retry, a cleared task or a backfill, finds the row and changes nothing. An hour that is over gets a row
and no slots, so that a backfill of past days cannot send anything.

Cost: linear in senders and bots read, plus slots x bots for the selection (see ``bots.selection``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.bots.limits import available_seats
from emberflow.bots.selection import Selection, select_bots
from emberflow.clock import HOUR, Clock, floor_hour
from emberflow.database.bulk import copy_frame, read_frame
from emberflow.database.tables import decisions, plan_runs, scheduled_tasks, sender_days
from emberflow.email_ops.addresses import domain_of
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.email_ops.message import message_id_for
from emberflow.queue_manager.policies import Policy, PolicyInForce, in_force
from emberflow.queue_manager.slots import Priority
from emberflow.senders.pacing import open_windows, pace, planning_span
from emberflow.senders.quota import daily_quota, slots_for_hour
from emberflow.settings import Settings

# Slots that hold a place in today's quota without being counted in sender_days or bot_days yet: a part that each of two
# partial indexes answers, so that what has ended costs nothing.
_OPEN = """
    open_states as (
        select * from ops.slot_states where status = 'planned'
        union all
        select * from ops.slot_states where status = 'leased'
    )
"""

_SENDERS = text(f"""
    with
    {_OPEN},

    open_slots as (
        select
            states.from_mailbox_id,
            states.local_day,
            count(*) filter (where tasks.task_type = 'warmup') as warmup,
            count(*) as total,
            max(states.target_time + make_interval(secs => tasks.gap_s)) as busy_until
        from open_states as states
        inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
        group by 1, 2
    )

    select
        senders.id as sender_id,
        mailboxes.id as mailbox_id,
        mailboxes.address,
        mailboxes.zone,
        greatest(mailboxes.next_send_at, open_slots.busy_until) as not_before,
        (
            select count(*) + 1
            from ops.sender_days as earlier
            where earlier.sender_id = senders.id
                and earlier.warmup_sent > 0
                and earlier.local_day < (:start at time zone mailboxes.zone)::date
                and (
                    senders.ramp_since is null
                    or earlier.local_day >= (senders.ramp_since at time zone mailboxes.zone)::date
                )
        )::bigint as ramp_day,
        coalesce(today.warmup_sent, 0) + coalesce(open_slots.warmup, 0) as warmup_used,
        coalesce(today.warmup_sent + today.reply_sent, 0) + coalesce(open_slots.total, 0) as total_used
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    left join ops.sender_days as today
        on today.sender_id = senders.id
        and today.local_day = (:start at time zone mailboxes.zone)::date
    left join open_slots
        on open_slots.from_mailbox_id = senders.mailbox_id
        and open_slots.local_day = (:start at time zone mailboxes.zone)::date
    where senders.state = 'active'
    order by senders.id
""")  # noqa: S608 - _OPEN is a constant of this module

_BOTS = text(f"""
    with
    {_OPEN},

    open_inbound as (
        select
            tasks.bot_id,
            (states.target_time at time zone mailboxes.zone)::date as local_day,
            count(*) as slots
        from open_states as states
        inner join ops.scheduled_tasks as tasks on tasks.id = states.slot_id
        inner join ops.bots on bots.id = tasks.bot_id and bots.mailbox_id = tasks.to_mailbox_id
        inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
        group by 1, 2
    )

    select
        bots.id as bot_id,
        mailboxes.id as mailbox_id,
        mailboxes.address,
        mailboxes.zone,
        bots.status,
        bots.born_at,
        bots.interaction_limits,
        bots.cooldown_until,
        (coalesce(today.inbound_sent, 0) + coalesce(open_inbound.slots, 0))::bigint as inbound_used
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    left join ops.bot_days as today
        on today.bot_id = bots.id
        and today.local_day = (:start at time zone mailboxes.zone)::date
    left join open_inbound
        on open_inbound.bot_id = bots.id
        and open_inbound.local_day = (:start at time zone mailboxes.zone)::date
    where bots.status = 'active'
    order by bots.id
""")  # noqa: S608 - _OPEN is a constant of this module

# Contacts already made, and those that are planned and will be made.
_PAIRS = text("""
    with recent as (
        select sender_id, bot_id, count(*) as sent_7d, max(coalesce(sent_at, target_time)) as last_contact
        from ops.slots
        where task_type = 'warmup'
            and status in ('planned', 'leased', 'submitting', 'sent', 'uncertain')
            and target_time > :start - interval '7 days'
        group by sender_id, bot_id
    )
    select
        sender_id,
        bot_id,
        coalesce(recent.sent_7d, 0)::bigint as sent_7d,
        greatest(recent.last_contact, history.last_contact) as last_contact
    from recent
    full join ops.bot_sender_interactions as history using (sender_id, bot_id)
    order by sender_id, bot_id
""")

_SCORES = text("select sender_id, score from marts.sender_scores where model_version = :model")


@dataclass(frozen=True)
class PlanReport:
    """What planning one hour came to. ``was_planned_before`` means that this call changed nothing.

    ``outcome`` is ``planned``, ``past`` (the hour was over) or ``idle`` (no active sender yet: nothing is written,
    so that the hour can still be planned once there is one; ``plan_run_id`` is None).
    """

    plan_run_id: int | None
    hour: datetime
    outcome: str
    senders: int
    bots: int
    wanted: int
    slots: int
    was_planned_before: bool


def plan_hour(engine: Engine, hour: datetime, *, clock: Clock, settings: Settings) -> PlanReport:
    """Plan the UTC hour that starts at ``hour`` and write its slots, once.

    Raises:
        ValueError: ``hour`` is not the start of an hour.
        ConfigurationError: no policy is in force.
    """
    if floor_hour(hour) != hour:
        raise ValueError(f"{hour.isoformat()} is not the start of an hour")
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("emberflow.plan_hour"))))
        known = connection.execute(select(plan_runs).where(plan_runs.c.hour == hour)).mappings().one_or_none()
        if known is not None:
            return _report(dict(known), was_planned_before=True)
        now = clock.now().replace(microsecond=0)
        force = in_force(connection)
        if hour + HOUR <= now:
            return _write_run(connection, hour, force, settings.seed, _nothing(), outcome="past")
        plan = compute(connection, hour, start=max(now, hour), force=force, seed=settings.seed)
        if plan.quota.empty:
            return PlanReport(None, hour, "idle", 0, plan.bots_available, 0, 0, was_planned_before=False)
        report = _write_run(connection, hour, force, settings.seed, plan, outcome="planned")
        _write_quota(connection, plan.quota)
        _write_slots(connection, plan, report.plan_run_id, force, settings)
        return report


@dataclass(frozen=True)
class Plan:
    """A computed hour, before it is written. The frames' columns are those of the functions that made them."""

    quota: pd.DataFrame
    selection: Selection
    slots: pd.DataFrame
    bots_available: int
    input_sha256: str


def compute(connection: Connection, hour: datetime, *, start: datetime, force: PolicyInForce, seed: int) -> Plan:
    """Compute the plan of ``hour`` from the state of the database, without writing anything.

    ``start`` is the earliest instant that may be planned. Equal state, policy, seed and ``start`` give an equal
    plan, whatever the order in which the database returns rows.
    """
    policy = force.policy
    senders = read_frame(connection, _SENDERS, start=start)
    bots = read_frame(connection, _BOTS, start=start)
    pairs = read_frame(connection, _PAIRS, start=start)
    senders = senders.merge(_scores(connection, policy), on="sender_id", how="left", validate="one_to_one")
    digest = _sha256(senders, bots, pairs, extra=f"{hour.isoformat()} {start.isoformat()} {force.policy_id} {seed}")

    windows = open_windows(senders[["sender_id", "zone"]], start, policy.pacing)
    spans = planning_span(windows, start, hour + HOUR, policy.pacing)
    day = senders.merge(windows, on="sender_id").merge(spans, on="sender_id")
    quota = daily_quota(day, policy.ramp, policy.quota, seed)
    quota["wanted"] = slots_for_hour(quota, hour, seed)

    seats = available_seats(bots, start, policy.bots)
    supply = bots[["bot_id", "mailbox_id"]].assign(domain=bots["address"].map(domain_of).astype("str"), weight=1.0)
    supply = supply.merge(seats[["bot_id", "seats"]], on="bot_id")
    selection = select_bots(
        _demand(quota, hour),
        supply[["bot_id", "domain", "seats", "weight"]],
        pairs,
        policy.selection,
        seed=seed,
        hour=hour,
    )
    slots = _paced(selection, quota, supply, policy, seed, hour)
    return Plan(quota, selection, slots, int((supply["seats"] > 0).sum()), digest)


def _scores(connection: Connection, policy: Policy) -> pd.DataFrame:
    """Return the reputation scores that dbt computed last; before its first run nobody has one."""
    if connection.execute(select(func.to_regclass("marts.sender_scores"))).scalar_one() is None:
        return pd.DataFrame({"sender_id": pd.Series(dtype="int64"), "score": pd.Series(dtype="float64")})
    scores = read_frame(connection, _SCORES, model=policy.reputation.model)
    return scores.astype({"sender_id": "int64", "score": "float64"})


def _demand(quota: pd.DataFrame, hour: datetime) -> pd.DataFrame:
    """Return one row per wanted slot, numbered from 1 within its sender."""
    asked = quota.loc[quota.index.repeat(quota["wanted"]), ["sender_id", "ramp_day", "address"]]
    return pd.DataFrame(
        {
            "sender_id": asked["sender_id"].to_numpy(),
            "ordinal": asked.groupby("sender_id").cumcount().to_numpy(dtype="int64") + 1,
            "ramp_day": asked["ramp_day"].to_numpy(),
            "domain": [domain_of(address) for address in asked["address"]],
            "at": pd.Timestamp(hour),
        }
    )


def _paced(
    selection: Selection, quota: pd.DataFrame, supply: pd.DataFrame, policy: Policy, seed: int, hour: datetime
) -> pd.DataFrame:
    """Return the picks that fit their senders' windows, with target times and mailboxes."""
    times = pace(
        selection.picks[["sender_id", "ordinal"]],
        quota[["sender_id", "span_start", "span_end", "not_before"]],
        policy.pacing,
        seed,
        hour,
    )
    slots = selection.picks.merge(times, on=["sender_id", "ordinal"], validate="one_to_one")
    slots = slots.merge(
        quota[["sender_id", "mailbox_id", "address", "local_day"]].rename(columns={"mailbox_id": "from_mailbox_id"}),
        on="sender_id",
    )
    slots = slots.merge(supply[["bot_id", "mailbox_id"]].rename(columns={"mailbox_id": "to_mailbox_id"}), on="bot_id")
    return slots.sort_values(["sender_id", "ordinal"], ignore_index=True)


def _write_run(
    connection: Connection, hour: datetime, force: PolicyInForce, seed: int, plan: Plan, *, outcome: str
) -> PlanReport:
    row = {
        "hour": hour,
        "outcome": outcome,
        "seed": seed,
        "policy_id": force.policy_id,
        "input_sha256": plan.input_sha256,
        "plan_sha256": _sha256(plan.slots),
        "senders": len(plan.quota),
        "bots": plan.bots_available,
        "wanted": len(plan.selection.decisions),
        "slots": len(plan.slots),
    }
    run_id: int = connection.execute(plan_runs.insert().values(row).returning(plan_runs.c.id)).scalar_one()
    return _report({"id": run_id, **row}, was_planned_before=False)


def _write_quota(connection: Connection, quota: pd.DataFrame) -> None:
    """Open or refresh the day of every sender; what was already sent today always stays allowed."""
    if quota.empty:
        return
    columns = [
        "sender_id", "local_day", "ramp_day", "ramp_volume", "score", "health_multiplier", "daily_factor",
        "warmup_quota", "total_quota",
    ]  # fmt: skip
    filled = quota[columns].astype(object).where(quota[columns].notna(), None)
    rows = [dict(zip(columns, values, strict=True)) for values in filled.itertuples(index=False)]
    statement = insert(sender_days)
    fresh, today = statement.excluded, sender_days.c
    refreshed = {
        "ramp_day": fresh.ramp_day,
        "ramp_volume": func.greatest(fresh.ramp_volume, today.warmup_sent),
        "score": fresh.score,
        "health_multiplier": fresh.health_multiplier,
        "daily_factor": fresh.daily_factor,
        "warmup_quota": fresh.warmup_quota,
        "total_quota": func.greatest(fresh.total_quota, today.warmup_sent + today.reply_sent),
    }
    connection.execute(statement.on_conflict_do_update(index_elements=["sender_id", "local_day"], set_=refreshed), rows)


def _write_slots(
    connection: Connection, plan: Plan, plan_run_id: int | None, force: PolicyInForce, settings: Settings
) -> None:
    decided = plan.selection.decisions.rename(columns={"key": "sort_key"}).assign(plan_run_id=plan_run_id)
    copy_frame(connection, decisions, decided)
    if plan.slots.empty:
        return
    hour: datetime = connection.execute(select(plan_runs.c.hour).where(plan_runs.c.id == plan_run_id)).scalar_one()
    keys = [
        f"warmup:{hour:%Y-%m-%dT%H}:{sender}:{ordinal}"
        for sender, ordinal in zip(plan.slots["sender_id"], plan.slots["ordinal"], strict=True)
    ]
    scripts = load_scripts(settings.scripts_dir or BUILT_IN)
    signing_key = settings.require_token_keys()[0].get_secret_value().encode()
    written = plan.slots[
        ["target_time", "from_mailbox_id", "to_mailbox_id", "sender_id", "bot_id", "local_day", "gap_s"]
    ].assign(
        priority_level=int(Priority.WARMUP),
        task_type="warmup",
        payload=pd.Series(
            [{"script": scripts.choose_script(settings.seed, key), "thread": key, "tier": tier}
             for key, tier in zip(keys, plan.slots["tier"], strict=True)],
            dtype=object,
        ),
        idempotency_key=keys,
        turn=1,
        message_id=[
            message_id_for(key, domain_of(address), signing_key)
            for key, address in zip(keys, plan.slots["address"], strict=True)
        ],
        policy_id=force.policy_id,
        plan_run_id=plan_run_id,
    )  # fmt: skip
    copy_frame(connection, scheduled_tasks, written)


def _nothing() -> Plan:
    empty = pd.DataFrame()
    return Plan(empty, Selection(empty, empty), empty, 0, _sha256())


def _sha256(*frames: pd.DataFrame, extra: str = "") -> str:
    """Hash frames by content: their columns by name, their rows in the order of their values."""
    digest = hashlib.sha256(extra.encode())
    for frame in frames:
        lines = frame.to_csv(index=False, columns=sorted(frame.columns)).splitlines()
        digest.update("\n".join([*lines[:1], *sorted(lines[1:])]).encode())
    return digest.hexdigest()


def _report(run: dict[str, Any], *, was_planned_before: bool) -> PlanReport:
    names = ("hour", "outcome", "senders", "bots", "wanted", "slots")
    return PlanReport(
        plan_run_id=run["id"], was_planned_before=was_planned_before, **{name: run[name] for name in names}
    )
