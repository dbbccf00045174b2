"""What an attempt to submit a message by SMTP came to: who said what, at which command, and whose state it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["sent", "transient", "permanent", "uncertain"]
Stage = Literal["dial", "tls", "ehlo", "auth", "mail", "rcpt", "data", "eod"]
Scope = Literal["message", "mailbox", "host"]


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt, and how it is known (E-B2).

    ``server_text`` is printable, at most 500 characters, and without credentials; ``enhanced_code`` is of
    RFC 3463. ``peer`` is what the connection reached, IP address and port; None if it reached nobody.
    """

    outcome: Outcome
    stage: Stage
    scope: Scope
    reply_code: int | None
    enhanced_code: str | None
    server_text: str
    peer: tuple[str, int] | None = field(default=None, compare=False)
