"""Mails that left, as what comes back names them: by Message-ID, by the slot of a token, by people and subject.

Reads only. `email_ops.matching` decides which of them a message is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Row, text

from emberflow.email_ops.classify import Classification, TokenSlot
from emberflow.email_ops.matching import SentMail
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify

_SENT = """
    select
        slots.id,
        slots.message_id,
        slots.sender_id,
        slots.bot_id,
        slots.turn,
        slots.submitted_at,
        senders_box.address as from_address,
        coalesce(slots.to_address, recipients_box.address) as to_address,
        coalesce(conversations.subject, '') as subject,
        array(
            select events.details ->> 'message_id'
            from ops.mail_events as events
            where events.slot_id = slots.id
                and events.event_type in ('placed_inbox', 'placed_junk')
                and events.details ->> 'message_id' is not null
            order by events.id
        ) as arrived_as
    from named
    inner join ops.slots on slots.id = named.id
    inner join ops.mailboxes as senders_box on senders_box.id = slots.from_mailbox_id
    left join ops.mailboxes as recipients_box on recipients_box.id = slots.to_mailbox_id
    left join ops.conversations on conversations.id = slots.conversation_id
    where slots.submitted_at is not null
"""
_NAMED = text(f"""
    with named as (
        select id from ops.scheduled_tasks where message_id = any(:message_ids)
        union
        select id from ops.scheduled_tasks where id = any(:slot_ids)
    )
    {_SENT}
""")  # noqa: S608 - constants
# The first mail of each conversation, which has the subject of all of them, and answers: each by an index.
_BETWEEN = text(f"""
    with named as (
        select tasks.id
        from ops.senders
        inner join ops.conversations on conversations.sender_id = senders.id
        inner join ops.scheduled_tasks as tasks on tasks.message_id = conversations.root_message_id
        left join ops.mailboxes on mailboxes.id = tasks.to_mailbox_id
        where senders.mailbox_id = :mailbox_id
            and conversations.started_at > :since
            and coalesce(tasks.to_address, mailboxes.address) = any(:addresses)
        union
        select tasks.id
        from ops.scheduled_tasks as tasks
        left join ops.mailboxes on mailboxes.id = tasks.to_mailbox_id
        where tasks.from_mailbox_id = :mailbox_id
            and tasks.parent_slot_id is not null
            and tasks.local_day >= cast(:since as date)
            and coalesce(tasks.to_address, mailboxes.address) = any(:addresses)
    )
    {_SENT}
    order by slots.submitted_at desc
    limit 500
""")  # noqa: S608 - constants


@dataclass(frozen=True)
class Known:
    """What is known of mails that messages name; ``slots`` are those that have a token."""

    sent: Sequence[SentMail]
    slots: Sequence[TokenSlot]


def named(connection: Connection, message_ids: Iterable[str], slot_ids: Iterable[int]) -> Known:
    """Return the mails with these Message-IDs (what PostgreSQL can store, see `storable`) and slots."""
    asked = {"message_ids": sorted(set(message_ids)), "slot_ids": sorted(set(slot_ids))}
    rows = connection.execute(_NAMED, asked).all()
    slots = [
        TokenSlot(
            WarmupToken(row.id, row.sender_id, row.bot_id, row.turn),
            row.to_address,
            row.arrived_as[0] if row.arrived_as else None,
        )
        for row in rows
        if row.bot_id is not None
    ]
    return Known([_sent_mail(row) for row in rows], slots)


def between(connection: Connection, mailbox_id: int, addresses: Iterable[str], since: datetime) -> list[SentMail]:
    """Return what a mailbox sent to these addresses since then, the newest 500."""
    asked = {"mailbox_id": mailbox_id, "addresses": sorted(set(addresses)), "since": since}
    return [_sent_mail(row) for row in connection.execute(_BETWEEN, asked)]


def slot_of_token(found: Classification, keys: Sequence[SecretStr]) -> int | None:
    """Return the slot of the token that a message carries, or that a report returns; None without a genuine one."""
    report = found.bounce or found.complaint
    token = report.original.token if report is not None else found.token
    if token is None or not keys:
        return None
    try:
        return verify(keys, token).slot_id
    except TokenError:
        return None


def storable(words: str, characters: int = 1_000) -> str:
    """Return what PostgreSQL takes of a stranger's words: no NUL, no half of a surrogate pair."""
    return words[:characters].replace("\0", "").encode("utf-8", "replace").decode()


def _sent_mail(row: Row[Any]) -> SentMail:
    return SentMail(
        id=row.id,
        message_ids=tuple(dict.fromkeys([row.message_id, *row.arrived_as])),
        from_address=row.from_address,
        to_address=row.to_address,
        subject=row.subject,
        slot_id=row.id,
        sent_at=row.submitted_at,
    )
