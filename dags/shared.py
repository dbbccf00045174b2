"""What every DAG of the house has in common: owner, tags, assets, retries."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
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


SLOTS = Asset("ops.scheduled_tasks")
MAIL_EVENTS = Asset("ops.mail_events")
SENDER_SCORES = Asset("marts.sender_scores")

DEFAULTS: dict[str, Any] = {
    "owner": "emberflow",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
}
