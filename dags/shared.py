"""What every DAG of the project has in common: owner, tags, assets, retries, time-outs, pools and priorities."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any

import pendulum
from airflow.sdk import Asset

START = datetime(2026, 1, 1, tzinfo=pendulum.UTC)


class Tag(StrEnum):
    """The only tags there are; a test refuses others."""

    WARMUP = "warm-up"
    MAIL = "mail"
    REPUTATION = "reputation"
    HOURLY = "hourly"
    FREQUENT = "every-few-minutes"


# Tables that one DAG writes and another reads.
SLOTS = Asset("ops.scheduled_tasks")
MAIL_EVENTS = Asset("ops.mail_events")
SENDER_SCORES = Asset("marts.sender_scores")
PROVIDER_PLACEMENTS = Asset("marts.provider_placements")
# Not a table: it says that there is news among the events and that the marts are old enough to be built again. Events
# themselves are written every few minutes.
EVENTS_FOR_MARTS = Asset("ops.mail_events.for_marts")


class Pool(StrEnum):
    """The only pools there are; ``deploy/airflow_pools.json`` holds their sizes.

    Together they have as many slots as Airflow runs tasks at once, so no kind of work ever waits for another kind.
    """

    SENDING = "mail_sending"
    READING = "mail_reading"
    BUILDING = "building"


class Priority(IntEnum):
    """Who goes first where tasks wait all the same: within a pool, or when pools were made larger than that.

    By what an hour's delay costs. Slots are due to the second, and replies are among them. Reading brings the next
    replies, and settles mail in doubt. A plan is in time while its hour lasts, and the marts serve the plan after it.
    What domains publish is judged over days.
    """

    DISPATCH = 50
    INBOX = 40
    RECONCILE = 30
    PLAN = 20
    MARTS = 10
    DOMAINS = 5


def summary(runbook: str | None) -> str:
    """Return the first line of a DAG's runbook: what Airflow shows beside its name."""
    return (runbook or "").strip().partition("\n")[0]


def defaults(pool: Pool, priority: Priority, longest: timedelta) -> dict[str, Any]:
    """Return the arguments of every task of a DAG.

    ``longest`` ends a task that hangs, so that the next run can begin. What it had under way is settled as after any
    other crash.
    """
    return {
        "owner": "emberflow",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": longest,
        "pool": pool.value,
        "priority_weight": priority.value,
        # Airflow's own rule adds up the weights downstream: a first task would count for its whole DAG.
        "weight_rule": "absolute",
    }
