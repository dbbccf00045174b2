"""What the pair table answers to the selection, and what it reads for that."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Connection, Engine, text

from emberflow.database.sessions import Sessions, reading
from emberflow.queue_manager.planning.pair_history import PairHistory
from tests.worlds import NOON, Sandbox, a_world

NOTHING_PLANNED = pd.DataFrame({"sender_id": [], "bot_id": [], "is_first": [], "target_time": []}).astype(
    {"sender_id": "int64", "bot_id": "int64", "is_first": "bool", "target_time": "datetime64[us, UTC]"}
)
# Every sender met every even bot: the first mail two days ago, and one nine days ago.
_MEET = text("""
    insert into ops.bot_sender_interactions
        (sender_id, bot_id, interaction_type, tier, first_contact, last_contact, sent_at_1, sent_at_2)
    select senders.id, bots.id, 'warmup_sent', 'virgin', :earlier, :latest, :latest, :earlier
    from ops.senders
    cross join ops.bots
    where bots.id % 2 = 0
""")
_READ = text("""
    select idx_scan, idx_tup_fetch from pg_stat_xact_user_tables where relname = 'bot_sender_interactions'
""")


def a_history(connection: Connection) -> PairHistory:
    return PairHistory(Sessions([connection]), NOON, NOTHING_PLANNED)


def meet(database: Engine, sandbox: Sandbox) -> None:
    a_world(database, sandbox, senders=2, bots=9, checks=False)
    with database.begin() as connection:
        connection.execute(_MEET, {"latest": NOON - timedelta(days=2), "earlier": NOON - timedelta(days=9)})
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum (analyze) ops.bot_sender_interactions"))


def test_pairs_are_answered_in_the_order_asked(database: Engine, sandbox: Sandbox) -> None:
    """B-F3"""
    meet(database, sandbox)
    with database.begin() as connection:
        answer = a_history(connection).of_pairs(np.array([1, 1, 2]), np.array([4, 5, 2]))
    assert answer["sent_7d"].tolist() == [1, 0, 1]
    assert answer["last_contact"].isna().tolist() == [False, True, False]
    assert set(answer["last_contact"].dropna()) == {NOON - timedelta(days=2)}


def test_partners_are_found_from_a_place_on_and_around_once(database: Engine, sandbox: Sandbox) -> None:
    """B-F3"""
    meet(database, sandbox)
    with database.begin() as connection:
        history = a_history(connection)
        some = history.some_of(np.array([1, 2]), np.array([6, 1]), np.array([3, 2]))
        more = history.some_of(np.array([1]), np.array([6]), np.array([10]))
    assert some.groupby("sender_id")["bot_id"].agg(set).to_dict() == {1: {6, 8, 2}, 2: {2, 4}}
    assert sorted(more["bot_id"]) == [2, 4, 6, 8]


@pytest.mark.parametrize("sessions", [1, 2])
@pytest.mark.parametrize("times", [1, 400, 1_500])
def test_many_pairs_are_answered_like_few_by_one_session_or_several(
    database: Engine, sandbox: Sandbox, times: int, sessions: int
) -> None:
    """Towards Q-B7: few keys are part of the query, more lie in a table, and very many are shared out."""
    meet(database, sandbox)
    senders, bots = np.tile(np.array([1, 1, 2]), times), np.tile(np.array([4, 5, 2]), times)
    with reading(database, sessions) as sharing:
        history = PairHistory(sharing, NOON, NOTHING_PLANNED)
        pairs = history.of_pairs(senders, bots)
        some = history.some_of(senders, np.ones_like(senders), np.full_like(senders, 2))
        partners = history.of_senders(np.array([2]))
    assert pairs["sent_7d"].tolist() == [1, 0, 1] * times
    assert pairs["last_contact"].isna().tolist() == [False, True, False] * times
    assert some.value_counts().to_dict() == {(1, 2): 2 * times, (1, 4): 2 * times, (2, 2): times, (2, 4): times}
    assert sorted(partners["bot_id"]) == [2, 4, 6, 8]


def test_what_planning_asks_is_read_from_the_key_alone(database: Engine, sandbox: Sandbox) -> None:
    """Towards Q-B7: a sender's partners are scattered over a table of millions of rows."""
    meet(database, sandbox)
    with database.begin() as connection:
        history = a_history(connection)
        history.of_pairs(np.array([1, 2]), np.array([2, 3]))
        history.some_of(np.array([1, 2]), np.array([3, 1]), np.array([2, 2]))
        history.of_senders(np.array([1, 2]))
        read = connection.execute(_READ).one()
    assert read.idx_scan >= 3
    assert read.idx_tup_fetch == 0
