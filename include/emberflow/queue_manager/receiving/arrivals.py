"""A message that carries a token of ours: is it genuine, and where was it found?

The signed token decides, and the mailbox in which the message lies: a relay may have written its own Message-ID, which
is then kept beside ours. What a stranger copies, alters or makes up is recorded as rejected and moves nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text

from emberflow.accounts.mailboxes import Mailbox
from emberflow.bots.policy import Rests
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.domain.events import EventType
from emberflow.domain.slot import Slot
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.received import ReceivedMessage
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify
from emberflow.queue_manager import event_log, slot_store
from emberflow.queue_manager.receiving import filed_mail
from emberflow.queue_manager.receiving.mail_search import Uncertain
from emberflow.queue_manager.receiving.reconcile import settle_as_sent
from emberflow.queue_manager.slot_token import token_of
from emberflow.settings import Settings

Placement = Literal["inbox", "junk"]


class StillBeingSentError(Exception):
    """The worker that sent this mail has not committed its result; look again next time."""


@dataclass(frozen=True)
class Arrival:
    """A genuine warm-up mail seen in the mailbox that it was sent to; ``was_junked``: first, or now, in Junk."""

    slot: Slot
    message: ReceivedMessage
    received_at: datetime
    was_junked: bool


@dataclass(frozen=True)
class Finder:
    """One run's judge of arrivals. ``found`` counts them by kind."""

    settings: Settings
    clock: Clock
    rests: Rests
    found: Counter[str]

    def take_in(
        self,
        connection: Connection,
        mailbox: Mailbox,
        message: ReceivedMessage,
        placement: Placement,
        uidvalidity: int,
        junk_folder: str,
    ) -> Arrival | None:
        """Record where a warm-up mail was found; None if it is not one, or is a further copy of one.

        ``junk_folder`` is that of the mailbox, or ``none``: the event says whether junk could have been seen.

        Raises:
            StillBeingSentError: nothing was recorded.
        """
        mailbox_id = mailbox.access.mailbox_id
        uid = f"{message.folder}:{uidvalidity}:{message.uid}"
        seen_at = self.clock.now()
        try:
            token = verify(self.settings.require_token_keys(), message.token or "")
            genuine = self._genuine(connection, token, message, mailbox.access)
        except TokenError as error:
            self._reject(connection, mailbox_id, uid, message, error.reason, seen_at)
            return None
        if genuine is None:
            self._reject(connection, mailbox_id, uid, message, "unknown", seen_at)
            return None
        slot = genuine.slot
        received_at = arrived_at(message.internal_date, genuine.submitted_at, seen_at)
        is_new = event_log.record_event(
            connection,
            EventType.PLACED_JUNK if placement == "junk" else EventType.PLACED_INBOX,
            f"placed:{slot.idempotency_key}",
            occurred_at=received_at,
            mailbox_id=mailbox_id,
            slot=slot,
            details={
                "uid": uid,
                "turn": slot.turn,
                "direction": "to_bot" if slot.kind.goes_to_bot else "to_sender",
                "provider": mailbox.provider,
                "junk_folder": junk_folder,
                "message_id": message.message_id,
                "header_digest": message.header_digest,
            },
        )
        first: Placement | None = placement
        if is_new:
            self.found[placement] += 1
        else:
            first = self._first_placement(connection, slot, uid, placement, mailbox_id, seen_at)
        if first is None:
            if filed_mail.was_filed(connection, slot, message.header_digest):
                return None  # a person has put it back
            self._reject(connection, mailbox_id, uid, message, "reused", seen_at)
            return None
        return Arrival(slot, message, received_at, was_junked=first == "junk")

    def _genuine(
        self, connection: Connection, token: WarmupToken, message: ReceivedMessage, access: MailboxAccess
    ) -> Uncertain | None:
        """Return the mail that the token names if this mailbox is really its recipient's."""
        row = slot_store.lock(connection, token.slot_id)
        if row is None:
            return None
        mail = Uncertain.of(row)
        slot = mail.slot
        if token_of(slot) != token or slot.to_mailbox_id != access.mailbox_id:
            return None
        if row["status"] == "submitting":
            raise StillBeingSentError
        if row["attempts"] == 0:
            raise restores.DatabaseBehindError(
                f"{message.message_id} lies in {access.address}, and as far as it knows that was never submitted"
            )
        if row["status"] == "uncertain":
            return self._resolve(connection, mail, message)
        return mail

    def _resolve(self, connection: Connection, mail: Uncertain, message: ReceivedMessage) -> Uncertain:
        """An uncertain mail was found at its recipient: it was sent (Q-F5)."""
        settle_as_sent(
            connection,
            mail,
            subject=message.subject or "",
            at=self.clock.now(),
            rests=self.rests,
            evidence={"by": "inbox", "where": f"in {message.folder} of its recipient"},
        )
        self.found["resolved"] += 1
        # Its conversation began with that.
        settled = slot_store.lock(connection, mail.slot.id)
        return mail if settled is None else Uncertain.of(settled)

    def _first_placement(
        self,
        connection: Connection,
        slot: Slot,
        uid: str,
        placement: Placement,
        mailbox_id: int,
        seen_at: datetime,
    ) -> Placement | None:
        """Return where the copy that was placed lay (it is read again, or back from Junk); None: it is another one."""
        first = connection.execute(
            text("select event_type, details from ops.mail_events where natural_key = :key"),
            {"key": f"placed:{slot.idempotency_key}"},
        ).one()
        placed: Placement = "junk" if first.event_type == "placed_junk" else "inbox"
        if _is_same_place(first.details["uid"], uid):
            return placed
        if placed != "junk" or placement != "inbox":
            return None
        if event_log.record_rescue(connection, slot, occurred_at=seen_at, mailbox_id=mailbox_id, uid=uid):
            self.found["rescued"] += 1
            return placed
        rescued = connection.execute(
            text("select details from ops.mail_events where natural_key = :key"),
            {"key": f"rescued:{slot.idempotency_key}"},
        ).one()
        return placed if _is_same_place(rescued.details["uid"], uid) else None

    def _reject(
        self,
        connection: Connection,
        mailbox_id: int,
        uid: str,
        message: ReceivedMessage,
        reason: str,
        seen_at: datetime,
    ) -> None:
        is_new = event_log.record_event(
            connection,
            EventType.TOKEN_REJECTED,
            f"token_rejected:{mailbox_id}:{message.header_digest}",
            occurred_at=seen_at,
            mailbox_id=mailbox_id,
            message_id=message.message_id,
            details={"reason": reason, "uid": uid, "from": message.from_address},
        )
        self.found["rejected"] += int(is_new)


def arrived_at(internal_date: datetime | None, submitted_at: datetime | None, now: datetime) -> datetime:
    """Return when a mail arrived: not before it was sent and not after now, whatever INTERNALDATE says.

    A mailbox that was restored or migrated, or a server whose clock is off, tells any year.
    """
    told = min(internal_date or now, now)
    return told if submitted_at is None else max(told, min(submitted_at, now))


def _is_same_place(known: str, seen: str) -> bool:
    """Compare two ``folder:uidvalidity:uid``; after a renumbering (RFC 9051 2.3.1.1) UIDs say nothing."""
    known_folder, known_validity, known_uid = known.rsplit(":", 2)
    folder, validity, uid = seen.rsplit(":", 2)
    return known_folder == folder and (known_validity != validity or known_uid == uid)
