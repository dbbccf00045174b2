"""The last hop: an accepted message goes into the recipients' mailboxes and into the log of deliveries."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from email.parser import BytesHeaderParser

from emberflow.clock import Clock
from emberflow.sandbox.delivery_log import Delivery, DeliveryLog
from emberflow.sandbox.imap_server import Mailboxes
from emberflow.sandbox.rules import Rules, place
from emberflow.sandbox.state_files import Watched


class LocalDelivery:
    """Files messages by the rules, stores them and records each one that was stored."""

    def __init__(self, mailboxes: Mailboxes, log: DeliveryLog, rules: Watched[Rules], clock: Clock) -> None:
        self._mailboxes = mailboxes
        self._log = log
        self._rules = rules
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    async def deliver(self, content: bytes, *, sender: str, recipients: Iterable[str], user: str) -> None:
        """Store ``content`` for every recipient, to the end even when the submitting client goes away."""
        task = asyncio.create_task(self._store(content, sender.lower(), recipients, user))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # A cancellation between the mailbox and the log would hide a stored message from the judge.
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for deliveries that are still being made."""
        while self._running:
            await asyncio.wait(self._running)

    async def _store(self, content: bytes, sender: str, recipients: Iterable[str], user: str) -> None:
        message_id = _message_id(content)
        digest = hashlib.sha256(content).hexdigest()
        folder = place(message_id, sender.rpartition("@")[2], self._rules.content())
        for recipient in recipients:
            now = self._clock.now()
            await self._mailboxes.append(recipient, folder, content, now)
            self._log.append(Delivery(now, message_id, sender, recipient.lower(), folder, len(content), digest, user))


def _message_id(content: bytes) -> str:
    end = content.find(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(content if end < 0 else content[:end])
    return "".join(str(headers.get("Message-ID", "")).split())
