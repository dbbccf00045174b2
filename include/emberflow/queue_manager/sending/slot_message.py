"""A slot's mail: which way it goes, and its text as it crosses the wire.

Everything is drawn or derived from the slot, so a later attempt writes the same bytes (see ``email_ops.content``).
``boxes`` are the opened mailboxes of the run by id; the slot's own are among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from emberflow.accounts.mailboxes import Mailbox
from emberflow.delivery.guard import Route, server_of
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import AddressError, domain_of
from emberflow.email_ops.content import Scripts
from emberflow.email_ops.message import OutgoingMessage, UnsafeMessageError, build
from emberflow.email_ops.tokens import sign
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
    """Return the subject and the whole message of a warm-up slot.

    Raises:
        UnsafeMessageError, AddressError, KeyError, ValueError: it cannot be written, now or later (`UNWRITABLE`).
    """
    if slot.bot_id is None or slot.to_mailbox_id is None:
        raise ValueError("cold mail has no builder in this version")
    sender, recipient = boxes[slot.from_mailbox_id], boxes[slot.to_mailbox_id]
    payload = slot.payload
    subject, body = scripts.render(
        payload["script"],
        slot.turn,
        seed=seed,
        key=(slot.thread,),
        from_name=sender.display_name,
        to_name=recipient.display_name,
    )
    message = OutgoingMessage(
        message_id=slot.message_id,
        from_address=sender.access.address,
        from_name=sender.display_name,
        to_address=recipient.access.address,
        subject=subject,
        body=body,
        date=slot.target_time,
        in_reply_to=payload.get("in_reply_to"),
        references=tuple(payload.get("references", ())),
        token=sign(settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id, slot.turn),
        auto_reply=not slot.goes_to_bot,
    )
    return subject, build(message)
