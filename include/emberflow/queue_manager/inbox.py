"""Inbox intake: read owned mailboxes, record placement, rescue from Junk, decide and schedule replies.

Junk is read first: a junked warm-up mail is recorded as such and moved to the inbox, and only when it is seen
there (B-B5) does its reader decide to reply. Every step can be repeated: events have natural keys, a decision
is drawn from the slot's own stream, a reply has an idempotency key of its parent, and the cursor of a folder
moves only after everything that was read is committed. A crash therefore costs a second reading, not a second
reply.

A shard is a fixed share of the mailboxes (mailbox id modulo the number of shards).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pandas as pd
from sqlalchemy import Connection, Engine, RowMapping, text
from sqlalchemy.dialects.postgresql import insert

from emberflow.bots.replies import decide_replies
from emberflow.clock import Clock, local_day
from emberflow.database.tables import imap_cursors
from emberflow.email_ops.addresses import domain_of
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader
from emberflow.email_ops.message import message_id_for
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify
from emberflow.errors import EgressRefusedError, EmberflowError
from emberflow.queue_manager import ledger, store
from emberflow.queue_manager.database_clock import shared
from emberflow.queue_manager.mail_search import Uncertain
from emberflow.queue_manager.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.queue_manager.policies import PolicyInForce, in_force
from emberflow.queue_manager.reconcile import settle_as_sent
from emberflow.queue_manager.slots import Priority, Slot
from emberflow.queue_manager.switches import enter_mail_mode
from emberflow.randomness import state
from emberflow.senders.pacing import gaps_s
from emberflow.settings import Settings

log = logging.getLogger(__name__)

Placement = Literal["inbox", "junk"]

_READABLE = text("""
    select mailboxes.id
    from ops.mailboxes
    left join ops.senders on senders.mailbox_id = mailboxes.id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    where mailboxes.id % :shards = :shard
        and mailboxes.check_passed
        and (senders.state in ('active', 'paused') or bots.status in ('active', 'paused'))
    order by mailboxes.id
""")

_REPLIES_TODAY = text("""
    select count(*)
    from ops.slots
    where from_mailbox_id = :mailbox_id
        and parent_slot_id is not null
        and local_day = :day
        and status in ('planned', 'leased', 'submitting', 'sent', 'uncertain')
""")

_SCHEDULED = text("""
    update ops.conversations
    set thread_status = 'reply_scheduled', next_action_time = :reply_at, updated_at = clock_timestamp()
    where id = :id
""")


class _StillBeingSentError(Exception):
    """The worker that sent this mail has not committed its result; look again next time."""


class InboxUnreadableError(EmberflowError):
    """Not one mailbox of a shard could be read."""


@dataclass
class ShardReport:
    """What one run found in one shard, by kind, and the mailboxes that could not be read."""

    shard: int
    mailboxes: int = 0
    found: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def read_shard(engine: Engine, shard: int, *, clock: Clock, settings: Settings) -> ShardReport:
    """Read every mailbox of ``shard`` once; one that fails does not keep the others from being read.

    Raises:
        InboxUnreadableError: all of them failed.
        ConfigurationError: as in ``dispatcher.dispatch_lane``.
    """
    clock = shared(engine, clock)
    report = ShardReport(shard)
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        force = in_force(connection)
        shards = force.policy.inbox.shards
        ids: list[int] = list(connection.execute(_READABLE, {"shard": shard, "shards": shards}).scalars())
        opened = open_mailboxes(connection, settings, ids)
    reading = _Reading(engine, force, mode, clock, settings, report)
    report.unreadable += [f"mailbox {mailbox_id}: {reason}" for mailbox_id, reason in opened.unreadable.items()]
    for mailbox in opened.boxes.values():
        try:
            reading.read(mailbox)
        except (ImapError, EgressRefusedError) as error:
            log.warning("mailbox %s could not be read: %s", mailbox.access.mailbox_id, error)
            report.unreadable.append(f"mailbox {mailbox.access.mailbox_id}: {error}")
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    report.mailboxes = len(ids)
    if ids and len(report.unreadable) == len(ids):
        raise InboxUnreadableError(
            f"shard {shard}: none of {len(ids)} mailboxes could be read; the first: {report.unreadable[0]}"
        )
    return report


@dataclass(frozen=True)
class _Arrival:
    """A genuine warm-up mail seen in the inbox of the mailbox that it was sent to."""

    slot: Slot
    message: ReceivedMessage
    received_at: datetime


class _Reading:
    """One run's pass over mailboxes."""

    def __init__(
        self,
        engine: Engine,
        force: PolicyInForce,
        mode: Mode,
        clock: Clock,
        settings: Settings,
        report: ShardReport,
    ) -> None:
        self._engine = engine
        self._force = force
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._report = report
        self._scripts = load_scripts(settings.scripts_dir or BUILT_IN)

    def read(self, mailbox: Mailbox) -> None:
        """Read Junk, then INBOX."""
        with ImapReader(mailbox.access, self._mode, self._settings.ca_files) as reader:
            junk = reader.find_folder("\\Junk")
            if junk is not None:
                self._read_folder(reader, mailbox, junk, "junk")
            self._read_folder(reader, mailbox, "INBOX", "inbox")

    def _read_folder(self, reader: ImapReader, mailbox: Mailbox, folder: str, placement: Placement) -> None:
        mailbox_id = mailbox.access.mailbox_id
        with self._engine.begin() as connection:
            before = _cursor(connection, mailbox_id, folder)
        messages, after = reader.new_messages(folder, before)
        arrivals: list[_Arrival] = []
        is_complete = True
        with self._engine.begin() as connection:
            for message in messages:
                if message.token is None:
                    continue
                try:
                    arrival = self._take_in(connection, mailbox, message, placement, after.uidvalidity)
                except _StillBeingSentError:
                    is_complete = False
                    continue
                if arrival is not None:
                    arrivals.append(arrival)
            if placement == "inbox":
                self._answer(connection, mailbox, arrivals)
        uids = [arrival.message.uid for arrival in arrivals]
        if uids and placement == "junk":
            reader.move(uids, "INBOX")
        elif uids:
            reader.mark_seen(uids)
        if is_complete and after != before:
            with self._engine.begin() as connection:
                _move_cursor(connection, mailbox_id, folder, after)

    def _take_in(
        self,
        connection: Connection,
        mailbox: Mailbox,
        message: ReceivedMessage,
        placement: Placement,
        uidvalidity: int,
    ) -> _Arrival | None:
        """Record where a warm-up mail was found; None if it is not one, or is a further copy of one."""
        mailbox_id = mailbox.access.mailbox_id
        uid = f"{message.folder}:{uidvalidity}:{message.uid}"
        seen_at = self._clock.now()
        try:
            token = verify(self._settings.require_token_keys(), message.token or "")
            slot = self._genuine(connection, token, message, mailbox_id)
        except TokenError as error:
            self._reject(connection, mailbox_id, uid, message, error.reason, seen_at)
            return None
        if slot is None:
            self._reject(connection, mailbox_id, uid, message, "unknown", seen_at)
            return None
        received_at = min(message.internal_date or seen_at, seen_at)
        is_new = ledger.record_event(
            connection,
            f"placed_{placement}",
            f"placed:{slot.idempotency_key}",
            occurred_at=received_at,
            mailbox_id=mailbox_id,
            slot=slot,
            details={
                "uid": uid,
                "turn": slot.turn,
                "direction": "to_bot" if slot.goes_to_bot else "to_sender",
                "provider": mailbox.provider,
            },
        )
        if is_new:
            self._report.found[placement] += 1
        elif not self._is_same_copy(connection, slot, uid, placement, mailbox_id, seen_at):
            self._reject(connection, mailbox_id, uid, message, "reused", seen_at)
            return None
        return _Arrival(slot, message, received_at)

    def _genuine(
        self, connection: Connection, token: WarmupToken, message: ReceivedMessage, mailbox_id: int
    ) -> Slot | None:
        """Return the slot that the token names if this message and this mailbox are really its own."""
        row = store.lock(connection, token.slot_id)
        if row is None:
            return None
        slot = _slot_in(row)
        if slot.bot_id is None:
            return None
        named = WarmupToken(slot.id, slot.sender_id, slot.bot_id, slot.turn)
        if named != token or slot.message_id != message.message_id or slot.to_mailbox_id != mailbox_id:
            return None
        if row["status"] == "submitting":
            raise _StillBeingSentError
        if row["status"] == "uncertain":
            slot = self._resolve(connection, Uncertain(slot, row["submitted_at"]), message)
        return slot

    def _resolve(self, connection: Connection, mail: Uncertain, message: ReceivedMessage) -> Slot:
        """An uncertain mail was found at its recipient: it was sent (Q-F5)."""
        settle_as_sent(
            connection,
            mail,
            subject=message.subject or "",
            at=self._clock.now(),
            cooldown_s=self._force.policy.bots.cooldown_s,
            told={"by": "inbox", "where": f"in {message.folder} of its recipient"},
        )
        self._report.found["resolved"] += 1
        # Its conversation began with that.
        settled = store.lock(connection, mail.slot.id)
        return mail.slot if settled is None else _slot_in(settled)

    def _is_same_copy(
        self,
        connection: Connection,
        slot: Slot,
        uid: str,
        placement: Placement,
        mailbox_id: int,
        seen_at: datetime,
    ) -> bool:
        """Tell the copy that was placed (read again, or back from Junk) from another one with its token."""
        first = connection.execute(
            text("select event_type, details from ops.mail_events where natural_key = :key"),
            {"key": f"placed:{slot.idempotency_key}"},
        ).one()
        if _is_same_place(first.details["uid"], uid):
            return True
        if first.event_type != "placed_junk" or placement != "inbox":
            return False
        if ledger.record_rescue(connection, slot, occurred_at=seen_at, mailbox_id=mailbox_id, uid=uid):
            self._report.found["rescued"] += 1
            return True
        rescued = connection.execute(
            text("select details from ops.mail_events where natural_key = :key"),
            {"key": f"rescued:{slot.idempotency_key}"},
        ).one()
        return _is_same_place(rescued.details["uid"], uid)

    def _reject(
        self,
        connection: Connection,
        mailbox_id: int,
        uid: str,
        message: ReceivedMessage,
        reason: str,
        seen_at: datetime,
    ) -> None:
        told = ledger.record_event(
            connection,
            "token_rejected",
            f"token_rejected:{mailbox_id}:{uid}",
            occurred_at=seen_at,
            mailbox_id=mailbox_id,
            message_id=message.message_id,
            details={"reason": reason, "uid": uid, "from": message.from_address},
        )
        self._report.found["rejected"] += int(told)

    def _answer(self, connection: Connection, mailbox: Mailbox, arrivals: Iterable[_Arrival]) -> None:
        """Let the mailbox decide about each mail that it got, and schedule its replies (B-B6, B-B7, B-B8)."""
        by_slot: dict[int, _Arrival] = {}
        for arrival in arrivals:
            if arrival.slot.turn < self._scripts.turns(arrival.slot.payload["script"]):
                by_slot[arrival.slot.id] = arrival
            else:
                ledger.close_conversation(connection, arrival.slot)
        if not by_slot:
            return
        decided = decide_replies(
            self._received(connection, mailbox, by_slot), self._force.policy.replies, self._settings.seed
        )
        for slot_id, replies, reply_at in zip(decided["slot_id"], decided["replies"], decided["reply_at"], strict=True):
            arrival = by_slot[int(slot_id)]
            if replies:
                self._schedule(connection, mailbox, arrival, reply_at.to_pydatetime())
            else:
                ledger.close_conversation(connection, arrival.slot)

    def _received(self, connection: Connection, mailbox: Mailbox, by_slot: Mapping[int, _Arrival]) -> pd.DataFrame:
        bots = self._force.policy.bots
        pacing = self._force.policy.pacing
        is_bot = next(iter(by_slot.values())).slot.goes_to_bot
        used: int = connection.execute(
            _REPLIES_TODAY,
            {
                "mailbox_id": mailbox.access.mailbox_id,
                "day": local_day(self._clock.now(), mailbox.zone),
            },
        ).scalar_one()
        cap = bots.daily_reply_cap if is_bot else self._force.policy.quota.total_daily_cap
        return pd.DataFrame(
            {
                "slot_id": list(by_slot),
                "turn": [arrival.slot.turn for arrival in by_slot.values()],
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

    def _schedule(self, connection: Connection, mailbox: Mailbox, arrival: _Arrival, reply_at: datetime) -> None:
        """Put the reply into the queue, once; it answers exactly this mail in its own thread."""
        parent = arrival.slot
        key = f"reply:{parent.message_id}"
        signing_key = self._settings.require_token_keys()[0].get_secret_value().encode()
        answer = {
            "priority_level": int(Priority.REPLY),
            "task_type": "reply",
            "target_time": reply_at,
            "payload": _thread_of(parent),
            "idempotency_key": key,
            "from_mailbox_id": parent.to_mailbox_id,
            "to_mailbox_id": parent.from_mailbox_id,
            "sender_id": parent.sender_id,
            "bot_id": parent.bot_id,
            "conversation_id": parent.conversation_id,
            "parent_slot_id": parent.id,
            "turn": parent.turn + 1,
            "local_day": local_day(reply_at, mailbox.zone),
            "gap_s": int(gaps_s(self._force.policy.pacing, state(self._settings.seed, "reply_gap"), [parent.id])[0]),
            "message_id": message_id_for(key, domain_of(mailbox.access.address), signing_key),
            "policy_id": self._force.policy_id,
        }
        if not store.add(connection, [answer]):
            return
        connection.execute(_SCHEDULED, {"id": parent.conversation_id, "reply_at": reply_at})
        ledger.record_event(
            connection,
            "replied",
            f"replied:{parent.idempotency_key}",
            occurred_at=self._clock.now(),
            mailbox_id=mailbox.access.mailbox_id,
            slot=parent,
            details={"turn": parent.turn, "reply_at": reply_at.isoformat()},
        )
        self._report.found["replies"] += 1


def _slot_in(row: RowMapping) -> Slot:
    """Return the slot in ``row``; a reader of mail holds no lease."""
    return Slot.of({**row, "lease_token": ""})


def _is_same_place(known: str, seen: str) -> bool:
    """Compare two ``folder:uidvalidity:uid``; after a renumbering (RFC 9051 2.3.1.1) UIDs say nothing."""
    known_folder, known_validity, known_uid = known.rsplit(":", 2)
    folder, validity, uid = seen.rsplit(":", 2)
    return known_folder == folder and (known_validity != validity or known_uid == uid)


def _thread_of(parent: Slot) -> dict[str, Any]:
    """Return the payload of a reply: the same script and thread, threaded by RFC 5322 3.6.4."""
    references = [*parent.payload.get("references", ()), parent.message_id]
    return {
        "script": parent.payload["script"],
        "thread": parent.thread,
        "in_reply_to": parent.message_id,
        "references": references,
    }


def _cursor(connection: Connection, mailbox_id: int, folder: str) -> Cursor | None:
    row = connection.execute(
        imap_cursors.select().where(imap_cursors.c.mailbox_id == mailbox_id, imap_cursors.c.folder == folder)
    ).one_or_none()
    return None if row is None else Cursor(row.uidvalidity, row.next_uid)


def _move_cursor(connection: Connection, mailbox_id: int, folder: str, cursor: Cursor) -> None:
    row = {
        "uidvalidity": cursor.uidvalidity,
        "next_uid": cursor.next_uid,
        "synced_at": text("clock_timestamp()"),
    }
    statement = insert(imap_cursors).values(mailbox_id=mailbox_id, folder=folder, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["mailbox_id", "folder"], set_=row))
