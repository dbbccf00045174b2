"""The rules of a placement test (E-F5): when its probes leave, which mailboxes get them, and what became of each.

A probe is a mail of the sender that is tested to a mailbox of the operator. Where it is first found is what any mail of
the sender would meet there. What is not known is said to be so: a probe is missing only where somebody looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Final, Literal, get_args

import numpy as np

from emberflow.randomness import state, uniforms

State = Literal["inbox", "junk", "missing", "waiting", "unknown", "refused", "not_sent"]
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True)
class Candidate:
    """A mailbox that may get a probe. ``unusable``: why it cannot get one now; None: it can."""

    bot_id: int
    provider: str
    unusable: str | None = None


@dataclass(frozen=True)
class Choice:
    """The bots that get probes, in the order in which they do, and how many others do not, by provider and reason."""

    bot_ids: Sequence[int]
    left_out: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Probe:
    """What is known of one probe.

    ``status`` and ``reason`` are those of its slot. ``refusal`` is what a server said when it refused it, ``returned``
    what a report says that came back after a server had taken it. ``placed`` is where it was first found. ``read_at``
    is when the last reading of its whole mailbox began, and ``shows_junk`` whether it has a Junk folder to look into.
    """

    status: str
    reason: str | None
    refusal: str | None
    returned: str | None
    sent_at: datetime | None
    placed: Literal["inbox", "junk"] | None
    read_at: datetime | None
    shows_junk: bool


def choose(candidates: Iterable[Candidate], *, per_provider: int, seed: int, test_id: int) -> Choice:
    """Choose up to ``per_provider`` usable mailboxes of every provider, by the test's own draws.

    Providers take turns, so that a test which is cut short is cut short everywhere.
    """
    left_out: dict[str, Counter[str]] = {}
    usable: dict[str, list[int]] = {}
    for candidate in candidates:
        if candidate.unusable is None:
            usable.setdefault(candidate.provider, []).append(candidate.bot_id)
        else:
            left_out.setdefault(candidate.provider, Counter())[candidate.unusable] += 1
    chosen: list[list[int]] = []
    for _, bot_ids in sorted(usable.items()):
        ids = np.array(sorted(bot_ids), dtype=np.int64)
        draws = uniforms(state(seed, "placement_test", test_id), ids)
        chosen.append([int(bot_id) for bot_id in ids[np.argsort(draws, kind="stable")][:per_provider]])
    turns = (bot_id for turn in zip_longest(*chosen) for bot_id in turn if bot_id is not None)
    return Choice(list(turns), left_out)


def probe_times(
    first: datetime, last: datetime, *, gap_s: int, number: int, busy: Iterable[tuple[datetime, int]]
) -> list[datetime]:
    """Return when up to ``number`` probes leave from ``first`` until ``last``, as early as they may.

    ``busy``: the other mails of the mailbox, each with when it leaves and the seconds that the mailbox pauses after it.
    No probe leaves in such a pause, nor so shortly before a mail that this one would have to wait.
    """
    gap = timedelta(seconds=gap_s)
    others = sorted((at, at + timedelta(seconds=pause_s)) for at, pause_s in busy)
    times: list[datetime] = []
    at = first
    for leaves, free in [*others, (last + 2 * gap, last + 2 * gap)]:
        while len(times) < number and at <= last and at + gap <= leaves:
            times.append(at)
            at += gap
        at = max(at, free)
    return times


def outcome(probe: Probe, *, now: datetime, ends_at: datetime, arrival_s: int) -> tuple[State, str]:
    """Return what became of a probe at ``now``, and in a few words why; found late is found.

    ``missing`` needs a reading of the whole mailbox, of its Junk folder too, that began ``arrival_s`` after the probe
    was sent or later, and not before the last ``arrival_s`` of the test.
    """
    is_over = now >= ends_at
    why = probe.reason or probe.status
    if probe.placed is not None:
        return probe.placed, ""
    if probe.returned is not None:
        return "refused", probe.returned
    if probe.status == "sent":
        if not is_over:
            return "waiting", "sent, and not found yet"
        arrival = timedelta(seconds=arrival_s)
        look_from = max((probe.sent_at or ends_at) + arrival, ends_at - arrival)
        if probe.read_at is None or probe.read_at < look_from:
            return "unknown", "its mailbox was not read since"
        return ("missing", "") if probe.shows_junk else ("unknown", "its mailbox shows no Junk folder")
    if probe.status in ("failed", "cancelled", "expired") or is_over:
        if probe.status in ("submitting", "uncertain"):
            return "unknown", "whether it was sent is not known"
        return ("refused", probe.refusal) if probe.refusal is not None else ("not_sent", why)
    return "waiting", probe.refusal or why
