"""After a restore: look for what left since the backup, write it down, and let mail go on.

Every own mailbox is read, all folders, for genuine warm-up mail that the database does not know as sent:

* Its slot is in the backup: the slot is ``sent``, when the mail arrived.
* Its slot was made after the backup: it is written anew from the mail itself, as ``sent``; an answer as that of the
  mail which it answers, so that none is answered twice.

Both are counted in days and caps of the time at which they arrived, pairs and conversations follow, and the event is
told. A slot of the backup that could have left by now, and was not found, is ``uncertain`` and unresolved: it is
counted and not sent again unless a person says that it did not leave (``emberflow queue settle SLOT --not-sent``).
Hours that had begun are not planned again, and mail of before gets no new answer: what left for either may have left
no trace.

Repeating it changes nothing more. A mailbox or mail that cannot be read may hold what counts, so mail stays held unless
a person decides to go on without it; the others are taken in all the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text
from sqlalchemy.exc import InterfaceError, OperationalError

from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import Clock, local_day
from emberflow.database import restores
from emberflow.database.restores import Restore
from emberflow.database.server_clock import shared
from emberflow.domain.mail_kind import warmup_kind
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import domain_of
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader
from emberflow.email_ops.message import message_id_for
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify
from emberflow.errors import EmberflowError
from emberflow.policy.script_sets import PAYLOAD_KEY
from emberflow.policy.versions import PolicyInForce, in_force
from emberflow.queue_manager import pre_send, slot_store
from emberflow.queue_manager.receiving import message_faults
from emberflow.queue_manager.receiving.mail_search import Uncertain
from emberflow.queue_manager.receiving.reconcile import settle_as_sent
from emberflow.queue_manager.slot_token import token_of
from emberflow.settings import Settings

log = logging.getLogger(__name__)

# Before the backup: the mail servers' clocks and calendars are not ours, and what is known already changes nothing.
_READ_BEFORE = timedelta(days=7)
_UNKNOWN_SCRIPT = "unknown"
_REASON_CHARACTERS = 300

_MAILBOXES = text("select id, address from ops.mailboxes where removed_at is null order by id")

_PARTIES = text("""
    select senders.mailbox_id as sender_mailbox_id, bots.mailbox_id as bot_mailbox_id
    from ops.senders
    cross join ops.bots
    where senders.id = :sender_id and bots.id = :bot_id
""")

_PARENT = text("select * from ops.slots where message_id = :message_id")

# What the backup does not know as submitted may have left since if it was due by now.
_IN_DOUBT = text("""
    select id
    from ops.slots
    where status in ('planned', 'leased', 'parked') and target_time <= :noticed_at
    order by id
""")

_WRITE_ANEW = text("""
    insert into ops.scheduled_tasks
        (id, priority_level, task_type, target_time, payload, idempotency_key, from_mailbox_id, to_mailbox_id,
        sender_id, bot_id, conversation_id, parent_slot_id, turn, local_day, gap_s, message_id, policy_id)
    overriding system value
    values (:id, :priority_level, :task_type, :target_time, cast(:payload as jsonb), :idempotency_key, :from_mailbox_id,
        :to_mailbox_id, :sender_id, :bot_id, :conversation_id, :parent_slot_id, :turn, :local_day, 0, :message_id,
        :policy_id)
    on conflict do nothing
    returning id
""")

_IS_ON_RECORD = text("""
    select exists (
        select from ops.scheduled_tasks where message_id = :message_id or idempotency_key = :idempotency_key
    )
""")

_NEXT_NUMBER = text("select nextval(pg_get_serial_sequence('ops.scheduled_tasks', 'id'))")

# Slots that are made from now on take no number of one that was lost, also of one whose mail was not found.
_SKIP_NUMBERS = text("""
    select setval(
        pg_get_serial_sequence('ops.scheduled_tasks', 'id'),
        greatest(:highest, (select max(id) from ops.scheduled_tasks), 1) + 1000000
    )
""")


class MailboxesUnreadError(EmberflowError):
    """Mailboxes could not be read that may hold mail which left after the backup; mail stays held."""


@dataclass
class Settlement:
    """What came of a restore: how many mails were ``found`` (their slots were in the backup), ``rebuilt`` (they were
    not), and left ``in_doubt``; and why mailboxes could not be read, by address.
    """

    found: int = 0
    rebuilt: int = 0
    in_doubt: int = 0
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Arrived:
    """A genuine warm-up mail and the mailbox in which it lies."""

    token: WarmupToken
    message: ReceivedMessage
    mailbox: Mailbox

    @property
    def where(self) -> str:
        return f"in {self.message.folder} of its recipient, after the database was restored"


def settle(
    engine: Engine,
    *,
    clock: Clock,
    settings: Settings,
    by: str,
    declare: bool = False,
    despite_unread: bool = False,
    since: datetime | None = None,
) -> Settlement:
    """Settle the restore of the database; ``declare`` says that there was one although nothing shows it.

    Mailboxes are read from seven days before ``since``, the moment of the backup. If it is not given, it is the last
    submission in the backup if that is certain, else the beginning of all records.

    Raises:
        EmberflowError: nothing shows that the database was restored, and it is not declared.
        MailboxesUnreadError: a mailbox could not be read; what was found is written down, and mail stays held.
        ConfigurationError: as in ``dispatcher.dispatch_shard``.
    """
    clock = shared(engine, clock)
    restore = restores.notice(engine)
    if restore is None and declare:
        restore = restores.declare(engine, f"told by {by}")
    if restore is None:
        raise EmberflowError(
            "nothing shows that this database was restored, and mail is not held. If it was, say so with --declare: "
            "then what was due and is found nowhere is left in doubt"
        )
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        force = in_force(connection)
        addresses = {row.id: row.address for row in connection.execute(_MAILBOXES)}
        opened = open_mailboxes(connection, settings, addresses)
    report = Settlement(unread={addresses[one]: why for one, why in opened.unreadable.items()})
    arrived: list[_Arrived] = []
    read_from = (since or restore.newest_at) - _READ_BEFORE
    for mailbox in opened.boxes.values():
        try:
            arrived += _read(engine, mailbox, mode, settings, since=read_from)
        except Exception as error:  # one mailbox keeps no other back
            _not_read(report, mailbox, error)
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    with engine.begin() as connection:
        highest = max((one.token.slot_id for one in arrived), default=1)
        connection.execute(_SKIP_NUMBERS, {"highest": highest})
    settling = _Settling(restore, force, settings, clock, report)
    # Answers are found by what they answer, so the first mails of conversations come first.
    for one in sorted(arrived, key=lambda one: (one.token.turn, one.token.slot_id)):
        try:
            with engine.begin() as connection:
                settling.take_in(connection, one)
        except (OperationalError, InterfaceError):
            raise  # the database itself
        except Exception as error:  # one mail keeps no other back
            _not_read(report, one.mailbox, error, f"the mail of slot {one.token.slot_id}")
    if report.unread and not despite_unread:
        address, why = next(iter(report.unread.items()))
        raise MailboxesUnreadError(
            f"mail stays held: {len(report.unread)} mailboxes could not be read and may hold mail that left after the "
            f"backup, for instance {address}: {why}. Mend them and run it again; where one is too large to be read "
            "whole, say with --since when the backup was made. Or decide to go on without them with --despite-unread; "
            "what was due to them is then left in doubt"
        )
    with engine.begin() as connection:
        settling.leave_in_doubt(connection)
        restores.settled(connection, restore, by=by, outcome=json.dumps(asdict(report)))
    log.warning("the restore is settled, mail goes on: %s", report)
    return report


def _not_read(report: Settlement, mailbox: Mailbox, error: Exception, what: str = "") -> None:
    why = str(error)
    if not isinstance(error, EmberflowError):
        log.exception("%s in a mailbox: unknown error", what or "a folder", exc_info=error)
        why = f"{type(error).__name__}: {error}"
    shown = mailbox.access.public_text(f"{what}: {why}" if what else why)
    report.unread[mailbox.access.address] = shown[:_REASON_CHARACTERS]


def _read(engine: Engine, mailbox: Mailbox, mode: Mode, settings: Settings, *, since: datetime) -> Iterator[_Arrived]:
    """Return the genuine warm-up mail in a mailbox that arrived since then, from all its folders.

    What the inbox reader gave up as unreadable is left out.

    Raises:
        ImapError, EgressRefusedError: it could not be read.
    """
    with ImapReader(mailbox.access, mode, settings.ca_files) as reader:
        for folder in reader.folders():
            with engine.connect() as connection:
                given_up = message_faults.given_up(connection, mailbox.access.mailbox_id, folder)
            for message in _all_in(reader, folder, since, given_up):
                if message.token is None:
                    continue
                try:
                    token = verify(settings.require_token_keys(), message.token)
                except TokenError:
                    continue
                yield _Arrived(token, message, mailbox)


def _all_in(
    reader: ImapReader, folder: str, since: datetime, without: Collection[tuple[int, int]]
) -> Iterator[ReceivedMessage]:
    uidvalidity, _ = reader.select(folder)
    cursor, is_last = Cursor(uidvalidity, 1), False
    while not is_last:
        portion = reader.next_portion(folder, cursor, having="X-Emberflow-Token", without=without, since=since.date())
        unread = [one for one in portion.unread if not one.is_final]
        if unread:
            raise ImapError("imap_command", f"a message in {folder} could not be read: {unread[0].reason}")
        yield from portion.messages
        cursor, is_last = portion.cursor, portion.is_last


class _Settling:
    """One settlement's writing."""

    def __init__(
        self, restore: Restore, force: PolicyInForce, settings: Settings, clock: Clock, report: Settlement
    ) -> None:
        self._restore = restore
        self._force = force
        self._settings = settings
        self._clock = clock
        self._report = report

    def take_in(self, connection: Connection, one: _Arrived) -> None:
        """Write down that a mail was sent, unless it is on record, is a copy elsewhere, or is not ours after all."""
        token = one.token
        parties = connection.execute(_PARTIES, {"sender_id": token.sender_id, "bot_id": token.bot_id}).one_or_none()
        if parties is None:
            return
        sender, bot = parties.sender_mailbox_id, parties.bot_mailbox_id
        is_to_bot = warmup_kind(token.turn).goes_to_bot
        if one.mailbox.access.mailbox_id != (bot if is_to_bot else sender):
            return
        row = slot_store.lock(connection, token.slot_id)
        if row is not None and token_of(_unheld(row)) == token:
            if self._settle_as_sent(connection, row, one):
                self._report.found += 1
            return
        slot_id = self._write_anew(connection, one, *((sender, bot) if is_to_bot else (bot, sender)))
        written = None if slot_id is None else slot_store.lock(connection, slot_id)
        if written is not None and self._settle_as_sent(connection, written, one):
            self._report.rebuilt += 1

    def leave_in_doubt(self, connection: Connection) -> None:
        """Leave what may have left, and was not found, to a person."""
        ids: list[int] = list(connection.execute(_IN_DOUBT, {"noticed_at": self._restore.noticed_at}).scalars())
        for slot_id in ids:
            row = slot_store.lock(connection, slot_id)
            if row is not None:
                reason = (
                    "unresolved, it is neither sent again nor uncounted: it was due before the database was restored, "
                    "and no mailbox shows it"
                )
                self._put_in_doubt(connection, row, row["target_time"], reason, is_unresolved=True)
                self._report.in_doubt += 1

    def _settle_as_sent(self, connection: Connection, row: RowMapping, one: _Arrived) -> bool:
        if row["status"] not in ("planned", "leased", "parked", "submitting", "uncertain"):
            return False
        now = self._clock.now()
        arrived_at = min(one.message.internal_date or self._restore.noticed_at, self._restore.noticed_at, now)
        self._put_in_doubt(connection, row, arrived_at, "found after a restore", is_unresolved=False)
        locked = slot_store.lock(connection, row["id"])
        if locked is None:
            return False
        settle_as_sent(
            connection,
            Uncertain.of(locked),
            subject=one.message.subject or "",
            at=now,
            rests=self._force.policy.rests,
            evidence={"by": "restore", "where": one.where},
        )
        return True

    def _put_in_doubt(
        self, connection: Connection, row: RowMapping, submitted_at: datetime, reason: str, *, is_unresolved: bool
    ) -> None:
        now = self._clock.now()
        is_counted = row["status"] in ("submitting", "uncertain")
        if not is_counted:
            # Whatever attempts the backup knows of were taken back when they failed.
            pre_send.count_late(connection, _unheld(row), submitted_at=submitted_at, now=now)
        slot_store.put_in_doubt(
            connection,
            row["id"],
            reason,
            submitted_at=None if is_counted else submitted_at,
            unresolved_at=now if is_unresolved else None,
        )

    def _write_anew(
        self, connection: Connection, one: _Arrived, from_mailbox_id: int, to_mailbox_id: int
    ) -> int | None:
        """Write the slot of a mail that was planned after the backup; return its id, None if it is on record."""
        token, message = one.token, one.message
        kind = warmup_kind(token.turn)
        at = min(message.internal_date or self._restore.noticed_at, self._restore.noticed_at)
        parent = self._parent_of(connection, one)
        from_row = connection.execute(
            text("select address, zone from ops.mailboxes where id = :id"), {"id": from_mailbox_id}
        ).one()
        if parent is None:
            key = f"warmup:restored:{token.sender_id}:{token.slot_id}"
            payload: dict[str, Any] = {"script": _UNKNOWN_SCRIPT, "thread": key}
        else:
            key = f"reply:{parent['message_id']}"
            payload = {
                **{name: parent["payload"][name] for name in ("script", PAYLOAD_KEY) if name in parent["payload"]},
                "thread": parent["payload"].get("thread", parent["idempotency_key"]),
                "in_reply_to": parent["message_id"],
                "references": [*parent["payload"].get("references", ()), parent["message_id"]],
            }
        signing_key = self._settings.require_token_keys()[0].get_secret_value().encode()
        values = {
            "priority_level": int(kind.priority),
            "task_type": kind.task_type,
            "target_time": at,
            "payload": json.dumps(payload),
            "idempotency_key": key,
            "from_mailbox_id": from_mailbox_id,
            "to_mailbox_id": to_mailbox_id,
            "sender_id": token.sender_id,
            "bot_id": token.bot_id,
            "conversation_id": None if parent is None else parent["conversation_id"],
            "parent_slot_id": None if parent is None else parent["id"],
            "turn": token.turn,
            "local_day": local_day(at, from_row.zone),
            "message_id": message.message_id or message_id_for(key, domain_of(from_row.address), signing_key),
            "policy_id": self._force.policy_id,
        }
        slot_id: int | None = connection.execute(_WRITE_ANEW, values | {"id": token.slot_id}).scalar_one_or_none()
        if slot_id is None and not connection.execute(_IS_ON_RECORD, values).scalar_one():
            # Another slot has got its number since the database was put back.
            number: int = connection.execute(_NEXT_NUMBER).scalar_one()
            slot_id = connection.execute(_WRITE_ANEW, values | {"id": number}).scalar_one_or_none()
        if slot_id is not None:
            slot_store.open_states(connection, [slot_id])
            log.info("slot %s was written anew from its mail", slot_id)
        return slot_id

    @staticmethod
    def _parent_of(connection: Connection, one: _Arrived) -> RowMapping | None:
        """Return the slot whose mail this one answers, if it is on record."""
        answered = (one.message.in_reply_to, *reversed(one.message.references))
        for message_id in answered if one.token.turn > 1 else ():
            row = connection.execute(_PARENT, {"message_id": message_id}).mappings().one_or_none()
            if row is not None and row["turn"] == one.token.turn - 1 and row["sender_id"] == one.token.sender_id:
                return row
        return None


def _unheld(row: RowMapping) -> Slot:
    return Slot.of({**row, "lease_token": ""})
