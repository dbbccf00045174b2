"""Ten thousand slots, from the plan to the receiving server, with eight processes at the queue."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import Engine, create_engine

from emberflow.clock import HOUR, ManualClock, SystemClock
from emberflow.queue_manager.sending import dispatcher
from emberflow.settings import Settings
from tests.faults.kit.processes import fork_server
from tests.worlds import NOON, Sandbox, a_policy, a_world

pytestmark = pytest.mark.long(seconds=60)

WORKERS = 8
SENDERS, EACH, BOTS = 500, 20, 500
SENDER_CAP, BOT_CAP, DOMAIN_CAP = 19, 25, 9_400


def test_eight_workers_keep_every_cap_over_ten_thousand_planned_slots(database: Engine, sandbox: Sandbox) -> None:
    """Q-F10: each cap lies a little below what was planned; judged at the receiving server."""
    policy = a_policy(
        ramp={"start": EACH, "maximum": EACH},
        quota={"daily_factor_low": 1.0, "quiet_day_share": 0.0},
        pacing={"gap_minimum_s": 1, "gap_jitter_s": 0},
        queue={"overdue_s": 86_400},
        bots={"daily_inbound_cap": BOT_CAP, "cooldown_s": 0},
        caps={"sender_24h": SENDER_CAP, "recipient_domain_24h": DOMAIN_CAP, "provider_24h": None, "all_24h": None},
        connections={"per_host": 1000},  # all mailboxes are at one host here
        dispatch={"shards": WORKERS, "window_s": 120},
        replies={"rate": 0.0},
    )
    world = a_world(database, sandbox, senders=SENDERS, bots=BOTS, policy=policy, checks=False)
    assert world.plan().slots == SENDERS * EACH
    planned = world.value("select max(count) from (select count(*) from ops.slots group by bot_id) as of_bots")
    assert planned <= BOT_CAP

    with ProcessPoolExecutor(WORKERS, mp_context=fork_server()) as pool:
        work = [pool.submit(_empty_a_shard, world.settings, shard) for shard in range(WORKERS)]
    ends = sum((worker.result() for worker in work), Counter[str]())

    delivered = world.deliveries()
    assert ends["sent"] == len(delivered) == len({delivery.message_id for delivery in delivered})
    assert len(delivered) == DOMAIN_CAP
    assert max(Counter(delivery.envelope_from for delivery in delivered).values()) <= SENDER_CAP
    assert max(Counter(delivery.recipient for delivery in delivered).values()) <= BOT_CAP


def _empty_a_shard(settings: Settings, shard: int) -> Counter[str]:
    """Dispatch a shard whose slots are all due, with the gaps between them, until the caps hold what is left."""
    engine = create_engine(settings.require_database_url())
    try:
        return dispatcher.dispatch_shard(engine, shard, clock=_ClockOfThatHour(), settings=settings).ends
    finally:
        engine.dispose()


class _ClockOfThatHour(ManualClock):
    """Runs as the system's does, from the end of the planned hour on."""

    def __init__(self) -> None:
        super().__init__(NOON + HOUR)
        self._system = SystemClock()
        self._began = self._system.now()

    def now(self) -> datetime:
        return super().now() + (self._system.now() - self._began)

    def sleep(self, seconds: float) -> None:
        self._system.sleep(seconds)
