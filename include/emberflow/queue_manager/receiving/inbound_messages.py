"""What came to a mailbox without a token of ours: settled with what was sent, and recorded once.

:mod:`emberflow.email_ops.classify` decides what it is and whether it counts; here its mail is looked up and the row is
written. A mail is looked for by the Message-IDs that the message names, by the token that a report returns, and if
that finds none, by people and subject among what the mailbox sent in 30 days. Nothing else follows from a row.

The natural key is the mailbox and the message's fingerprint: a folder that was numbered anew, a second reading, and a
message that its owner moved, add no row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from emberflow.clock import Clock
from emberflow.email_ops.classify import Settled, settle
from emberflow.email_ops.inbound import InboundMessage
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.matching import SentMail
from emberflow.email_ops.tokens import TokenError, verify
from emberflow.queue_manager.receiving.arrivals import arrived_at
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.settings import Settings

_BY_SUBJECT_FOR = timedelta(days=30)
_ADDRESS_CHARACTERS = 320
_SUBJECT_CHARACTERS = 200

_SENT = """
    select
        slots.id,
        slots.message_id,
        senders_box.address as from_address,
        coalesce(slots.to_address, recipients_box.address) as to_address,
        coalesce(conversations.subject, '') as subject,
        slots.submitted_at,
        array(
            select events.details ->> 'message_id'
            from ops.mail_events as events
            where events.slot_id = slots.id and events.event_type in ('placed_inbox', 'placed_junk')
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
        select id from ops.scheduled_tasks where id = :slot_id
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
""")


@dataclass(frozen=True)
class Recorder:
    """One run's keeper of what came back. ``found`` counts new rows as ``came_<kind>``."""

    settings: Settings
    clock: Clock
    found: Counter[str]

    def take_in(self, connection: Connection, access: MailboxAccess, place: Place, message: InboundMessage) -> None:
        """Settle a message and record it, unless it was recorded before."""
        now = self.clock.now()
        settled = self._settled(connection, access, message, now)
        found, mail = message.found, settled.match.mail if settled.match is not None else None
        bounce = found.bounce if settled.kind == "bounce" else None
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
            "arrived_at": arrived_at(message.header.internal_date, mail.sent_at if mail is not None else None, now),
            "recorded_at": now,
        }
        if connection.execute(_RECORD, vars(place) | row).rowcount:
            self.found[f"came_{settled.kind}"] += 1

    def _settled(
        self, connection: Connection, access: MailboxAccess, message: InboundMessage, now: datetime
    ) -> Settled:
        offer = message.found.offer
        named = [
            *offer.in_reply_to,
            *offer.references,
            *([message.header.message_id] if message.header.message_id else []),
        ]
        by_name = connection.execute(
            _NAMED, {"message_ids": [_storable(name) for name in named], "slot_id": self._slot_of_token(message)}
        )
        sent = [_sent_mail(row) for row in by_name]
        settled = self._settle(access, message, sent)
        addresses = [address for address in (offer.to_address, *offer.recipients) if address]
        if settled.match is not None or settled.kind in ("own_copy", "warm_up") or not (addresses and offer.subject):
            return settled
        between = connection.execute(
            _BETWEEN,
            {
                "mailbox_id": access.mailbox_id,
                "addresses": [_storable(address) for address in addresses],
                "since": now - _BY_SUBJECT_FOR,
            },
        ).all()
        return self._settle(access, message, [*sent, *map(_sent_mail, between)]) if between else settled

    def _settle(self, access: MailboxAccess, message: InboundMessage, sent: Iterable[SentMail]) -> Settled:
        return settle(
            message.found,
            mailbox=access.address,
            sent=sent,
            keys=self.settings.require_token_keys(),
        )

    def _slot_of_token(self, message: InboundMessage) -> int | None:
        report = message.found.bounce or message.found.complaint
        token = report.original.token if report is not None else None
        if token is None:
            return None
        try:
            return verify(self.settings.require_token_keys(), token).slot_id
        except TokenError:
            return None


def _sent_mail(row: Row[Any]) -> SentMail:
    ids = dict.fromkeys([row.message_id, *(message_id for message_id in row.arrived_as if message_id)])
    return SentMail(
        id=row.id,
        message_ids=tuple(ids),
        from_address=row.from_address,
        to_address=row.to_address,
        subject=row.subject,
        slot_id=row.id,
        sent_at=row.submitted_at,
    )


def _storable(words: str | None, characters: int = 1_000) -> str | None:
    """Return what PostgreSQL takes of a stranger's words: no NUL, no half of a surrogate pair."""
    if words is None:
        return None
    return words[:characters].replace("\0", "").encode("utf-8", "replace").decode()
