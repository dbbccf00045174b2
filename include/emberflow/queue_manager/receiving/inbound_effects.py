"""What follows from mail that came back, beside its row: the event ``returned``, and suppressions.

Only what counts has effects (:mod:`emberflow.email_ops.matching`): it names, by a Message-ID or a token that strangers
do not know, a mail that this mailbox sent to the recipient it is about. Then

* a mail that failed for good is ``returned``, once, whoever it went to; ``delayed`` is not;
* an address that is nobody's mailbox here is suppressed if the report says that it will never take mail, if its
  provider passes on a complaint, or if its owner asks for no more mail. What is planned to it is cancelled.

A mailbox of the operator is never suppressed by mail: it is theirs to mend, and `doctor` names it.

All of it is of the transaction that writes the row, and a row is written once, so reading again repeats nothing; an
entry that a person removed afterwards does not come back by itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, text

from emberflow.accounts.suppressions import Entry, Target
from emberflow.domain.events import EventType
from emberflow.domain.slot import Slot
from emberflow.domain.suppression import SuppressionCause
from emberflow.email_ops.classify import Settled
from emberflow.email_ops.matching import Match
from emberflow.email_ops.notices import Bounce
from emberflow.queue_manager import cancellation, event_log

Followed = Literal["returned", "suppressed"]

_ACTOR: Final = "inbox"
_BOUNCED: Final = "mail to it came back: it does not exist or takes no mail"
_COMPLAINED: Final = "its provider reports a complaint about a mail of ours"
_ASKED: Final = "it asked for no more mail"
REASONS: Final = {
    _BOUNCED: SuppressionCause.HARD_BOUNCE,
    _COMPLAINED: SuppressionCause.COMPLAINT,
    _ASKED: SuppressionCause.OPT_OUT,
}

_SLOT = text("select * from ops.slots where id = :id")
_IS_OURS = text("select exists (select from ops.mailboxes where address = :address and removed_at is null)")
_NOTE = text("update ops.inbound_messages set followed = :followed where id = :id")


def follow(
    connection: Connection, report_id: int, settled: Settled, bounce: Bounce | None, *, at: datetime
) -> list[Followed]:
    """Let follow what follows from the row ``report_id``, which this transaction wrote, and note it there.

    ``bounce`` is what a bounce says, None for other kinds; ``at`` is when the message arrived.
    """
    if not settled.counts or settled.match is None or settled.match.method == "from_to_subject":
        return []
    slot_id = settled.match.mail.slot_id
    reason = _why_suppressed(settled, bounce)
    has_failed = bounce is not None and bounce.action == "failed"
    if slot_id is None or not (has_failed or reason):
        return []
    slot = Slot.of({**connection.execute(_SLOT, {"id": slot_id}).mappings().one(), "lease_token": ""})
    followed: list[Followed] = []
    if bounce is not None and has_failed and _record_returned(connection, report_id, slot, settled.match, bounce, at):
        followed.append("returned")
    if reason is not None and _suppress(connection, slot, reason):
        followed.append("suppressed")
    if followed:
        connection.execute(_NOTE, {"id": report_id, "followed": followed})
    return followed


def _why_suppressed(settled: Settled, bounce: Bounce | None) -> str | None:
    if settled.kind == "complaint":
        return _COMPLAINED
    if settled.kind == "opt_out":
        return _ASKED
    if bounce is not None and bounce.action == "failed" and bounce.severity == "hard":
        return _BOUNCED
    return None


def _record_returned(
    connection: Connection, report_id: int, slot: Slot, match: Match, bounce: Bounce, at: datetime
) -> bool:
    return event_log.record_event(
        connection,
        EventType.RETURNED,
        f"returned:{slot.idempotency_key}",
        occurred_at=at,
        mailbox_id=slot.from_mailbox_id,
        slot=slot,
        details={
            "severity": bounce.severity,
            "status": bounce.status,
            "recipient": slot.kind.recipient,
            "by": match.method,
            "report": report_id,
        },
    )


def _suppress(connection: Connection, slot: Slot, reason: str) -> bool:
    """Suppress who got the mail; return False if that is a mailbox of the operator, or is suppressed already."""
    address = slot.to_address
    if address is None or connection.execute(_IS_OURS, {"address": address}).scalar_one():
        return False
    entry = Entry(Target("address", address), REASONS[reason], reason)
    added = cancellation.suppress(connection, [entry], by=_ACTOR)
    return added.entries > 0
