"""What people decide about messages that were set aside because they could not be read or rescued."""

from __future__ import annotations

from sqlalchemy import Engine

from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.message_faults import SetAside

__all__ = ["SetAside", "forget", "retry"]


def retry(engine: Engine, actor: Actor, fault_id: int, *, reason: str) -> SetAside:
    """Have the next run of the inbox try a message once more; what breaks a limit again is set aside again.

    Raises:
        EmberflowError: no such message is set aside.
    """
    with doing(engine, actor, "inbox.retry", f"message {fault_id}", reason) as deed:
        message = message_faults.try_again(deed.connection, fault_id)
        deed.details |= vars(message)
    return message


def forget(engine: Engine, actor: Actor, fault_id: int, *, reason: str) -> SetAside:
    """Delete what is known of a message that was set aside, and the bytes that are kept of it.

    Raises:
        EmberflowError: no such message is set aside.
    """
    with doing(engine, actor, "inbox.forget", f"message {fault_id}", reason) as deed:
        message = message_faults.forget(deed.connection, fault_id)
        deed.details |= vars(message)
    return message
