"""A slot: one message that shall leave once, as a worker holds it, and the states that it goes through.

``TRANSITIONS`` is the one statement of those states. ``queue_manager.slot_store`` writes no other change, and the
diagram and table in docs/guarantees.md are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

from emberflow.domain.mail_kind import MailKind, kind_of


class Row(Protocol):
    """A row with columns by name, as a database or a test gives it."""

    def __getitem__(self, column: str, /) -> Any:
        """Return the value of ``column``."""


@dataclass(frozen=True)
class Slot:
    """What one message needs, and the token that proves the claim.

    ``kind`` says what sets its mail apart from others: which of the recipients below it has, among other things.
    """

    id: int
    task_type: str
    target_time: datetime
    payload: Mapping[str, Any]
    idempotency_key: str
    from_mailbox_id: int
    to_mailbox_id: int | None
    to_address: str | None
    sender_id: int
    bot_id: int | None
    conversation_id: int | None
    turn: int
    gap_s: int
    message_id: str
    attempts: int
    lease_token: str

    @classmethod
    def of(cls, row: Row) -> Slot:
        """Return the slot in a row of ``scheduled_tasks``, whatever else the row holds."""
        values = {name: row[name] for name in COLUMNS}
        return cls(**(values | {"lease_token": str(row["lease_token"] or "")}))

    @property
    def kind(self) -> MailKind:
        """What sets its mail apart from others.

        Raises:
            ValueError: no kind has such slots; the database refuses them too.
        """
        return kind_of(self.task_type, self.turn)

    @property
    def known_bot_id(self) -> int:
        """The ``bot_id`` of a slot whose kind has a bot.

        Raises:
            ValueError: it names none.
        """
        if self.bot_id is None:
            raise ValueError(f"slot {self.id} ({self.kind.label} mail) names no bot")
        return self.bot_id

    @property
    def first_mailbox_id(self) -> int:
        """Return where the mail is looked for first: its recipient's mailbox if that is ours, else its sender's."""
        return self.from_mailbox_id if self.to_mailbox_id is None else self.to_mailbox_id

    @property
    def worth_until(self) -> datetime | None:
        """Until when it is worth sending; None: as long as its kind says."""
        said = self.payload.get("worth_until")
        return None if said is None else datetime.fromisoformat(said)

    def is_too_late(self, at: datetime) -> bool:
        """Return whether it is not worth sending any more at ``at``."""
        return self.worth_until is not None and self.worth_until <= at

    @property
    def thread(self) -> str:
        """What names the conversation in its draws: the key of its first mail."""
        return str(self.payload.get("thread", self.idempotency_key))


# Why a mail was cancelled, and the mailbox writes no other in its conversation: a person writes there from it.
ANSWERED_BY_HAND = "answered_by_hand"

COLUMNS = tuple(field.name for field in fields(Slot))


class SlotStatus(StrEnum):
    """Where a slot is."""

    PLANNED = "planned"
    LEASED = "leased"
    SUBMITTING = "submitting"
    SENT = "sent"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PARKED = "parked"


class Move(StrEnum):
    """What moves slots; ``slot_store`` has a statement or a function for each."""

    WRITE = "write"
    CLAIM = "claim"
    CANCEL = "cancel"
    EXPIRE = "expire"
    PLAN_AGAIN = "plan again"
    LAPSE = "lapse"
    RELEASE = "release"
    SUBMIT = "submit"
    FINISH = "finish"
    SETTLE = "settle"
    KEEP_IN_DOUBT = "keep in doubt"
    RESTORE = "restore"


Mover = Literal["planner", "inbox", "worker", "recover", "reconcile", "operator"]


@dataclass(frozen=True)
class Transition:
    """One way of a slot from ``before`` (None: there is no slot yet) to ``after``.

    ``label`` says it in a few words, ``when`` in full, ``reason`` what is then stored in ``slot_states.reason``; these
    three are Markdown.
    """

    before: SlotStatus | None
    after: SlotStatus
    move: Move
    by: Mover
    label: str
    when: str
    reason: str = ""


_PLANNED, _LEASED, _SUBMITTING = SlotStatus.PLANNED, SlotStatus.LEASED, SlotStatus.SUBMITTING
_SENT, _FAILED, _UNCERTAIN = SlotStatus.SENT, SlotStatus.FAILED, SlotStatus.UNCERTAIN
_CANCELLED, _EXPIRED, _PARKED = SlotStatus.CANCELLED, SlotStatus.EXPIRED, SlotStatus.PARKED

TRANSITIONS = (
    Transition(None, _PLANNED, Move.WRITE, "planner", "an hour is planned", "`warmup_hourly` plans an hour"),
    Transition(None, _PLANNED, Move.WRITE, "inbox", "an answer is decided", "a recipient decides to answer"),
    Transition(
        None, _PLANNED, Move.WRITE, "operator", "a placement test, a restore",
        "`emberflow placement test SENDER` writes probes; `emberflow database restored` finds a mail whose slot was "
        "made after the backup",
    ),
    Transition(
        _PLANNED, _LEASED, Move.CLAIM, "worker", "claimed",
        "due, in the worker's share, its row not locked by another; gets a lease token",
    ),
    Transition(
        _PLANNED, _EXPIRED, Move.EXPIRE, "recover", "overdue warm-up",
        "a warm-up mail or probe whose target time was more than `queue.overdue_s` ago (1 h)", "`overdue`",
    ),
    Transition(
        _PLANNED, _PLANNED, Move.PLAN_AGAIN, "recover", "overdue reply or cold mail",
        "a reply or cold mail as late as that: new target times, the mailbox's gaps apart, spread over "
        "`queue.spread_s`",
        "`overdue: planned again`",
    ),
    Transition(
        _PLANNED, _CANCELLED, Move.CANCEL, "operator", "taken back",
        "its recipient was suppressed, a mailbox of it was removed or retired, or `emberflow plan cancel HOUR` took "
        "its hour back",
        "`suppressed: ...`; `bot_removed`, `sender_removed`, `bot_retired`; `cancelled by`, who, and why",
    ),
    Transition(
        _PLANNED, _CANCELLED, Move.CANCEL, "worker", "recipient unknown",
        "its recipient, an address that is not ours, was suppressed because several servers call it unknown",
        "`suppressed: ...`",
    ),
    Transition(
        _PLANNED, _CANCELLED, Move.CANCEL, "inbox", "its recipient bounced, complained or opted out, or a person wrote",
        "its recipient, an address that is not ours, was suppressed by a hard bounce, a complaint or a request for no "
        "more mail that came back; or a person wrote in its conversation from the mailbox that was to send it",
        "`suppressed: ...`; `answered_by_hand`",
    ),
    Transition(
        _LEASED, _PLANNED, Move.LAPSE, "recover", "lease lapsed",
        "the lease lapsed before DATA (worker gone)", "`lease lapsed before DATA`",
    ),
    Transition(
        _LEASED, _PARKED, Move.LAPSE, "recover", "lapsed too often",
        "its lease lapsed `queue.maximum_lapses` (3) times before DATA",
        "`its lease lapsed 3 times before DATA`",
    ),
    Transition(
        _SUBMITTING, _UNCERTAIN, Move.LAPSE, "recover", "lease lapsed",
        "the lease lapsed after DATA began (worker gone); caps stay counted", "`lease lapsed after DATA began`",
    ),
    Transition(
        _PARKED, _PLANNED, Move.RELEASE, "operator", "released", "`emberflow queue release SLOT`",
        "`released by`, and who",
    ),
    Transition(
        _LEASED, _SUBMITTING, Move.SUBMIT, "worker", "every check passed",
        "the pre-send check says yes; attempt counted, lease renewed",
    ),
    Transition(
        _LEASED, _PLANNED, Move.FINISH, "worker", "not now or failed before DATA",
        "refused for now (kill switch, gap, an unreadable secret, a refused egress, a reply outside its window or at a "
        "cap, mail that this version cannot write); the attempt failed before DATA, next try after `retry_s` (or the "
        "time that the reply rule names) x 2^attempts, plus a seeded jitter; a server refused its mailbox in this run; "
        "its configuration cannot be used; the run stopped before it was tried; or an unknown error before it was "
        "submitted",
        "`stop_sending_is_on`, `secret_unreadable`, `egress_refused`, `gap`, `bot_cooldown`, `bot_asleep`, "
        "`outside_window`, `..._cap`, `sender_daily_quota`, `no builder for ... mail in this version`; stage, code, "
        "server text; `a server refused its mailbox`; `not configured: ...`; `run stopped`; the error",
    ),
    Transition(
        _LEASED, _CANCELLED, Move.FINISH, "worker", "refused for good",
        "not checked, sender or bot not active (already at the claim: nobody logs in for it), suppressed, a warm-up "
        "mail outside its window or at a cap, a probe whose test is over",
        "`mailbox_not_checked`, `too_late`, `outside_window`, `sender_paused`, `bot_paused`, ...",
    ),
    Transition(
        _LEASED, _FAILED, Move.FINISH, "worker", "5xx before DATA or attempts used up",
        "5xx about this message or its recipient, `maximum_attempts` (4) used up (not by a sending limit of the "
        "mailbox), a probe whose test would be over before the next try, or a message that cannot be built",
        "stage, code, server text; the error",
    ),
    Transition(
        _SUBMITTING, _SENT, Move.FINISH, "worker", "2xx after the final dot", "the server took it",
    ),
    Transition(
        _SUBMITTING, _PLANNED, Move.FINISH, "worker", "4xx or cut off before the final dot",
        "4xx, a permanent fault of mailbox or host, or cut off before the final dot; caps are given back",
        "stage, code, server text",
    ),
    Transition(
        _SUBMITTING, _FAILED, Move.FINISH, "worker", "5xx or attempts used up",
        "5xx about this message, attempts used up, or a probe whose test would be over; caps are given back",
        "stage, code, server text",
    ),
    Transition(
        _SUBMITTING, _UNCERTAIN, Move.FINISH, "worker", "no clear answer after the final dot",
        "no clear answer after the final dot, or an unknown error after it was submitted; caps stay counted",
        "stage, server text; the error",
    ),
    Transition(
        _UNCERTAIN, _SENT, Move.SETTLE, "inbox", "found at its recipient",
        "the inbox reader meets the mail in its recipient's mailbox", "where it was found",
    ),
    Transition(
        _UNCERTAIN, _SENT, Move.SETTLE, "reconcile", "found or acknowledged late",
        "the mail lies at its recipient (any folder), or cold mail in the sender's Sent; or a worker whose lease had "
        "lapsed heard a 2xx to this attempt, and the mail is nowhere to be seen",
        "where it was found; the server's answer",
    ),
    Transition(
        _UNCERTAIN, _FAILED, Move.SETTLE, "reconcile", "returned or out of attempts",
        "a bounce in the sender's INBOX or Junk (a delivery status notification, or a machine's words with a quoted "
        "copy) names it by its Message-ID or token; it stays counted, because it did leave. Or it was not taken, as in "
        "the next row, by its last attempt",
        "`returned` and the bounce's reason; `not sent in 4 attempts`",
    ),
    Transition(
        _UNCERTAIN, _PLANNED, Move.SETTLE, "reconcile", "a late refusal",
        "a worker whose lease had lapsed heard a 4xx or 5xx, or was cut off before the final dot: it was not taken; "
        "caps are given back",
        "`not sent by the last attempt`",
    ),
    Transition(
        _UNCERTAIN, _EXPIRED, Move.SETTLE, "reconcile", "a late refusal of an overdue mail",
        "the same, and it is a warm-up mail that is overdue", "`overdue`",
    ),
    *(
        Transition(
            _UNCERTAIN, after, Move.SETTLE, "operator", label, f"`emberflow queue settle SLOT... {option}`{when}",
            reason,
        )
        for after, label, option, when, reason in (
            (_SENT, "said to be sent", "--sent", "; or `emberflow database restored` found it",
             "`settled by`, who, and why; where it was found"),
            (_PLANNED, "said not to be sent", "--not-sent", "", "`not sent by the last attempt`"),
            (_FAILED, "said not to be sent", "--not-sent", ", after the last attempt",
             "`not sent in 4 attempts`"),
            (_EXPIRED, "said not to be sent", "--not-sent", ", of a warm-up mail that is overdue", "`overdue`"),
        )
    ),
    Transition(
        _UNCERTAIN, _UNCERTAIN, Move.KEEP_IN_DOUBT, "reconcile", "found nowhere",
        "not to be settled yet, looked for again at `look_again_at`. `unresolved_at` is set once the settle time "
        "(`dispatch.write_within_s` + `reconcile.settle_s`) is over and every folder was searched in vain, or "
        "something hindered that for the whole of `reconcile.look_back_s`: it stays counted in every cap and quota, "
        "and its conversation is closed",
        "`not settled` and what hinders it; `unresolved`, and where it was looked for",
    ),
    *(
        Transition(
            before, _UNCERTAIN, Move.RESTORE, "operator", "restored",
            "`emberflow database restored`: it may have left after the backup, or its mail was found", "what was found",
        )
        for before in (_PLANNED, _LEASED, _PARKED, _SUBMITTING, _UNCERTAIN)
    ),
)  # fmt: skip

ENDS = tuple(status for status in SlotStatus if all(one.before is not status for one in TRANSITIONS))


def changes(move: Move) -> tuple[tuple[SlotStatus, SlotStatus], ...]:
    """Return the (before, after) pairs that ``move`` may cause on slots that exist, each once."""
    pairs = ((one.before, one.after) for one in TRANSITIONS if one.move is move)
    return tuple(dict.fromkeys((before, after) for before, after in pairs if before is not None))


def sources(move: Move, after: SlotStatus | None = None) -> tuple[SlotStatus, ...]:
    """Return the states in which ``move`` may find a slot, to make it ``after`` if that is given."""
    return tuple(dict.fromkeys(before for before, becomes in changes(move) if after in (None, becomes)))
