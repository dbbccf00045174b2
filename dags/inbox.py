"""Read the mailboxes that we own: placement, rescue from Junk, replies, other actions.

Shards are shares of the mailboxes. One task per shard reads several at once (`inbox.readers`), within the limits of
their hosts and addresses. It takes in what is new over IMAP, records where each warm-up mail was found, moves junked
ones to the inbox, and lets each recipient decide whether and when to reply, and what else to do with the mail. A reply
becomes a slot of the high-priority queue; `dispatch` sends it. Then it reads what came without a token, classifies it
and ties it to its mail. Last it files handled warm-up mail, and deletes what is old enough.

- **Reads** IMAP, incrementally by UIDVALIDITY and UID
- **Writes** `ops.mail_events`, `ops.scheduled_tasks` (replies), `ops.slot_states`, `ops.conversations`,
  `ops.imap_cursors`, `ops.mailbox_readings`, `ops.message_faults`, `ops.quarantined_bytes`, `ops.inbound_messages`,
  `ops.filed_mail`
- **Announces** new events when the reputation marts are due; that starts `reputation` for this hour.

### Triage notes
- *`unreadable` lists a mailbox or one of its folders*: it failed this time; the others were read. Look at it when it
  stays; `emberflow doctor` tells it too.
- *`quarantined`, `refused`, `rescue_failed`, `archive_failed`, ...*: single messages that were set aside; no other
  waits for them. `emberflow inbox quarantined` lists them.
- *`came_bounce`, `came_human_reply`, ...*: messages without a token, by kind; `emberflow inbox list` shows them.
- *`filed`, `deleted`*: handled mail that was moved to its folder, or deleted there. `emberflow doctor` tells where that
  fails.
- *`not_reached`*: the run's time was over (`inbox.run_s`); these mailboxes come first in the next run.
- *`waiting_for_a_login`*: their source address has used up its logins of this hour; they come first in the next.
- *`rejected`*: a message with an unknown, forged or reused token; it was recorded and not answered.
- A shard fails only when none of its mailboxes could be read; then the run fails too, whether or not events were
  announced.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import CronPartitionTimetable, TriggerRule, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from shared import EVENTS_FOR_MARTS, MAIL_EVENTS, SLOTS, START, Pool, Priority, Tag, defaults, summary


@dag(
    schedule=CronPartitionTimetable("*/5 * * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.READING, Priority.INBOX, timedelta(minutes=30)),
    tags=[Tag.MAIL, Tag.FREQUENT],
    description=summary(__doc__),
    doc_md=__doc__,
)
def inbox() -> None:
    @task
    def shards() -> list[int]:
        """List the shards to read."""
        from emberflow.queue_manager import tasks

        return tasks.shards()

    @task(
        multiple_outputs=False,
        map_index_template="shard {{ task.op_kwargs['shard'] }}",
        inlets=[SLOTS],
        outlets=[MAIL_EVENTS, SLOTS],
    )
    def read_shard(shard: int) -> dict[str, Any]:
        """Take in what is new, rescue, decide, schedule replies."""
        from emberflow.queue_manager import tasks

        return tasks.read_shard(shard)

    @task(inlets=[MAIL_EVENTS], outlets=[EVENTS_FOR_MARTS], trigger_rule=TriggerRule.ALL_DONE)
    def announce_events() -> None:
        """Tell whoever depends on the events of this hour, if the reputation marts are due."""
        from emberflow.reporting import tasks

        if not tasks.marts_are_due():
            raise AirflowSkipException("no new events, or the marts are fresh enough")

    # A run is judged by its last task. This one fails with any shard, while the announcement may be skipped or not.
    judge_run = EmptyOperator(task_id="judge_run", trigger_rule=TriggerRule.NONE_FAILED)

    read = read_shard.expand(shard=shards())
    read >> announce_events() >> judge_run
    read >> judge_run


inbox()
