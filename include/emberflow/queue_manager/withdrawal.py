"""What is planned for a mailbox that goes out of use is cancelled, and its conversations end.

What a worker holds at that moment is refused by the check before DATA.
"""

from __future__ import annotations

from sqlalchemy import Connection

from emberflow.queue_manager import event_log, slot_store


def withdraw(connection: Connection, mailbox_id: int, reason: str) -> int:
    """Cancel what is planned from a mailbox or to it; return how many mails."""
    cancelled = slot_store.cancel_planned(connection, mailbox_id, reason)
    for slot in cancelled:
        event_log.close_conversation(connection, slot)
    return len(cancelled)
