"""A message that came to a mailbox without a token of ours: its header, and what it is by itself."""

from __future__ import annotations

from dataclasses import dataclass

from emberflow.email_ops.classify import Classification
from emberflow.email_ops.received import ReceivedMessage


@dataclass(frozen=True)
class InboundMessage:
    """A message, read as far as its header, and what was found in the whole of it.

    ``fingerprint`` is the same for the same message wherever and under whatever number it lies: a digest of its
    Message-ID, or of the bytes that were read if it has none.
    """

    header: ReceivedMessage
    found: Classification
    fingerprint: str
