"""Send the slots that are due, each exactly once.

Shards are shares of the sending mailboxes. One task per shard claims due slots in order of priority (replies before
warm-up), holds them to their second and sends them; a transaction immediately before DATA re-checks quota, gap,
health, kill switch and lease.

- **Reads and writes** `ops.scheduled_tasks`, `ops.mail_events`, the day counters
- **Never sends twice**: what may be sent is decided by the slot's row. Clear, retry or backfill this DAG at will.

### Triage notes
- *No shard is due*: the mapped task is skipped. That is normal at night.
- *`was_busy`*: another run still works on the shard. Normal after a clear.
- Slots in state `uncertain` were cut off after DATA; the DAG `reconcile` settles them when the mail is found. They are
  never sent again because it was not.
- *live mode is only half switched on*: see `emberflow mail live --help`. Nothing was sent.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from shared import MAIL_EVENTS, SLOTS, START, Pool, Priority, Tag, defaults, summary


@dag(
    schedule=CronTriggerTimetable("*/2 * * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.SENDING, Priority.DISPATCH, timedelta(minutes=30)),
    tags=[Tag.MAIL, Tag.FREQUENT],
    description=summary(__doc__),
    doc_md=__doc__,
)
def dispatch() -> None:
    @task(inlets=[SLOTS])
    def due_shards() -> list[int]:
        """Free lapsed leases, give up overdue slots, list the shards with work."""
        from emberflow.queue_manager import tasks

        return tasks.due_shards()

    @task(
        retries=0,
        multiple_outputs=False,
        map_index_template="shard {{ task.op_kwargs['shard'] }}",
        inlets=[SLOTS],
        outlets=[SLOTS, MAIL_EVENTS],
    )
    def send_shard(shard: int) -> dict[str, Any]:
        """Claim, guard, send, record: one shard for one run."""
        from emberflow.queue_manager import tasks

        return tasks.dispatch_shard(shard)

    send_shard.expand(shard=due_shards())


dispatch()
