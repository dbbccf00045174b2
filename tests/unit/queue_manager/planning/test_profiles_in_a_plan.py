"""Profiles in a plan: everybody by their own numbers, and nobody by chance of who is planned beside them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.policy.document import Policy, shipped
from emberflow.queue_manager.planning.hour_plan import Plan
from tests.planned_days import PlannedDays

MONDAY = datetime(2026, 6, 1, 5, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York")


def a_policy(**profiles: dict[str, Any]) -> Policy:
    """The standard numbers with these profiles."""
    return Policy.model_validate(shipped("standard").model_dump() | {"profiles": profiles})


def planned(policy: Policy, hours: int = 14, **changes: Any) -> tuple[PlannedDays, list[Plan]]:
    given: dict[str, Any] = {"senders": 24, "bots": 30, "start": MONDAY, "zones": ZONES, "sending_days": 4} | changes
    world = PlannedDays(policy, **given)
    return world, list(world.hours(hours))


def test_profiles_that_say_nothing_new_change_no_byte_of_a_plan() -> None:
    """Q-F1, S-B11: named by half of the mailboxes, or there and named by nobody."""
    plain, plans = planned(a_policy())
    standard = shipped("standard")
    same = {name: getattr(standard, name).model_dump() for name in ("ramp", "quota", "bots", "replies")}
    same["pacing"] = standard.pacing.model_dump(exclude={"spread_s"})
    policy = a_policy(same=same, empty={})
    mixed, by_profiles = planned(
        policy, sender_profiles=(None, "same", "empty"), bot_profiles=("same", None, None, "empty")
    )
    unused, by_nobody = planned(policy)
    assert len(plain.mails) > 100
    assert [one.sha256 for one in by_profiles] == [one.sha256 for one in plans]
    assert [one.sha256 for one in by_nobody] == [one.sha256 for one in plans]
    pd.testing.assert_frame_equal(mixed.mails, plain.mails)
    pd.testing.assert_frame_equal(unused.mails, plain.mails)


def test_two_senders_in_one_plan_keep_to_their_own_ramp_window_and_gaps() -> None:
    """S-B11: a late, small and slow one beside one that goes by the document."""
    late = {
        "ramp": {"start": 3, "step": 1, "maximum": 6},
        "pacing": {"window_start": "12:00", "window_end": "21:00", "gap_minimum_s": 2700, "gap_jitter_s": 0},
    }
    policy = a_policy(late=late)
    world, plans = planned(policy, 24, zones=("UTC",), sender_profiles=(None, "late"))
    day = plans[0].day.set_index("sender_id")
    is_late = pd.Series([name == "late" for name in world.sender_profiles], index=day.index)
    assert set(day.loc[is_late, "ramp_volume"]) == {6}
    assert set(day.loc[~is_late, "ramp_volume"]) == {15}
    mails = world.mails.assign(late=world.mails["sender_id"].map(is_late))
    wall, gaps = mails["target_time"].dt.time, mails["gap_s"]
    assert (mails["late"].sum() > 30) & ((~mails["late"]).sum() > 60)
    assert (wall[mails["late"]] >= time(12)).all()
    assert (wall[mails["late"]] > time(17, 30)).any()
    assert wall[~mails["late"]].between(time(8, 30), time(17, 30)).all()
    assert set(gaps[mails["late"]]) == {2700}
    assert gaps[~mails["late"]].between(600, 900).all()
    waited = mails.groupby("sender_id")["target_time"].diff().dt.total_seconds()
    assert waited[mails["late"]].min() >= 2700
    assert waited[~mails["late"]].min() < 2700


def test_bots_in_one_plan_keep_to_their_own_hours_pauses_and_caps() -> None:
    """B-B11: one that wakes late, rests long and takes little, beside one that goes by the document."""
    lazy = {"bots": {"wake_start": "12:00", "wake_end": "16:00", "cooldown_s": 3600, "daily_inbound_cap": 2}}
    policy = a_policy(lazy=lazy)
    world, plans = planned(policy, 14, bots=16, zones=("UTC",), sending_days=14, bot_profiles=("lazy", None))
    is_lazy = {bot: name == "lazy" for bot, name in enumerate(world.bot_profiles, start=1)}
    mails = world.mails.assign(lazy=world.mails["bot_id"].map(is_lazy)).sort_values(["bot_id", "target_time"])
    waited = mails.groupby("bot_id")["target_time"].diff().dt.total_seconds()
    lazy_mails, others = mails[mails["lazy"]], mails[~mails["lazy"]]
    assert lazy_mails["target_time"].dt.time.between(time(12), time(16), inclusive="left").all()
    assert others["target_time"].dt.hour.min() < 12
    assert waited[mails["lazy"]].min() >= 3600
    assert 900 <= waited[~mails["lazy"]].min() < 1800
    per_bot = mails["bot_id"].value_counts()
    assert per_bot[[bot for bot, lazy_one in is_lazy.items() if lazy_one]].max() == 2
    assert per_bot.max() > 10
    # What a bot is due is measured for all of them by one cap, so that one that takes less has fewer turns.
    terms = plans[9].bots.set_index("bot_id")["capacity"]
    assert {name: terms[[bot for bot in terms.index if is_lazy[bot] == name]].max() for name in (True, False)} == {
        True: 2 / 40,
        False: 1.0,
    }


NUMBERS = st.fixed_dictionaries(
    {},
    optional={
        "ramp": st.fixed_dictionaries({}, optional={"start": st.integers(1, 9), "maximum": st.integers(9, 40)}),
        "pacing": st.fixed_dictionaries(
            {},
            optional={
                "gap_minimum_s": st.integers(60, 4000),
                "gap_jitter_s": st.integers(0, 600),
                "window_start": st.times(time(5), time(11)).map(lambda at: at.replace(microsecond=0)),
                "lunch_minimum_s": st.just(0),
            },
        ),
        "bots": st.fixed_dictionaries(
            {},
            optional={
                "cooldown_s": st.sampled_from([0, 1, 600, 900, 5000]),
                "wake_end": st.times(time(13), time(23)).map(lambda at: at.replace(microsecond=0)),
                "daily_inbound_cap": st.integers(1, 60),
            },
        ),
    },
)


@settings(max_examples=5, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(0, 2**31))
def test_every_plan_keeps_to_the_numbers_of_everybodys_profile(a: dict[str, Any], b: dict[str, Any], seed: int) -> None:
    """S-B11, B-B11: for any two profiles, judged by the mails alone."""
    policy = a_policy(a=a, b=b)
    names = (None, "a", "b")
    world, plans = planned(
        policy, 10, senders=9, bots=12, zones=("UTC",), sender_profiles=names, bot_profiles=names, seed=seed
    )
    for key, profiles in (("sender_id", world.sender_profiles), ("bot_id", world.bot_profiles)):
        for member, name in enumerate(profiles, start=1):
            own = world.mails[world.mails[key] == member].sort_values("target_time")
            numbers, wall = policy.profile(name), own["target_time"].dt.time
            waited = own["target_time"].diff().dt.total_seconds()[1:]
            if key == "sender_id":
                pacing = numbers.pacing
                assert own["gap_s"].between(pacing.gap_minimum_s, pacing.gap_minimum_s + pacing.gap_jitter_s).all()
                assert (waited.to_numpy() >= own["gap_s"].to_numpy()[:-1]).all()
                assert wall.between(pacing.window_start, pacing.window_end, inclusive="left").all()
                assert len(own) <= numbers.ramp.maximum
            else:
                assert wall.between(numbers.bots.wake_start, numbers.bots.wake_end, inclusive="left").all()
                assert waited.min() >= numbers.bots.cooldown_s if len(waited) else True
                assert len(own) <= numbers.bots.daily_inbound_cap
    for plan in plans:
        for member, volume in zip(plan.day["sender_id"], plan.day["ramp_volume"], strict=True):
            assert volume <= policy.profile(world.sender_profiles[member - 1]).ramp.maximum


def test_no_draw_of_one_sender_depends_on_the_profiles_of_others() -> None:
    """Q-F1: workdays, quotas and places of those that keep their numbers stay as they are."""
    policy = a_policy(late={"pacing": {"window_start": "11:00", "gap_minimum_s": 1200}, "ramp": {"maximum": 9}})
    alone, _ = planned(policy, 1, start=MONDAY + timedelta(hours=6), zones=("UTC",))
    beside, _ = planned(policy, 1, start=MONDAY + timedelta(hours=6), zones=("UTC",), sender_profiles=(None, "late"))
    (before, after) = (world.plan(MONDAY + timedelta(hours=7)) for world in (alone, beside))
    keeps = [name is None for name in beside.sender_profiles]
    drawn = ["sender_id", "opens_at", "lunch_at", "closes_at", "daily_factor", "ramp_volume", "warmup_quota", "first_s"]
    pd.testing.assert_frame_equal(before.day.loc[keeps, drawn], after.day.loc[keeps, drawn])
    assert not np.array_equal(before.day["opens_at"], after.day["opens_at"])


@pytest.mark.parametrize("column", ["sender_profiles", "bot_profiles"])
def test_a_plan_with_profiles_is_the_same_when_it_is_computed_again(column: str) -> None:
    """Q-F1"""
    policy = a_policy(one={"bots": {"cooldown_s": 300}, "pacing": {"gap_minimum_s": 700}})
    changes: Any = {column: ("one", None, None)}
    (_, first), (_, second) = (planned(policy, 8, **changes) for _ in range(2))
    assert [plan.sha256 for plan in first] == [plan.sha256 for plan in second]
