"""The world of ``bench planner`` in a database, and the judge of the plans that are measured in it."""

from __future__ import annotations

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from benchmarks import planner as bench
from benchmarks.planner_world import binary_rows, forget_plan, load, partitions
from benchmarks.world import some_settings
from emberflow.clock import ManualClock
from emberflow.database.tables import metadata
from emberflow.policy.versions import put_in_force
from emberflow.queue_manager.planning.planner import plan_hour
from emberflow.simulation.generator import Sizes, World

WORLD = World(1, Sizes(40, 120, 900), bench.HOUR)


@pytest.fixture
def loaded(database: Engine) -> Engine:
    """A database with the small world and the benchmark's policy."""
    with database.begin() as connection:
        put_in_force(connection, bench.a_policy(), settings=some_settings(database, seed=WORLD.seed))
    load(database, WORLD)
    return database


def read(engine: Engine, query: str) -> pd.DataFrame:
    with engine.connect() as connection:
        return pd.DataFrame(connection.execute(text(query)).mappings().all())


def plan(engine: Engine) -> str:
    """Plan the hour and return the plan's hash."""
    plan_hour(engine, bench.HOUR, clock=ManualClock(bench.HOUR), settings=some_settings(engine))
    return str(read(engine, "select plan_sha256 from ops.plan_runs")["plan_sha256"].item())


def test_a_loaded_table_has_the_rows_that_were_generated_and_its_indexes(loaded: Engine) -> None:
    """D-F9: nulls, text, instants and days arrive as they were made."""
    made = pd.concat(WORLD.pairs()).sort_values(["sender_id", "bot_id"], ignore_index=True)
    known = [name for name in made.columns if name in metadata.tables["ops.bot_sender_interactions"].c]
    found = read(loaded, "select * from ops.bot_sender_interactions order by sender_id, bot_id")
    pd.testing.assert_frame_equal(found[known], made[known], check_dtype=False, check_categorical=False)

    days = pd.concat(WORLD.sender_days()).sort_values(["sender_id", "local_day"], ignore_index=True)
    found = read(loaded, "select * from ops.sender_days order by sender_id, local_day")
    found["local_day"] = found["local_day"].astype("datetime64[s]")
    pd.testing.assert_frame_equal(found[days.columns], days, check_dtype=False)

    mailboxes = WORLD.mailboxes()[["address", "provider", "zone", "egress_ip_id"]]
    found = read(loaded, "select address, provider, zone, egress_ip_id from ops.mailboxes order by id")
    pd.testing.assert_frame_equal(found, mailboxes, check_dtype=False, check_categorical=False)
    indexes = read(loaded, "select indexname from pg_indexes where tablename = 'bot_sender_interactions'")
    assert indexes["indexname"].tolist() == ["pk_bot_sender_interactions"]


def test_a_plan_that_is_taken_back_is_made_again_exactly(loaded: Engine) -> None:
    """Q-F1"""
    before = partitions(loaded)
    first = plan(loaded)
    forget_plan(loaded, WORLD, before)

    assert read(loaded, "select count(*) as slots from ops.scheduled_tasks")["slots"].item() == 0
    assert plan(loaded) == first


def test_partitions_that_planning_made_are_gone_when_the_plan_is_taken_back(loaded: Engine) -> None:
    """So that every round makes its partition anew, as every hour does."""
    with loaded.begin() as connection:
        connection.execute(text("create table ops.hourly (at timestamptz) partition by range (at)"))
        connection.execute(text("create table ops.early partition of ops.hourly default"))
    before = partitions(loaded)
    with loaded.begin() as connection:
        connection.execute(
            text("create table ops.late partition of ops.hourly for values from ('2026-06-02') to ('2026-06-03')")
        )

    forget_plan(loaded, WORLD, before)

    assert "ops.early" in before
    assert partitions(loaded) == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("update ops.bots set interaction_limits = 0", "bots over their cap of the day"),
        ("update ops.sender_days set warmup_quota = 0", "senders over their quota of the day"),
        ("update ops.scheduled_tasks set bot_id = 1", "pairs planned twice"),
        ("update ops.scheduled_tasks set target_time = target_time + interval '1 hour'", "slots outside the hour"),
        ("update ops.scheduled_tasks set gap_s = 3600", "nearer than their gap"),
        ("update ops.mailboxes set address = id || '@one.test'", "pairs of one domain, owner or source address"),
        ("update ops.mailboxes set egress_ip_id = 1", "pairs of one domain, owner or source address"),
        (_CONTACTS := """
            insert into ops.bot_sender_interactions
                (sender_id, bot_id, interaction_type, tier, first_contact, last_contact)
            select sender_id, bot_id, 'warmup_sent', 'virgin', '2026-06-02 13:00+00', '2026-06-02 13:00+00'
            from ops.scheduled_tasks
            on conflict (sender_id, bot_id) do update set last_contact = excluded.last_contact
        """, "virgin picks that had contact"),
        (_CONTACTS, "pairs that met within 24 hours"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_wrong_with_a_plan(loaded: Engine, change: str, fault: str) -> None:
    """A benchmark whose plan breaks a rule must not report figures."""
    plan(loaded)
    assert bench.faults(loaded, bench.a_policy()) == []

    with loaded.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text(change))

    assert any(fault in found for found in bench.faults(loaded, bench.a_policy()))


def test_a_scarce_world_has_exactly_the_seats_that_are_left_to_it(loaded: Engine) -> None:
    """Every one of them is filled, and by another plan than before."""
    url = loaded.url.render_as_string(hide_password=False)
    world = bench.Bench(loaded, WORLD, bench.a_policy(), url)
    plenty = world.round(print, ["copy", "bare_copy"])
    world.make_scarce(seats=25)
    scarce = world.round(print, [])

    assert plenty["slots"] > scarce["slots"] == 25
    assert scarce["filled"] == 1
    assert plenty["bare_copy"] > 0 < plenty["copy"]


def test_a_piece_of_a_table_without_rows_is_a_stream_without_rows() -> None:
    """D-F9: of the large world, the first pieces of pairs are older than the placements that are kept."""
    none = WORLD.placements(next(iter(WORLD.pairs())).iloc[:0])
    stream = binary_rows(none, metadata.tables["ops.mail_events"])
    assert none.empty
    assert stream == binary_rows(none.iloc[:, :1], metadata.tables["ops.mail_events"])
