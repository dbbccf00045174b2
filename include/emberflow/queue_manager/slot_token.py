"""What the token of a slot's mail says, for whoever writes it and whoever judges one."""

from __future__ import annotations

from emberflow.domain.slot import Slot
from emberflow.email_ops.tokens import WarmupToken


def token_of(slot: Slot) -> WarmupToken | None:
    """Return what the token of the slot's mail says; None: mail of its kind carries none."""
    if not slot.kind.has_token:
        return None
    return WarmupToken(slot.id, slot.sender_id, slot.known_bot_id, slot.turn)
