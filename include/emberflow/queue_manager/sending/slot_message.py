"""A slot's mail: which way it goes, and its text as it crosses the wire.

``boxes`` are the opened mailboxes of the run by id; the slot's own are among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from emberflow.accounts.mailboxes import Mailbox
from emberflow.delivery.routes import Route, server_of
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import AddressError, domain_of
from emberflow.email_ops.content import Scripts
from emberflow.email_ops.message import UnsafeMessageError
from emberflow.queue_manager.sending import builders
from emberflow.settings import Settings

UNWRITABLE: Final = (UnsafeMessageError, AddressError, KeyError, ValueError)  # what :func:`write` says of such a slot


def route_of(slot: Slot, boxes: Mapping[int, Mailbox]) -> Route:
    """Return which way the slot's mail goes."""
    sender = boxes[slot.from_mailbox_id]
    if slot.to_mailbox_id is not None:
        recipient = boxes[slot.to_mailbox_id]
        address, provider = recipient.access.address, recipient.provider
    elif slot.to_address is not None:
        address, provider = slot.to_address, domain_of(slot.to_address)
    else:
        raise RuntimeError(f"slot {slot.id} names no recipient")
    return Route(
        smtp_host=server_of(sender.access.smtp_host, sender.access.smtp_port),
        sender_provider=sender.provider,
        sender_domain=domain_of(sender.access.address),
        recipient_address=address,
        recipient_provider=provider,
        egress_address=sender.access.source_address,
    )


def write(
    slot: Slot, boxes: Mapping[int, Mailbox], scripts: Scripts, seed: int, settings: Settings
) -> tuple[str, bytes]:
    """Return the subject and the whole message of a slot, by the builder of its kind.

    Raises:
        UnsafeMessageError, AddressError, KeyError, ValueError: it cannot be written, now or later (`UNWRITABLE`).
    """
    builder = builders.builder_of(slot.kind)
    if builder is None:
        raise ValueError(f"{slot.kind.label} mail has no builder in this version")
    return builder(slot, boxes, scripts, seed, settings)
