"""Settle uncertain mails: those whose server's answer to the final dot was never seen.

Shards are shares of the mailboxes. One task per shard with something to settle looks for each uncertain mail, once its
settle time is over: in the recipient's own mailbox, then in the sender's (a copy under Sent, or a notification that it
came back). Found: `sent`. Returned: `failed`. Provably absent: uncounted and planned again. Any doubt: it stays
`uncertain`. Nothing is ever sent again blindly.

- **Reads** IMAP, every folder of the mailboxes that are asked
- **Writes** `ops.scheduled_tasks`, `ops.mail_events`, the day counters; never sends

### Triage notes
- *No shard is due*: the mapped task is skipped. That is the normal case.
- *`waiting`*: slots that could not be settled, with the reasons, mostly a mailbox that cannot be read. They are looked
  for again at the next run, for five days. `emberflow queue list` says what to do; `emberflow queue settle` decides.
- *`busy`, `settled_meanwhile`*: the inbox reader or another run was at the same slot. Harmless.
- Many uncertain slots of one server at once: look at the server's log and at the DAG `dispatch` first.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from shared import MAIL_EVENTS, SLOTS, START, Pool, Priority, Tag, defaults, summary


@dag(
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.READING, Priority.RECONCILE, timedelta(minutes=30)),
    tags=[Tag.MAIL, Tag.FREQUENT],
    description=summary(__doc__),
    doc_md=__doc__,
)
def reconcile() -> None:
    @task(inlets=[SLOTS])
    def uncertain_shards() -> list[int]:
        """List the shards that have an uncertain slot to settle."""
        from emberflow.queue_manager import steps

        return steps.uncertain_shards()

    @task(
        multiple_outputs=False,
        map_index_template="shard {{ task.op_kwargs['shard'] }}",
        inlets=[SLOTS],
        outlets=[SLOTS, MAIL_EVENTS],
    )
    def reconcile_shard(shard: int) -> dict[str, Any]:
        """Look for the uncertain mails of one shard and settle those that can be settled."""
        from emberflow.queue_manager import steps

        return steps.reconcile_shard(shard)

    reconcile_shard.expand(shard=uncertain_shards())


reconcile()
