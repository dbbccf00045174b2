"""Cancel planned mail: of a mailbox out of use, to a suppressed recipient, of a person's thread, of an hour's plan.

It is cancelled, and the conversations that waited for it end. What a worker holds at that moment is refused by the
pre-send check, except that of an hour's plan, which it may still send.

The row of a cancelled hour in ``plan_runs`` stays with the number of its slots, which is what keeps the hour from being
planned anew. Cancelled slots hold no place in a quota, so the later hours of the same local day make up for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.accounts import suppressions
from emberflow.accounts.suppression_hashes import Hasher
from emberflow.accounts.suppressions import Entry
from emberflow.domain.slot import ANSWERED_BY_HAND, Slot
from emberflow.errors import EmberflowError
from emberflow.queue_manager import event_log, slot_store
from emberflow.queue_manager.plan_runs import run_of

_LEFT = ("submitting", "sent", "uncertain")
_STATUSES = text("""
    select slots.status, count(*) as slots
    from ops.slots
    where slots.plan_run_id = :run
    group by slots.status
    order by slots.status
""")


@dataclass(frozen=True)
class Added:
    """How many entries were new, and how many planned mails were cancelled because of them."""

    entries: int
    cancelled: int


@dataclass(frozen=True)
class CancelledPlan:
    """How many slots of ``hour`` were cancelled by this call, how many ``left`` before it, and the others by status."""

    hour: datetime
    cancelled: int
    left: int
    others: dict[str, int]


def cancel_of_mailbox(connection: Connection, mailbox_id: int, reason: str) -> int:
    """Cancel what is planned from a mailbox or to it; return how many mails."""
    cancelled = slot_store.cancel_planned(connection, mailbox_id, reason)
    _end_conversations(connection, cancelled)
    return len(cancelled)


def leave_to_person(connection: Connection, mailbox_id: int, conversation_ids: Collection[int]) -> int:
    """Cancel what a mailbox has planned in conversations in which a person writes from it; return how many mails."""
    cancelled = slot_store.cancel_in_conversations(connection, mailbox_id, conversation_ids, ANSWERED_BY_HAND)
    _end_conversations(connection, cancelled)
    return len(cancelled)


def suppress(
    connection: Connection,
    entries: Iterable[Entry],
    *,
    by: str,
    hasher: Hasher | None = None,
    addresses: Iterable[str] | None = None,
) -> Added:
    """Suppress every target and cancel the mail that is planned for it; a known entry stays as it is.

    ``hasher`` is needed where a target is a hash: it is compared with ``addresses``, by default with all that have
    planned mail.

    Raises:
        ValueError: a target is a hash, and there is no ``hasher``.
    """
    wanted = list(entries)
    has_hashes = any(entry.target.kind == "hash" for entry in wanted)
    if has_hashes and hasher is None:
        raise ValueError("a hash cannot be compared without its key")
    ids = suppressions.add(connection, wanted, by=by)
    hashes: dict[str, str] = {}
    if ids and has_hashes and hasher is not None:
        named = slot_store.addresses_of_planned(connection) if addresses is None else addresses
        hashes = {address: hasher.of(address) for address in named}
    cancelled = slot_store.cancel_suppressed(connection, ids, hashes) if ids else []
    _end_conversations(connection, cancelled)
    return Added(len(ids), len(cancelled))


def cancel_hour(connection: Connection, hour: datetime, *, by: str, reason: str) -> CancelledPlan:
    """Cancel the slots of the UTC hour that are still planned; ``by`` and ``reason`` are stored with each.

    Raises:
        EmberflowError: the hour is not planned, or its plan has no slots.
    """
    run = run_of(connection, hour)
    if run is None or not run["slots"]:
        what = "is not planned" if run is None else "has no slots"
        raise EmberflowError(
            f"{hour:%Y-%m-%dT%H} {what}: there is nothing to cancel; `emberflow plan show` lists the planned hours"
        )
    cancelled = slot_store.cancel_plan(connection, run["id"], f"cancelled by {by}: {reason}")
    _end_conversations(connection, cancelled)
    counts = {row.status: row.slots for row in connection.execute(_STATUSES, {"run": run["id"]})}
    counts["cancelled"] = counts.get("cancelled", 0) - len(cancelled)
    others = {status: count for status, count in counts.items() if status not in _LEFT and count}
    return CancelledPlan(hour, len(cancelled), sum(counts.get(status, 0) for status in _LEFT), others)


def _end_conversations(connection: Connection, slots: Sequence[Slot]) -> None:
    for slot in slots:
        if slot.conversation_id is not None:  # a first mail has none yet
            event_log.close_conversation(connection, slot)
