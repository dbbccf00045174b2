"""The kinds of mail: who writes to whom, what a mail counts in, and what follows when it has left.

``KINDS`` is the one statement of them. Whoever treats one mail differently from another asks ``Slot.kind`` for the
difference, never for the name of a kind. What the text of a mail is, a builder knows
(``queue_manager.sending.builders``); a kind without one is not sent by this version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, get_args


class Priority(IntEnum):
    """Values of ``priority_level``; the smaller goes first (Q-B1)."""

    REPLY = 10
    PROBE = 15
    COLD_FOLLOW_UP = 20
    COLD_FIRST_TOUCH = 30
    WARMUP = 40


SenderDayPart = Literal["warmup", "reply", "cold"]
BotDayPart = Literal["inbound", "reply"]
Scope = Literal["recipient_domain", "provider", "all", "sender", "cold", "egress_ip"]

# What ``sender_days`` and ``bot_days`` count apart, each in a column ``<part>_sent``.
SENDER_DAY_PARTS: Final[tuple[SenderDayPart, ...]] = get_args(SenderDayPart)
BOT_DAY_PARTS: Final[tuple[BotDayPart, ...]] = get_args(BotDayPart)


@dataclass(frozen=True)
class MailKind:
    """One kind of mail.

    ``label``
        What messages to people call it.
    ``task_type``, ``turns``
        How its slots are known: by ``scheduled_tasks.task_type``, and where kinds share that, by whether the turn is
        odd or even. None: whatever the turn.
    ``author``, ``recipient``
        Whose mailbox sends it, and to whom it goes. An ``address`` is nobody's mailbox here.
    ``sender_day``, ``bot_day``
        The column of the sender's and of the bot's local day that it counts in; None: in neither.
    ``counters``
        The scopes of the send counters that it counts in, and so the caps of ``delivery.caps`` that may bind it.
    ``conversation``
        Whether its conversation begins with it or goes on with it; None: it belongs to none, and its turn is 0.
    ``contact``
        What the history of its sender and bot calls it; None: it has no such pair, or is no part of its history.
    ``is_given_up``
        One that cannot leave in its time is given up: the next plan makes up for it, or its test is over. Any other is
        still owed, and waits.
    ``has_token``
        Whether it carries a signed token, by which it is known where it arrives.
    """

    label: str
    task_type: str
    turns: Literal["odd", "even"] | None
    author: Literal["sender", "bot"]
    recipient: Literal["sender", "bot", "address"]
    priority: Priority
    sender_day: SenderDayPart | None
    bot_day: BotDayPart | None
    counters: tuple[Scope, ...]
    conversation: Literal["opens", "continues"] | None
    contact: Literal["warmup_sent", "sender_replied", "bot_replied"] | None
    is_given_up: bool
    has_token: bool

    @property
    def is_from_sender(self) -> bool:
        """Everything but what a bot writes."""
        return self.author == "sender"

    @property
    def goes_to_bot(self) -> bool:
        """A bot that gets it must be awake, and rests afterwards."""
        return self.recipient == "bot"

    @property
    def has_bot(self) -> bool:
        """Its slots name a bot; those of the others name an address."""
        return "bot" in (self.author, self.recipient)


_ANYBODYS: Final[tuple[Scope, ...]] = ("recipient_domain", "provider", "all", "egress_ip")

WARMUP: Final = MailKind(
    label="warm-up",
    task_type="warmup",
    turns=None,
    author="sender",
    recipient="bot",
    priority=Priority.WARMUP,
    sender_day="warmup",
    bot_day="inbound",
    counters=(*_ANYBODYS, "sender"),
    conversation="opens",
    contact="warmup_sent",
    is_given_up=True,
    has_token=True,
)

BOT_REPLY: Final = MailKind(
    label="reply of a bot",
    task_type="reply",
    turns="even",
    author="bot",
    recipient="sender",
    priority=Priority.REPLY,
    sender_day=None,
    bot_day="reply",
    counters=_ANYBODYS,
    conversation="continues",
    contact="bot_replied",
    is_given_up=False,
    has_token=True,
)

SENDER_REPLY: Final = MailKind(
    label="reply of a sender",
    task_type="reply",
    turns="odd",
    author="sender",
    recipient="bot",
    priority=Priority.REPLY,
    sender_day="reply",
    bot_day="inbound",
    counters=(*_ANYBODYS, "sender"),
    conversation="continues",
    contact="sender_replied",
    is_given_up=False,
    has_token=True,
)

COLD_FIRST_TOUCH: Final = MailKind(
    label="cold",
    task_type="cold_first_touch",
    turns=None,
    author="sender",
    recipient="address",
    priority=Priority.COLD_FIRST_TOUCH,
    sender_day="cold",
    bot_day=None,
    counters=(*_ANYBODYS, "sender", "cold"),
    conversation="opens",
    contact=None,
    is_given_up=False,
    has_token=False,
)

COLD_FOLLOW_UP: Final = MailKind(
    label="cold",
    task_type="cold_follow_up",
    turns=None,
    author="sender",
    recipient="address",
    priority=Priority.COLD_FOLLOW_UP,
    sender_day="cold",
    bot_day=None,
    counters=(*_ANYBODYS, "sender", "cold"),
    conversation="continues",
    contact=None,
    is_given_up=False,
    has_token=False,
)

# Takes the place of a warm-up mail in its sender's day, so that no test sends more than the ramp allows. It goes before
# warm-up and cold mail, because a person waits for it.
PLACEMENT_PROBE: Final = MailKind(
    label="placement probe",
    task_type="placement_probe",
    turns=None,
    author="sender",
    recipient="bot",
    priority=Priority.PROBE,
    sender_day="warmup",
    bot_day="inbound",
    counters=(*_ANYBODYS, "sender"),
    conversation=None,
    contact=None,
    is_given_up=True,
    has_token=True,
)

KINDS: Final = (WARMUP, BOT_REPLY, SENDER_REPLY, COLD_FIRST_TOUCH, COLD_FOLLOW_UP, PLACEMENT_PROBE)

TASK_TYPES: Final = tuple(dict.fromkeys(kind.task_type for kind in KINDS))

_BY_TURN: Final = {
    (kind.task_type, turn): kind
    for kind in KINDS
    for turn, parity in enumerate(("even", "odd"))
    if kind.turns in (None, parity)
}


def kind_of(task_type: str, turn: int) -> MailKind:
    """Return the kind of a slot.

    Raises:
        ValueError: there is none with such slots.
    """
    try:
        return _BY_TURN[task_type, turn % 2]
    except KeyError:
        raise ValueError(f"no kind of mail has slots of task type {task_type!r}, turn {turn}") from None


def warmup_kind(turn: int) -> MailKind:
    """Return the kind of a mail between a sender and a bot: the sender opens, and they take turns; 0: a probe."""
    if turn == 0:
        return PLACEMENT_PROBE
    return WARMUP if turn == 1 else kind_of(BOT_REPLY.task_type, turn)
