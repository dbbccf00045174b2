"""The probe of a placement test: the text that was chosen for the test, labelled like all warm-up mail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from emberflow.accounts.mailboxes import Mailbox
from emberflow.domain.mail_kind import PLACEMENT_PROBE
from emberflow.domain.slot import Slot
from emberflow.email_ops.content import Scripts
from emberflow.email_ops.message import OutgoingMessage, build
from emberflow.email_ops.tokens import sign
from emberflow.settings import Settings

KINDS: Final = (PLACEMENT_PROBE,)


def write(
    slot: Slot, boxes: Mapping[int, Mailbox], _scripts: Scripts, _seed: int, settings: Settings, /
) -> tuple[str, bytes]:
    """Return the subject and the whole message (see ``builders.Builder``)."""
    if slot.to_mailbox_id is None:
        raise ValueError(f"slot {slot.id} names no mailbox that it goes to")
    sender, recipient = boxes[slot.from_mailbox_id], boxes[slot.to_mailbox_id]
    subject, body = slot.payload["subject"], slot.payload["body"]
    message = OutgoingMessage(
        message_id=slot.message_id,
        from_address=sender.access.address,
        from_name=sender.display_name,
        to_address=recipient.access.address,
        subject=subject,
        body=body,
        date=slot.target_time,
        in_reply_to=None,
        references=(),
        token=sign(settings.require_token_keys(), slot.id, slot.sender_id, slot.known_bot_id, slot.turn),
        auto_reply=False,
    )
    return subject, build(message)
