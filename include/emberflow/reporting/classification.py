"""What the product makes of raw messages: the classifier of the inbox, shown for files.

A message is parsed as one that arrives: in a process of its own, within limits. Where a database is at hand, a message
is matched with the mails that it knows were submitted; without one, nothing is matched and no report counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from emberflow.clock import SystemClock
from emberflow.reporting.mail_files import MailFile, messages_in

if TYPE_CHECKING:
    from pydantic import SecretStr

    from emberflow.email_ops.bounded_parser import BoundedParser
    from emberflow.email_ops.classify import Classification, Settled
    from emberflow.queue_manager.sent_mail import Known

# As many messages share one question to the database.
_BATCH = 200
_DATE_FIELD = re.compile(rb"^Date:[ \t]*\S", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Judged:
    """What became of one message; ``problem`` says why there is none, and then nothing else is there."""

    file: str
    classification: Classification | None = None
    settled: Settled | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that programs read; bounce, date and method are null where there is none."""
        if self.classification is None or self.settled is None:
            return {"file": self.file, "kind": None, "error": self.problem}
        found, settled = self.classification, self.settled
        bounce = found.bounce
        return {
            "file": self.file,
            "kind": settled.kind,
            "bounce": None if bounce is None else {
                "class": bounce.severity,
                "action": bounce.action,
                "status": bounce.status,
                "recipient": bounce.recipient,
                "original_message_id": bounce.original_message_id,
            },
            "return_date": found.return_date.isoformat() if found.return_date else None,
            "matched_by": settled.match.method if settled.match else None,
            "warm_up": settled.warm_up,
            "counts": settled.counts,
            "evidence": [{"where": evidence.where, "says": evidence.says} for evidence in settled.evidence],
        }  # fmt: skip


def judge_files(
    paths: Sequence[str],
    *,
    connection: Connection | None = None,
    keys: Sequence[SecretStr] = (),
    mailbox: str | None = None,
) -> Iterator[Judged]:
    """Yield what each message of some files is, in their order; a file that cannot be read costs itself alone.

    ``mailbox`` is the address whose mail this is; without it each message is taken for mail of the address in its To.

    Raises:
        ParserUnavailableError: the parsing process does not start.
    """
    from emberflow.email_ops.bounded_parser import BoundedParser
    from emberflow.email_ops.classify import READ_BYTES

    with BoundedParser() as parser:
        messages = messages_in(list(paths), READ_BYTES)
        while batch := list(islice(messages, _BATCH if connection is not None else 1)):
            found = [_classified(parser, message, mailbox) for message in batch]
            known = _known(connection, keys, [entry for _, entry, _ in found if entry is not None])
            for message, entry, unreadable in found:
                yield _judged(message, entry, unreadable, known, keys, mailbox)


def _classified(
    parser: BoundedParser, message: MailFile, mailbox: str | None
) -> tuple[MailFile, Classification | None, str | None]:
    from emberflow.email_ops.bounded_parser import UnreadableMessageError
    from emberflow.email_ops.message_limits import header_of

    if message.problem is not None:
        return message, None, None
    try:
        # A message without a date was written today, as far as "until Monday" goes.
        received_at = None if _DATE_FIELD.search(header_of(message.raw)) else SystemClock().now()
        return message, parser.classify(message.raw, mailbox=mailbox, received_at=received_at), None
    except UnreadableMessageError as error:
        return message, None, str(error)


def _judged(
    message: MailFile,
    found: Classification | None,
    unreadable: str | None,
    known: Known,
    keys: Sequence[SecretStr],
    mailbox: str | None,
) -> Judged:
    from emberflow.email_ops.classify import Classification, settle
    from emberflow.email_ops.evidence import Evidence

    if message.problem is not None:
        return Judged(message.file, problem=message.problem)
    if found is None:
        # Such a message is quarantined where it arrives; nothing of it is believed.
        found = Classification("other", (Evidence("the message", unreadable or ""),), auto=True)
    address = mailbox or found.to_address or ""
    return Judged(message.file, found, settle(found, mailbox=address, sent=known.sent, keys=keys, slots=known.slots))


def _known(connection: Connection | None, keys: Sequence[SecretStr], found: Sequence[Classification]) -> Known:
    """Return the mails that some messages name, as the database knows them."""
    from emberflow.queue_manager import sent_mail

    if connection is None or not found:
        return sent_mail.Known([], [])
    names = {name for entry in found for name in (*entry.offer.in_reply_to, *entry.offer.references)}
    names |= {entry.message_id for entry in found if entry.message_id is not None}
    slot_ids = {slot_id for entry in found if (slot_id := sent_mail.slot_of_token(entry, keys)) is not None}
    return sent_mail.named(connection, map(sent_mail.storable, names), slot_ids)
