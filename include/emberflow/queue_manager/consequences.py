"""What a server's answer means for more than the one message: its breakers, its mailbox, its recipient."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.queue_manager import breakers, suppressions
from emberflow.queue_manager.breakers import BreakerPolicy
from emberflow.queue_manager.guard import Route
from emberflow.queue_manager.reply_codes import Verdict
from emberflow.queue_manager.slots import Slot
from emberflow.queue_manager.submission import breaker_keys

log = logging.getLogger(__name__)

_PAUSE_SENDER = text("""
    update ops.senders
    set state = 'paused', state_reason = :reason, state_remedy = :remedy, state_changed_at = clock_timestamp()
    where mailbox_id = :mailbox_id and state = 'active'
""")

_PAUSE_BOT = text("""
    update ops.bots
    set status = 'paused', status_reason = :reason, status_remedy = :remedy, status_changed_at = clock_timestamp()
    where mailbox_id = :mailbox_id and status = 'active'
""")


@dataclass(frozen=True)
class Answer:
    """What came of one mail: the slot, its way, and the verdict; None for a mail that was sent."""

    slot: Slot
    route: Route
    verdict: Verdict | None


def draw(connection: Connection, answers: Sequence[Answer], *, now: datetime, policy: BreakerPolicy) -> None:
    """Count every answer in its circuit breakers, pause mailboxes that were refused, suppress dead recipients."""
    breakers.record(
        connection,
        [(breaker_keys(answer.slot, answer.route), answer.verdict) for answer in answers],
        now,
        policy,
    )
    for answer in answers:
        slot, verdict = answer.slot, answer.verdict
        if verdict is None:
            continue
        if verdict.action == "pause_mailbox":
            _pause(connection, slot.from_mailbox_id, f"its server refused it: {verdict.meaning}")
        elif verdict.action == "suppress" and slot.to_mailbox_id is not None:
            _pause(connection, slot.to_mailbox_id, f"mail to it is refused: {verdict.meaning}")
        elif verdict.action == "suppress":
            target = suppressions.parse_target(answer.route.recipient_address)
            suppressions.add(connection, [(target, f"{verdict.rule}: {verdict.meaning}")], by="dispatch")
        elif verdict.action == "stop_and_alert":
            log.error("slot %s: %s (%s)", slot.id, verdict.meaning, verdict.rule)


def _pause(connection: Connection, mailbox_id: int, reason: str) -> None:
    for kind, pause in (("senders", _PAUSE_SENDER), ("bots", _PAUSE_BOT)):
        remedy = f"mend it at the provider, then `emberflow {kind} check` and `emberflow {kind} resume`"
        connection.execute(pause, {"mailbox_id": mailbox_id, "reason": reason, "remedy": remedy})
