"""The log of what the receiving server really stored: the judge of duplicates and losses.

``deliveries.jsonl`` has one line for each message and recipient, written right after the message is in the
mailbox and never otherwise. A sender's own opinion (sent, failed, uncertain) is checked against it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_FILE = "deliveries.jsonl"


@dataclass(frozen=True)
class Delivery:
    """One message in one mailbox.

    ``time`` is UTC; ``message_id`` has its angle brackets and is empty when the message had none; addresses
    are in lower case; ``folder`` is the one of delivery (``INBOX`` or ``Junk``); ``size`` (bytes) and
    ``sha256`` (hexadecimal) are of the content as it was transmitted, which is also what IMAP returns;
    ``user`` is the account that submitted it.
    """

    time: datetime
    message_id: str
    envelope_from: str
    recipient: str
    folder: str
    size: int
    sha256: str
    user: str


class DeliveryLog:
    """The writing end: append-only, each line handed to the operating system in one write."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, delivery: Delivery) -> None:
        """Add a line; it is readable when this returns."""
        line = json.dumps(asdict(delivery) | {"time": delivery.time.isoformat()})
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_deliveries(directory: Path) -> list[Delivery]:
    """Return everything that was stored since the state directory exists, oldest first."""
    path = directory / _FILE
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [_parse(json.loads(line)) for line in lines]


def _parse(fields: dict[str, Any]) -> Delivery:
    return Delivery(**(fields | {"time": datetime.fromisoformat(fields["time"])}))
