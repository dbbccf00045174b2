"""Look up what DNS says of sending domains and egress addresses, and stop what has failed for days.

One task asks about every domain of a sender in use (SPF, DKIM, DMARC, MX, records about TLS) and every egress address
(reverse name, block lists), many at once, each within its own time. A check that the policy requires and that has
failed for more than 72 hours pauses the domain's senders, or holds the address; when it passes again, that is taken
back. What nobody could answer is `unknown` and changes nothing.

- **Reads** DNS, by the servers of `EMBERFLOW_DNS_SERVERS`, in live mode else those of the machine; `ops.senders`,
  `ops.egress_ips`
- **Writes** `ops.domain_checks`, `ops.domain_check_changes`; states of senders and egress addresses with their history

### Triage notes
- *`refused` says sandbox mode*: normal. Nothing is looked up there unless a name server on this machine is named.
- *everything is `unknown`*: the name server does not answer, or does not know the root. Nothing is paused by that.
  `emberflow domains list` says what it did instead.
- *a block list is `unknown`*: it refused the query, or does not list its own test entry. Read its terms: most take no
  queries through public resolvers.
- *`not_reached` lists names*: the run's time was over (`domain_checks.run_s`). They come first in the next run.
- *`faults` lists names*: an error of that name alone; the task's log has all of it.
- *`paused` lists names*: their records have failed for days. `emberflow domains list NAME` says what is wrong. When
  that is corrected, `emberflow domains check NAME` takes the pause back.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from shared import START, Pool, Priority, Tag, defaults, summary


@dag(
    schedule=CronTriggerTimetable("20 */6 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(Pool.READING, Priority.DOMAINS, timedelta(minutes=30)),
    tags=[Tag.REPUTATION],
    description=summary(__doc__),
    doc_md=__doc__,
)
def domain_checks() -> None:
    @task(multiple_outputs=False)
    def check_domains() -> dict[str, Any]:
        """Check the domains and addresses that are due, store the outcomes, and do what follows."""
        from emberflow.queue_manager import tasks

        return tasks.check_domains()

    check_domains()


domain_checks()
