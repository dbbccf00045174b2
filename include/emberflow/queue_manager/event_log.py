"""What happened: the append-only events, and the pair and conversation rows that follow from them.

Only what ``domain.events`` allows is written. An event has a natural key. Telling it twice, by a retry or a second
reading of the same mailbox, is one event; counters follow only from the first telling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from emberflow.bots.policy import Rests
from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery.reply_codes import Disposition
from emberflow.domain.attempt import Attempt
from emberflow.domain.events import EventType, check
from emberflow.domain.slot import Slot

_APPEND = text("""
    insert into ops.mail_events
        (event_type, natural_key, occurred_at, mailbox_id, slot_id, sender_id, bot_id, message_id, details)
    select event_type, natural_key, occurred_at, mailbox_id, slot_id, sender_id, bot_id, message_id, details
    from jsonb_to_recordset(cast(:events as jsonb)) as events (
        event_type text, natural_key text, occurred_at timestamptz, mailbox_id bigint, slot_id bigint,
        sender_id bigint, bot_id bigint, message_id text, details jsonb
    )
    on conflict (natural_key) do nothing
    returning natural_key
""")

_ACTED = text("select slot_id, details from ops.mail_events where natural_key = any(:keys)")

# What follows from mails that left: their pairs, their conversations, their bots. One statement, whose parts touch
# different tables; rows that several workers may want are written in the order of their keys.
_FOLLOW_UP = text("""
    with mails as (
        select *
        from jsonb_to_recordset(cast(:mails as jsonb)) as mails (
            sender_id bigint, bot_id bigint, to_address text, conversation_id bigint, turn smallint,
            conversation text, contact text, is_from_bot boolean, goes_to_bot boolean,
            tier text, script text, subject text, message_id text, moment timestamptz
        )
    ),

    pairs as (
        insert into ops.bot_sender_interactions as pairs
            (sender_id, bot_id, interaction_type, tier, sent_count, reply_count, first_contact, last_contact, sent_at_1)
        select
            sender_id,
            bot_id,
            (array_agg(contact order by moment desc))[1],
            coalesce((array_agg(tier order by moment desc) filter (where tier is not null))[1], 'active'),
            count(*) filter (where conversation = 'opens'),
            count(*) filter (where is_from_bot),
            min(moment),
            max(moment),
            max(moment) filter (where conversation = 'opens')
        from mails
        where contact is not null
        group by sender_id, bot_id
        order by sender_id, bot_id
        on conflict (sender_id, bot_id) do update
        set interaction_type = case
                when excluded.last_contact >= pairs.last_contact then excluded.interaction_type
                else pairs.interaction_type
            end,
            tier = case when excluded.sent_count > 0 then excluded.tier else pairs.tier end,
            sent_count = pairs.sent_count + excluded.sent_count,
            reply_count = pairs.reply_count + excluded.reply_count,
            last_contact = greatest(pairs.last_contact, excluded.last_contact),
            sent_at_1 = coalesce(excluded.sent_at_1, pairs.sent_at_1),
            sent_at_2 = case when excluded.sent_at_1 is null then pairs.sent_at_2 else pairs.sent_at_1 end,
            sent_at_3 = case when excluded.sent_at_1 is null then pairs.sent_at_3 else pairs.sent_at_2 end
    ),

    opened as (
        insert into ops.conversations
            (sender_id, bot_id, to_address, thread_status, turn, script_id, subject, root_message_id, last_message_id,
            started_at)
        select sender_id, bot_id, to_address, 'awaiting_reply', turn, script, subject, message_id, message_id, moment
        from mails
        where conversation = 'opens'
        on conflict (root_message_id) do nothing
    ),

    advanced as (
        update ops.conversations
        set turn = mails.turn, last_message_id = mails.message_id, thread_status = 'awaiting_reply',
            next_action_time = null, updated_at = clock_timestamp()
        from mails
        where conversations.id = mails.conversation_id
            and mails.conversation = 'continues'
            and conversations.turn < mails.turn
    ),

    resting as (
        select bots.id, bots.profile, received.moment
        from (
            select bot_id, max(moment) as moment from mails where goes_to_bot group by bot_id
        ) as received
        inner join ops.bots on bots.id = received.bot_id
        order by bots.id
        for no key update of bots
    )

    update ops.bots
    set cooldown_until = greatest(
        cooldown_until,
        resting.moment + make_interval(
            secs => coalesce(
                cast(cast(:rests as jsonb) ->> resting.profile as double precision), cast(:own_rest_s as integer)
            )
        )
    )
    from resting
    where bots.id = resting.id
""")

_ERASING = text("""
    select
        set_config('emberflow.erased_address', :address, true),
        set_config('emberflow.erased_pseudonym', :pseudonym, true)
""")
_REDACT_EVENTS = text("""
    update ops.mail_events
    set details = cast(ops.without_address(cast(details as text), :address, :pseudonym) as jsonb)
    where (slot_id = any(:slots) or slot_id is null) and position(:address in lower(cast(details as text))) > 0
""")
_REDACT_CONVERSATIONS = text("""
    update ops.conversations set to_address = :pseudonym where to_address = :address
""")

_SCHEDULE_REPLY = text("""
    update ops.conversations
    set thread_status = 'reply_scheduled', next_action_time = :reply_at, updated_at = clock_timestamp()
    where id = :id
""")

_REMEMBER_RESCUE = text("""
    update ops.bot_sender_interactions
    set interaction_type = 'rescued', rescued_count = rescued_count + 1
    where sender_id = :sender_id and bot_id = :bot_id
""")

_CLOSE_CONVERSATION = text("""
    update ops.conversations
    set thread_status = 'closed', next_action_time = null, updated_at = clock_timestamp()
    where id = :id and (turn < :turn or (turn = :turn and thread_status = 'awaiting_reply'))
""")

_REOPEN_CONVERSATION = text("""
    update ops.conversations
    set thread_status = 'reply_scheduled', next_action_time = :reply_at, updated_at = clock_timestamp()
    where id = :id and turn < :turn
""")


@dataclass(frozen=True)
class Tried:
    """One SMTP attempt for a slot, when it ended and what is made of its answer.

    ``disposition`` is None for a mail that was sent. ``is_believed`` is whether what the server says of the recipient
    is: None if it says nothing of the kind.
    """

    slot: Slot
    attempt: Attempt
    ended_at: datetime
    disposition: Disposition | None = None
    is_believed: bool | None = None


@dataclass(frozen=True)
class Late:
    """A result that came under a token that was worth nothing any more, and when; it changed nothing."""

    slot: Slot
    ended_at: datetime


@dataclass(frozen=True)
class Acted:
    """What a mail's recipient does with it: ``details`` as the catalogue has them, and the mailbox."""

    slot: Slot
    mailbox_id: int
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """A slot's mail that left at ``sent_at`` under ``subject``."""

    slot: Slot
    sent_at: datetime
    subject: str


def record_event(
    connection: Connection,
    event_type: EventType,
    natural_key: str,
    *,
    occurred_at: datetime,
    mailbox_id: int,
    slot: Slot | None = None,
    message_id: str | None = None,
    details: dict[str, Any] | None = None,
) -> bool:
    """Append one event; return False if this natural key was already recorded.

    Raises:
        ValueError: the catalogue of events does not allow it.
    """
    new_keys = _append(
        connection,
        [_event(event_type, natural_key, occurred_at, mailbox_id, slot=slot, message_id=message_id, details=details)],
    )
    return bool(new_keys)


def record_parked(connection: Connection, rows: Sequence[Mapping[str, Any]], occurred_at: datetime) -> None:
    """Append that slots were parked; ``rows`` are those of ``slot_store.free_before_data``."""
    _append(
        connection,
        [
            {
                "event_type": EventType.PARKED,
                "natural_key": f"parked:{row['idempotency_key']}:{row['id']}:{occurred_at.isoformat()}",
                "occurred_at": occurred_at,
                "mailbox_id": row["from_mailbox_id"],
                "slot_id": row["id"],
                "sender_id": row["sender_id"],
                "bot_id": row["bot_id"],
                "message_id": row["message_id"],
                "details": {"lapses": row["lapses"]},
            }
            for row in rows
        ],
    )


def record_sent(connection: Connection, mails: Sequence[Sent], *, rests: Rests) -> None:
    """Append that mails left, and move their pairs, conversations and bots accordingly.

    The natural key is the slot's idempotency key, so a second ``sent`` for it cannot exist (D-B3), and what follows
    from a mail follows once.
    """
    record(connection, sent=mails, rests=rests)


def record(
    connection: Connection,
    *,
    tried: Sequence[Tried] = (),
    fenced: Sequence[Late] = (),
    sent: Sequence[Sent] = (),
    rests: Rests,
) -> None:
    """Append attempts (E-B2), results that came too late to count, and mails that left, with what follows from these.

    Cost: two statements, however many slots.
    """
    by_key = {f"sent:{mail.slot.idempotency_key}": mail for mail in sent}
    new_keys = _append(
        connection,
        [
            *map(_attempt, tried),
            *(
                _event(
                    EventType.FENCED,
                    f"fenced:{late.slot.idempotency_key}:{late.slot.lease_token}",
                    late.ended_at,
                    late.slot.from_mailbox_id,
                    slot=late.slot,
                )
                for late in fenced
            ),
            *(
                _event(
                    EventType.SENT,
                    key,
                    mail.sent_at,
                    mail.slot.from_mailbox_id,
                    slot=mail.slot,
                    details={"task_type": mail.slot.task_type, "turn": mail.slot.turn},
                )
                for key, mail in by_key.items()
            ),
        ],
    )
    new = [_mail(mail) for key, mail in by_key.items() if key in new_keys]
    if new:
        parameters = {
            "mails": rows_as_json(new),
            "rests": json.dumps(dict(rests.of_profiles)),
            "own_rest_s": rests.own_s,
        }
        prepared.rows_of(connection, "follow_up_mails", _FOLLOW_UP, parameters)


def close_conversation(connection: Connection, slot: Slot) -> None:
    """End the slot's thread: its mail will not leave, or nobody answers it.

    A thread that has gone on, or in which an answer to this mail is scheduled, stays as it is.
    """
    connection.execute(_CLOSE_CONVERSATION, {"id": slot.conversation_id, "turn": slot.turn})


def reopen_conversation(connection: Connection, slot: Slot) -> None:
    """Let the slot's thread wait for its mail again, which is planned anew; a first mail has no thread yet."""
    key = {"id": slot.conversation_id, "turn": slot.turn, "reply_at": slot.target_time}
    connection.execute(_REOPEN_CONVERSATION, key)


def forget_person(connection: Connection, address: str, slot_ids: Sequence[int], pseudonym: str) -> None:
    """Put a pseudonym for an address into conversations with it and into what servers said of mail to it.

    Events are only ever added; the database lets exactly this change pass (`ops.refuse_event_change`).
    """
    connection.execute(_ERASING, {"address": address, "pseudonym": pseudonym})
    connection.execute(_REDACT_EVENTS, {"slots": list(slot_ids), "address": address, "pseudonym": pseudonym})
    connection.execute(_REDACT_CONVERSATIONS, {"address": address, "pseudonym": pseudonym})


def record_reply(
    connection: Connection, slot: Slot, *, occurred_at: datetime, mailbox_id: int, reply_at: datetime
) -> None:
    """Append that the recipient of the slot's mail decided to answer it; its thread waits for ``reply_at``."""
    connection.execute(_SCHEDULE_REPLY, {"id": slot.conversation_id, "reply_at": reply_at})
    record_event(
        connection,
        EventType.REPLIED,
        f"replied:{slot.idempotency_key}",
        occurred_at=occurred_at,
        mailbox_id=mailbox_id,
        slot=slot,
        details={"turn": slot.turn, "reply_at": reply_at.isoformat()},
    )


def record_rescue(connection: Connection, slot: Slot, *, occurred_at: datetime, mailbox_id: int, uid: str) -> bool:
    """Append that a junked mail was seen back in the inbox; return False for another copy of the same mail."""
    is_new = record_event(
        connection,
        EventType.RESCUED,
        f"rescued:{slot.idempotency_key}",
        occurred_at=occurred_at,
        mailbox_id=mailbox_id,
        slot=slot,
        details={"uid": uid},
    )
    if is_new and slot.kind.contact is not None:
        connection.execute(_REMEMBER_RESCUE, {"sender_id": slot.sender_id, "bot_id": slot.bot_id})
    return is_new


def acted_before(connection: Connection, slots: Sequence[Slot]) -> dict[int, Mapping[str, Any]]:
    """Return by slot what its recipient decided to do with the mail, of those that were decided about."""
    rows = connection.execute(_ACTED, {"keys": [f"acted:{slot.idempotency_key}" for slot in slots]})
    return {row.slot_id: row.details for row in rows}


def record_acted(connection: Connection, acted: Sequence[Acted], *, occurred_at: datetime) -> None:
    """Append what recipients decided to do with mails. Cost: one statement, however many."""
    _append(
        connection,
        [
            _event(
                EventType.ACTED,
                f"acted:{one.slot.idempotency_key}",
                occurred_at,
                one.mailbox_id,
                slot=one.slot,
                details=one.details,
            )
            for one in acted
        ],
    )


def _append(connection: Connection, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Append events and return the natural keys of those that were new."""
    if not events:
        return set()
    for event in events:
        check(event["event_type"], event["natural_key"], event["details"], has_slot=event["slot_id"] is not None)
    return {
        row.natural_key
        for row in prepared.rows_of(connection, "append_events", _APPEND, {"events": rows_as_json(events)})
    }


def _event(
    event_type: EventType,
    natural_key: str,
    occurred_at: datetime,
    mailbox_id: int,
    *,
    slot: Slot | None = None,
    message_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "natural_key": natural_key,
        "occurred_at": occurred_at,
        "mailbox_id": mailbox_id,
        "slot_id": None if slot is None else slot.id,
        "sender_id": None if slot is None else slot.sender_id,
        "bot_id": None if slot is None else slot.bot_id,
        "message_id": message_id if slot is None else slot.message_id,
        "details": details or {},
    }


def _attempt(tried: Tried) -> dict[str, Any]:
    slot, attempt = tried.slot, tried.attempt
    return _event(
        EventType.ATTEMPT,
        f"attempt:{slot.idempotency_key}:{slot.lease_token}",
        tried.ended_at,
        slot.from_mailbox_id,
        slot=slot,
        details={
            "attempt": slot.attempts + 1,
            "outcome": attempt.outcome,
            "stage": attempt.stage,
            "scope": attempt.scope,
            "reply_code": attempt.reply_code,
            "enhanced_code": attempt.enhanced_code,
            "server_text": attempt.server_text,
            **(
                {}
                if tried.disposition is None
                else {
                    "rule": tried.disposition.rule,
                    "concerns": tried.disposition.scope,
                    "is_believed": tried.is_believed,
                }
            ),
        },
    )


def _mail(mail: Sent) -> dict[str, Any]:
    slot, kind = mail.slot, mail.slot.kind
    return {
        "sender_id": slot.sender_id,
        "bot_id": slot.bot_id,
        "to_address": slot.to_address,
        "conversation_id": slot.conversation_id,
        "turn": slot.turn,
        "conversation": kind.conversation,
        "contact": kind.contact,
        "is_from_bot": not kind.is_from_sender,
        "goes_to_bot": kind.goes_to_bot,
        "tier": slot.payload.get("tier") if kind.conversation == "opens" else None,
        "script": slot.payload.get("script"),
        "subject": mail.subject,
        "message_id": slot.message_id,
        "moment": mail.sent_at,
    }
