"""How long the SMTP driver waits, phase by phase. A policy reads it: nothing here opens a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Nobody waits longer for the answer to RSET: what it would say is known, and hanging up says the same.
RESET_S: Final = 5.0


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for the network in each phase of RFC 5321 4.5.3.2.

    ``greeting`` (banner) and ``command`` (EHLO, STARTTLS, AUTH, MAIL, RCPT) stay below that section's 300 s, because
    giving up before DATA is a harmless retry and a shard must not wait for a dead host. ``login`` bounds all from
    the greeting to the answer to AUTH, so that a server that says a little all the time holds nobody up either. From
    DATA on they are that section's minima: ``data_start`` for the answer to DATA, ``data_block`` for a write of the
    content or of the final dot, ``end_of_data`` for the answer to the dot, where giving up makes an uncertain message.
    """

    connect: float = 30.0
    greeting: float = 60.0
    command: float = 60.0
    login: float = 120.0
    data_start: float = 120.0
    data_block: float = 180.0
    end_of_data: float = 600.0

    @property
    def longest_after_guard_s(self) -> float:
        """The most that can pass between ``before_data`` and the answer to the final dot."""
        return self.data_start + 2 * self.data_block + self.end_of_data

    @property
    def longest_s(self) -> float:
        """The most that one message can take, from connecting to its end, besides the guard and the name server."""
        return self.connect + self.login + 2 * self.command + self.longest_after_guard_s + RESET_S
