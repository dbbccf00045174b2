"""Since when a check fails, and when that has lasted too long.

A failure begins with the first ``fail`` and ends with the next ``pass``. An ``unknown`` in between changes nothing: it
does not end the failure, because it is no pass, and nothing is concluded while it stands, because it is no fail either.
So fail, unknown, fail counts from the first fail. Whether the time is over is judged on a ``fail`` only; what has
lasted too long then stays so until a ``pass``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Status = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class CheckState:
    """The last outcome of a check, and since when it fails; None: it does not, as far as is known."""

    status: Status
    failing_since: datetime | None


def after(before: CheckState | None, status: Status, at: datetime) -> CheckState:
    """Return the state of a check that came to ``status`` at this instant."""
    since = None if before is None else before.failing_since
    if status == "pass":
        return CheckState("pass", None)
    if status == "fail":
        return CheckState("fail", since or at)
    return CheckState("unknown", since)


@dataclass(frozen=True)
class Lasting:
    """The required checks that have failed for too long.

    ``failing`` are those that fail now: they are a reason to stop. ``open`` are all of them, also those whose last
    outcome is unknown: while there are any, what was stopped is not taken back.
    """

    failing: tuple[str, ...]
    open: tuple[str, ...]


def lasting(
    states: Mapping[str, CheckState], required: Collection[str], limits_s: Mapping[str, float], now: datetime
) -> Lasting:
    """Return which of the required checks have failed for longer than their limit, in the order of ``states``."""
    overdue = tuple(
        name
        for name, state in states.items()
        if name in required
        and state.failing_since is not None
        and (now - state.failing_since).total_seconds() > limits_s[name]
    )
    return Lasting(tuple(name for name in overdue if states[name].status == "fail"), overdue)
