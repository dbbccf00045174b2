"""The plan of one hour, written: read the state, compute, and write the slots in one transaction.

The hour has one row of kind ``warmup`` in ``plan_runs``. Planning it again, by a retry, a cleared task or a backfill,
finds the row and changes nothing if it has slots; an hour without slots stays open until it is over. An hour that is
over gets a row and no slots, so that a backfill of past days cannot send anything.

Slots are written by COPY under ids that the sequence gave, states beside them. Their keys are spelled so that an
hour's stand together and in order, at the end of what every index on them holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, func, select, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.clock import HOUR, Clock, floor_hour
from emberflow.database import restores
from emberflow.database.bulk import JSONB, copy_numbers, copy_rows, read_numbers
from emberflow.database.server_clock import shared
from emberflow.database.sessions import Sessions, reading
from emberflow.database.tables import plan_inputs as packed_inputs
from emberflow.database.tables import plan_runs
from emberflow.domain.mail_kind import WARMUP
from emberflow.email_ops.message import message_ids_for
from emberflow.errors import EmberflowError
from emberflow.policy import script_sets
from emberflow.policy.document import Policy
from emberflow.policy.versions import PolicyInForce, in_force
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.planning.hour_plan import Plan, choose, compute, quotas
from emberflow.queue_manager.planning.inputs import PlanInputs, digest, pack, read, unpack
from emberflow.queue_manager.planning.pair_history import PairHistory, Recorder, Replay
from emberflow.randomness import state, uniforms
from emberflow.settings import Settings
from emberflow.text_columns import Texts, padded, spelled, texts

Integers = npt.NDArray[np.int64]

FURTHEST_AHEAD: Final = timedelta(days=3)  # an hour beyond is planned only by force
_KIND, _SCOPE = "warmup", ""  # of this planner's runs
_SESSIONS: Final = 2  # that read at the same time: more want more cores of the database
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
_ROWS_AT_ONCE: Final = 500  # some 180 kB: what a socket takes without waiting for the server
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
# What was already sent today always stays allowed. A day that is as it was is neither written nor locked; each is
# probed by its key, because a plain join would become a hash join, which reads every day that ever was.
_WRITE_DAYS: Final = text("""
    insert into ops.sender_days as today
        (sender_id, local_day, ramp_day, ramp_row, ramp_volume, score, health_multiplier, daily_factor, warmup_quota,
        cold_quota, total_quota)
    select
        planned.sender_id, planned.local_day, planned.ramp_day, planned.ramp_row, planned.ramp_volume,
        nullif(planned.score, 'NaN'), planned.health_multiplier, planned.daily_factor, planned.warmup_quota,
        planned.cold_quota, planned.total_quota
    from new_days as planned
    left join lateral (
        select days.*
        from ops.sender_days as days
        where days.sender_id = planned.sender_id and days.local_day = planned.local_day
        offset 0
    ) as known on true
    where known.sender_id is null
        or (known.ramp_day, known.ramp_row, known.ramp_volume, known.score, known.health_multiplier,
            known.daily_factor, known.warmup_quota, known.cold_quota, known.total_quota)
        is distinct from (planned.ramp_day, planned.ramp_row, planned.ramp_volume, nullif(planned.score, 'NaN'),
            planned.health_multiplier, planned.daily_factor, planned.warmup_quota, planned.cold_quota,
            planned.total_quota)
    order by planned.sender_id
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
    so that the hour can still be planned once there is one; ``plan_run_id`` is None), or ``held`` (the database was
    restored: nothing is written). An hour that had begun when a restore was settled may have been planned and sent from
    before, of which no trace may be left; it is ``past``.
    """

    plan_run_id: int | None
    hour: datetime
    outcome: str
    senders: int
    bots: int
    wanted: int
    slots: int
    was_planned_before: bool


def is_settled(run: Mapping[str, Any] | RowMapping, now: datetime) -> bool:
    """Return whether a row of ``ops.plan_runs`` stays as it is.

    An hour without slots stays open until it is over: senders may become active within it.
    """
    return bool(run["slots"]) or run["outcome"] != "planned" or run["hour"] + HOUR <= now


def plan_hour(
    engine: Engine,
    hour: datetime,
    *,
    clock: Clock,
    settings: Settings,
    far_ahead: bool = False,
    on_phase: Callable[[str, float], None] = lambda name, seconds: None,
) -> PlanReport:
    """Plan the UTC hour that starts at ``hour`` and write its slots, once.

    ``on_phase`` hears the name of each phase and the seconds that it took. Days are written while bots are chosen, and
    what a replay needs is packed while slots are written: ``write_days`` and ``keep`` are what is left of it then.

    Raises:
        ValueError: ``hour`` is not the start of an hour.
        EmberflowError: it is more than three days ahead, and not ``far_ahead``.
        ConfigurationError: no policy is in force, or there is no key for warm-up tokens.
    """
    _require_hour(hour)
    clock = shared(engine, clock)
    ended = _Stopwatch(on_phase)
    if restores.notice(engine) is not None:
        return PlanReport(None, hour, "held", 0, 0, 0, 0, was_planned_before=False)
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("emberflow.plan_hour"))))
        known = connection.execute(select(plan_runs).where(*_run_of(hour))).mappings().one_or_none()
        now = clock.now().replace(microsecond=0)
        if known is not None and is_settled(known, now):
            return _report(dict(known), was_planned_before=True)
        if hour > now + FURTHEST_AHEAD and not far_ahead:
            raise EmberflowError(
                f"{hour:%Y-%m-%d %H:%M} UTC is more than {FURTHEST_AHEAD.days} days ahead, and a planned hour "
                "stays planned: `emberflow plan run --force` plans it all the same, `--dry-run` only shows it"
            )
        force = in_force(connection)
        restored_at = restores.last_settled_at(connection)
        if hour + HOUR <= now or (restored_at is not None and hour <= restored_at):
            return _write_run(connection, hour, hour, force, again=known is not None)
        with ThreadPoolExecutor(max_workers=1) as aside:
            with reading(engine, _SESSIONS) as sessions:
                inputs = _read(sessions, hour, now=now, force=force)
                if inputs.senders.empty:
                    return PlanReport(None, hour, "idle", 0, len(inputs.bots), 0, 0, was_planned_before=False)
                ended("read")
                day = quotas(inputs)
                ended("quota")
                history = Recorder(PairHistory(sessions, hour, inputs.planned))
                writing = aside.submit(_write_days, connection, day)
                naming = aside.submit(_name_slots, connection, int(day["wanted"].sum()), force, settings)
                plan = choose(inputs, day, history, on_phase=ended)
                writing.result()
                names = naming.result()
            ended("write_days")
            report = _write_run(connection, hour, inputs.start, force, plan, again=known is not None)
            sealing = aside.submit(_seal, plan, inputs, history.answers)
            _write_slots(connection, plan, names, report, force)
            ended("write_slots")
            _keep(connection, report, *sealing.result())
        ended("keep")
    ended("commit")
    return report


def preview(connection: Connection, hour: datetime, *, now: datetime) -> Plan:
    """Compute the plan of ``hour`` as it would be at ``now``, or when the hour begins if that is later; write nothing.

    An hour that is over is computed as if it were just beginning, from the present state.

    Raises:
        ValueError: ``hour`` is not the start of an hour.
        ConfigurationError: no policy is in force.
    """
    _require_hour(hour)
    force = in_force(connection)
    moment = now if now < hour + HOUR else hour
    alone = Sessions([connection])
    inputs = _read(alone, hour, now=moment.replace(microsecond=0), force=force)
    with connection.begin_nested() as savepoint:
        plan = compute(inputs, PairHistory(alone, hour, inputs.planned))
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


def replay(connection: Connection, plan_run_id: int, traced_slot: tuple[int, int] | None = None) -> Replayed:
    """Compute a written plan again from what it was computed from (Q-F1, Q-F2).

    Raises:
        EmberflowError: there is no such plan, or its inputs are gone.
    """
    run = connection.execute(_RUN, {"id": plan_run_id}).mappings().one_or_none()
    if run is None or run["body"] is None:
        raise EmberflowError(f"plan {plan_run_id} has no stored inputs: it cannot be computed again")
    inputs, answers = unpack(
        bytes(run["body"]),
        run["hour"],
        start=run["planned_from"],
        policy_id=run["policy_id"],
        policy=Policy.model_validate(run["document"]),
        seed=run["seed"],
    )
    plan = compute(inputs, Replay(answers), traced_slot=traced_slot)
    same = (digest(inputs, answers), plan.sha256) == (run["input_sha256"], run["plan_sha256"])
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


def _run_of(hour: datetime) -> tuple[ColumnElement[bool], ...]:
    return plan_runs.c.kind == _KIND, plan_runs.c.scope == _SCOPE, plan_runs.c.hour == hour


def _read(sessions: Sessions, hour: datetime, *, now: datetime, force: PolicyInForce) -> PlanInputs:
    return read(sessions, hour, start=max(now, hour), policy_id=force.policy_id, policy=force.policy, seed=force.seed)


def _write_run(
    connection: Connection,
    hour: datetime,
    start: datetime,
    force: PolicyInForce,
    plan: Plan | None = None,
    *,
    again: bool = False,
) -> PlanReport:
    row: dict[str, Any] = {
        "kind": _KIND, "scope": _SCOPE, "hour": hour, "planned_from": start, "seed": force.seed,
        "policy_id": force.policy_id, "outcome": "past",
        "input_sha256": "", "plan_sha256": "", "senders": 0, "bots": 0, "wanted": 0, "slots": 0,
    }  # fmt: skip
    if plan is not None:
        row |= {
            "outcome": "planned",
            "senders": len(plan.day),
            "bots": int((plan.bots["seats"] > 0).sum()),
            "wanted": int(plan.day["wanted"].sum()),
            "slots": len(plan.slots),
        }
    if again:
        row_of_now = row | {"planned_at": func.clock_timestamp()}
        statement = plan_runs.update().where(*_run_of(hour)).values(row_of_now).returning(plan_runs.c.id)
        run_id = int(connection.execute(statement).scalar_one())
    else:
        run_id = int(connection.execute(plan_runs.insert().values(row).returning(plan_runs.c.id)).scalar_one())
    return _report({"id": run_id, **row}, was_planned_before=False)


def _seal(plan: Plan, inputs: PlanInputs, answers: list[pd.DataFrame]) -> tuple[dict[str, str], bytes]:
    """Return the hashes that a replay must find again, and what it starts from."""
    hashes = {"input_sha256": digest(inputs, answers), "plan_sha256": plan.sha256}
    return hashes, pack(inputs, answers)


def _keep(connection: Connection, report: PlanReport, hashes: dict[str, str], body: bytes) -> None:
    connection.execute(plan_runs.update().where(plan_runs.c.id == report.plan_run_id).values(hashes))
    packed = insert(packed_inputs).values(plan_run_id=report.plan_run_id, body=body)
    connection.execute(packed.on_conflict_do_update(index_elements=["plan_run_id"], set_={"body": body}))


def _write_days(connection: Connection, day: pd.DataFrame) -> None:
    connection.execute(_NEW_DAYS)
    copy_numbers(connection, "new_days", day[list(_DAY_COLUMNS)])
    connection.execute(_WRITE_DAYS)


class _Names(NamedTuple):
    """What names the slots of a plan: ids to give out, domains by their hash, the scripts, and Message-IDs' key."""

    ids: Integers
    domains: Mapping[int, str]
    scripts: Sequence[str]
    signing_key: bytes


def _name_slots(connection: Connection, count: int, force: PolicyInForce, settings: Settings) -> _Names:
    return _Names(
        read_numbers(connection, _IDS, count=count)["id"].to_numpy(np.int64),
        {row.code: row.domain for row in connection.execute(_DOMAINS)},
        sorted(script_sets.load(connection, force.script_set_id).scripts.by_id),
        settings.require_token_keys()[0].get_secret_value().encode(),
    )


def _write_slots(connection: Connection, plan: Plan, names: _Names, report: PlanReport, force: PolicyInForce) -> None:
    slots, day, bots = plan.slots, plan.day, plan.bots
    if slots.empty:
        return
    ids = names.ids[: len(slots)]
    sender = pd.Index(day["sender_id"]).get_indexer(slots["sender_id"])
    bot = pd.Index(bots["bot_id"]).get_indexer(slots["bot_id"])
    codes, place = np.unique(day["domain"].to_numpy(), return_inverse=True)
    domains = texts([names.domains[code] for code in codes.tolist()])[place[sender]]
    shared = {
        "from_mailbox_id": day["mailbox_id"].to_numpy()[sender],
        "target_time": slots["target_time"].dt.tz_localize(None).to_numpy("datetime64[us]"),
        "local_day": day["local_day"].to_numpy()[sender],
        "priority_level": np.full(len(slots), int(WARMUP.priority), dtype=np.int16),
    }
    own = {"id": ids, "to_mailbox_id": bots["mailbox_id"].to_numpy()[bot], **shared}
    pieces = _tasks(slots, own, domains, names, report, force)
    copy_rows(connection, "ops.scheduled_tasks", pieces)
    states = {"slot_id": ids, "due_since": shared["target_time"], **shared}
    in_time = np.argsort(shared["target_time"], kind="stable")  # as the index of what is planned has them
    slot_store.copy_states(connection, {name: values[in_time] for name, values in states.items()})


def _tasks(
    slots: pd.DataFrame,
    own: Mapping[str, npt.NDArray[Any]],
    domains: Texts,
    names: _Names,
    report: PlanReport,
    force: PolicyInForce,
) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Yield the rows of ``scheduled_tasks``, ``own`` columns and the others, a piece at a time."""
    hour = f"{report.hour:%Y-%m-%dT%H}"
    stream = state(force.seed, "script", report.hour)
    asked, tier = slots["asked_tier"].cat, slots["tier"].cat
    stored = f'"{script_sets.PAYLOAD_KEY}": {force.script_set_id}'
    payloads = spelled(
        JSONB.decode(),
        texts(
            [
                f'{{"script": "{script}", {stored}, "tier": "{used}", "asked_tier": "{wish}"}}'
                for wish in asked.categories
                for used in tier.categories
                for script in names.scripts
            ]
        ),
    )
    tiers = asked.codes.to_numpy(np.int64) * len(tier.categories) + tier.codes.to_numpy(np.int64)
    own = {
        **own,
        "sender_id": slots["sender_id"].to_numpy(),
        "bot_id": slots["bot_id"].to_numpy(),
        "gap_s": slots["gap_s"].to_numpy(np.int32),
    }
    ordinals = slots["ordinal"].to_numpy()
    same = {
        "task_type": np.array(WARMUP.task_type.encode()),
        "turn": np.array(1, dtype=np.int16),
        "policy_id": np.array(force.policy_id),
        "plan_run_id": np.array(report.plan_run_id),
    }
    for first in range(0, len(slots), _ROWS_AT_ONCE):
        piece = slice(first, first + _ROWS_AT_ONCE)
        sender_ids, nth = own["sender_id"][piece], ordinals[piece]
        script = (uniforms(stream, sender_ids, nth) * len(names.scripts)).astype(np.int64)
        yield {
            **{name: values[piece] for name, values in own.items()},
            **{name: np.broadcast_to(value, len(nth)) for name, value in same.items()},
            "payload": payloads[tiers[piece] * len(names.scripts) + script],
            "idempotency_key": spelled(f"warmup:{hour}:", padded(sender_ids, 10), ":", padded(nth, 3)),
            "message_id": message_ids_for(report.hour, sender_ids, nth, domains[piece], names.signing_key),
        }


def _report(run: dict[str, Any] | RowMapping, *, was_planned_before: bool) -> PlanReport:
    names = ("hour", "outcome", "senders", "bots", "wanted", "slots")
    return PlanReport(
        plan_run_id=run["id"], was_planned_before=was_planned_before, **{name: run[name] for name in names}
    )
