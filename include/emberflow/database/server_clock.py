"""What time it is for everybody: the database's clock.

Workers on several machines share caps, gaps and days, so they must agree on the time, and a machine whose clock jumps
must not begin a new day for the others. A run therefore asks the database once, and counts on from its answer with a
counter that no change of the machine's clock touches. A machine whose own clock is more than
``MOST_SKEW_S`` off refuses to send all the same: what else it does by that clock (certificates, access tokens, the Date
of a mail) is not to be trusted.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from emberflow.clock import Clock, ManualClock, seconds_since_boot

log = logging.getLogger(__name__)

MOST_SKEW_S = 60.0
_ASK_AGAIN_S = 30.0  # counters of machines drift, and stand still while a virtual machine is moved
_NOW = text("select clock_timestamp()")


def now(connection: Connection) -> datetime:
    """Return the database's time."""
    moment: datetime = connection.execute(_NOW).scalar_one()
    return moment.astimezone(UTC)


class DatabaseClock:
    """The database's clock, read again every half a minute; any thread may ask.

    ``skew_s`` is how far ``machine`` was ahead when the clock was made; ``sleep`` is the machine's.
    """

    def __init__(self, engine: Engine, machine: Clock) -> None:
        self._engine = engine
        self._machine = machine
        self._asking = threading.Lock()
        self._theirs, self._at = self._ask()
        self.skew_s = (machine.now() - self.now()).total_seconds()

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        if seconds_since_boot() - self._at > _ASK_AGAIN_S and self._asking.acquire(blocking=False):
            try:
                self._theirs, self._at = self._ask()
            except SQLAlchemyError:
                log.warning("the database did not tell the time; counting on from its last answer")
            finally:
                self._asking.release()
        return self._theirs + timedelta(seconds=seconds_since_boot() - self._at)

    def sleep(self, seconds: float) -> None:
        """Wait; a non-positive number returns at once."""
        self._machine.sleep(seconds)

    def _ask(self) -> tuple[datetime, float]:
        with self._engine.connect() as connection:
            before = seconds_since_boot()
            theirs = now(connection)
            return theirs, (before + seconds_since_boot()) / 2


def shared(engine: Engine, clock: Clock) -> Clock:
    """Return the clock that a run on ``engine`` goes by; a ``ManualClock`` says itself what time it is."""
    return clock if isinstance(clock, ManualClock | DatabaseClock) else DatabaseClock(engine, clock)


def refusal(clock: Clock) -> str | None:
    """Return why this machine must not send, or None if its own clock is right."""
    if isinstance(clock, DatabaseClock) and abs(clock.skew_s) > MOST_SKEW_S:
        return describe(clock.skew_s)
    return None


def describe(skew_s: float) -> str:
    """Say how far a machine's clock is off, and what to do."""
    return (
        f"this machine's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the database's: "
        "synchronise both (NTP)"
    )
