"""The seeded world (D-F9): the same on every run, of any size, and one that the product's rules could have made."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.database.tables import metadata
from emberflow.simulation.generator import SMALL, Sizes, World

AT = datetime(2026, 6, 2, 14, tzinfo=UTC)
TINY = Sizes(40, 60, 900)
worlds = st.builds(
    World,
    seed=st.integers(0, 2**62),
    sizes=st.builds(
        Sizes, st.integers(1, 60), st.integers(1, 90), st.integers(0, 1500), st.just(1), st.integers(1, 90)
    ),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)


def whole(world: World, table: str, chunk_rows: int = 10_000) -> pd.DataFrame:
    """All rows of one table."""
    return pd.concat([rows for name, rows in world.tables(chunk_rows) if name == table], ignore_index=True)


def sha256(world: World, chunk_rows: int) -> str:
    """Hash every row of every table in its order, wherever the chunks end."""
    digests: dict[str, hashlib._Hash] = {}
    for name, rows in world.tables(chunk_rows):
        digest = digests.setdefault(name, hashlib.sha256())
        digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return hashlib.sha256("".join(digests[name].hexdigest() for name in sorted(digests)).encode()).hexdigest()


@pytest.mark.parametrize("chunk_rows", [500_000, 77_777])
def test_a_year_of_a_thousand_senders_is_the_same_data_on_every_run(chunk_rows: int) -> None:
    """D-F9: a changed value means that figures from before and after describe different worlds."""
    world = World(1, Sizes(1_000, 2_000, 100_000, youngest=365, oldest=365), AT)

    assert sha256(world, chunk_rows) == "3f309f8771686407cd42b3712d86f2002b2e2cd7964d73459f4297c573bc95f3"
    assert sum(len(days) for days in world.sender_days()) == 365_000


@pytest.mark.parametrize("change", [{"seed": 2}, {"at": AT.replace(hour=15)}, {"sizes": replace(TINY, bots=61)}])
def test_another_seed_hour_or_size_is_another_world(change: dict[str, object]) -> None:
    """D-F9"""
    world = World(1, TINY, AT)
    assert sha256(replace(world, **change), 1000) != sha256(world, 1000)  # type: ignore[arg-type]


@given(worlds, st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_the_size_of_the_chunks_changes_nothing(world: World, chunk_rows: int) -> None:
    """D-F9: a table that does not fit into memory has the rows that it would have in one piece."""
    for table in ("sender_days", "bot_sender_interactions", "mail_events"):
        pd.testing.assert_frame_equal(whole(world, table, chunk_rows), whole(world, table))


def test_every_column_is_one_of_the_schema_and_none_that_the_schema_asks_for_is_missing() -> None:
    """D-F9"""
    for name, rows in World(1, TINY, AT).tables():
        columns = metadata.tables[f"ops.{name}"].c
        asked_for = {column.name for column in columns if not (column.nullable or column.server_default)}
        assert asked_for - {column.name for column in columns if column.identity} <= set(rows.columns)
        assert set(rows.columns) <= set(columns.keys())
        assert not any(rows[column].dtype == object for column in rows.columns)


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_a_pair_is_one_row_of_two_that_may_meet(world: World) -> None:
    """Nobody meets a bot of its own domain, owner or source address, and nobody meets one twice as a stranger."""
    pairs = whole(world, "bot_sender_interactions")
    mailboxes = world.mailboxes().assign(domain=lambda rows: rows["address"].str.partition("@")[2]).set_index("id")
    mine = mailboxes.loc[pairs["sender_id"]].reset_index()
    theirs = mailboxes.loc[pairs["bot_id"] + world.sizes.senders].reset_index()

    assert not pairs.duplicated(["sender_id", "bot_id"]).any()
    assert len(pairs) <= world.sizes.pairs
    for group in ("domain", "owner", "egress_ip_id"):
        assert not (mine[group] == theirs[group]).fillna(False).any()


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_a_pair_kept_its_cooldown_and_met_before_now(world: World) -> None:
    """D-F9: 72 hours between two mails of one pair, at most three of them, all in the past."""
    pairs = whole(world, "bot_sender_interactions")
    times = pairs[["sent_at_1", "sent_at_2", "sent_at_3"]]

    assert (times.notna().sum(axis=1) == pairs["sent_count"]).all()
    assert (pairs["last_contact"] >= pairs["sent_at_1"]).all()
    assert (pairs["last_contact"] < pd.Timestamp(world.at)).all()
    assert (times.min(axis=1) == pairs["first_contact"]).all()
    for later, earlier in (("sent_at_1", "sent_at_2"), ("sent_at_2", "sent_at_3")):
        both = times.dropna(subset=[later, earlier])
        assert (both[later] - both[earlier] > pd.Timedelta(hours=72)).all()


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_no_day_is_above_its_ramp_or_its_cap_and_weekends_rest(world: World) -> None:
    """D-F9: ramp days count days with mail, one row per sender and local day until today."""
    days = whole(world, "sender_days")

    assert not days.duplicated(["sender_id", "local_day"]).any()
    assert (days["warmup_sent"] <= days[["ramp_volume", "warmup_quota"]].min(axis=1)).all()
    assert (days["warmup_sent"] + days["reply_sent"] + days["cold_sent"] <= days["total_quota"]).all()
    assert (days.loc[days["local_day"].dt.day_of_week >= 5, "warmup_sent"] == 0).all()
    has_sent = days["warmup_sent"].gt(0).astype("int64")
    sent_before = has_sent.groupby(days["sender_id"]).cumsum() - has_sent
    assert (days["ramp_day"] == sent_before + 1).all()


def test_the_world_of_the_benchmarks_has_what_a_planner_must_cope_with() -> None:
    """Young and grown senders and bots, partners all over the bots, few pairs that still cool down."""
    world = World(1, SMALL, AT)
    pairs = whole(world, "bot_sender_interactions")
    partners = pairs.groupby("sender_id").size().reindex(np.arange(1, 1001), fill_value=0)
    met = pairs.groupby("bot_id").size()
    cooling = pairs["last_contact"] > pd.Timestamp(AT) - pd.Timedelta(hours=72)

    assert 99_000 < len(pairs) <= 100_000
    assert partners.quantile(0.1) < 30
    assert partners.quantile(0.9) > 160
    assert len(met) > 1990
    assert met.max() < 3 * met.mean()
    assert 0.02 < cooling.mean() < 0.2
    assert world.mailboxes()["zone"].nunique() == 20
    assert world.mailboxes()["provider"].nunique() == 6
    assert world.scores()["score"].between(0, 100).all()
