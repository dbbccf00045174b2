"""Mail that was sent from a sender's mailbox, and not by Emberflow: which it is, when it left, and what follows (S-F7).

A person, or another program, uses the mailbox too, and its provider counts all of it. What lies under Sent and is not
ours is counted once, in ``ops.outside_mails``: its key is the mailbox and the message's fingerprint, so that
renumbering, reading again, and a second copy add none. It counts in the local day and in the rolling 24 hours in which
it left, as many mails as it has recipients: providers count recipients (Microsoft, "Exchange Online limits", recipient
rate limit; Google, "Gmail sending limits").

Ours is what carries a token whose signature holds, or a Message-ID of a slot: what a provider filed under Sent when it
took our mail, under whatever Message-ID, is not counted twice.

Who writes by hand in one of our conversations has taken it over: what the mailbox has planned in it is cancelled, and
it decides about no other answer there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import SecretStr
from sqlalchemy import Connection, text

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import local_day
from emberflow.delivery.caps import CounterKey
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.tokens import TokenError, verify
from emberflow.queue_manager import cancellation, counters
from emberflow.queue_manager.sent_mail import storable

_FILED_LATER = timedelta(days=1)

_ADDED_AT = text("select created_at from ops.mailboxes where id = :mailbox_id")
_OURS = text("""
    select message_id, conversation_id, :mailbox_id in (from_mailbox_id, to_mailbox_id) as is_of_mailbox
    from ops.slots
    where message_id = any(:message_ids)
""")
_RECORD = text("""
    insert into ops.outside_mails
        (mailbox_id, fingerprint, sent_at, local_day, recipients, conversation_id, matched_by, found_at)
    values (
        :mailbox_id, :fingerprint, :sent_at, :local_day, :recipients, :conversation_id, :matched_by, :found_at
    )
    on conflict do nothing
""")
_TAKEN_OVER = text("""
    select conversation_id
    from ops.outside_mails
    where mailbox_id = :mailbox_id and conversation_id = any(:conversation_ids)
""")


@dataclass(frozen=True)
class Recorded:
    """How many messages were new, and how many planned mails were cancelled because of them."""

    mails: int = 0
    cancelled: int = 0


def record(
    connection: Connection,
    mailbox: Mailbox,
    messages: Sequence[ReceivedMessage],
    *,
    keys: Sequence[SecretStr],
    now: datetime,
    may_be_old: bool,
) -> Recorded:
    """Count the messages of a mailbox's Sent that are not ours and were sent since it was added.

    ``may_be_old``: as :func:`sent_at` has it.
    """
    mailbox_id = mailbox.access.mailbox_id
    named = {storable(name) for message in messages for name in _named(message)}
    asked = {"mailbox_id": mailbox_id, "message_ids": sorted(named)}
    rows = connection.execute(_OURS, asked).all() if named else []
    ours = {row.message_id for row in rows}
    threads = {
        row.message_id: row.conversation_id for row in rows if row.is_of_mailbox and row.conversation_id is not None
    }
    added_at: datetime = connection.execute(_ADDED_AT, {"mailbox_id": mailbox_id}).scalar_one()
    left_at: list[datetime] = []
    joined: set[int] = set()
    mails = 0
    for message in messages:
        at = sent_at(message.internal_date, message.date, now, may_be_old=may_be_old)
        if is_ours(message, ours, keys) or at < added_at:
            continue
        thread = thread_of(message, threads)
        conversation_id, matched_by = thread if thread is not None else (None, None)
        row = {
            "mailbox_id": mailbox_id,
            "fingerprint": fingerprint(message),
            "sent_at": at,
            "local_day": local_day(at, mailbox.zone),
            "recipients": max(message.recipients, 1),
            "conversation_id": conversation_id,
            "matched_by": matched_by,
            "found_at": now,
        }
        if connection.execute(_RECORD, row).rowcount:
            mails += 1
            left_at += [at] * max(message.recipients, 1)
            joined |= set() if conversation_id is None else {conversation_id}
    cancelled = cancellation.leave_to_person(connection, mailbox_id, joined) if joined else 0
    _count(connection, mailbox_id, left_at, now)
    return Recorded(mails, cancelled)


def taken_over(connection: Connection, mailbox_id: int, conversation_ids: Collection[int]) -> set[int]:
    """Return the conversations in which a person writes from the mailbox."""
    asked = {"mailbox_id": mailbox_id, "conversation_ids": list(conversation_ids)}
    return set(connection.execute(_TAKEN_OVER, asked).scalars())


def is_ours(message: ReceivedMessage, ours: Collection[str], keys: Sequence[SecretStr]) -> bool:
    """Return whether Emberflow wrote a message; ``ours`` are Message-IDs of slots."""
    if message.message_id is not None and storable(message.message_id) in ours:
        return True
    if message.token is None:
        return False
    try:
        verify(keys, message.token)
    except TokenError:
        return False
    return True


def sent_at(internal_date: datetime | None, date: datetime | None, now: datetime, *, may_be_old: bool) -> datetime:
    """Return when a message under Sent left: when it was stored there, else by its Date, and not after ``now``.

    ``may_be_old``: no earlier reading tells what is new in the folder. Then what was stored more than a day after its
    Date was not sent then, but filed: a mailbox that moves between servers brings old mail along. Otherwise such a Date
    is a clock that is wrong.
    """
    told = internal_date or date or now
    if may_be_old and date is not None and told - date > _FILED_LATER:
        told = date
    return min(told, now)


def thread_of(
    message: ReceivedMessage, threads: Mapping[str, int]
) -> tuple[int, Literal["in_reply_to", "references"]] | None:
    """Return which conversation a message is part of, by the Message-IDs that it names: ``threads`` has theirs."""
    if message.in_reply_to is not None and storable(message.in_reply_to) in threads:
        return threads[storable(message.in_reply_to)], "in_reply_to"
    for name in reversed(message.references):
        if storable(name) in threads:
            return threads[storable(name)], "references"
    return None


def fingerprint(message: ReceivedMessage) -> str:
    """Return what is the same for the same message under whatever number it lies."""
    named = message.message_id or f"{message.internal_date} {message.date} {message.size}"
    return hashlib.sha256(named.encode("utf-8", "replace")).hexdigest()


def _named(message: ReceivedMessage) -> list[str]:
    return [name for name in (message.message_id, message.in_reply_to, *message.references) if name is not None]


def _count(connection: Connection, mailbox_id: int, left_at: Sequence[datetime], now: datetime) -> None:
    """Count mails in the rolling hours of their mailbox; after everything else that is locked."""
    if not left_at:
        return
    key = CounterKey("sender", str(mailbox_id))
    counted = counters.lock(connection, [key], now)
    for at in left_at:
        counted.add_late([key], at)
    counters.store(connection, counted)
