"""What holds over days of plans, each made from the history of those before, judged by the mails alone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from emberflow.policy.document import Policy, shipped
from tests.planned_days import PlannedDays

STANDARD = shipped("standard")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")


def every_day() -> Policy:
    document = STANDARD.model_dump()
    document["pacing"]["weekdays"] = tuple(range(7))
    return Policy.model_validate(document)


def shares_of_minutes(mails: pd.DataFrame, bins: int) -> list[float]:
    """Of each part of an hour the share of mails, as a multiple of what is even."""
    second = mails["target_time"].dt.minute * 60 + mails["target_time"].dt.second
    counts = np.histogram(second, bins=bins, range=(0, 3600))[0]
    return [float(count) for count in counts / counts.mean()]


@pytest.mark.parametrize(
    "start",
    [
        datetime(2026, 3, 28, 18, tzinfo=UTC),  # Berlin leaps forward
        datetime(2026, 4, 4, 10, tzinfo=UTC),  # Lord Howe falls back by half an hour
        datetime(2026, 11, 1, 0, tzinfo=UTC),  # New York falls back
    ],
)
def test_no_bot_gets_mail_asleep_or_in_its_pause_in_any_zone_around_a_clock_change(start: datetime) -> None:
    """S-B6: to the second, from whomever it comes and across the hours."""
    policy = every_day()
    world = PlannedDays(policy, senders=48, bots=24, start=start, zones=ZONES, sending_days=12)
    for _ in world.hours(24):
        pass
    mails = world.mails.sort_values(["bot_id", "target_time"])
    assert len(mails) > 300
    since = mails.groupby("bot_id")["target_time"].diff().dt.total_seconds().dropna()
    assert (since < 2000).sum() > 50
    assert since.min() >= policy.bots.cooldown_s
    for zone, of_zone in mails.groupby(mails["bot_id"].map(world.bot_zones)):
        wall = of_zone["target_time"].dt.tz_convert(ZoneInfo(str(zone))).dt.time
        assert wall.between(policy.bots.wake_start, policy.bots.wake_end, inclusive="left").all(), zone
    own = mails.sort_values(["sender_id", "target_time"]).groupby("sender_id")
    waited = own["target_time"].diff().dt.total_seconds()
    assert not (waited < own["gap_s"].shift()).any()


def test_the_minutes_of_an_hour_are_used_evenly() -> None:
    """Twenty parts of three minutes; senders of 25 mails a day, whose gaps fill most of it, made a seventh of
    all mail leave in the last of them.
    """
    zones = ("UTC", "Europe/Berlin")
    world = PlannedDays(
        STANDARD, senders=150, bots=150, start=datetime(2026, 6, 1, 6, tzinfo=UTC), zones=zones, sending_days=10
    )
    for _ in world.hours(12):
        pass
    assert len(world.mails) > 2500
    parts = shares_of_minutes(world.mails, 20)
    assert min(parts) > 0.6
    assert max(parts) < 1.4
    assert parts[-1] < 1.2


def test_when_bots_are_scarce_everybody_gets_some_before_anybody_gets_much() -> None:
    """A quarter of all senders got nothing in eight hours while others got four and more."""
    world = PlannedDays(STANDARD, senders=500, bots=30, start=datetime(2026, 6, 1, 8, tzinfo=UTC), sending_days=14)
    wanted = sum(int(plan.day["wanted"].sum()) for plan in world.hours(9))
    got = world.mails["sender_id"].value_counts()
    assert wanted > 10 * len(world.mails)
    assert len(world.mails) > 700
    assert len(got) >= 0.95 * 500
    assert (got <= 3).mean() > 0.95


def test_with_a_history_that_grows_bots_of_one_age_share_the_load() -> None:
    """B-F10: partners of many days pull no bot ahead of the others."""
    world = PlannedDays(STANDARD, senders=60, bots=40, start=datetime(2026, 6, 1, 8, tzinfo=UTC), sending_days=14)
    for day in range(5):
        for hour in range(10):
            world.plan(datetime(2026, 6, 1 + day, 8 + hour, tzinfo=UTC))
    load = world.mails["bot_id"].value_counts().reindex(range(1, 41), fill_value=0)
    assert len(world.mails) > 5_000
    assert load.sum() ** 2 / (40 * (load**2).sum()) >= 0.98
