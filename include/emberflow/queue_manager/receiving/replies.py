"""Replies as slots: who answers which mail, and when (B-B6, B-B7, B-B8).

``bots.replies`` decides; here its question is put together from rows, and its answer becomes a slot. It is not asked
about mail that a list or a machine passed on (``email_ops.loop_guard``), nor about the last turn of a script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Connection, text

from emberflow.accounts.mailboxes import Mailbox
from emberflow.bots.replies import decide_replies
from emberflow.clock import Clock, local_day
from emberflow.database import restores
from emberflow.domain.mail_kind import warmup_kind
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import domain_of
from emberflow.email_ops.loop_guard import loop_risk
from emberflow.email_ops.message import message_id_for
from emberflow.policy.profiles import Profile
from emberflow.policy.script_sets import PAYLOAD_KEY, ScriptLibrary
from emberflow.policy.versions import PolicyInForce
from emberflow.queue_manager import event_log, outside_mail, slot_store
from emberflow.queue_manager.receiving.arrivals import Arrival
from emberflow.randomness import state
from emberflow.senders.pacing import gaps_s
from emberflow.settings import Settings

_REPLIES_TODAY = text("""
    select count(*)
    from ops.slots
    where from_mailbox_id = :mailbox_id
        and parent_slot_id is not null
        and local_day = :day
        and status in ('planned', 'leased', 'submitting', 'sent', 'uncertain')
""")

_PROFILE = text("""
    select case when cast(:is_bot as boolean) then bots.profile else senders.profile end
    from ops.senders
    cross join ops.bots
    where senders.id = :sender_id and bots.id = :bot_id
""")

# Answers name their conversation. The first mail, which opens it, does not.
_MAILS_SO_FAR = text("""
    select own.id, 1 + count(*) as mails
    from ops.scheduled_tasks as own
    inner join ops.scheduled_tasks as mails on mails.conversation_id = own.conversation_id and mails.id <= own.id
    where own.id = any(:ids)
    group by own.id
""")

# In a reply's payload: the profile by which it was decided. It is missing where that was by the document's own numbers.
PROFILE_KEY = "profile"


@dataclass(frozen=True)
class Answerer:
    """One run's decisions. ``found`` counts the replies that were scheduled."""

    settings: Settings
    clock: Clock
    force: PolicyInForce
    scripts: ScriptLibrary
    found: Counter[str]

    def answer(
        self, connection: Connection, mailbox: Mailbox, arrivals: Sequence[Arrival], profile: str | None
    ) -> dict[int, str]:
        """Let the mailbox decide about each mail that it got, and schedule its replies (B-B6, B-B7, B-B8).

        A mail that belongs to no conversation is not answered. ``profile`` is that of the mailbox. Return by slot
        ``replies``, or why there is no answer (``domain.events.ANSWERS``).
        """
        by_slot: dict[int, Arrival] = {}
        answers = {arrival.slot.id: "no_conversation" for arrival in arrivals}
        arrivals = [arrival for arrival in arrivals if arrival.slot.kind.conversation is not None]
        self.scripts.fetch(connection, [arrival.slot.payload for arrival in arrivals])
        answered = restores.perhaps_answered(connection, [arrival.slot.id for arrival in arrivals])
        threads = [arrival.slot.conversation_id for arrival in arrivals if arrival.slot.conversation_id is not None]
        of_a_person = outside_mail.taken_over(connection, mailbox.access.mailbox_id, threads) if threads else set()
        places = self._places(connection, [arrival.slot for arrival in arrivals])
        for arrival in arrivals:
            slot = arrival.slot
            reason: str | None = loop_risk(arrival.message, is_from_bot=not slot.kind.is_from_sender)
            if slot.id in answered:
                reason = "perhaps_answered"
            elif slot.conversation_id in of_a_person:
                reason = "answered_by_hand"
            elif reason is None and places[slot.id] >= self.scripts.of(slot.payload).turns(slot.payload["script"]):
                reason = "script"
            if reason is None:
                by_slot[slot.id] = arrival
            else:
                answers[slot.id] = reason
                event_log.close_conversation(connection, slot)
        if not by_slot:
            return answers
        one = next(iter(by_slot.values())).slot
        numbers = self.force.policy.profile(profile)
        received = self._received(connection, mailbox, by_slot, places, numbers, is_bot=one.kind.goes_to_bot)
        decided = decide_replies(received, numbers.replies, self.force.seed)
        for slot_id, reason, reply_at in zip(decided["slot_id"], decided["reason"], decided["reply_at"], strict=True):
            arrival = by_slot[int(slot_id)]
            answers[int(slot_id)] = reason
            if reason == "replies":
                self._schedule(connection, mailbox, arrival, reply_at.to_pydatetime(), profile)
            else:
                event_log.close_conversation(connection, arrival.slot)
        return answers

    def _places(self, connection: Connection, slots: Sequence[Slot]) -> dict[int, int]:
        """Return of each mail its place in its thread: its turn, or how many mails there are up to it if that is more.

        A thread with more mails than turns is none that this program means to write; counting them ends it.
        """
        later = [slot.id for slot in slots if slot.turn > 1]
        counted = connection.execute(_MAILS_SO_FAR, {"ids": later}).all() if later else []
        mails = {row.id: row.mails for row in counted}
        return {slot.id: max(slot.turn, mails.get(slot.id, 1)) for slot in slots}

    def _received(
        self,
        connection: Connection,
        mailbox: Mailbox,
        by_slot: Mapping[int, Arrival],
        places: Mapping[int, int],
        numbers: Profile,
        *,
        is_bot: bool,
    ) -> pd.DataFrame:
        bots, pacing = numbers.bots, numbers.pacing
        used: int = connection.execute(
            _REPLIES_TODAY,
            {
                "mailbox_id": mailbox.access.mailbox_id,
                "day": local_day(self.clock.now(), mailbox.zone),
            },
        ).scalar_one()
        cap = bots.daily_reply_cap if is_bot else numbers.quota.total_daily_cap
        return pd.DataFrame(
            {
                "slot_id": list(by_slot),
                "turn": [places[slot_id] for slot_id in by_slot],
                "received_at": pd.to_datetime([arrival.received_at for arrival in by_slot.values()], utc=True).astype(
                    "datetime64[us, UTC]"
                ),
                "responder_id": mailbox.access.mailbox_id,
                "zone": mailbox.zone,
                "wake_start": bots.wake_start if is_bot else pacing.window_start,
                "wake_end": bots.wake_end if is_bot else pacing.window_end,
                "replies_left": max(cap - used, 0),
            }
        )

    def _schedule(
        self, connection: Connection, mailbox: Mailbox, arrival: Arrival, reply_at: datetime, profile: str | None
    ) -> None:
        """Put the reply into the queue, once; it answers exactly this mail in its own thread."""
        parent = arrival.slot
        kind = warmup_kind(parent.turn + 1)
        pacing = self.force.policy.profile(profile).pacing
        key = f"reply:{parent.message_id}"
        signing_key = self.settings.require_token_keys()[0].get_secret_value().encode()
        answer = {
            "priority_level": int(kind.priority),
            "task_type": kind.task_type,
            "target_time": reply_at,
            "payload": _thread_of(arrival) | ({} if profile is None else {PROFILE_KEY: profile}),
            "idempotency_key": key,
            "from_mailbox_id": parent.to_mailbox_id,
            "to_mailbox_id": parent.from_mailbox_id,
            "sender_id": parent.sender_id,
            "bot_id": parent.bot_id,
            "conversation_id": parent.conversation_id,
            "parent_slot_id": parent.id,
            "turn": parent.turn + 1,
            "local_day": local_day(reply_at, mailbox.zone),
            "gap_s": int(gaps_s(pacing, state(self.force.seed, "reply_gap"), [parent.id])[0]),
            "message_id": message_id_for(key, domain_of(mailbox.access.address), signing_key),
            "policy_id": self.force.policy_id,
        }
        if not slot_store.add(connection, [answer]):
            return
        event_log.record_reply(
            connection,
            parent,
            occurred_at=self.clock.now(),
            mailbox_id=mailbox.access.mailbox_id,
            reply_at=reply_at,
        )
        self.found["replies"] += 1


def profile_of(connection: Connection, slot: Slot) -> str | None:
    """Return the profile of the bot or the sender that got this mail."""
    key = {"is_bot": slot.kind.goes_to_bot, "sender_id": slot.sender_id, "bot_id": slot.bot_id}
    name: str | None = connection.execute(_PROFILE, key).scalar_one()
    return name


def _thread_of(arrival: Arrival) -> dict[str, Any]:
    """Return the payload of a reply: the same script, of the same set, and thread, threaded by RFC 5322 3.6.4.

    It answers the Message-ID that arrived, as any mail program does. If a relay wrote its own, the other end has ours,
    so both are named.
    """
    parent = arrival.slot
    arrived = arrival.message.message_id
    if arrived is None or "=?" in arrived:  # no header of ours can hold that
        arrived = parent.message_id
    references = [*parent.payload.get("references", ()), *dict.fromkeys([parent.message_id, arrived])]
    return {
        **{name: parent.payload[name] for name in ("script", PAYLOAD_KEY) if name in parent.payload},
        "thread": parent.thread,
        "in_reply_to": arrived,
        "references": references,
    }
