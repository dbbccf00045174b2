"""Caps over rolling 24 hours and over UTC hours, and the counters behind them.

A counter is one row of ``ops.send_counters``: what its key sent in each of the last 25 UTC hours. Their sum is never
less than what was sent in any 24 hours that end now, so a cap on the sum holds for every rolling 24 hours, on days of
23 and 25 hours too (Q-F6); at most it refuses up to one hour too long. Caps per local day live elsewhere, in
``sender_days`` and ``bot_days``, and hold at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, text

from emberflow.clock import HOUR, floor_hour
from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json

HOURS_KEPT = 25


class CapPolicy(BaseModel):
    """The most that may be sent, whatever the plan says; null is no cap.

    ``sender_24h``, ``sender_24h_by_provider``
        Mail of all kinds from one mailbox in any 24 hours, and lower or higher where its provider has a published
        limit: consumer Gmail allows 500 a day, Workspace 2,000 (Google, "Gmail sending limits"). 100 is twice the
        daily cap of the standard policy, so that a day's end and the next day's start fit into it.
    ``cold_24h``
        Cold mail from one mailbox in any 24 hours; 30 is below the 50 a day that outreach tools name as the reason
        for disconnected mailboxes (helpcenter.smartlead.ai, article 65), because warm-up comes on top.
    ``recipient_domain_24h``, ``provider_24h``
        Mail to one domain, and to all mailboxes of one provider, from everybody here. 5,000 a day to one provider
        makes a bulk sender, for good (Google, "Email sender guidelines"); the default stays below it.
    ``all_24h``
        Everything that leaves here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender_24h: int | None = Field(default=100, ge=0)
    sender_24h_by_provider: dict[str, int] = Field(default_factory=dict)
    cold_24h: int | None = Field(default=30, ge=0)
    recipient_domain_24h: int | None = Field(default=4_000, ge=0)
    provider_24h: int | None = Field(default=4_000, ge=0)
    all_24h: int | None = Field(default=100_000, ge=0)


class CounterKey(NamedTuple):
    """What is counted (``scope``), and whose."""

    scope: str
    key: str


@dataclass(frozen=True)
class Cap:
    """At most ``limit`` for ``counter``, over the last 24 hours or within the present UTC hour."""

    counter: CounterKey
    limit: int
    window: Literal["24h", "hour"]


class Counters:
    """Counters as they were read under lock, and what this transaction adds to them."""

    def __init__(self, hour: datetime, per_hour: Mapping[CounterKey, list[int]]) -> None:
        self._hour = hour
        self._per_hour = {key: list(counts) for key, counts in per_hour.items()}
        self._changed: set[CounterKey] = set()

    def used(self, cap: Cap) -> int:
        """Return what counts against ``cap`` now."""
        counts = self._per_hour[cap.counter]
        return sum(counts) if cap.window == "24h" else counts[-1]

    def loosens_at(self, cap: Cap) -> datetime:
        """Return the start of the first UTC hour in which one mail more fits, if nothing else is sent until then."""
        if cap.window == "hour":
            return self._hour + HOUR
        counts = self._per_hour[cap.counter]
        left = sum(counts)
        for hours, leaving in enumerate(counts, start=1):
            left -= leaving
            if left < cap.limit:
                return self._hour + hours * HOUR
        return self._hour + HOURS_KEPT * HOUR  # a cap of nothing: look again tomorrow, the policy may have changed

    def add(self, counters: Iterable[CounterKey]) -> None:
        """Count one mail of the present hour in each of ``counters``."""
        for key in counters:
            self._per_hour[key][-1] += 1
            self._changed.add(key)

    def add_late(self, counters: Iterable[CounterKey], sent_in: datetime) -> None:
        """Count one mail of the hour that holds ``sent_in``; an hour that is forgotten counts no more anyway."""
        place = -1 - int((self._hour - floor_hour(sent_in)) / HOUR)
        for key in counters:
            if -HOURS_KEPT <= place <= -1:
                self._per_hour[key][place] += 1
                self._changed.add(key)

    def take_back(self, counters: Iterable[CounterKey], sent_in: datetime) -> None:
        """Uncount one mail of the hour that holds ``sent_in``; an hour that is forgotten counts no more anyway."""
        place = -1 - int((self._hour - floor_hour(sent_in)) / HOUR)
        for key in counters:
            if -HOURS_KEPT <= place <= -1:
                self._per_hour[key][place] = max(self._per_hour[key][place] - 1, 0)
                self._changed.add(key)

    def store(self, connection: Connection) -> None:
        """Write what was changed; the rows are still locked by this transaction."""
        rows = [{**key._asdict(), "per_hour": self._per_hour[key]} for key in sorted(self._changed)]
        if rows:
            prepared.rows_of(connection, _STORE, {"rows": rows_as_json(rows), "hour": self._hour})


_OPEN = text("""
    insert into ops.send_counters (scope, key, hour, per_hour)
    select scope, key, :hour, array_fill(0, array[:kept])
    from jsonb_to_recordset(cast(:keys as jsonb)) as wanted (scope text, key text)
    order by scope, key
    on conflict do nothing
""")

_LOCK = text("""
    select scope, key, hour, per_hour
    from ops.send_counters
    inner join jsonb_to_recordset(cast(:keys as jsonb)) as wanted (scope text, key text) using (scope, key)
    order by scope, key
    for update of send_counters
""")

_STORE = text("""
    update ops.send_counters
    set hour = :hour, per_hour = counted.per_hour
    from jsonb_to_recordset(cast(:rows as jsonb)) as counted (scope text, key text, per_hour integer[])
    where send_counters.scope = counted.scope and send_counters.key = counted.key
""")


def lock(connection: Connection, keys: Iterable[CounterKey], now: datetime) -> Counters:
    """Lock the counters ``keys`` until the transaction ends and return them as of ``now``."""
    hour = floor_hour(now)
    distinct = sorted(set(keys))
    wanted = rows_as_json(key._asdict() for key in distinct)
    rows = prepared.rows_of(connection, _LOCK, {"keys": wanted})
    if len(rows) < len(distinct):
        connection.execute(_OPEN, {"keys": wanted, "hour": hour, "kept": HOURS_KEPT})
        rows = prepared.rows_of(connection, _LOCK, {"keys": wanted})
    # A worker whose clock is behind counts into the newest hour that is known: never too little for a cap.
    newest = max([hour, *(row.hour for row in rows)])
    return Counters(newest, {CounterKey(row.scope, row.key): _as_of(row.per_hour, row.hour, newest) for row in rows})


def _as_of(per_hour: list[int], hour: datetime, now_hour: datetime) -> list[int]:
    """Shift ``per_hour``, whose last element is ``hour``, so that its last element is ``now_hour``."""
    passed = min(int((now_hour - hour) / HOUR), HOURS_KEPT)
    return [*per_hour[passed:], *[0] * passed]
