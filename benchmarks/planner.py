"""``bench planner``: the whole hour - read, quota, select, pace, write, commit - beside its limit and two loops.

Each size has a generated world (``simulation.generator``) in a PostgreSQL of its own. A round plans the hour in a fresh
process, checks the plan by SQL, lets the peers serve the same slots, and takes the plan back; so every round starts
from the same state and must find the same plan, which is checked too. A plan that breaks a rule ends the benchmark.
Then seats are taken away, and as many rounds plan the same hour with seats for only 80 % of the slots.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.measure import Figure, Report, Result, Target
from benchmarks.planner_world import forget_plan, load, partitions
from benchmarks.servers import emberflow_database, postgres_server, run_worker, scratch_directory
from benchmarks.world import some_settings
from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.policy.document import Policy, shipped
from emberflow.policy.versions import put_in_force
from emberflow.simulation.generator import LARGE, MIDDLE, SMALL, World

SIZES = {"small": SMALL, "middle": MIDDLE, "large": LARGE}
ROUNDS = 3
SEED = 1
# A Tuesday: nine senders in ten are inside their window, and Monday was a sending day.
HOUR = datetime(2026, 6, 2, 14, tzinfo=UTC)
SAMPLE = 200
SCARCE_SHARE = 0.8
# Of the wanted slots, or of the seats where these are fewer. The rest does not fit between a gap and the end of
# the window, which is no fault of the plan.
FILLED = 0.9
_PEERS = ("copy", "bare_copy", "pandas_loop", "order_by_random")

# Every seat is used where seats are scarce, and an hour costs at most six times what the server takes for its slots.
_AT_MOST: Mapping[str, Mapping[str, float]] = {
    "small": {"seconds": 0.2, "ratio_to_copy": 6},
    "middle": {"seconds": 0.8, "ratio_to_copy": 6, "peak_mb": 150},
    "large": {"seconds": 5, "ratio_to_copy": 6, "peak_mb": 400, "select_seconds": 0.5, "scarce_seconds": 25},
}
_AT_LEAST: Mapping[str, Mapping[str, float]] = {
    "small": {"scarce_filled": 1},
    "middle": {
        "scarce_filled": 1, "speedup_vs_pandas_loop": 80, "speedup_vs_order_by_random": 50,
        "select_speedup_vs_pandas_loop": 1000,
    },
    "large": {"scarce_filled": 1, "speedup_vs_pandas_loop": 1000, "speedup_vs_order_by_random": 500},
}  # fmt: skip

# Each counts what must not be; the states of before the plan are in schema benchmark.
_CHECKS = {
    "bots over their cap of the day": """
        select count(*)
        from (select bot_id, count(*) as planned from ops.scheduled_tasks group by bot_id) as plan
        inner join ops.bots on bots.id = plan.bot_id
        inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
        left join benchmark.bot_days as today
            on today.bot_id = bots.id and today.local_day = (:hour at time zone mailboxes.zone)::date
        where plan.planned + coalesce(today.inbound_sent, 0) > least(
            :new_cap + :step * floor(extract(epoch from :hour - bots.born_at) / 86400), :cap, bots.interaction_limits
        )
    """,
    "senders over their quota of the day": """
        select count(*)
        from (select sender_id, local_day, count(*) as planned from ops.scheduled_tasks group by 1, 2) as plan
        left join benchmark.sender_days as before using (sender_id, local_day)
        left join ops.sender_days as today using (sender_id, local_day)
        where today.warmup_quota is null
            or plan.planned + coalesce(before.warmup_sent, 0) > today.warmup_quota
            or plan.planned + coalesce(before.warmup_sent + before.reply_sent + before.cold_sent, 0) > today.total_quota
    """,
    "pairs planned twice": """
        select count(*) from (
            select from ops.scheduled_tasks group by sender_id, bot_id having count(*) > 1
        ) as twice
    """,
    "slots without a known tier": """
        select count(*) from ops.scheduled_tasks as tasks
        where coalesce(to_jsonb(tasks) ->> 'tier', payload ->> 'tier') is null
    """,
    "virgin picks that had contact": """
        select count(*) from ops.scheduled_tasks as tasks
        inner join ops.bot_sender_interactions using (sender_id, bot_id)
        where coalesce(to_jsonb(tasks) ->> 'tier', payload ->> 'tier') = 'virgin'
    """,
    "pairs that met within 24 hours": """
        select count(*) from ops.scheduled_tasks
        inner join ops.bot_sender_interactions using (sender_id, bot_id)
        where last_contact > :hour - interval '24 hours'
    """,
    "slots outside the hour or nearer than their gap": """
        select count(*) from (
            select
                target_time,
                lag(target_time + make_interval(secs => gap_s)) over (
                    partition by sender_id order by target_time
                ) as free_at
            from ops.scheduled_tasks
        ) as paced
        where target_time < :hour or target_time >= :hour + interval '1 hour' or target_time < free_at
    """,
    "pairs of one domain, owner or source address": """
        select count(*) from ops.scheduled_tasks as tasks
        inner join ops.mailboxes as mine on mine.id = tasks.from_mailbox_id
        inner join ops.mailboxes as theirs on theirs.id = tasks.to_mailbox_id
        where split_part(mine.address, '@', 2) = split_part(theirs.address, '@', 2)
            or to_jsonb(mine) ->> 'owner' = to_jsonb(theirs) ->> 'owner'
            or mine.egress_ip_id = theirs.egress_ip_id
    """,
}

# As many seats as :seats, each of them free today, spread over the bots that are awake and rested.
_MAKE_SCARCE = text("""
    with ready as (
        select
            bots.id,
            coalesce(today.inbound_sent, 0) as used,
            row_number() over (order by md5(bots.id::text)) - 1 as place,
            count(*) over () as bots
        from ops.bots
        inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
        left join benchmark.bot_days as today
            on today.bot_id = bots.id and today.local_day = (:hour at time zone mailboxes.zone)::date
        where (:hour at time zone mailboxes.zone)::time >= :wake_start
            and (:hour at time zone mailboxes.zone)::time < :wake_end
            and coalesce(bots.cooldown_until <= :hour, true)
    )
    update ops.bots
    set interaction_limits = case
        when ready.id is null then 0
        else ready.used + cast(:seats as bigint) / ready.bots + (ready.place < cast(:seats as bigint) % ready.bots)::int
    end
    from ops.bots as every
    left join ready on ready.id = every.id
    where bots.id = every.id
""")


class WrongPlanError(EmberflowError):
    """The plan that was measured breaks a rule, so its figures are worth nothing."""


def run(report: Report, *, size: str = "small") -> Result:
    """Measure one size, or with ``all`` the curve over the three: ``large`` needs 20 GB of disk and many minutes.

    Raises:
        ConfigurationError: there is no such size.
        WrongPlanError: a plan breaks a rule.
    """
    if size == "all":
        return _curve([measure(report, each) for each in SIZES])
    if size not in SIZES:
        raise ConfigurationError(f"there is no size {size!r}; there are: {', '.join(SIZES)}, all")
    return measure(report, size)


def measure(report: Report, size: str) -> Result:
    """Measure one size, in a database of its own."""
    world = World(SEED, SIZES[size], HOUR)
    policy = a_policy()
    with (
        scratch_directory() as directory,
        postgres_server(directory / "postgres") as server,
        emberflow_database(server, "emberflow") as engine,
    ):
        report(f"making the {size} world")
        with engine.begin() as connection:
            put_in_force(connection, policy, settings=some_settings(engine, seed=world.seed))
        counts = load(engine, world)
        bench = Bench(engine, world, policy, server.url("emberflow"))
        rounds = []
        for number in range(ROUNDS):
            report(f"round {number + 1} of {ROUNDS}")
            rounds.append(bench.round(report, _PEERS))
        bench.make_scarce(int(rounds[0]["wanted"] * SCARCE_SHARE))
        scarce_rounds = []
        for number in range(ROUNDS):
            report(f"round {number + 1} of {ROUNDS}, with seats for {SCARCE_SHARE:.0%}")
            scarce_rounds.append(bench.round(report, ()))
    targets = [Target(figure, "at_most", value) for figure, value in _AT_MOST[size].items()]
    targets += [Target(figure, "at_least", value) for figure, value in _AT_LEAST[size].items()]
    result = Result("planner", {"size": size, "hour": HOUR.isoformat(), "senders sampled": SAMPLE}, targets)
    result.sizes |= {"senders": counts["senders"], "bots": counts["bots"], "pairs": counts["bot_sender_interactions"]}
    _summarise(result, rounds, scarce_rounds)
    return result


def a_policy() -> Policy:
    """Return the standard policy, with a ramp at whose plateau an hour of a full window wants about three mails."""
    document = shipped("standard").model_dump()
    document["name"] = "benchmark"
    document["ramp"] |= {"start": 5, "step": 2, "maximum": 28}
    return Policy.model_validate(document)


def faults(engine: Engine, policy: Policy) -> list[str]:
    """Return what is wrong with the plan in the database, with the number of cases; empty for a plan that is right."""
    bots = policy.bots
    values = {"hour": HOUR, "new_cap": bots.new_bot_cap, "step": bots.cap_step_per_day, "cap": bots.daily_inbound_cap}
    with engine.connect() as connection:
        connection.execute(text("set statement_timeout = 0"))
        counts: dict[str, int] = {
            name: connection.execute(text(query), values).scalar_one() for name, query in _CHECKS.items()
        }
        connection.invalidate()
    return [f"{count} {name}" for name, count in counts.items() if count]


class Bench:
    """A loaded world, and rounds in it."""

    def __init__(self, engine: Engine, world: World, policy: Policy, url: str) -> None:
        self._engine = engine
        self._world = world
        self._policy = policy
        self._options = {
            "url": url, "seed": world.seed, "sizes": asdict(world.sizes), "at": world.at.isoformat(), "sample": SAMPLE,
        }  # fmt: skip
        self._partitions = partitions(engine)
        self._seats: int | None = None
        self._sha256: str | None = None

    def round(self, report: Report, peers: Sequence[str]) -> dict[str, Any]:
        """Plan, check, let the peers have their turn, and take the plan back."""
        found = self._worker("emberflow")
        run = self._checked_run()
        for peer in peers:
            report(f"  {peer}")
            found[peer] = self._worker(peer)["seconds"]
        forget_plan(self._engine, self._world, self._partitions)
        return found | run

    def make_scarce(self, seats: int) -> None:
        """Leave so many seats from now on, spread over the bots that could get mail now."""
        self._seats, self._sha256 = seats, None
        bots = self._policy.bots
        with self._engine.begin() as connection:
            connection.execute(_MAKE_SCARCE, {
                "hour": HOUR, "seats": seats, "wake_start": bots.wake_start, "wake_end": bots.wake_end,
            })  # fmt: skip

    def _worker(self, name: str) -> dict[str, Any]:
        return dict(run_worker([sys.executable, "-m", "benchmarks.planner_peers", name, json.dumps(self._options)]))

    def _checked_run(self) -> dict[str, Any]:
        """Return what the run's row says, after the plan was checked.

        Raises:
            WrongPlanError: it breaks a rule, fills too little, or differs from the last round's.
        """
        wrong = faults(self._engine, self._policy)
        with self._engine.connect() as connection:
            query = text("select wanted, slots, plan_sha256 from ops.plan_runs where kind = 'warmup' and hour = :hour")
            run = dict(connection.execute(query, {"hour": HOUR}).mappings().one())
            written: int = connection.execute(text("select count(*) from ops.scheduled_tasks")).scalar_one()
        possible = run["wanted"] if self._seats is None else min(self._seats, run["wanted"])
        run["filled"] = written / possible if possible else 0.0
        if written != run["slots"]:
            wrong.append(f"{written} slots written instead of {run['slots']}")
        if run["filled"] < FILLED:
            wrong.append(f"{written} of {possible} possible slots")
        if self._sha256 not in {None, run["plan_sha256"]}:
            wrong.append("another plan from the same state")
        if wrong:
            raise WrongPlanError("the plan is wrong: " + "; ".join(wrong))
        self._sha256 = run["plan_sha256"]
        return run


def _curve(results: Sequence[Result]) -> Result:
    """Return the figures of several sizes as one result, each under the name of its size."""
    curve = Result("planner", {"hour": HOUR.isoformat()}, [])
    targets = []
    for result in results:
        size = result.settings["size"]
        curve.sizes |= {f"{size}_{name}": count for name, count in result.sizes.items()}
        curve.figures |= {f"{size}_{name}": figure for name, figure in result.figures.items()}
        curve.parts |= {f"{size}_{name}": parts for name, parts in result.parts.items()}
        curve.peers |= {f"{peer}, {size}": figures for peer, figures in result.peers.items()}
        targets += [replace(target, figure=f"{size}_{target.figure}") for target in result.targets]
    return replace(curve, targets=targets)


def _summarise(result: Result, rounds: Sequence[dict[str, Any]], scarce_rounds: Sequence[dict[str, Any]]) -> None:
    def figure(value: Callable[[dict[str, Any]], float], rounds: Sequence[dict[str, Any]] = rounds) -> Figure:
        return Figure.of([value(found) for found in rounds])

    result.figures |= {
        "slots": figure(lambda found: found["slots"]),
        "filled": figure(lambda found: found["filled"]),
        "seconds": figure(lambda found: found["seconds"]),
        "us_per_slot": figure(lambda found: found["seconds"] / found["slots"] * 1e6),
        "select_seconds": figure(lambda found: found["select_seconds"]),
        "peak_mb": figure(lambda found: found["peak_mb"]),
        "ratio_to_copy": figure(lambda found: found["seconds"] / found["copy"]),
        "ratio_to_bare_copy": figure(lambda found: found["seconds"] / found["bare_copy"]),
        "speedup_vs_pandas_loop": figure(lambda found: found["pandas_loop"] / found["seconds"]),
        "speedup_vs_order_by_random": figure(lambda found: found["order_by_random"] / found["seconds"]),
        "select_speedup_vs_pandas_loop": figure(lambda found: found["pandas_loop"] / found["select_seconds"]),
        **{
            f"scarce_{name}": figure(itemgetter(name), scarce_rounds)
            for name in ("slots", "filled", "seconds", "select_seconds", "peak_mb")
        },
    }
    result.parts["seconds_by_phase"] = {
        phase: Figure.of([found["phases"][phase] for found in rounds]) for phase in rounds[0]["phases"]
    }
    result.peers |= {peer: {"seconds": figure(itemgetter(peer))} for peer in _PEERS}
