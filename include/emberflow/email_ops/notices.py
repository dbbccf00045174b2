"""What a notice says of a mail that did not arrive, whoever wrote it and however it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emberflow.email_ops.bounce_reasons import Severity
from emberflow.email_ops.evidence import Evidence

MOST_RECIPIENTS = 20

BounceAction = Literal["failed", "delayed"]


@dataclass(frozen=True)
class Original:
    """What is said of the message that a report is about. Addresses are lower case; what is missing is None."""

    message_id: str | None = None
    token: str | None = None
    from_address: str | None = None
    to_address: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Bounce:
    """A recipient that a message did not reach.

    ``severity`` is ``hard`` if the address will never take mail (:mod:`emberflow.email_ops.bounce_reasons`).
    ``action`` is ``failed`` for good or ``delayed`` so far. ``recipient`` is the address as we wrote to it where the
    report knows it; ``recipients`` are all that it names for that mail, the rewritten forms included. ``status`` is an
    enhanced code (RFC 3463), ``diagnostic`` a server's words.

    ``is_outright`` is whether it says in fields made for that, or in words that leave no doubt, that the mail was given
    up. It takes that to settle a mail in doubt; others are most likely bounces.
    """

    severity: Severity
    action: BounceAction
    status: str | None
    recipient: str | None
    recipients: tuple[str, ...]
    original: Original
    diagnostic: str | None = None
    is_outright: bool = False

    @property
    def original_message_id(self) -> str | None:
        """The Message-ID of the mail that came back."""
        return self.original.message_id


@dataclass(frozen=True)
class Notice:
    """What was read: a bounce, or None where a report says that the mail arrived; and what decided."""

    bounce: Bounce | None
    evidence: tuple[Evidence, ...]
