"""What one conversation with a server may cost: one deadline and one number of bytes, however they are spread.

A time-out per read is not enough: a server that sends a byte a second, lists folders without end or floods with
untagged answers keeps within it for ever, and what it says is kept in memory.
"""

from __future__ import annotations

import io
import socket
import time
from dataclasses import dataclass


class SessionLimitError(OSError):
    """The conversation became too long or too large; the connection is of no use any more."""


@dataclass(frozen=True)
class SessionLimits:
    """Seconds and bytes of a whole session; bytes, lines and literals of one command's answer, which is kept whole."""

    seconds: float = 300.0
    session_bytes: int = 256 * 1024 * 1024
    command_bytes: int = 32 * 1024 * 1024
    command_lines: int = 100_000
    command_literals: int = 10_000


class SessionBudget:
    """What is left of a session's limits; it begins now. ``read_s`` is the longest wait for a single read."""

    def __init__(self, limits: SessionLimits, read_s: float) -> None:
        self._limits = limits
        self._read_s = read_s
        self._ends_at = time.monotonic() + limits.seconds
        self._session_bytes = 0
        self._command_bytes = 0
        self._command_lines = 0
        self._command_literals = 0

    @property
    def seconds_left(self) -> float:
        """Return how long the session may still last."""
        return self._ends_at - time.monotonic()

    def wait_s(self) -> float:
        """Return how long the next read or write may take.

        Raises:
            SessionLimitError: the session's time is over.
        """
        left = self.seconds_left
        if left <= 0:
            raise SessionLimitError(f"the session took longer than {self._limits.seconds:g} s")
        return min(self._read_s, left)

    def end_within(self, seconds: float) -> None:
        """Leave at most ``seconds`` to what follows."""
        self._ends_at = min(self._ends_at, time.monotonic() + seconds)

    def begin_command(self) -> None:
        """Count the next answer from nothing."""
        self._command_bytes = self._command_lines = self._command_literals = 0

    def count_bytes(self, number: int) -> None:
        """Take in ``number`` bytes.

        Raises:
            SessionLimitError: they are too many for one answer, or for the session.
        """
        self._session_bytes += number
        self._command_bytes += number
        if self._session_bytes > self._limits.session_bytes:
            raise SessionLimitError(f"the server sent more than {self._limits.session_bytes} bytes in one session")
        if self._command_bytes > self._limits.command_bytes:
            raise SessionLimitError(f"the server sent more than {self._limits.command_bytes} bytes for one command")

    def count_line(self) -> None:
        """Take in one line.

        Raises:
            SessionLimitError: there are too many for one answer.
        """
        self._command_lines += 1
        if self._command_lines > self._limits.command_lines:
            raise SessionLimitError(f"the server sent more than {self._limits.command_lines} lines for one command")

    def count_literal(self) -> None:
        """Take in one literal (RFC 9051 4.3).

        Raises:
            SessionLimitError: there are too many for one answer.
        """
        self._command_literals += 1
        if self._command_literals > self._limits.command_literals:
            raise SessionLimitError(
                f"the server sent more than {self._limits.command_literals} literals for one command"
            )


class BudgetedSocket(io.RawIOBase):
    """What arrives at a socket, as a file object that keeps to a budget."""

    def __init__(self, connection: socket.socket, budget: SessionBudget) -> None:
        self._connection = connection
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._connection.settimeout(self._budget.wait_s())
        count = self._connection.recv_into(buffer)
        self._budget.count_bytes(count)
        return count
