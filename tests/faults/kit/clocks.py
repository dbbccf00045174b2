"""Clocks that are wrong: a worker's machine may be ahead, behind, or jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from emberflow.clock import SystemClock
from emberflow.sandbox.state_files import Watched, replace_file


class OffsetClock(SystemClock):
    """The machine's clock, wrong by a number of seconds that another process may change while it runs.

    ``file`` holds the number; without the file the clock is right.
    """

    def __init__(self, file: Path) -> None:
        self._offset = Watched(file, float, missing=0.0)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._offset.content())


def set_offset(file: Path, seconds: float) -> None:
    """Make the clocks that follow ``file`` wrong by ``seconds`` from now on."""
    replace_file(file, str(seconds))
