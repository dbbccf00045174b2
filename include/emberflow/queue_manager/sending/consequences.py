"""What a server's answer means for more than the one message: its breakers, its mailbox, its recipient.

What the server of a mailbox says of that mailbox, its login, its limits, its From address, is believed at once: it is
their affair. What it says of a recipient, which others share, is evidence (``refused_recipients``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.accounts import lifecycle, logins, suppressions
from emberflow.accounts.lifecycle import Cause
from emberflow.accounts.suppressions import Entry
from emberflow.delivery.breakers import BreakerPolicy
from emberflow.delivery.corroboration import Findings, Outlier, RefusalPolicy, Said
from emberflow.delivery.reply_codes import Disposition
from emberflow.delivery.routes import Route
from emberflow.domain.slot import Slot
from emberflow.domain.suppression import SuppressionCause
from emberflow.queue_manager import cancellation, host_breakers
from emberflow.queue_manager.sending import refused_recipients

log = logging.getLogger(__name__)

_ADDRESS = text("select address from ops.mailboxes where id = :mailbox_id")

_DOUBTED = "its server is doubted: "
_ACTOR = "dispatch"
_BEFORE_LOGIN = frozenset({"dial", "tls", "ehlo", "auth"})
# `{address}` and `{kind}` (senders, bots) in a remedy are those of the mailbox.
_AGAIN = "then `emberflow {kind} check {address}` and `emberflow {kind} resume {address}`"
_AT_THE_PROVIDER = "mend it at the provider"


@dataclass(frozen=True)
class Answer:
    """What came of one mail: the slot, its way, and the disposition; None for a mail that was sent.

    ``peer`` is the address and port that said so, ``stage`` the command that was answered, ``text`` the words.
    """

    slot: Slot
    route: Route
    disposition: Disposition | None
    peer: tuple[str, int] | None = None
    stage: str = ""
    text: str = ""


def weigh(connection: Connection, answers: Sequence[Answer], *, now: datetime, policy: RefusalPolicy) -> Findings:
    """Add what servers said of recipients to the evidence; call it before the transaction locks any other row."""
    said = [
        _said(answer) for answer in answers if answer.disposition is None or answer.disposition.action == "suppress"
    ]
    if not refused_recipients.lock(connection, said):
        return Findings()
    return refused_recipients.weigh(connection, said, now=now, policy=policy)


def is_believed(route: Route | None, disposition: Disposition | None, findings: Findings) -> bool | None:
    """Return whether a recipient that this disposition calls unknown is; None if it is about something else."""
    if route is None or disposition is None or disposition.action != "suppress":
        return None
    return route.recipient_address in findings.unknown


def draw(
    connection: Connection,
    answers: Sequence[Answer],
    findings: Findings,
    *,
    now: datetime,
    policy: BreakerPolicy,
    refusals: RefusalPolicy,
) -> frozenset[int]:
    """Count every answer in its circuit breakers, and take out of use what is refused.

    Returns:
        The mailboxes that may not be used any more, or not in this run: their login was refused.
    """
    host_breakers.record(
        connection,
        [(host_breakers.keys_of(answer.slot, answer.route), answer.disposition) for answer in answers],
        now,
        policy,
    )
    stopped: set[int] = set()
    for mailbox_id in findings.cleared:
        lifecycle.take_back(connection, mailbox_id, _DOUBTED, Cause("server", _ACTOR))
    let_in = {answer.slot.from_mailbox_id for answer in answers if answer.stage not in _BEFORE_LOGIN}
    logins.taken(connection, let_in, "smtp")
    for answer in answers:
        slot, disposition = answer.slot, answer.disposition
        if disposition is None:
            continue
        if disposition.action == "pause_mailbox" and answer.stage == "auth":
            said = f"{disposition.meaning}: {answer.text}" if answer.text else disposition.meaning
            logins.refused(connection, slot.from_mailbox_id, "smtp", said, now=now, policy=refusals, actor=_ACTOR)
            stopped.add(slot.from_mailbox_id)
        elif disposition.action == "pause_mailbox":
            remedy = f"{disposition.remedy or _AT_THE_PROVIDER}; {_AGAIN}"
            reason = f"its server refused it: {disposition.meaning}"
            lifecycle.pause_because(connection, slot.from_mailbox_id, reason, remedy, Cause("server", _ACTOR))
            stopped.add(slot.from_mailbox_id)
        elif disposition.action == "suppress":
            stopped |= _recipient_refused(connection, answer, disposition, findings)
        elif disposition.action == "stop_and_alert":
            remedy = f"; {disposition.remedy}" if disposition.remedy else ""
            log.error("slot %s: %s (%s)%s", slot.id, disposition.meaning, disposition.rule, remedy)
    for outlier in findings.outliers:
        _stop(connection, outlier, findings.policy)
        stopped.add(outlier.mailbox_id)
    return frozenset(stopped)


def _said(answer: Answer) -> Said:
    slot, route, disposition = answer.slot, answer.route, answer.disposition
    return Said(
        smtp_host=route.smtp_host,
        from_mailbox_id=slot.from_mailbox_id,
        recipient=route.recipient_address,
        to_mailbox_id=slot.to_mailbox_id,
        refusal=None if disposition is None else f"{disposition.rule}: {disposition.meaning}",
        peer=answer.peer,
    )


def _recipient_refused(
    connection: Connection, answer: Answer, disposition: Disposition, findings: Findings
) -> set[int]:
    slot, recipient = answer.slot, answer.route.recipient_address
    hosts = findings.unknown.get(recipient)
    if hosts is None:
        log.warning(
            "slot %s: %s alone says: %s; nobody else is stopped", slot.id, answer.route.smtp_host, disposition.meaning
        )
        return set()
    reason = f"mail to it is refused by {', '.join(hosts)}: {disposition.meaning}"
    if slot.to_mailbox_id is None:
        entry = Entry(suppressions.parse_target(recipient), SuppressionCause.HARD_BOUNCE, reason)
        cancellation.suppress(connection, [entry], by=_ACTOR)
        return set()
    remedy = f"see at the provider that it exists and takes mail; {_AGAIN}"
    cause = Cause("server", _ACTOR, "servers_that_refuse_it", len(hosts), findings.policy.servers)
    lifecycle.pause_because(connection, slot.to_mailbox_id, reason, remedy, cause)
    return {slot.to_mailbox_id}


def _stop(connection: Connection, outlier: Outlier, policy: RefusalPolicy) -> None:
    reason = (
        f"{_DOUBTED}{outlier.smtp_host} says of {outlier.recipients} recipients that they do not exist, "
        "and no other server says so"
    )
    remedy = (
        "ask its provider why it refuses them; when it takes a mail to one of them, "
        "`emberflow {kind} resume {address}`"
    )  # fmt: skip
    address: str = connection.execute(_ADDRESS, {"mailbox_id": outlier.mailbox_id}).scalar_one()
    log.error("%s is paused: %s", address, reason)
    cause = Cause("server", _ACTOR, "recipients_refused_in_a_row", outlier.recipients, policy.outlier_recipients)
    lifecycle.pause_because(connection, outlier.mailbox_id, reason, remedy, cause)
