"""The contenders of ``bench planner``: ``python -m benchmarks.planner_peers NAME JSON`` is one round of one of them.

``emberflow``        plans the hour and commits it.
``copy``             the limit: the slots of that plan, tasks and states, as bytes by COPY into fresh partitions of
                     their tables, which are tables of the same columns, checks and keys.
``bare_copy``        the tasks alone, into a fresh table without any key or check.
``pandas_loop``      what a plan looks like that goes sender by sender over the frame of all pairs.
``order_by_random``  the same by one SQL statement per sender.

The two loops choose bots and do nothing else: their input is ready (pairs in memory, bots with seats in an indexed
table), there is no provider mix, no weight, no fall-through, no pacing and no write of slots. They serve a sample of
the senders of the plan just made, as many slots each, and their time is scaled to all of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, text

from benchmarks import world as sending_world
from emberflow.bots.selection import select_bots
from emberflow.clock import ManualClock
from emberflow.database.bulk import read_numbers
from emberflow.database.engine import open_engine
from emberflow.policy.versions import in_force
from emberflow.queue_manager.planning import hour_plan, planner
from emberflow.simulation.generator import Sizes, World

# The senders of the plan, in an order that has nothing to do with their ids, and how many slots each of them has.
_SERVED = """
    select sender_id, count(*) as slots
    from ops.scheduled_tasks
    group by sender_id
    order by md5(sender_id::text)
"""
_SEATS = text("""
    create temporary table seats on commit drop as
    select
        bots.id as bot_id,
        least(:new_cap + :step * floor(extract(epoch from :hour - bots.born_at) / 86400)::int, :cap,
            bots.interaction_limits)
        - coalesce(today.inbound_sent, 0) as seats
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    left join benchmark.bot_days as today
        on today.bot_id = bots.id and today.local_day = (:hour at time zone mailboxes.zone)::date
    where (:hour at time zone mailboxes.zone)::time between :wake_start and :wake_end
        and coalesce(bots.cooldown_until <= :hour, true)
""")
_KEYS = "select pg_get_indexdef(indexrelid) from pg_index where indrelid = cast(%s as regclass)"
_PICK = """
    with picked as (
        select seats.bot_id
        from seats
        where seats.seats > 0
            and not exists (
                select from ops.bot_sender_interactions as pairs
                where pairs.sender_id = %(sender_id)s and pairs.bot_id = seats.bot_id
            )
        order by random()
        limit %(slots)s
    )
    update seats set seats = seats.seats - 1 from picked where picked.bot_id = seats.bot_id
"""


def emberflow(engine: Engine, world: World, _: int) -> dict[str, Any]:
    """Plan the hour: wall, the selection without its look-ups of pairs, phases, and memory beyond the imports'."""
    settings = sending_world.some_settings(engine)
    phases: dict[str, float] = {}
    chosen = SelectionTime(select_bots)
    setattr(hour_plan, "select_bots", chosen.choose)  # noqa: B010 - the planner's own name for it
    with engine.connect() as connection:
        connection.execute(text("select 1"))
    with contextlib.suppress(OSError):  # Not every kernel can set the peak back; then it is the imports' at least.
        Path("/proc/self/clear_refs").write_text("5")
    resident_kb = _status_kb("VmRSS")
    started = time.perf_counter()
    planner.plan_hour(
        engine,
        world.at,
        clock=ManualClock(world.at),
        settings=settings,
        on_phase=lambda name, seconds: phases.update({name: phases.get(name, 0.0) + seconds}),
    )
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "select_seconds": chosen.seconds,
        "peak_mb": (_status_kb("VmHWM") - resident_kb) / 1024,
        "phases": phases,
    }


class SelectionTime:
    """Times a selection; what its ``history`` takes to answer from the database is not counted."""

    def __init__(self, select_bots: Callable[..., Any]) -> None:
        self._select_bots = select_bots
        self.seconds = 0.0

    def choose(self, *args: Any, **kwargs: Any) -> Any:
        """Select, and take the time."""
        args = tuple(_Paused(value, self) if hasattr(value, "of_pairs") else value for value in args)
        kwargs = {name: _Paused(value, self) if hasattr(value, "of_pairs") else value for name, value in kwargs.items()}
        self.seconds -= time.perf_counter()
        try:
            return self._select_bots(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter()


class _Paused:
    """The history of pairs, whose answers stop the watch."""

    def __init__(self, history: Any, watch: SelectionTime) -> None:
        self._history = history
        self._watch = watch

    def __getattr__(self, name: str) -> Callable[..., Any]:
        ask = getattr(self._history, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._watch.seconds += time.perf_counter()
            try:
                return ask(*args, **kwargs)
            finally:
                self._watch.seconds -= time.perf_counter()

        return timed


def copy(engine: Engine, _: World, __: int) -> dict[str, Any]:
    """Copy the plan's rows into fresh tables like those of slots, build their keys, and commit."""
    return _copied(engine, ("scheduled_tasks", "slot_states"), with_keys=True)


def bare_copy(engine: Engine, _: World, __: int) -> dict[str, Any]:
    """Copy the plan's tasks into a fresh table without keys, and commit."""
    return _copied(engine, ("scheduled_tasks",), with_keys=False)


def _copied(engine: Engine, names: Sequence[str], *, with_keys: bool) -> dict[str, Any]:
    likeness = "including defaults including constraints" if with_keys else ""
    rows, keys = {name: io.BytesIO() for name in names}, {}
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("set statement_timeout = 0")
        for name in names:
            cursor.copy_expert(f"copy ops.{name} to stdout (format binary)", rows[name])
            rows[name].seek(0)
            cursor.execute(_KEYS, (f"ops.{name}",))
            keys[name] = [key.replace(f" ON ops.{name} ", f" ON benchmark.{name} ") for (key,) in cursor.fetchall()]
        connection.commit()
        started = time.perf_counter()
        for name in names:
            cursor.execute(f"create table benchmark.{name} (like ops.{name} {likeness})")
            cursor.copy_expert(f"copy benchmark.{name} from stdin (format binary)", rows[name])
            for key in keys[name] if with_keys else ():
                cursor.execute(key)
        connection.commit()
        seconds = time.perf_counter() - started
        cursor.execute(f"drop table {', '.join(f'benchmark.{name}' for name in names)}")
        connection.commit()
    finally:
        connection.close()
    return {"seconds": seconds}


def pandas_loop(engine: Engine, world: World, sample: int) -> dict[str, Any]:
    """Choose bots sender by sender, from the frame of all pairs."""
    columns = ["sender_id", "bot_id", "last_contact"]
    pairs = pd.concat([chunk[columns] for chunk in world.pairs()], ignore_index=True)
    with engine.begin() as connection:
        served = read_numbers(connection, _SERVED)
        _seats(connection, world.at)
        bots = read_numbers(connection, "select bot_id, seats from seats order by bot_id")
    rested = pd.Timestamp(world.at) - pd.Timedelta(hours=72)
    started = time.perf_counter()
    for sender_id, slots in served.head(sample).itertuples(index=False):
        known = pairs[pairs["sender_id"] == sender_id]
        free = bots[bots["seats"] > 0]
        candidates = free[~free["bot_id"].isin(known["bot_id"])]
        if len(candidates) < slots:
            candidates = free[~free["bot_id"].isin(known.loc[known["last_contact"] > rested, "bot_id"])]
        chosen = candidates.sample(min(slots, len(candidates)), random_state=int(sender_id))
        bots.loc[chosen.index, "seats"] -= 1
    return _scaled(time.perf_counter() - started, served, sample)


def order_by_random(engine: Engine, world: World, sample: int) -> dict[str, Any]:
    """Choose bots by one statement per sender, in one transaction."""
    with engine.begin() as connection:
        served = read_numbers(connection, _SERVED)
        _seats(connection, world.at)
        cursor = connection.connection.cursor()
        cursor.execute("create index on seats (bot_id)")
        cursor.execute("analyze seats")
        started = time.perf_counter()
        for sender_id, slots in served.head(sample).itertuples(index=False):
            cursor.execute(_PICK, {"sender_id": int(sender_id), "slots": int(slots)})
        return _scaled(time.perf_counter() - started, served, sample)


def _seats(connection: Connection, hour: datetime) -> None:
    policy = in_force(connection).policy.bots
    connection.execute(
        _SEATS,
        {
            "hour": hour, "new_cap": policy.new_bot_cap, "step": policy.cap_step_per_day,
            "cap": policy.daily_inbound_cap, "wake_start": policy.wake_start, "wake_end": policy.wake_end,
        },
    )  # fmt: skip


def _scaled(seconds: float, served: pd.DataFrame, sample: int) -> dict[str, Any]:
    count = min(sample, len(served))
    return {"seconds": seconds / count * len(served), "sampled": count, "measured_seconds": seconds}


def _status_kb(name: str) -> int:
    """Return a memory figure of this process; unlike ru_maxrss it does not include the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(name: str, options: dict[str, Any]) -> None:
    """Run one contender and print what it found."""
    world = World(options["seed"], Sizes(**options["sizes"]), datetime.fromisoformat(options["at"]))
    contender = {each.__name__: each for each in (emberflow, copy, bare_copy, pandas_loop, order_by_random)}[name]
    print(json.dumps(contender(open_engine(options["url"]), world, options["sample"])))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
