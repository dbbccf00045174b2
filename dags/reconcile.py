"""Settle uncertain mails: those whose server's answer to the final dot was never seen.

Shards are shares of the mailboxes. One task per shard with something to look for searches each uncertain mail, once its
settle time is over: in the recipient's own mailbox, then in the sender's (a copy under Sent, or a bounce). Found:
`sent`. Returned: `failed`. Found nowhere: it stays `uncertain` and is unresolved, counted as if it had been sent. Not
found never sends a mail again.

- **Reads** IMAP, every folder of the mailboxes that are asked; the database's clock
- **Writes** `ops.slot_states`, `ops.mail_events`, `ops.conversations`; never sends

### Triage notes
- *No shard is due*: the mapped task is skipped. That is the normal case.
- *`waiting`*: slots that could not be looked for everywhere, with the reasons, mostly a mailbox that cannot be read.
  They are looked for again within the hour, for five days, and are unresolved then.
- *`unresolved`*: slots that were found nowhere; *`not_found_again`*: those that were unresolved before. They are looked
  for again at twice their age and so on, for five days. `emberflow queue list` says where each was looked for;
  `emberflow queue settle` takes what a person found out.
- *`planned`*, *`expired`*: a worker heard too late that the server had refused the mail. It was not taken.
- *`settled_meanwhile`*: the inbox reader or another run was at the same slot. Harmless.
- *`not_reached` lists mailboxes*: the run's time was over (`reconcile.run_s`). Their mails come first in the next run.
- *a reason with `could not be settled`*: an error of that mail alone; the task's log has all of it. It is looked for
  again within the hour.
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
        from emberflow.queue_manager import tasks

        return tasks.uncertain_shards()

    @task(
        multiple_outputs=False,
        map_index_template="shard {{ task.op_kwargs['shard'] }}",
        inlets=[SLOTS],
        outlets=[SLOTS, MAIL_EVENTS],
    )
    def reconcile_shard(shard: int) -> dict[str, Any]:
        """Look for the uncertain mails of one shard and settle those that can be settled."""
        from emberflow.queue_manager import tasks

        return tasks.reconcile_shard(shard)

    reconcile_shard.expand(shard=uncertain_shards())


reconcile()
