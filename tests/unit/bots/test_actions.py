"""What a bot does with a warm-up mail besides answering it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.bots.actions import ACTIONS, decide_actions
from emberflow.bots.policy import ActionPolicy
from tests.builders import Row, a_found_mail, frame

STANDARD = ActionPolicy(read=0.6)
IN_INBOX = ("read", "important", "star", "archive")
SHARES = st.fixed_dictionaries({name: st.integers(0, 100).map(lambda percent: percent / 100) for name in ACTIONS})


def decide(rows: list[Row], policy: ActionPolicy = STANDARD, seed: int = 1) -> pd.DataFrame:
    return decide_actions(frame(*rows), policy, seed)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), first=st.integers(1, 2**40), shares=SHARES)
def test_with_a_thousand_mails_each_action_is_done_as_often_as_its_probability_says(
    seed: int, first: int, shares: dict[str, float]
) -> None:
    """B-F2: within three points, for every seed."""
    policy = ActionPolicy(**shares)
    inbox = decide([a_found_mail(first + n) for n in range(1000)], policy, seed)
    junk = decide([a_found_mail(first + n, in_junk=True) for n in range(1000)], policy, seed)
    for name in IN_INBOX:
        assert inbox[name].mean() == pytest.approx(shares[name], abs=0.03), name
    assert junk["rescue"].mean() == pytest.approx(shares["rescue"], abs=0.03)


def test_the_mails_of_one_bot_among_many_keep_to_the_probabilities_too() -> None:
    """B-F2: eleven ids apart, so that no two share a stratum."""
    found = decide([a_found_mail(n * 11) for n in range(20_000)])
    for name in IN_INBOX:
        assert found[name].mean() == pytest.approx(getattr(STANDARD, name), abs=0.01)


def test_two_profiles_do_different_things_with_the_same_mails() -> None:
    """B-B11, B-F2"""
    thousand = [a_found_mail(n) for n in range(1000)]
    busy = decide(thousand, ActionPolicy(star=0.5, archive=0.0))
    idle = decide(thousand, ActionPolicy(star=0.1, archive=0.4))
    for found, star, archive in ((busy, 0.5, 0.0), (idle, 0.1, 0.4)):
        assert found["star"].mean() == pytest.approx(star, abs=0.03)
        assert found["archive"].mean() == pytest.approx(archive, abs=0.03)
    assert busy["read"].equals(idle["read"])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    ids=st.lists(st.integers(1, 2**40), min_size=1, max_size=30, unique=True),
    shares=SHARES,
    data=st.data(),
)
def test_a_mail_read_again_in_whatever_company_is_decided_about_alike(
    seed: int, ids: list[int], shares: dict[str, float], data: st.DataObject
) -> None:
    """B-F2"""
    rows = [a_found_mail(one, in_junk=data.draw(st.booleans())) for one in ids]
    policy = ActionPolicy(**shares)
    together = decide(rows, policy, seed)
    assert decide(rows, policy, seed).equals(together)
    one = data.draw(st.integers(0, len(rows) - 1))
    alone = decide([rows[one]], policy, seed).iloc[0]
    assert alone.to_dict() == together.iloc[one].to_dict()
    shuffled = decide(data.draw(st.permutations(rows)), policy, seed)
    assert shuffled.sort_values("slot_id", ignore_index=True).equals(together.sort_values("slot_id", ignore_index=True))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), shares=SHARES)
def test_what_is_answered_is_read_and_what_lies_in_junk_is_rescued_or_left_alone(
    seed: int, shares: dict[str, float]
) -> None:
    """B-F2, B-B5"""
    rows = [a_found_mail(n, in_junk=n % 3 == 0, is_answered=n % 3 == 1) for n in range(60)]
    found = decide(rows, ActionPolicy(**shares), seed)
    assert found.loc[found["is_answered"], "read"].all()
    assert not found.loc[found["in_junk"], list(IN_INBOX)].any(axis=None)
    assert not found.loc[~found["in_junk"], "rescue"].any()


def test_probabilities_of_none_and_all_are_kept_exactly() -> None:
    """B-F2"""
    rows = [a_found_mail(n, in_junk=n >= 1000) for n in range(2000)]
    everything = decide(rows, ActionPolicy(**dict.fromkeys(ACTIONS, 1.0)))
    nothing = decide(rows, ActionPolicy(**dict.fromkeys(ACTIONS, 0.0)))
    assert {name: int(everything[name].sum()) for name in ACTIONS} == dict.fromkeys(ACTIONS, 1000)
    assert {name: int(nothing[name].sum()) for name in ACTIONS} == dict.fromkeys(ACTIONS, 0)


def test_actions_are_drawn_apart_from_each_other() -> None:
    """B-F2: one action says nothing about the next, and nothing about the answer, which has streams of its own."""
    found = decide([a_found_mail(n) for n in range(20_000)], ActionPolicy(**dict.fromkeys(ACTIONS, 0.5)))
    correlations = found[list(IN_INBOX)].astype(float).corr().to_numpy()
    assert abs(correlations - np.eye(len(IN_INBOX))).max() < 0.03


def test_a_mail_in_junk_is_not_answered() -> None:
    with pytest.raises(ValueError, match=r"nobody answers what lies in Junk: slots \[7\]"):
        decide([a_found_mail(7, in_junk=True, is_answered=True)])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_probability_is_a_part_of_one(value: float) -> None:
    with pytest.raises(ValidationError):
        ActionPolicy(star=value)
