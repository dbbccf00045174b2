"""Caps over rolling 24 hours and over UTC hours, and the counters behind them.

A counter is what its key sent in each of the last 25 UTC hours. Their sum is never less than what was sent in any 24
hours that end now, so a cap on the sum holds for every rolling 24 hours, on days of 23 and 25 hours too (Q-F6); at most
it refuses up to one hour too long. Caps per local day live elsewhere, in ``sender_days`` and ``bot_days``, and hold at
the same time. Pure: ``queue_manager.counters`` locks, reads and writes the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from emberflow.clock import HOUR, floor_hour

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
    """Counters as they were read under lock, and what this transaction adds to them.

    ``hour`` is the UTC hour that the last of each key's 25 numbers is of.
    """

    def __init__(self, hour: datetime, per_hour: Mapping[CounterKey, list[int]]) -> None:
        self.hour = hour
        self._per_hour = {key: list(counts) for key, counts in per_hour.items()}
        self._changed: set[CounterKey] = set()

    @classmethod
    def as_of(cls, now: datetime, stored: Mapping[CounterKey, tuple[datetime, list[int]]]) -> Counters:
        """Return the counters at ``now``, each stored as it was at some hour."""
        # A worker whose clock is behind counts into the newest hour that is known: never too little for a cap.
        newest = max([floor_hour(now), *(hour for hour, _ in stored.values())])
        return cls(newest, {key: _as_of(per_hour, hour, newest) for key, (hour, per_hour) in stored.items()})

    @property
    def changed(self) -> dict[CounterKey, list[int]]:
        """What is to be written, in the order of the keys."""
        return {key: self._per_hour[key] for key in sorted(self._changed)}

    def used(self, cap: Cap) -> int:
        """Return what counts against ``cap`` now."""
        counts = self._per_hour[cap.counter]
        return sum(counts) if cap.window == "24h" else counts[-1]

    def loosens_at(self, cap: Cap) -> datetime:
        """Return the start of the first UTC hour in which one mail more fits, if nothing else is sent until then."""
        if cap.window == "hour":
            return self.hour + HOUR
        counts = self._per_hour[cap.counter]
        left = sum(counts)
        for hours, leaving in enumerate(counts, start=1):
            left -= leaving
            if left < cap.limit:
                return self.hour + hours * HOUR
        return self.hour + HOURS_KEPT * HOUR  # a cap of nothing: look again tomorrow, the policy may have changed

    def add(self, counters: Iterable[CounterKey]) -> None:
        """Count one mail of the present hour in each of ``counters``."""
        for key in counters:
            self._per_hour[key][-1] += 1
            self._changed.add(key)

    def add_late(self, counters: Iterable[CounterKey], sent_in: datetime) -> None:
        """Count one mail of the hour that holds ``sent_in``; an hour that is forgotten counts no more anyway."""
        place = -1 - int((self.hour - floor_hour(sent_in)) / HOUR)
        for key in counters:
            if -HOURS_KEPT <= place <= -1:
                self._per_hour[key][place] += 1
                self._changed.add(key)

    def take_back(self, counters: Iterable[CounterKey], sent_in: datetime) -> None:
        """Uncount one mail of the hour that holds ``sent_in``; an hour that is forgotten counts no more anyway."""
        place = -1 - int((self.hour - floor_hour(sent_in)) / HOUR)
        for key in counters:
            if -HOURS_KEPT <= place <= -1:
                self._per_hour[key][place] = max(self._per_hour[key][place] - 1, 0)
                self._changed.add(key)


def _as_of(per_hour: list[int], hour: datetime, now_hour: datetime) -> list[int]:
    """Shift ``per_hour``, whose last element is ``hour``, so that its last element is ``now_hour``."""
    passed = min(int((now_hour - hour) / HOUR), HOURS_KEPT)
    return [*per_hour[passed:], *[0] * passed]
