"""What came to a mailbox without a token of ours: settled with what was sent, and recorded once.

:mod:`emberflow.email_ops.classify` decides what it is and whether it counts; here its mail is looked up and the row is
written. A mail is looked for by the Message-IDs that the message names, by the token that a report returns, and if
that finds none, by people and subject among what the mailbox sent in 30 days. What follows from a row that counts is in
:mod:`emberflow.queue_manager.receiving.inbound_effects`, and in the same transaction.

The natural key is the mailbox and the message's fingerprint: a folder that was numbered anew, a second reading, and a
message that its owner moved, add no row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from emberflow.accounts import suppression_hashes, suppressions
from emberflow.accounts.suppression_hashes import BlindError
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.email_ops.addresses import AddressError, normalise
from emberflow.email_ops.classify import Settled, settle
from emberflow.email_ops.inbound import InboundMessage
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.matching import SentMail
from emberflow.queue_manager import sent_mail
from emberflow.queue_manager.receiving import inbound_effects
from emberflow.queue_manager.receiving.arrivals import arrived_at
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.queue_manager.sent_mail import storable
from emberflow.settings import Settings

_BY_SUBJECT_FOR = timedelta(days=30)
_ADDRESS_CHARACTERS = 320
_SUBJECT_CHARACTERS = 200

_RECORD = text("""
    insert into ops.inbound_messages
        (mailbox_id, fingerprint, folder, uidvalidity, uid, message_id, from_address, subject, kind, auto, counts,
        bounce_action, bounce_severity, bounce_status, bounce_recipient, return_date, matched_by, slot_id, evidence,
        arrived_at, recorded_at)
    values (
        :mailbox_id, :fingerprint, :folder, :uidvalidity, :uid, :message_id, :from_address, :subject, :kind, :auto,
        :counts, :bounce_action, :bounce_severity, :bounce_status, :bounce_recipient, :return_date, :matched_by,
        :slot_id, cast(:evidence as jsonb), :arrived_at, :recorded_at
    )
    on conflict do nothing
    returning id
""")
# Its Message-ID is a keyed hash, which nobody knows before it has left.
_NEVER_SUBMITTED = text("""
    select message_id
    from ops.slots
    where message_id = any(:message_ids) and submitted_at is null and attempts = 0
    limit 1
""")


# What a row holds of a person, without it.
_NOBODY: Final[Mapping[str, Any]] = {
    "message_id": None, "from_address": None, "subject": None, "bounce_recipient": None, "evidence": "[]",
}  # fmt: skip
# The row stays, by its fingerprint: a message that is read again is not recorded again.
_FORGET_PERSON = text("""
    update ops.inbound_messages
    set message_id = null, from_address = null, subject = null, bounce_recipient = null, evidence = '[]'
    where lower(from_address) = :address or lower(bounce_recipient) = :address or slot_id = any(:slots)
""")


def forget_person(connection: Connection, address: str, slot_ids: Sequence[int]) -> int:
    """Take out of what came in whoever wrote from an address, or about mail to it; return of how many messages."""
    return connection.execute(_FORGET_PERSON, {"address": address, "slots": list(slot_ids)}).rowcount


@dataclass(frozen=True)
class Recorder:
    """One run's keeper of what came back. ``found`` counts new rows as ``came_<kind>``, and what followed from them."""

    settings: Settings
    clock: Clock
    found: Counter[str]

    def take_in(self, connection: Connection, access: MailboxAccess, place: Place, message: InboundMessage) -> None:
        """Settle a message, record it, and let follow what does; unless it was recorded before.

        Raises:
            DatabaseBehindError: it is about a mail that has not left as far as the database knows.
        """
        now = self.clock.now()
        settled = self._settled(connection, access, message, now)
        found, mail = message.found, settled.match.mail if settled.match is not None else None
        bounce = found.bounce if settled.kind == "bounce" else None
        arrived = arrived_at(message.header.internal_date, mail.sent_at if mail is not None else None, now)
        row = {
            "fingerprint": message.fingerprint,
            "uid": message.header.uid,
            "message_id": message.header.message_id,
            "from_address": _storable(message.header.from_address, _ADDRESS_CHARACTERS),
            "subject": _storable(message.header.subject, _SUBJECT_CHARACTERS),
            "kind": settled.kind,
            "auto": found.auto,
            "counts": settled.counts,
            "bounce_action": bounce.action if bounce is not None else None,
            "bounce_severity": bounce.severity if bounce is not None else None,
            "bounce_status": _storable(bounce.status) if bounce is not None else None,
            "bounce_recipient": _storable(bounce.recipient, _ADDRESS_CHARACTERS) if bounce is not None else None,
            "return_date": found.return_date if settled.kind == "out_of_office" else None,
            "matched_by": settled.match.method if settled.match is not None else None,
            "slot_id": mail.slot_id if mail is not None else None,
            "evidence": json.dumps(
                [{name: _storable(words) for name, words in asdict(one).items()} for one in settled.evidence]
            ),
            "arrived_at": arrived,
            "recorded_at": now,
        }
        if self._is_erased(connection, row["from_address"], row["bounce_recipient"]):
            row |= _NOBODY
        row_id = connection.execute(_RECORD, vars(place) | row).scalar_one_or_none()
        if row_id is None:
            return
        followed = inbound_effects.follow(connection, row_id, settled, bounce, at=arrived)
        self.found.update([f"came_{settled.kind}", *followed])

    def _is_erased(self, connection: Connection, *written: Any) -> bool:
        """Say whether one of these is the address of somebody of whom only a hash is to be known.

        Without the key of the hashes nobody can say; then mail is recorded as it is, since reading must go on.
        """
        try:
            hasher = suppression_hashes.in_use(connection, self.settings.secret_keys)
        except BlindError:
            return False
        addresses = [] if hasher is None else [normal for one in written if one and (normal := _normal(one))]
        return hasher is not None and suppressions.is_known_by_hash(connection, addresses, hasher)

    def _settled(
        self, connection: Connection, access: MailboxAccess, message: InboundMessage, now: datetime
    ) -> Settled:
        offer = message.found.offer
        named = (*offer.in_reply_to, *offer.references, message.header.message_id)
        names = [storable(name) for name in named if name]
        slot_id = sent_mail.slot_of_token(message.found, self.settings.require_token_keys())
        slot_ids = [] if slot_id is None else [slot_id]
        sent = sent_mail.named(connection, names, slot_ids).sent
        if names and not sent:
            _refuse_if_behind(connection, access, names)
        settled = self._settle(access, message, sent)
        addresses = [address for address in (offer.to_address, *offer.recipients) if address]
        if settled.match is not None or settled.kind in ("own_copy", "warm_up") or not (addresses and offer.subject):
            return settled
        since = now - _BY_SUBJECT_FOR
        between = sent_mail.between(connection, access.mailbox_id, map(storable, addresses), since)
        return self._settle(access, message, [*sent, *between]) if between else settled

    def _settle(self, access: MailboxAccess, message: InboundMessage, sent: Iterable[SentMail]) -> Settled:
        return settle(
            message.found,
            mailbox=access.address,
            sent=sent,
            keys=self.settings.require_token_keys(),
        )


def _normal(written: str) -> str | None:
    try:
        return normalise(written)
    except AddressError:
        return None


def _storable(words: str | None, characters: int = 1_000) -> str | None:
    return None if words is None else storable(words, characters)


def _refuse_if_behind(connection: Connection, access: MailboxAccess, message_ids: list[str]) -> None:
    unknown = connection.execute(_NEVER_SUBMITTED, {"message_ids": message_ids}).scalar_one_or_none()
    if unknown is not None:
        raise restores.DatabaseBehindError(
            f"a message in {access.address} is about {unknown}, and as far as it knows that was never submitted"
        )
