"""What happened: the append-only events, and the pair and conversation rows that follow from them.

An event has a natural key. Telling it twice, by a retry or a second reading of the same mailbox, is one event;
counters follow only from the first telling.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.database.tables import mail_events
from emberflow.email_ops.smtp import Attempt
from emberflow.queue_manager.store import Slot

_REMEMBER_PAIR = text("""
    insert into ops.bot_sender_interactions as pairs
        (sender_id, bot_id, interaction_type, tier, sent_count, reply_count, first_contact, last_contact)
    values (:sender_id, :bot_id, :kind, :tier, :sent, :replied, :moment, :moment)
    on conflict (sender_id, bot_id) do update
    set interaction_type = excluded.interaction_type,
        tier = coalesce(:tier_if_chosen, pairs.tier),
        sent_count = pairs.sent_count + excluded.sent_count,
        reply_count = pairs.reply_count + excluded.reply_count,
        last_contact = greatest(pairs.last_contact, excluded.last_contact)
""")

_REMEMBER_RESCUE = text("""
    update ops.bot_sender_interactions
    set interaction_type = 'rescued', rescued_count = rescued_count + 1
    where sender_id = :sender_id and bot_id = :bot_id
""")

_OPEN_CONVERSATION = text("""
    with opened as (
        insert into ops.conversations
            (sender_id, bot_id, thread_status, turn, script_id, subject, root_message_id, last_message_id, started_at)
        values (:sender_id, :bot_id, 'awaiting_reply', 1, :script, :subject, :message_id, :message_id, :moment)
        on conflict (root_message_id) do nothing
        returning id
    )
    update ops.scheduled_tasks set conversation_id = opened.id from opened where scheduled_tasks.id = :slot_id
""")

_ADVANCE_CONVERSATION = text("""
    update ops.conversations
    set turn = :turn, last_message_id = :message_id, thread_status = 'awaiting_reply', next_action_time = null,
        updated_at = clock_timestamp()
    where id = :id and turn < :turn
""")

_CLOSE_CONVERSATION = text("""
    update ops.conversations
    set thread_status = 'closed', next_action_time = null, updated_at = clock_timestamp()
    where id = :id and (turn < :turn or (turn = :turn and thread_status = 'awaiting_reply'))
""")

_REST_BOT = text("""
    update ops.bots set cooldown_until = cast(:moment as timestamptz) + make_interval(secs => :cooldown_s)
    where id = :bot_id
""")


def record_event(
    connection: Connection,
    event_type: str,
    natural_key: str,
    *,
    occurred_at: datetime,
    mailbox_id: int,
    slot: Slot | None = None,
    message_id: str | None = None,
    details: dict[str, Any] | None = None,
) -> bool:
    """Append one event; return False if this natural key was already told."""
    row = {
        "event_type": event_type,
        "natural_key": natural_key,
        "occurred_at": occurred_at,
        "mailbox_id": mailbox_id,
        "message_id": message_id if slot is None else slot.message_id,
        "details": details or {},
    }
    if slot is not None:
        row |= {"slot_id": slot.id, "sender_id": slot.sender_id, "bot_id": slot.bot_id}
    statement = insert(mail_events).values(row).on_conflict_do_nothing(index_elements=["natural_key"])
    return bool(connection.execute(statement.returning(mail_events.c.id)).all())


def record_attempt(connection: Connection, slot: Slot, attempt: Attempt, occurred_at: datetime) -> None:
    """Append what came of one SMTP attempt (E-B2)."""
    number = slot.attempts + 1
    record_event(
        connection,
        "attempt",
        f"attempt:{slot.idempotency_key}:{slot.lease_token}",
        occurred_at=occurred_at,
        mailbox_id=slot.from_mailbox_id,
        slot=slot,
        details={
            "attempt": number,
            "outcome": attempt.outcome,
            "stage": attempt.stage,
            "scope": attempt.scope,
            "reply_code": attempt.reply_code,
            "enhanced_code": attempt.enhanced_code,
            "server_text": attempt.server_text,
        },
    )


def record_sent(connection: Connection, slot: Slot, sent_at: datetime, *, subject: str, cooldown_s: int) -> None:
    """Append that the slot's mail left, and move its pair, conversation and bot accordingly.

    The natural key is the slot's idempotency key, so a second ``sent`` for it cannot exist (D-B3).
    """
    is_first = slot.turn == 1
    told = record_event(
        connection,
        "sent",
        f"sent:{slot.idempotency_key}",
        occurred_at=sent_at,
        mailbox_id=slot.from_mailbox_id,
        slot=slot,
        details={"task_type": slot.task_type, "turn": slot.turn},
    )
    if not told:
        return
    tier = slot.payload.get("tier")
    kind = "warmup_sent" if is_first else "sender_replied" if slot.goes_to_bot else "bot_replied"
    connection.execute(
        _REMEMBER_PAIR,
        {
            "sender_id": slot.sender_id,
            "bot_id": slot.bot_id,
            "kind": kind,
            "tier": tier or "active",
            "tier_if_chosen": tier,
            "sent": int(is_first),
            "replied": int(not slot.goes_to_bot),
            "moment": sent_at,
        },
    )
    if is_first:
        connection.execute(
            _OPEN_CONVERSATION,
            {
                "sender_id": slot.sender_id,
                "bot_id": slot.bot_id,
                "script": slot.payload["script"],
                "subject": subject,
                "message_id": slot.message_id,
                "moment": sent_at,
                "slot_id": slot.id,
            },
        )
    else:
        connection.execute(
            _ADVANCE_CONVERSATION,
            {"turn": slot.turn, "message_id": slot.message_id, "id": slot.conversation_id},
        )
    if slot.goes_to_bot:
        connection.execute(_REST_BOT, {"moment": sent_at, "cooldown_s": cooldown_s, "bot_id": slot.bot_id})


def close_conversation(connection: Connection, slot: Slot) -> None:
    """End the slot's thread: its mail will not leave, or nobody answers it.

    A thread that has gone on, or in which an answer to this mail is scheduled, stays as it is.
    """
    connection.execute(_CLOSE_CONVERSATION, {"id": slot.conversation_id, "turn": slot.turn})


def record_rescue(connection: Connection, slot: Slot, *, occurred_at: datetime, mailbox_id: int, uid: str) -> bool:
    """Append that a junked mail was seen back in the inbox; return False for another copy of the same mail."""
    told = record_event(
        connection,
        "rescued",
        f"rescued:{slot.idempotency_key}",
        occurred_at=occurred_at,
        mailbox_id=mailbox_id,
        slot=slot,
        details={"uid": uid},
    )
    if told:
        connection.execute(_REMEMBER_RESCUE, {"sender_id": slot.sender_id, "bot_id": slot.bot_id})
    return told
