"""Injected time. Nothing outside this module asks the machine what time it is.

Instants are timezone-aware and in UTC; a *local day* is always the day of one mailbox's own zone.
Several machines must agree on the time, so a run goes by the database's clock: see ``database.server_clock``.

One zone database decides, the pinned wheel ``tzdata``: the files of the machine differ from host to host, so they are
not looked at, and the database's own is not asked (``database.zones`` gives it ours).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from itertools import pairwise
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones, reset_tzpath

HOUR = timedelta(hours=1)
_STEP = timedelta(days=9)
_SECOND = timedelta(seconds=1)

reset_tzpath(())
ZoneInfo.clear_cache()  # what was read from the machine's files before this module was


class Clock(Protocol):
    """What time it is, and how to wait."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait; a non-positive number returns at once."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to: ``sleep`` advances it."""

    def __init__(self, start: datetime) -> None:
        self._now = require_utc(start)

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=max(seconds, 0.0)))

    def advance(self, by: timedelta) -> None:
        """Move forward by ``by``."""
        self._now += by


def seconds_since_boot() -> float:
    """Return a clock that also counts while the machine sleeps, where there is one (Linux's CLOCK_BOOTTIME)."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def require_utc(moment: datetime) -> datetime:
    """Return ``moment`` in UTC; raise ``ValueError`` for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"a naive datetime reached the core: {moment!r}; attach a time zone at the edge")
    return moment.astimezone(UTC)


def floor_hour(moment: datetime) -> datetime:
    """Return the start of the UTC hour that holds ``moment``."""
    return require_utc(moment).replace(minute=0, second=0, microsecond=0)


@cache
def known_zones() -> frozenset[str]:
    """Return the IANA names that mailboxes may have."""
    return frozenset(available_timezones())


@cache
def clock_of(zone: str) -> ZoneInfo:
    """Return the clock of an IANA zone; ZoneInfo itself remembers eight, and reads a file for each of the others."""
    return ZoneInfo(zone)


def local_day(moment: datetime, zone: str) -> date:
    """Return the calendar day of ``moment`` in the IANA zone ``zone``."""
    return require_utc(moment).astimezone(clock_of(zone)).date()


def end_of_gap(wall: datetime, zone: str) -> datetime:
    """Return the instant at which a change of the clock skips ``wall``, a naive time of day that does not exist.

    pandas' ``shift_forward`` is an hour early where a change skips two (Antarctica/Troll).
    """
    clock = clock_of(zone)
    # PEP 495: within a gap the offset before it gives the later instant, and the offset after it the earlier one.
    earlier, later = (wall.replace(tzinfo=clock, fold=fold).astimezone(UTC) for fold in (1, 0))
    *_, (change, _) = offsets_of(zone, earlier, later + timedelta(seconds=1))
    return change


def offsets_of(zone: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, int]]:
    """Yield (instant, seconds ahead of UTC from then on), beginning with ``since``; to the second.

    No zone has moved its clocks twice within ``_STEP``, so a change is where two looks differ.
    """
    clock = clock_of(zone)
    looks = _looks(require_utc(since), until)
    offsets = [look.astimezone(clock).utcoffset() for look in looks]
    yield looks[0], _seconds(offsets[0])
    for place, (offset, other) in enumerate(pairwise(offsets)):
        if offset == other:
            continue
        before, after = 0, _STEP // _SECOND
        while after - before > 1:
            middle = (before + after) // 2
            is_before = (looks[place] + middle * _SECOND).astimezone(clock).utcoffset() == offset
            before, after = (middle, after) if is_before else (before, middle)
        changed_at = looks[place] + after * _SECOND
        yield changed_at, _seconds(changed_at.astimezone(clock).utcoffset())


@lru_cache(maxsize=1)
def _looks(since: datetime, until: datetime) -> list[datetime]:
    """Return instants from ``since`` to ``until`` or a little later; the same for all zones that are looked at."""
    return [since + number * _STEP for number in range(-(-(until - since) // _STEP) + 1)]


def _seconds(offset: timedelta | None) -> int:
    return int((offset or timedelta()).total_seconds())
