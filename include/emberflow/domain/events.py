"""The events of a mail: what each means, which details it has, and what makes a second telling the same event.

``EVENTS`` is the one statement of them. ``queue_manager.event_log`` writes what it allows and nothing else, dbt's
staging model gives the details as columns, and the tables in docs/guarantees.md and docs/data-dictionary.md are made
from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, get_args

from emberflow.domain.attempt import Outcome, Scope, Stage


class EventType(StrEnum):
    """What happened to a mail."""

    ATTEMPT = "attempt"
    SENT = "sent"
    PLACED_INBOX = "placed_inbox"
    PLACED_JUNK = "placed_junk"
    RESCUED = "rescued"
    REPLIED = "replied"
    TOKEN_REJECTED = "token_rejected"  # noqa: S105 - an event, not a secret
    FENCED = "fenced"
    PARKED = "parked"
    RECONCILED = "reconciled"
    RETURNED = "returned"
    ACTED = "acted"


@dataclass(frozen=True)
class Detail:
    """One of an event's ``details``. ``values`` are all that it can be; none: any. An optional one may be null."""

    type: type[str] | type[int] | type[bool]
    meaning: str
    values: tuple[str, ...] = ()
    is_optional: bool = False

    def allows(self, value: object) -> bool:
        """Return whether ``value`` is one of this detail's."""
        if value is None:
            return self.is_optional
        if isinstance(value, bool) is not (self.type is bool) or not isinstance(value, self.type):
            return False
        return not self.values or value in self.values


@dataclass(frozen=True)
class EventKind:
    """What one type of event means.

    ``mailbox`` says what its ``mailbox_id`` is. ``keys`` are the forms of its natural key, each with a prefix of its
    own. ``so_that`` says what that key makes impossible. ``counts_as`` is what the daily facts of a sender make of it;
    empty: nothing.
    """

    meaning: str
    mailbox: str
    keys: tuple[str, ...]
    so_that: str
    counts_as: str = ""
    has_slot: bool = True
    details: Mapping[str, Detail] = field(default_factory=dict)


_IDEMPOTENCY_KEY = "<idempotency key>"
_UID = Detail(str, "the message as its mailbox numbers it: folder:uidvalidity:uid")
_TURN = Detail(int, "turn of the conversation, from 1; 0: a placement probe, which belongs to none")
# Whether a mail is answered. After the answer: what its recipient drew, what bounds it, and why it is not even asked.
ANSWERS = (
    "replies",
    "rate", "reply_cap", "turns", "script",
    "no_conversation", "not_rescued", "answered_by_hand", "perhaps_answered",
    "auto_submitted", "precedence", "list", "null_return_path",
)  # fmt: skip


def _placed(where: str) -> EventKind:
    return EventKind(
        f"a warm-up mail was first found in the {where} of its recipient",
        mailbox="the reading mailbox",
        keys=(f"placed:{_IDEMPOTENCY_KEY}",),
        so_that="one placement per mail: where it was *first* found",
        counts_as=f"placement in the {where}, if its `direction` is `to_bot`",
        details={
            "uid": _UID,
            "turn": _TURN,
            "direction": Detail(str, "which way the mail went", ("to_bot", "to_sender")),
            "provider": Detail(str, "provider of the reading mailbox"),
            "junk_folder": Detail(
                str,
                "the Junk folder that was looked into; `none`: the mailbox shows none, so junk could not be seen; "
                "`unknown`",
            ),
            "message_id": Detail(
                str, "the Message-ID that arrived; a relay may have replaced ours", is_optional=True
            ),
            "header_digest": Detail(
                str, "of its header as it lay there, by which it is known again wherever it is moved", is_optional=True
            ),
        },
    )  # fmt: skip


EVENTS: Mapping[EventType, EventKind] = {
    EventType.ATTEMPT: EventKind(
        "a worker tried to submit a mail, and this came of it",
        mailbox="the sending mailbox",
        keys=(f"attempt:{_IDEMPOTENCY_KEY}:<lease token>",),
        so_that="one per claim that reached a server",
        counts_as="attempt; by `outcome`, `scope`, `concerns` and `is_believed` also hard bounce or deferral",
        details={
            "attempt": Detail(int, "n-th attempt of the slot, from 1"),
            "outcome": Detail(str, "what came of it", get_args(Outcome)),
            "stage": Detail(str, "the SMTP command at which it ended", get_args(Stage)),
            "scope": Detail(str, "what the outcome speaks about", get_args(Scope)),
            "reply_code": Detail(int, "SMTP reply code; null: no answer", is_optional=True),
            "enhanced_code": Detail(str, "enhanced status code of RFC 3463", is_optional=True),
            "server_text": Detail(str, "what the server answered"),
            "rule": Detail(str, "of a refusal: the rule of the map of replies that read it", is_optional=True),
            "concerns": Detail(
                str,
                "of a refusal: whose affair it is by that rule",
                ("message", "recipient", "mailbox", "sender_domain", "egress_ip", "sender_domain_or_ip", "host"),
                is_optional=True,
            ),
            "is_believed": Detail(
                bool,
                "of a refusal: whether the recipient is unknown; false while one server alone says so, null if "
                "nobody says so",
                is_optional=True,
            ),
        },
    ),
    EventType.SENT: EventKind(
        "the submission server took the mail",
        mailbox="the sending mailbox",
        keys=(f"sent:{_IDEMPOTENCY_KEY}",),
        so_that="a second `sent` of a slot cannot exist",
        counts_as="sent",
        details={"task_type": Detail(str, "what kind of mail it is"), "turn": _TURN},
    ),
    EventType.PLACED_INBOX: _placed("inbox"),
    EventType.PLACED_JUNK: _placed("Junk folder"),
    EventType.RESCUED: EventKind(
        "a mail that had been found in Junk was seen in the inbox",
        mailbox="the reading mailbox",
        keys=(f"rescued:{_IDEMPOTENCY_KEY}",),
        so_that="one rescue per mail",
        counts_as="rescue by a bot",
        details={"uid": _UID},
    ),
    EventType.REPLIED: EventKind(
        "the recipient decided to answer the mail",
        mailbox="the answering mailbox",
        keys=("replied:<idempotency key of the answered mail>",),
        so_that="one decision to answer per mail",
        counts_as="reply of a bot",
        details={"turn": _TURN, "reply_at": Detail(str, "when the answer is due")},
    ),
    EventType.TOKEN_REJECTED: EventKind(
        "a message carries a warm-up token that is not that of a mail to this mailbox",
        mailbox="the reading mailbox",
        keys=("token_rejected:<mailbox id>:<digest of its header>",),
        so_that="one per message, however its folder is numbered and wherever it is moved",
        has_slot=False,
        details={
            "reason": Detail(str, "what is wrong with it", ("unknown", "forged", "malformed", "reused")),
            "uid": _UID,
            "from": Detail(str, "the address in From", is_optional=True),
        },
    ),
    EventType.FENCED: EventKind(
        "a result came under a token that was worth nothing any more; it changed nothing",
        mailbox="the sending mailbox",
        keys=(f"fenced:{_IDEMPOTENCY_KEY}:<lease token>",),
        so_that="one per claim that was taken over",
    ),
    EventType.PARKED: EventKind(
        "a slot's lease lapsed too often before DATA",
        mailbox="the sending mailbox",
        keys=(f"parked:{_IDEMPOTENCY_KEY}:<slot id>:<instant>",),
        so_that="one each time that a slot is parked",
        details={"lapses": Detail(int, "leases that ran out before DATA")},
    ),
    EventType.RECONCILED: EventKind(
        "a doubt whether a mail was sent was settled, or the mail was found nowhere",
        mailbox="the sending mailbox",
        keys=(f"reconciled:{_IDEMPOTENCY_KEY}:<attempts>", f"unresolved:{_IDEMPOTENCY_KEY}:<attempts>"),
        so_that="one decision per attempt in doubt, and before it one `unresolved` at most",
        details={
            "found": Detail(
                str,
                "what is known; `unknown`: it was never looked for everywhere",
                ("present", "returned", "not_sent", "nowhere", "unknown"),
            ),
            "by": Detail(str, "who found or decided it"),
            "where": Detail(str, "where it lies, or was looked for", is_optional=True),
            "answer": Detail(str, "the server's answer that was heard too late", is_optional=True),
            "why": Detail(str, "the reason that a person or a returned mail gives", is_optional=True),
        },
    ),
    EventType.RETURNED: EventKind(
        "a report came to the sending mailbox: the mail was taken, and could not be delivered",
        mailbox="the sending mailbox",
        keys=(f"returned:{_IDEMPOTENCY_KEY}",),
        so_that="a mail comes back once, however many reports say so",
        counts_as="hard bounce, unless its `status` is a temporary one, the mail was refused at SMTP and counted "
        "there, or it was found at its recipient",
        details={
            "severity": Detail(str, "`hard`: the address will never take mail", ("hard", "soft")),
            "status": Detail(str, "enhanced status code of the report, RFC 3463", is_optional=True),
            "recipient": Detail(
                str, "who was not reached; `address`: nobody's mailbox here", ("bot", "sender", "address")
            ),
            "by": Detail(str, "what ties the report to the mail", ("in_reply_to", "references", "token")),
            "report": Detail(int, "inbound_messages.id of the report"),
        },
    ),
    EventType.ACTED: EventKind(
        "the recipient of a warm-up mail decided what to do with it",
        mailbox="the reading mailbox",
        keys=(f"acted:{_IDEMPOTENCY_KEY}",),
        so_that="one decision per mail",
        details={
            "is_rescued": Detail(bool, "moved from Junk to the inbox; null: it was not in Junk", is_optional=True),
            "is_read": Detail(bool, "marked as read"),
            "is_important": Detail(
                bool,
                "marked as important; null: the mailbox cannot keep such a mark, or it is a sender's",
                is_optional=True,
            ),
            "is_starred": Detail(bool, "flagged; null: it is a sender's mailbox", is_optional=True),
            "is_archived": Detail(
                bool, "moved to the archive; null: the mailbox has none, or it is a sender's", is_optional=True
            ),
            "answer": Detail(str, "`replies`, or why it is not answered", ANSWERS),
        },
    ),
}  # fmt: skip


def check(event_type: str, natural_key: str, details: Mapping[str, Any], *, has_slot: bool) -> EventType:
    """Return the type of an event that the catalogue allows.

    Raises:
        ValueError: it is of no known type, has not its key, or details that are unknown, missing or of another type.
    """
    if event_type not in tuple(EventType):
        raise ValueError(f"{event_type!r} is no event: domain.events lists them")
    name = EventType(event_type)
    kind = EVENTS[name]
    problems = [
        *(f"{key!r} is no detail of it" for key in details if key not in kind.details),
        *(
            f"{key} cannot be {details.get(key)!r}"
            for key, detail in kind.details.items()
            if not detail.allows(details.get(key))
        ),
    ]
    if not natural_key.startswith(tuple(key.partition("<")[0] for key in kind.keys)):
        problems.append(f"its natural key cannot be {natural_key!r}")
    if has_slot is not kind.has_slot:
        problems.append("it is about a slot" if kind.has_slot else "it is about no slot")
    if problems:
        raise ValueError(f"the event {name} cannot be recorded so: {'; '.join(problems)}")
    return name
