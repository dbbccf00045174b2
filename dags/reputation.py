"""Rebuild the reputation marts of an hour when its mail events are in.

`dbt build` runs staging -> intermediate -> marts with all tests, in one process. The next hour's plan reads
`marts.sender_scores`; analysts read the same tables.

- **Starts** when `inbox` announces new mail events; the partition is the hour of that run
- **Reads** schema `ops` only, and nothing that the quota step writes feeds a score
- **Writes** schemas `seeds`, `staging`, `intermediate` and `marts`

### Triage notes
- *A test named `assert_...` is red*: an invariant of the product does not hold. The scores are up to date all the
  same. Wake someone: the message names the rows.
- *A model cannot be built*: clear the task once the database is reachable; building twice is harmless.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import PartitionedAssetTimetable, StartOfHourMapper, dag, task

from shared import (
    EVENTS_FOR_MARTS,
    MAIL_EVENTS,
    PROVIDER_PLACEMENTS,
    SENDER_SCORES,
    START,
    Pool,
    Priority,
    Tag,
    defaults,
    summary,
)


@dag(
    schedule=PartitionedAssetTimetable(assets=EVENTS_FOR_MARTS, default_partition_mapper=StartOfHourMapper()),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.BUILDING, Priority.MARTS, timedelta(minutes=50)),
    tags=[Tag.REPUTATION, Tag.HOURLY],
    description=summary(__doc__),
    doc_md=__doc__,
)
def reputation() -> None:
    @task(inlets=[MAIL_EVENTS], outlets=[SENDER_SCORES, PROVIDER_PLACEMENTS], multiple_outputs=False)
    def build_marts(partition_key: str | None = None) -> dict[str, Any]:
        """Run every model and every test of the project once."""
        from emberflow.reporting import tasks

        return tasks.build_marts(partition_key)

    build_marts()


reputation()
