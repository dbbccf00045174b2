"""A slot: one message that shall leave once, as a worker holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import IntEnum
from typing import Any, Protocol


class Row(Protocol):
    """A row with columns by name, as a database or a test gives it."""

    def __getitem__(self, column: str, /) -> Any:
        """Return the value of ``column``."""


class Priority(IntEnum):
    """Values of ``priority_level``; the smaller goes first (Q-B1)."""

    REPLY = 10
    COLD_FOLLOW_UP = 20
    COLD_FIRST_TOUCH = 30
    WARMUP = 40


@dataclass(frozen=True)
class Slot:
    """What one message needs, and the token that proves the claim. Cold mail has an address instead of a bot."""

    id: int
    task_type: str
    target_time: datetime
    payload: Mapping[str, Any]
    idempotency_key: str
    from_mailbox_id: int
    to_mailbox_id: int | None
    to_address: str | None
    sender_id: int
    bot_id: int | None
    conversation_id: int | None
    turn: int
    gap_s: int
    message_id: str
    attempts: int
    lease_token: str

    @classmethod
    def of(cls, row: Row) -> Slot:
        """Return the slot in a row of ``scheduled_tasks``, whatever else the row holds."""
        values = {name: row[name] for name in COLUMNS}
        return cls(**(values | {"lease_token": str(row["lease_token"] or "")}))

    @property
    def is_cold(self) -> bool:
        """Outreach to an address that is not ours."""
        return self.bot_id is None

    @property
    def first_mailbox_id(self) -> int:
        """Return where the mail is looked for first: its recipient's mailbox if that is ours, else its sender's."""
        return self.from_mailbox_id if self.to_mailbox_id is None else self.to_mailbox_id

    @property
    def goes_to_bot(self) -> bool:
        """In warm-up, odd turns are the sender's mails and even turns the bot's replies."""
        return not self.is_cold and self.turn % 2 == 1

    @property
    def is_from_sender(self) -> bool:
        """Everything but a bot's reply; it counts in the sender's day."""
        return self.is_cold or self.goes_to_bot

    @property
    def thread(self) -> str:
        """What names the conversation in its draws: the key of its first mail."""
        return str(self.payload.get("thread", self.idempotency_key))

    @property
    def is_made_up_for(self) -> bool:
        """The next plan makes up for a warm-up mail that did not leave; a reply or a cold mail is still owed."""
        return self.task_type == "warmup"


COLUMNS = tuple(field.name for field in fields(Slot))
