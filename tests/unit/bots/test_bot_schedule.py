"""The schedule of bots whose pauses differ, against bots that are asked about one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.bot_schedule import BotSchedule

PAUSES = st.lists(st.sampled_from([0, 1, 300, 900, 3600]), min_size=1, max_size=5)
MAILS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7199)), max_size=12)


@given(PAUSES, MAILS, st.lists(st.integers(0, 7199), min_size=1, max_size=6), st.floats(0, 0.999))
def test_bots_with_pauses_of_their_own_are_free_as_if_each_were_alone(
    pauses: list[int], mails: list[tuple[int, int]], asked: list[int], draw: float
) -> None:
    """B-B11"""
    mails = [(bot % len(pauses), at) for bot, at in mails]
    bots, times = np.array([bot for bot, _ in mails], dtype=np.int64), np.array([at for _, at in mails], dtype=np.int64)
    first, until = np.zeros(len(pauses), dtype=np.int64), np.full(len(pauses), 7200)
    together = BotSchedule(first, until, np.array(pauses))
    together.add(bots, times)
    for bot, pause in enumerate(pauses):
        alone = BotSchedule(first[:1], until[:1], np.array([pause]))
        alone.add(np.zeros((bots == bot).sum(), dtype=np.int64), times[bots == bot])
        at = np.array(asked)
        own, its = np.full(len(at), bot), np.zeros(len(at), dtype=np.int64)
        window = (np.maximum(at - 1200, 0), np.minimum(at + 1200, 7199), np.full(len(at), draw))
        assert together.is_free(own, at).tolist() == alone.is_free(its, at).tolist()
        assert together.fit(own, at, *window).tolist() == alone.fit(its, at, *window).tolist()
        assert together.headroom(own[:1]).tolist() == alone.headroom(its[:1]).tolist()
        if not pause:
            assert together.is_free(own, at).all()


def test_a_mail_that_is_taken_out_leaves_its_time_free_again() -> None:
    schedule = BotSchedule(np.zeros(2, dtype=np.int64), np.full(2, 3600), np.array([600, 0]))
    both, at = np.array([0, 1]), np.array([1000, 1000])
    schedule.add(both, at)
    assert schedule.is_free(both, at).tolist() == [False, True]
    schedule.remove(both, at)
    assert schedule.is_free(both, at).tolist() == [True, True]
