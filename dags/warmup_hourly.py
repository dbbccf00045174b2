"""Plan one hour of warm-up.

For every active sender: today's quota (ramp x health x daily factor, minus what is used), spread over what is left
of its window; bots with free seats; selection virgin -> probabilistic -> active pool; target times to the second.
The result is written as slots of `ops.scheduled_tasks`. **Nothing is sent here**; `dispatch` does that.

- **Reads** `ops.senders`, `ops.bots`, `ops.bot_sender_interactions`, `marts.sender_scores`, `marts.provider_placements`
- **Writes** `ops.plan_runs`, `ops.plan_inputs`, `ops.sender_days`, `ops.scheduled_tasks`
- **Partition** the UTC hour that is planned. Running an hour again, or clearing the task, changes nothing once it
  has slots: the hour has one row in `ops.plan_runs`. A backfill of hours that are over records them as `past` and
  plans no slot.
- **One task, on purpose.** An hour of 100,000 senders takes seconds, most of them in PostgreSQL. All senders draw on
  the same seats of the same bots, so shards would need a lock around those seats, or a fixed share of them each (then
  one starves while another has seats left), and the plan would depend on the number of shards. Sending fans out.

### Triage notes
- *Fewer slots than wanted* is normal when bots are scarce; `emberflow plan show` says how many, `emberflow capacity`
  what limits the plan, `emberflow plan why-not SENDER` why one sender got none.
- *No policy is in force*: run `emberflow policy apply standard`.
- A failed run may simply be cleared. Wake someone when two hours in a row have no plan.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronPartitionTimetable, dag, task

from shared import PROVIDER_PLACEMENTS, SENDER_SCORES, SLOTS, START, Pool, Priority, Tag, defaults, summary


@dag(
    schedule=CronPartitionTimetable("0 * * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.BUILDING, Priority.PLAN, timedelta(minutes=30)),
    tags=[Tag.WARMUP, Tag.HOURLY],
    description=summary(__doc__),
    doc_md=__doc__,
)
def warmup_hourly() -> None:
    @task(inlets=[SENDER_SCORES, PROVIDER_PLACEMENTS], outlets=[SLOTS], multiple_outputs=False)
    def plan_hour(partition_key: str | None = None) -> dict[str, Any]:
        """Quota, bots, selection and pacing, written as slots in one transaction."""
        from emberflow.queue_manager import tasks

        return tasks.plan_hour(partition_key)

    plan_hour()


warmup_hourly()
