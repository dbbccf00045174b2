"""Where uncertain mails lie: a search of the mailboxes at both ends, which changes nothing.

1. Mail to a mailbox of ours (warm-up and its replies), in that mailbox: every folder, because filters and people move
   mail, by its Message-ID, and by its token, because some providers write their own Message-ID. Every folder is
   searched twice, or a mail that was moved from a folder not yet searched to one searched already would be missed.
2. What was not found there, and mail to anybody else, in the sender's mailbox: a bounce that names it
   (``email_ops.bounces``), or the copy that many providers file under Sent when they accept a mail.

Not found is no proof of anything: a server may still hold the mail, or keep it where IMAP does not show it.

The mailboxes take turns in the order of the mails, and a mail's finding is there as soon as both of its mailboxes were
searched. One mailbox may take half of the time that is left, so that a slow one does not keep the next from its turn.

A finding is *unknown* where not even that can be said: a mailbox is out of use or cannot be logged in to, a folder
cannot be read, a recipient's mailbox does not show its Junk folder. Whatever one mailbox does is the finding of its own
mails, never of others.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Literal

from sqlalchemy import Connection, RowMapping, text

from emberflow.accounts.mailboxes import Mailbox, open_mailboxes
from emberflow.domain.slot import Slot
from emberflow.email_ops.bounces import Returned, read_returned
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.received import ReceivedMessage, parse
from emberflow.email_ops.session_budget import SessionLimits
from emberflow.email_ops.tokens import TokenError, WarmupToken, sign, verify
from emberflow.errors import EmberflowError
from emberflow.queue_manager.receiving.imap_connections import ImapConnections
from emberflow.queue_manager.slot_token import token_of
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_MAILBOX_S = 300.0
_MAILBOX_AT_LEAST_S = 30.0
_SENDER_NOT_REACHED = "its sender's mailbox was not reached in time"

_IN_USE = text("""
    select
        mailboxes.id,
        mailboxes.address,
        coalesce(mailboxes.check_passed, false) as is_checked,
        coalesce(senders.state = 'active', false) or coalesce(bots.status = 'active', false) as is_active
    from ops.mailboxes
    left join ops.senders on senders.mailbox_id = mailboxes.id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    where mailboxes.id = any(:ids)
""")


@dataclass(frozen=True)
class Uncertain:
    """A slot under lock, or as it was read, and when its last attempt was submitted."""

    slot: Slot
    submitted_at: datetime

    @classmethod
    def of(cls, row: RowMapping) -> Uncertain:
        """Return the mail in a row of the view ``slots``; nobody holds it, so it has no lease token."""
        return cls(Slot.of({**row, "lease_token": ""}), row["submitted_at"])


@dataclass(frozen=True)
class Finding:
    """What mailboxes say of one mail. ``detail``: where it is or is not, why it came back, or what is amiss."""

    verdict: Literal["present", "returned", "not_found", "unknown"]
    detail: str
    subject: str = ""


@dataclass(frozen=True)
class Searchable:
    """By mailbox id: those that may be logged in to, why others may not, and the address of each."""

    boxes: Mapping[int, Mailbox]
    unusable: Mapping[int, str]
    addresses: Mapping[int, str]


def searchable_mailboxes(connection: Connection, mails: Iterable[Uncertain], settings: Settings) -> Searchable:
    """Return the mailboxes at both ends of ``mails``."""
    ids = {id_ for mail in mails for id_ in (mail.slot.from_mailbox_id, mail.slot.to_mailbox_id) if id_ is not None}
    unusable: dict[int, str] = {}
    addresses: dict[int, str] = {}
    for row in connection.execute(_IN_USE, {"ids": sorted(ids)}):
        addresses[row.id] = row.address
        if not row.is_checked:
            unusable[row.id] = f"{row.address} has not passed its connection check"
        elif not row.is_active:
            unusable[row.id] = f"{row.address} is not active"
    opened = open_mailboxes(connection, settings, ids - unusable.keys())
    return Searchable(opened.boxes, unusable | dict(opened.unreadable), addresses)


class MailSearch:
    """One run's look into mailboxes: one connection for all mails that may lie in the same one."""

    def __init__(self, connections: ImapConnections, settings: Settings, mailboxes: Searchable) -> None:
        self._connections = connections
        self._settings = settings
        self._mailboxes = mailboxes

    def look_for(self, mails: Sequence[Uncertain], seconds: float = math.inf) -> Iterator[dict[int, Finding]]:
        """Yield findings, by slot id, as soon as they stand; the mailbox of the first mail is searched first.

        After ``seconds`` no other mailbox is begun: a mail that nothing was asked about by then has no finding. One
        whose recipient's mailbox alone was searched is in doubt.
        """
        ends_at = monotonic() + seconds
        concluded: set[int] = set()
        at_sender: dict[int, Finding] = {}
        for mailbox_id, group in _grouped(mails, lambda slot: slot.first_mailbox_id).items():
            if monotonic() >= ends_at:
                return
            to_us = [mail for mail in group if mail.slot.to_mailbox_id is not None]
            at_recipient = self._in_mailbox(mailbox_id, to_us, self._at_recipient, ends_at) if to_us else {}
            present = {slot_id: finding for slot_id, finding in at_recipient.items() if finding.verdict == "present"}
            left = [mail for mail in group if mail.slot.id not in present]
            concluded |= present.keys()
            if present:
                yield present
            for sender_id, theirs in _grouped(left, lambda slot: slot.from_mailbox_id).items():
                findings: dict[int, Finding] = {}
                if any(mail.slot.id not in at_sender for mail in theirs) and monotonic() < ends_at:
                    all_of_it = [mail for mail in mails if mail.slot.from_mailbox_id == sender_id]
                    waiting = [mail for mail in all_of_it if mail.slot.id not in concluded]
                    at_sender |= self._in_mailbox(sender_id, waiting, self._at_sender, ends_at)
                for slot_id in (mail.slot.id for mail in theirs):
                    if slot_id in at_sender:
                        findings[slot_id] = _of_both_ends(at_recipient.get(slot_id), at_sender[slot_id])
                    elif slot_id in at_recipient:
                        findings[slot_id] = _of_one_end(at_recipient[slot_id])
                concluded |= findings.keys()
                if findings:
                    yield findings

    def _in_mailbox(
        self,
        mailbox_id: int,
        mails: Sequence[Uncertain],
        look: Callable[[ImapReader, Sequence[Uncertain]], dict[int, Finding]],
        ends_at: float,
    ) -> dict[int, Finding]:
        if mailbox_id not in self._mailboxes.boxes:
            return _unknown(mails, self._mailboxes.unusable.get(mailbox_id, "its mailbox is gone"))
        mailbox = self._mailboxes.boxes[mailbox_id]
        access = mailbox.access
        share_s = (ends_at - monotonic()) / 2
        limits = SessionLimits(seconds=max(min(_MAILBOX_S, share_s), _MAILBOX_AT_LEAST_S))
        try:
            with self._connections.open(mailbox, limits) as reader:
                return look(reader, mails)
        except EmberflowError as error:
            return _unknown(mails, f"{access.address}: {error}")
        except Exception as error:  # whatever one server says, the mails of the other mailboxes are looked for
            log.exception("mailbox %s could not be searched", access.address)
            return _unknown(mails, f"{access.address}: {type(error).__name__}")

    def _at_recipient(self, reader: ImapReader, mails: Sequence[Uncertain]) -> dict[int, Finding]:
        folders = reader.folders()
        shows_junk = reader.find_folder("\\Junk") is not None
        found: dict[int, Finding] = {}
        doubt = None if shows_junk else "the recipient's mailbox shows no Junk folder, where the mail may be"
        for folder in [*folders, *folders]:
            missing = [mail for mail in mails if mail.slot.id not in found]
            try:
                found |= self._in_folder(reader, folder, "recipient", missing)
            except ImapError as error:
                doubt = f"the recipient's folder {folder} cannot be read: {error}"
        missing = [mail for mail in mails if mail.slot.id not in found]
        if doubt is not None:
            return found | _unknown(missing, doubt)
        return found | _not_found(missing, f"{', '.join(folders)} of its recipient")

    def _at_sender(self, reader: ImapReader, mails: Sequence[Uncertain]) -> dict[int, Finding]:
        since = min(mail.submitted_at for mail in mails).date() - timedelta(days=1)
        found: dict[int, Finding] = {}
        folders = [folder for folder in ("INBOX", reader.find_folder("\\Junk")) if folder is not None]
        for folder in folders:
            for raw in reader.reports(folder, since):
                returned = read_returned(raw)
                mail = None if returned is None else self._mail_of(returned, mails)
                if returned is not None and mail is not None:
                    why = f"{returned.status or ''} {returned.diagnostic or ''}".strip() or "no reason given"
                    found[mail.slot.id] = Finding("returned", why)
        sent = reader.find_folder("\\Sent")
        if sent is not None:
            folders.append(sent)
            left = [mail for mail in mails if mail.slot.id not in found]
            found |= self._in_folder(reader, sent, "sender", left)
        missing = [mail for mail in mails if mail.slot.id not in found]
        return found | _not_found(missing, f"{', '.join(folders)} of its sender")

    def _mail_of(self, returned: Returned, mails: Iterable[Uncertain]) -> Uncertain | None:
        """Return the mail that a bounce names; by its token, where a provider wrote another Message-ID."""
        for mail in mails:
            if returned.message_id == mail.slot.message_id or self._is_token_of(mail.slot, returned.token):
                return mail
        return None

    def _in_folder(
        self, reader: ImapReader, folder: str, whose: Literal["recipient", "sender"], mails: Sequence[Uncertain]
    ) -> dict[int, Finding]:
        if not mails:
            return {}
        by_id = reader.find_by_message_id([mail.slot.message_id for mail in mails], folder)
        named = {mail.slot.id: token_of(mail.slot) for mail in mails}
        tokens = {slot_id: self._token_search(token) for slot_id, token in named.items() if token is not None}
        by_token = reader.find_by_header("X-Emberflow-Token", list(tokens.values()), folder)
        found: dict[int, Finding] = {}
        for mail in mails:
            uids = by_id.get(mail.slot.message_id, []) + by_token.get(tokens.get(mail.slot.id, ""), [])
            for uid in dict.fromkeys(uids):
                raw = reader.raw_message(folder, uid)
                if raw is None:
                    raise ImapError("imap_command", "a message was moved while it was looked at")
                message = parse(raw, uid=uid, folder=folder, size=len(raw), internal_date=None, with_body=False)
                if self._is_copy(mail.slot, message):
                    where = f"in {folder} of its {whose}"
                    found[mail.slot.id] = Finding("present", where, message.subject or "")
                    break
        return found

    def _token_search(self, named: WarmupToken) -> str:
        """Return the part of a slot's token that no change of keys alters."""
        token = sign(self._settings.require_token_keys(), named.slot_id, named.sender_id, named.bot_id, named.turn)
        return token.rpartition(".")[0] + "."

    def _is_copy(self, slot: Slot, message: ReceivedMessage) -> bool:
        """Judge a message that a search returned: servers match parts of values, and strangers copy headers."""
        return message.message_id == slot.message_id or self._is_token_of(slot, message.token)

    def _is_token_of(self, slot: Slot, token: str | None) -> bool:
        named = token_of(slot)
        if named is None or token is None:
            return False
        try:
            return verify(self._settings.require_token_keys(), token) == named
        except TokenError:
            return False


def _of_both_ends(at_recipient: Finding | None, at_sender: Finding) -> Finding:
    """Put together what was found at the recipient (None: not ours) and at the sender."""
    if at_recipient is None:
        if at_sender.verdict != "not_found":
            return at_sender
        return Finding("not_found", f"{at_sender.detail}; its recipient's mailbox is not ours to look into")
    if at_recipient.verdict == "unknown" and at_sender.verdict == "not_found":
        return at_recipient
    if at_sender.verdict != "not_found":
        return at_sender
    return Finding("not_found", f"{at_sender.detail}, {at_recipient.detail}")


def _of_one_end(at_recipient: Finding) -> Finding:
    """Say what is known while the sender's mailbox was not asked."""
    if at_recipient.verdict == "unknown":
        return Finding("unknown", f"{at_recipient.detail}; {_SENDER_NOT_REACHED}")
    if at_recipient.verdict == "not_found":
        return Finding("unknown", _SENDER_NOT_REACHED)
    return at_recipient


def _grouped(mails: Iterable[Uncertain], mailbox: Callable[[Slot], int | None]) -> dict[int, list[Uncertain]]:
    groups: dict[int, list[Uncertain]] = defaultdict(list)
    for mail in mails:
        mailbox_id = mailbox(mail.slot)
        if mailbox_id is not None:
            groups[mailbox_id].append(mail)
    return groups


def _unknown(mails: Iterable[Uncertain], why: str) -> dict[int, Finding]:
    return {mail.slot.id: Finding("unknown", why) for mail in mails}


def _not_found(mails: Iterable[Uncertain], where: str) -> dict[int, Finding]:
    return {mail.slot.id: Finding("not_found", where) for mail in mails}
