"""Dispatch: which shards have something to send, and who sends it.

A *shard* is a fixed share of the sending mailboxes (mailbox id modulo the number of shards). A run takes the shard's
advisory lock, so that a mailbox is sent from by one process of all hosts at a time, claims what is due, and leads
many SMTP dialogues at once, each mailbox's own mails one after the other over one connection (``worker``).

On SIGTERM a run stops within a few seconds: what was not submitted goes back to the queue, and what was is waited for
as long as Airflow waits before it kills.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.database.server_clock import refusal, shared
from emberflow.errors import WorkerRefusedError
from emberflow.policy.versions import in_force
from emberflow.queue_manager import recover, slot_store
from emberflow.queue_manager.permits import Permits
from emberflow.queue_manager.sending.worker import SendingReport, Worker
from emberflow.settings import Settings

log = logging.getLogger(__name__)
_LOCK_SPACE = 0x656D62  # first argument of the two-part advisory lock: shards of this product


def due_shards(engine: Engine, *, clock: Clock) -> list[int]:
    """Put the queue right and return the shards that have something to send within one run.

    The queue of a restored database stays as it is until the restore is settled.
    """
    held = restores.notice(engine)
    with engine.begin() as connection:
        policy = in_force(connection).policy
        now = shared(engine, clock).now()
        if held is None:
            recovered = recover.recover(connection, now=now, policy=policy.queue)
            if recovered.is_anything:
                log.warning("put the queue right: %s", recovered)
        return slot_store.shards_due(
            connection, policy.dispatch.shards, now + timedelta(seconds=policy.dispatch.window_s)
        )


def dispatch_shard(engine: Engine, shard: int, *, clock: Clock, settings: Settings) -> SendingReport:
    """Send what is or becomes due in ``shard`` during one run.

    A machine whose clock or keys are wrong sends nothing, and nobody sends from a restored database.

    Raises:
        ConfigurationError: no policy is in force, a key is missing, or live mode is only half switched on.
    """
    clock = shared(engine, clock)
    held = restores.notice(engine)
    report = SendingReport(shard, refused=refusal(clock) if held is None else str(held))
    if report.refused is not None:
        log.error("nothing is sent: %s", report.refused)
        return report
    try:
        with engine.begin() as connection:
            mode = enter_mail_mode(connection, settings)
    except WorkerRefusedError as error:
        report.refused = str(error)
        log.warning("nothing is sent: %s", report.refused)
        return report
    with _alone(engine, shard) as session:
        if session is not None:
            with _stop_signal() as stop:
                Worker(engine, shard, mode, clock, settings, report, Permits(session)).work(stop)
        else:
            report.was_busy = True
    return report


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, while a run is under way in the main thread.

    Airflow's own handler would only call ``on_kill``, and its supervisor kills five seconds later.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(engine: Engine, shard: int) -> Iterator[Connection | None]:
    """Yield the database session that holds the shard's advisory lock, or None if another worker's does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        key = {"space": _LOCK_SPACE, "shard": shard}
        is_taken: bool = session.execute(text("select pg_try_advisory_lock(:space, :shard)"), key).scalar_one()
        try:
            yield session if is_taken else None
        finally:
            if is_taken:
                # A session that was lost took its locks with it.
                with suppress(DBAPIError, PendingRollbackError):
                    session.execute(text("select pg_advisory_unlock(:space, :shard)"), key)
