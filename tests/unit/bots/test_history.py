"""The answers about pairs that a frame in memory gives, against a loop over its rows."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import MONDAY_NOON, Row, a_pair, frame
from tests.pairs_in_memory import PairsInMemory

ids = st.integers(1, 6)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    keys = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=20, unique=True))
    return [
        a_pair(
            *key, sent_7d=draw(st.integers(0, 3)), last_contact=MONDAY_NOON - timedelta(hours=draw(st.integers(0, 99)))
        )
        for key in keys
    ]


@given(histories(), st.lists(st.tuples(ids, ids), min_size=1, max_size=20))
def test_each_pair_is_answered_where_it_was_asked(pairs: list[Row], asked: list[tuple[int, int]]) -> None:
    known = {(pair["sender_id"], pair["bot_id"]): pair for pair in pairs}
    senders, bots = np.array(asked, dtype=np.int64).T
    answer = PairsInMemory(frame(*pairs)).of_pairs(senders, bots)
    for row, key in zip(answer.itertuples(), asked, strict=True):
        if key in known:
            assert (row.last_contact, row.sent_7d) == (known[key]["last_contact"], known[key]["sent_7d"])
        else:
            assert row.sent_7d == 0
    assert answer["last_contact"].isna().tolist() == [key not in known for key in asked]


@given(histories(), st.dictionaries(ids, st.tuples(ids, st.integers(1, 7)), min_size=1))
def test_some_partners_start_at_the_bot_named_and_go_around_once(
    pairs: list[Row], start: dict[int, tuple[int, int]]
) -> None:
    firsts, counts = np.array(list(start.values()), dtype=np.int64).T
    answer = PairsInMemory(frame(*pairs)).some_of(np.array(list(start), dtype=np.int64), firsts, counts)
    for sender, (first, count) in start.items():
        partners = sorted(pair["bot_id"] for pair in pairs if pair["sender_id"] == sender)
        around = [bot for bot in partners if bot >= first] + [bot for bot in partners if bot < first]
        assert sorted(answer.loc[answer["sender_id"] == sender, "bot_id"]) == sorted(around[:count])
    assert set(answer["sender_id"]) <= set(start)


@given(histories(), st.sets(ids, min_size=1))
def test_all_partners_are_all_rows_of_the_senders(pairs: list[Row], senders: set[int]) -> None:
    answer = PairsInMemory(frame(*pairs)).of_senders(np.array(sorted(senders), dtype=np.int64))
    expected = sorted((pair["sender_id"], pair["bot_id"]) for pair in pairs if pair["sender_id"] in senders)
    assert sorted(zip(answer["sender_id"], answer["bot_id"], strict=True)) == expected
