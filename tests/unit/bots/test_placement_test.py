"""The rules of a placement test: whom its probes go to and when, and what is said of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.bots.placement_test import Candidate, Probe, choose, outcome, probe_times

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
END = NOON + timedelta(minutes=30)
LATER = END + timedelta(minutes=1)
SENT = Probe(
    status="sent",
    reason=None,
    refusal=None,
    returned=None,
    sent_at=NOON + timedelta(minutes=2),
    placed=None,
    read_at=NOON + timedelta(minutes=25),
    shows_junk=True,
)
WAITING = replace(SENT, status="planned", sent_at=None)


def said(probe: Probe, now: datetime = LATER) -> tuple[str, str]:
    return outcome(probe, now=now, ends_at=END, arrival_s=600)


# Whom probes go to


def test_every_provider_gets_its_number_and_providers_take_turns() -> None:
    """E-F5"""
    known = [Candidate(number, "alpha" if number < 5 else "beta") for number in range(8)]
    choice = choose([*known, Candidate(9, "gamma", "asleep")], per_provider=2, seed=1, test_id=1)
    providers = ["alpha" if bot_id < 5 else "beta" for bot_id in choice.bot_ids]
    assert providers == ["alpha", "beta", "alpha", "beta"]
    assert choice.left_out == {"gamma": {"asleep": 1}}


def test_the_choice_is_seeded_and_another_test_chooses_others() -> None:
    """E-F5"""
    known = [Candidate(number, "alpha") for number in range(100)]
    chosen = [choose(known, per_provider=5, seed=1, test_id=test).bot_ids for test in (1, 1, 2)]
    backwards = choose(reversed(known), per_provider=5, seed=1, test_id=1).bot_ids
    assert chosen[0] == chosen[1] == backwards
    assert chosen[0] != chosen[2]


# When probes leave


@given(
    busy=st.lists(st.tuples(st.integers(-1000, 2000), st.integers(0, 900)), max_size=6),
    number=st.integers(0, 20),
    gap_s=st.integers(1, 300),
)
def test_probes_keep_their_gaps_the_pauses_of_other_mail_and_the_time_of_the_test(
    busy: list[tuple[int, int]], number: int, gap_s: int
) -> None:
    """E-F5"""
    last = NOON + timedelta(minutes=20)
    others = [(NOON + timedelta(seconds=at), pause_s) for at, pause_s in busy]
    times = probe_times(NOON, last, gap_s=gap_s, number=number, busy=others)
    gap = timedelta(seconds=gap_s)
    assert len(times) <= number
    assert all(NOON <= at <= last for at in times)
    assert all(later - earlier >= gap for earlier, later in pairwise(times))
    for leaves, pause_s in others:
        free = leaves + timedelta(seconds=pause_s)
        assert all(at + gap <= leaves or at >= free for at in times)


def test_a_mailbox_without_other_mail_sends_as_soon_and_as_many_as_fit() -> None:
    """E-F5"""
    last = NOON + timedelta(minutes=20)
    times = probe_times(NOON, last, gap_s=60, number=50, busy=[])
    assert times == [NOON + timedelta(minutes=minute) for minute in range(21)]


# What became of a probe


@pytest.mark.parametrize("placed", ["inbox", "junk"])
def test_where_a_probe_was_found_is_said_whenever_it_was_found(placed: str) -> None:
    """E-F5"""
    found = replace(SENT, placed=placed, read_at=None)  # type: ignore[arg-type]
    assert said(found, NOON)[0] == said(found)[0] == placed


def test_a_probe_is_missing_only_when_the_test_is_over_and_its_mailbox_was_read() -> None:
    """E-F5: what nobody looked for is not known."""
    assert said(SENT, END - timedelta(seconds=1)) == ("waiting", "sent, and not found yet")
    assert said(SENT, END)[0] == "missing"
    for read_at in (None, NOON, NOON + timedelta(minutes=19)):
        assert said(replace(SENT, read_at=read_at)) == ("unknown", "its mailbox was not read since")
    assert said(replace(SENT, shows_junk=False)) == ("unknown", "its mailbox shows no Junk folder")


@given(sent_s=st.integers(0, 1800), read_s=st.integers(0, 3600))
def test_a_probe_is_missing_only_if_somebody_looked_after_it_had_time_to_arrive(sent_s: int, read_s: int) -> None:
    """E-F5: a reading a second after it left says nothing."""
    probe = replace(SENT, sent_at=NOON + timedelta(seconds=sent_s), read_at=NOON + timedelta(seconds=read_s))
    had_time = read_s - sent_s >= 600 and read_s >= 1200
    assert said(probe)[0] == ("missing" if had_time else "unknown")


def test_a_refused_probe_says_what_the_server_said_and_one_that_was_held_why() -> None:
    """E-F5"""
    assert said(replace(WAITING, status="failed", refusal="550 no"), NOON) == ("refused", "550 no")
    cancelled = replace(WAITING, status="cancelled", reason="outside_window")
    assert said(cancelled, NOON) == ("not_sent", "outside_window")
    put_off = replace(WAITING, reason="gap")
    assert [said(put_off, at) for at in (NOON, LATER)] == [("waiting", "gap"), ("not_sent", "gap")]
    grey = replace(WAITING, refusal="451 greylisted")
    assert [said(grey, at)[0] for at in (NOON, LATER)] == ["waiting", "refused"]


def test_a_probe_that_came_back_is_refused_unless_it_was_found() -> None:
    """E-F5"""
    back = replace(SENT, returned="it came back 5.1.1")
    assert said(back, NOON) == said(back) == ("refused", "it came back 5.1.1")
    assert said(replace(back, placed="inbox")) == ("inbox", "")


@pytest.mark.parametrize("status", ["submitting", "uncertain"])
def test_a_probe_of_which_nobody_knows_whether_it_left_is_not_called_missing(status: str) -> None:
    """E-F5"""
    doubtful = replace(WAITING, status=status, refusal="451 earlier")
    states = Counter(said(doubtful, at)[0] for at in (NOON, LATER))
    assert states == {"waiting": 1, "unknown": 1}
