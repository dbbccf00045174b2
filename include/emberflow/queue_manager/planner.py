"""The plan of one hour, written: read the state, compute, and write the slots in one transaction.

The hour has one row in ``plan_runs``. Planning it again, by a retry, a cleared task or a backfill, finds the row and
changes nothing. An hour that is over gets a row and no slots, so that a backfill of past days cannot send anything.

Slots are written by COPY under ids that the sequence gave, states beside them. Their keys are spelled so that an
hour's stand together and in order, at the end of what every index on them holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection, Engine, RowMapping, func, select, text

from emberflow.clock import HOUR, Clock, floor_hour
from emberflow.database.bulk import copy_lines, copy_numbers, read_numbers
from emberflow.database.tables import plan_inputs as packed_inputs
from emberflow.database.tables import plan_runs
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.email_ops.message import message_ids_for
from emberflow.errors import EmberflowError
from emberflow.queue_manager import plan_inputs
from emberflow.queue_manager.pair_history import PairHistory, Recorder, Replay
from emberflow.queue_manager.plan import Plan, compute
from emberflow.queue_manager.plan_inputs import PlanInputs
from emberflow.queue_manager.policies import Policy, PolicyInForce, in_force
from emberflow.queue_manager.slots import Priority
from emberflow.randomness import state, uniforms
from emberflow.settings import Settings

_IDS: Final = "select nextval('ops.scheduled_tasks_id_seq'::regclass) as id from generate_series(1, %(count)s)"
_DOMAINS: Final = text("""
    select hashtextextended(domain, 0) as code, domain
    from (
        select distinct split_part(address, '@', 2) as domain
        from ops.senders
        inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    ) as domains
""")
_ADDRESSES: Final = text("""
    select senders.id, mailboxes.address
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
""")
_TASK_COLUMNS: Final = (
    "id", "priority_level", "task_type", "turn", "policy_id", "plan_run_id", "sender_id", "bot_id", "from_mailbox_id",
    "to_mailbox_id", "gap_s", "local_day", "target_time", "payload", "idempotency_key", "message_id",
)  # fmt: skip
_ROWS_AT_ONCE: Final = 500  # some 140 kB of text: what a socket takes without waiting for the server

_DAY_COLUMNS: Final = (
    "sender_id", "local_day", "ramp_day", "ramp_row", "ramp_volume", "score", "health_multiplier", "daily_factor",
    "warmup_quota", "cold_quota", "total_quota",
)  # fmt: skip
_NEW_DAYS: Final = text("""
    create temporary table new_days (
        sender_id bigint, local_day date, ramp_day bigint, ramp_row bigint, ramp_volume bigint, score double precision,
        health_multiplier double precision, daily_factor double precision, warmup_quota bigint, cold_quota bigint,
        total_quota bigint
    ) on commit drop
""")
# What was already sent today always stays allowed. A day that is as it was is not written.
_WRITE_DAYS: Final = text("""
    insert into ops.sender_days as today
        (sender_id, local_day, ramp_day, ramp_row, ramp_volume, score, health_multiplier, daily_factor, warmup_quota,
        cold_quota, total_quota)
    select
        sender_id, local_day, ramp_day, ramp_row, ramp_volume, nullif(score, 'NaN'), health_multiplier, daily_factor,
        warmup_quota, cold_quota, total_quota
    from new_days
    order by sender_id
    on conflict (sender_id, local_day) do update
    set ramp_day = excluded.ramp_day,
        ramp_row = excluded.ramp_row,
        ramp_volume = greatest(excluded.ramp_volume, today.warmup_sent),
        score = excluded.score,
        health_multiplier = excluded.health_multiplier,
        daily_factor = excluded.daily_factor,
        warmup_quota = excluded.warmup_quota,
        cold_quota = excluded.cold_quota,
        total_quota = greatest(excluded.total_quota, today.warmup_sent + today.reply_sent + today.cold_sent)
    where (today.ramp_day, today.ramp_row, today.ramp_volume, today.score, today.health_multiplier, today.daily_factor,
            today.warmup_quota, today.cold_quota, today.total_quota)
        is distinct from (excluded.ramp_day, excluded.ramp_row, excluded.ramp_volume, excluded.score,
            excluded.health_multiplier, excluded.daily_factor, excluded.warmup_quota, excluded.cold_quota,
            excluded.total_quota)
""")
_RUN: Final = text("""
    select plan_runs.*, plan_inputs.body, policies.document
    from ops.plan_runs
    inner join ops.policies on policies.id = plan_runs.policy_id
    left join ops.plan_inputs on plan_inputs.plan_run_id = plan_runs.id
    where plan_runs.id = :id
""")


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


def plan_hour(
    engine: Engine,
    hour: datetime,
    *,
    clock: Clock,
    settings: Settings,
    on_phase: Callable[[str, float], None] = lambda name, seconds: None,
) -> PlanReport:
    """Plan the UTC hour that starts at ``hour`` and write its slots, once.

    ``on_phase`` hears the name of each phase and the seconds that it took; of one that goes on later, each part.

    Raises:
        ValueError: ``hour`` is not the start of an hour.
        ConfigurationError: no policy is in force, or there is no key for warm-up tokens.
    """
    _require_hour(hour)
    ended = _Stopwatch(on_phase)
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("emberflow.plan_hour"))))
        known = connection.execute(select(plan_runs).where(plan_runs.c.hour == hour)).mappings().one_or_none()
        if known is not None:
            return _report(dict(known), was_planned_before=True)
        now = clock.now().replace(microsecond=0)
        force = in_force(connection)
        if hour + HOUR <= now:
            return _write_run(connection, hour, hour, force, settings.seed)
        inputs = _read(connection, hour, now=now, force=force, settings=settings)
        if inputs.senders.empty:
            return PlanReport(None, hour, "idle", 0, len(inputs.bots), 0, 0, was_planned_before=False)
        ended("read")
        history = Recorder(PairHistory(connection, hour, inputs.planned))
        plan = compute(inputs, history, on_phase=ended)
        report = _write_run(connection, hour, inputs.start, force, settings.seed, plan, inputs, history.answers)
        with ThreadPoolExecutor(max_workers=1) as aside:
            packed = aside.submit(plan_inputs.pack, inputs, history.answers)  # while the database writes
            ended("keep")
            _write_days(connection, plan.day)
            ended("write_days")
            connection.execute(packed_inputs.insert().values(plan_run_id=report.plan_run_id, body=packed.result()))
            ended("keep")
        _write_slots(connection, plan, report, force, settings)
        ended("write_slots")
    ended("commit")
    return report


def preview(connection: Connection, hour: datetime, *, now: datetime, settings: Settings) -> Plan:
    """Compute the plan of ``hour`` as it would be at ``now``, or when the hour begins if that is later; write nothing.

    An hour that is over is computed as if it were just beginning, from the present state.

    Raises:
        ValueError: ``hour`` is not the start of an hour.
        ConfigurationError: no policy is in force.
    """
    _require_hour(hour)
    force = in_force(connection)
    moment = now if now < hour + HOUR else hour
    inputs = _read(connection, hour, now=moment.replace(microsecond=0), force=force, settings=settings)
    with connection.begin_nested() as savepoint:
        plan = compute(inputs, PairHistory(connection, hour, inputs.planned))
        savepoint.rollback()
    return replace(plan, day=with_addresses(connection, plan.day))


def with_addresses(connection: Connection, day: pd.DataFrame) -> pd.DataFrame:
    """Return ``day`` with the column ``address``, for people: a plan is computed without names."""
    addresses = {row.id: row.address for row in connection.execute(_ADDRESSES)}
    return day.assign(address=day["sender_id"].map(addresses).astype("str"))


@dataclass(frozen=True)
class Replayed:
    """A plan that was computed again, and whether it came out as it was written."""

    hour: datetime
    inputs: PlanInputs
    plan: Plan
    is_same: bool


def replay(connection: Connection, plan_run_id: int, witness: tuple[int, int] | None = None) -> Replayed:
    """Compute a written plan again from what it was computed from (Q-F1, Q-F2).

    Raises:
        EmberflowError: there is no such plan, or its inputs are gone.
    """
    run = connection.execute(_RUN, {"id": plan_run_id}).mappings().one_or_none()
    if run is None or run["body"] is None:
        raise EmberflowError(f"plan {plan_run_id} has no stored inputs: it cannot be computed again")
    inputs, answers = plan_inputs.unpack(
        bytes(run["body"]),
        run["hour"],
        start=run["planned_from"],
        policy_id=run["policy_id"],
        policy=Policy.model_validate(run["document"]),
        seed=run["seed"],
    )
    plan = compute(inputs, Replay(answers), witness=witness)
    same = (plan_inputs.digest(inputs, answers), plan.sha256) == (run["input_sha256"], run["plan_sha256"])
    return Replayed(run["hour"], inputs, plan, same)


class _Stopwatch:
    """Tells how long it was since the last phase ended."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell, self._since = tell, time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._tell(name, now - self._since)
        self._since = now


def planned_ordinal(idempotency_key: str) -> int:
    """Return which of its sender's slots in its hour the warm-up slot with this key is, from 1."""
    return int(idempotency_key.rpartition(":")[2])


def _require_hour(hour: datetime) -> None:
    if floor_hour(hour) != hour:
        raise ValueError(f"{hour.isoformat()} is not the start of an hour")


def _read(
    connection: Connection, hour: datetime, *, now: datetime, force: PolicyInForce, settings: Settings
) -> PlanInputs:
    return plan_inputs.read(
        connection, hour, start=max(now, hour), policy_id=force.policy_id, policy=force.policy, seed=settings.seed
    )


def _write_run(
    connection: Connection,
    hour: datetime,
    start: datetime,
    force: PolicyInForce,
    seed: int,
    plan: Plan | None = None,
    inputs: PlanInputs | None = None,
    answers: list[pd.DataFrame] | None = None,
) -> PlanReport:
    row: dict[str, Any] = {
        "hour": hour, "planned_from": start, "seed": seed, "policy_id": force.policy_id,
    }  # fmt: skip
    if plan is None or inputs is None or answers is None:
        row |= {
            "outcome": "past",
            "input_sha256": "",
            "plan_sha256": "",
            "senders": 0,
            "bots": 0,
            "wanted": 0,
            "slots": 0,
        }
    else:
        row |= {
            "outcome": "planned",
            "input_sha256": plan_inputs.digest(inputs, answers),
            "plan_sha256": plan.sha256,
            "senders": len(plan.day),
            "bots": int((plan.bots["seats"] > 0).sum()),
            "wanted": int(plan.day["wanted"].sum()),
            "slots": len(plan.slots),
        }
    run_id: int = connection.execute(plan_runs.insert().values(row).returning(plan_runs.c.id)).scalar_one()
    return _report({"id": run_id, **row}, was_planned_before=False)


def _write_days(connection: Connection, day: pd.DataFrame) -> None:
    connection.execute(_NEW_DAYS)
    copy_numbers(connection, "new_days", day[list(_DAY_COLUMNS)])
    connection.execute(_WRITE_DAYS)


def _write_slots(
    connection: Connection, plan: Plan, report: PlanReport, force: PolicyInForce, settings: Settings
) -> None:
    signing_key = settings.require_token_keys()[0].get_secret_value().encode()
    slots = plan.slots
    if slots.empty:
        return
    of_sender = plan.day.iloc[pd.Index(plan.day["sender_id"]).get_indexer(slots["sender_id"])]
    of_bot = plan.bots.iloc[pd.Index(plan.bots["bot_id"]).get_indexer(slots["bot_id"])]
    ids = read_numbers(connection, _IDS, count=len(slots))["id"]
    states = pd.DataFrame(
        {
            "slot_id": ids.to_numpy(),
            "from_mailbox_id": of_sender["mailbox_id"].to_numpy(),
            "target_time": slots["target_time"],
            "due_since": slots["target_time"],
            "local_day": of_sender["local_day"].to_numpy(),
            "priority_level": np.full(len(slots), int(Priority.WARMUP), dtype=np.int16),
        }
    )
    domains = {row.code: row.domain for row in connection.execute(_DOMAINS)}
    lines = _task_lines(
        slots, states, of_sender["domain"].map(domains),
        of_bot["mailbox_id"].to_numpy(), report, force, settings, signing_key,
    )  # fmt: skip
    copy_lines(connection, "ops.scheduled_tasks", _TASK_COLUMNS, lines)
    copy_numbers(connection, "ops.slot_states", states)


def _task_lines(
    slots: pd.DataFrame,
    states: pd.DataFrame,
    domains: pd.Series[str],
    to_mailbox_ids: npt.NDArray[np.int64],
    report: PlanReport,
    force: PolicyInForce,
    settings: Settings,
    signing_key: bytes,
) -> Iterator[str]:
    """Spell the slots as rows of ``scheduled_tasks``, a piece at a time, in the order of ``_TASK_COLUMNS``."""
    hour = f"{report.hour:%Y-%m-%dT%H}"
    scripts = load_scripts(settings.scripts_dir or BUILT_IN)
    names = sorted(scripts.by_id)
    stream = state(settings.seed, "script", report.hour)
    same = f"{int(Priority.WARMUP)}\twarmup\t1\t{force.policy_id}\t{report.plan_run_id}"
    asked, tier = slots["asked_tier"].cat, slots["tier"].cat
    payloads = [
        f'{{"script": "{script}", "tier": "{used}", "asked_tier": "{wish}"}}'
        for wish in asked.categories
        for used in tier.categories
        for script in names
    ]
    tiers = asked.codes.to_numpy(np.int64) * len(tier.categories) + tier.codes.to_numpy(np.int64)
    numbers = (
        states["slot_id"].to_numpy(), slots["sender_id"].to_numpy(), slots["bot_id"].to_numpy(),
        states["from_mailbox_id"].to_numpy(), to_mailbox_ids, slots["gap_s"].to_numpy(), slots["ordinal"].to_numpy(),
    )  # fmt: skip
    senders, ordinals = numbers[1], numbers[-1]
    days = states["local_day"].to_numpy("datetime64[D]")
    targets = slots["target_time"].dt.tz_localize(None).to_numpy("datetime64[s]")
    named = domains.to_numpy()
    for first in range(0, len(slots), _ROWS_AT_ONCE):
        piece = slice(first, first + _ROWS_AT_ONCE)
        draw = uniforms(stream, senders[piece], ordinals[piece])
        rows = zip(
            *(column[piece].tolist() for column in numbers),
            np.datetime_as_string(days[piece]).tolist(),
            np.datetime_as_string(targets[piece]).tolist(),
            (tiers[piece] * len(names) + (draw * len(names)).astype(np.int64)).tolist(),
            message_ids_for(report.hour, senders[piece], ordinals[piece], named[piece].tolist(), signing_key),
            strict=True,
        )
        yield "".join(
            f"{slot}\t{same}\t{sender}\t{bot}\t{box}\t{to}\t{gap}\t{day}\t{target}+00\t{payloads[said]}\t"
            f"warmup:{hour}:{sender:010d}:{ordinal:03d}\t{message_id}\n"
            for slot, sender, bot, box, to, gap, ordinal, day, target, said, message_id in rows
        )


def _report(run: dict[str, Any] | RowMapping, *, was_planned_before: bool) -> PlanReport:
    names = ("hour", "outcome", "senders", "bots", "wanted", "slots")
    return PlanReport(
        plan_run_id=run["id"], was_planned_before=was_planned_before, **{name: run[name] for name in names}
    )
