"""Handled warm-up mail goes into a folder of its own, and is deleted when its retention is over (B-B9).

Once a day the mailbox is looked through, after everything in it was read; what its owner handled is marked as read and
moved from INBOX and Archive into the folder (``inbox.folder``), and what is old enough is deleted there. Bots keep it
in their inbox for ``inbox.bots_file_after_h``, because stars and answers count there. In a sender's mailbox, which a
person uses, it is filed in the same session in which it was handled. In Junk it is never moved, because moving mail out
of there tells a provider that it is no spam; it is deleted there when it is old enough.

The mailbox is only asked what there is. What may be moved or deleted, and how old it is, the database says
(`filed_mail`); whatever it does not prove to be ours, stays. What a person moved back to INBOX stays there.

A crash loses and doubles nothing: how a mail is known again is stored before it is moved, moving is one step where the
server has MOVE, and elsewhere a copy that lies in the folder already is not made twice.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from sqlalchemy import Engine

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import Clock
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import ImapError, ImapReader, OwnFolder
from emberflow.policy.queue import InboxPolicy
from emberflow.queue_manager.receiving import filed_mail
from emberflow.queue_manager.receiving.arrivals import Arrival
from emberflow.queue_manager.receiving.filed_mail import HandledMail
from emberflow.queue_manager.receiving.message_faults import Place
from emberflow.settings import Settings

log = logging.getLogger(__name__)

Proven = Mapping[int, tuple[HandledMail, str]]  # by UID: the mail, and the digest of its copy's header

_GOODBYE_S = 10.0  # of a session's time are left over
_MOST = 200  # messages that one run moves, or deletes, per folder; the next run goes on
_LOOKED_AT = 2000  # messages of a folder whose token is read in one day
_AT_ONCE = 100
_DAY_S = 86_400
_LEFT_MARKED = (
    "deleted messages stay marked as deleted: without UIDPLUS (RFC 4315) removing them would also remove what somebody "
    "else has marked in that folder; expunge it with a mail program"
)
_TOO_SLOW = "the time of a run was over before anything was moved or deleted: the server is slow, or has much to read"


@dataclass(frozen=True)
class Arrived:
    """A mail that was handled in this session, as its folder numbers it."""

    folder: str
    uidvalidity: int
    uid: int
    token: str
    header_digest: str


@dataclass
class Filed:
    """What became of filing in one mailbox. ``is_day_done``: the daily look is over. ``problems``: what stays."""

    is_day_done: bool = False
    problems: list[str] = field(default_factory=list)


def is_due(mailbox_id: int, looked_at: datetime | None, now: datetime) -> bool:
    """Return whether a mailbox's moment of the day has come since it was looked through; the moments are spread."""
    if looked_at is None:
        return False  # from its first reading on
    moment = mailbox_id * 0x9E3779B1 % 2**32 / 2**32 * _DAY_S  # Fibonacci hashing: neighbours lie far apart
    return (now.timestamp() - moment) // _DAY_S > (looked_at.timestamp() - moment) // _DAY_S


class Filing:
    """Files mail of one mailbox after the other, in one thread. ``found`` counts ``filed`` and ``deleted``."""

    def __init__(
        self, engine: Engine, clock: Clock, settings: Settings, policy: InboxPolicy, found: Counter[str]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._policy = policy
        self._found = found

    def take_note(self, noted: list[Arrived], place: Place, arrivals: Sequence[Arrival]) -> None:
        """Note which arrivals in the inbox of a sender are filed in this session, now that they were handled."""
        noted += [
            Arrived(
                place.folder, place.uidvalidity, one.message.uid, one.message.token or "", one.message.header_digest
            )
            for one in arrivals
            if not one.slot.kind.goes_to_bot and not self._policy.senders_file_after_h
        ]

    def file(
        self,
        reader: ImapReader,
        mailbox: Mailbox,
        arrived: Sequence[Arrived],
        session_ends_at: float,
        *,
        is_sender: bool,
        is_day_due: bool,
        junk_folder: str | None,
    ) -> Filed:
        """File what ``arrived``, and look through the mailbox if its day is due.

        What fails is told and never raised: everything in the mailbox was read before.
        """
        filed = Filed()
        if not arrived and not is_day_due:
            return filed
        at = _Tidying(reader, mailbox, is_sender, session_ends_at - _GOODBYE_S, filed)
        try:
            at.own = reader.own_folder(self._policy.folder)
            self._file_arrived(at, arrived)
            if is_day_due:
                filed.is_day_done = self._day(at, junk_folder)
        except ImapError as error:
            at.problem(self._policy.folder, error)
        # What does not work today is tried again tomorrow, and not every few minutes.
        filed.is_day_done = is_day_due and (filed.is_day_done or bool(filed.problems))
        return filed

    def _file_arrived(self, at: _Tidying, arrived: Sequence[Arrived]) -> None:
        for place in dict.fromkeys((one.folder, one.uidvalidity) for one in arrived):
            ones = {one.uid: one for one in arrived if (one.folder, one.uidvalidity) == place}
            mails = self._handled(at, {uid: one.token for uid, one in ones.items()})
            digests = {uid: one.header_digest for uid, one in ones.items()}
            proven = _proven(mails, *place, digests)
            if at.reader.select(place[0])[0] == place[1]:
                self._move(at, *place, proven)

    def _day(self, at: _Tidying, junk_folder: str | None) -> bool:
        """Look through the mailbox; return whether nothing is left for the next run.

        A run without time for a single message is a problem: the next one would begin at the same place.
        """
        is_done = True
        before = self._changed()
        archive = at.reader.find_folder("\\Archive")
        for folder in [name for name in ("INBOX", archive) if name is not None and name != at.own.name]:
            is_done &= self._in_folder(at, folder, to_delete=False)
        for folder in [name for name in (junk_folder, at.own.name if at.own.exists else None) if name is not None]:
            is_done &= self._in_folder(at, folder, to_delete=True)
        if not is_done and at.is_over and self._changed() == before:
            at.problem("mailbox", _TOO_SLOW)
        return is_done

    def _changed(self) -> int:
        return self._found["filed"] + self._found["deleted"]

    def _in_folder(self, at: _Tidying, folder: str, *, to_delete: bool) -> bool:
        try:
            since = None if to_delete else self._since(at)
            uidvalidity, uids = at.reader.with_token(folder, is_unmarked=not to_delete, since=since)
            due = self._due(at, folder, uidvalidity, self._window(uids), to_delete=to_delete)
            proven, is_all = self._proven(at, folder, uidvalidity, due)
            if to_delete:
                self._delete(at, folder, uidvalidity, proven)
            else:
                self._move(at, folder, uidvalidity, proven)
        except ImapError as error:
            if error.is_lost:
                raise
            at.problem(folder, error)
            return True
        return is_all and not at.is_over

    def _due(
        self, at: _Tidying, folder: str, uidvalidity: int, uids: Sequence[int], *, to_delete: bool
    ) -> dict[int, HandledMail]:
        """Return which messages of the selected folder may be ours to move or delete now."""
        due: dict[int, HandledMail] = {}
        for group in _groups(uids):
            if at.is_over:
                break
            mails = self._handled(at, at.reader.field_values(TOKEN_HEADER, group, folder))
            due |= {uid: mail for uid, mail in mails.items() if self._is_old_enough(mail, to_delete=to_delete)}
        return {uid: mail for uid, mail in due.items() if mail.may_be_at(folder, uidvalidity, uid)}

    def _proven(
        self, at: _Tidying, folder: str, uidvalidity: int, due: Mapping[int, HandledMail]
    ) -> tuple[Proven, bool]:
        """Return the first ``_MOST`` messages that are proven, and whether there are no more.

        What is not proven today is not tomorrow either, so it must not take the place of what lies behind it.
        """
        proven: dict[int, tuple[HandledMail, str]] = {}
        for uids in _groups(due):
            if at.is_over or len(proven) > _MOST:
                break
            messages, _ = at.reader.read_again(folder, uidvalidity, uids, having=TOKEN_HEADER)
            digests = {message.uid: message.header_digest for message in messages}
            proven |= _proven({uid: due[uid] for uid in uids}, folder, uidvalidity, digests)
        return dict(sorted(proven.items())[:_MOST]), len(proven) <= _MOST

    def _move(self, at: _Tidying, folder: str, uidvalidity: int, proven: Proven) -> None:
        """Mark messages of a folder as read and move them; how they are known again is stored before."""
        for uids in _groups(proven):
            if at.is_over:
                return
            if not at.own.exists:
                at.reader.make_folder(at.own.name)
                at.own = OwnFolder(at.own.name, exists=True)
            digests = {proven[uid][0].slot.id: proven[uid][1] for uid in uids}
            with self._engine.begin() as connection:
                filed_mail.intend(connection, at.mailbox_id, digests)
            copied = set() if at.reader.can_move else self._copied(at, {uid: proven[uid] for uid in uids})
            if at.reader.select(folder)[0] != uidvalidity:
                return
            at.reader.mark_seen(uids)
            are_gone = at.reader.remove(copied) if copied else True
            are_gone &= at.reader.move([uid for uid in uids if uid not in copied], at.own.name)
            if not are_gone:
                at.problem(folder, _LEFT_MARKED)
            with self._engine.begin() as connection:
                filed_mail.note_filed(connection, list(digests), self._clock.now())
            self._found["filed"] += len(uids)

    def _copied(self, at: _Tidying, proven: Proven) -> set[int]:
        """Return which messages lie in the folder already: their original was not removed before a crash."""
        uidvalidity, there = at.reader.with_token(at.own.name, is_unmarked=True)
        tokens: dict[int, str] = {}
        for group in _groups(there[-_LOOKED_AT:]):
            tokens |= at.reader.field_values(TOKEN_HEADER, group, at.own.name)
        wanted = {mail.slot.id for mail, _ in proven.values()}
        alike = [uid for uid, mail in self._handled(at, tokens).items() if mail.slot.id in wanted]
        messages, _ = at.reader.read_again(at.own.name, uidvalidity, alike, having=TOKEN_HEADER)
        digests = {message.header_digest for message in messages}
        return {uid for uid, (_, digest) in proven.items() if digest in digests}

    def _delete(self, at: _Tidying, folder: str, uidvalidity: int, proven: Proven) -> None:
        if not proven or at.reader.select(folder)[0] != uidvalidity:
            return
        # At Gmail what is removed from a label stays in All Mail; the trash is emptied after 30 days.
        trash = at.reader.find_folder("\\Trash") if at.reader.is_gmail else None
        if not (at.reader.remove(proven) if trash is None else at.reader.move(proven, trash)):
            at.problem(folder, _LEFT_MARKED)
            return
        with self._engine.begin() as connection:
            digests = {mail.slot.id: digest for mail, digest in proven.values()}
            filed_mail.note_deleted(connection, at.mailbox_id, digests, self._clock.now())
        self._found["deleted"] += len(proven)

    def _handled(self, at: _Tidying, tokens: Mapping[int, str]) -> dict[int, HandledMail]:
        with self._engine.begin() as connection:
            return filed_mail.handled(connection, at.mailbox_id, tokens, self._settings)

    def _is_old_enough(self, mail: HandledMail, *, to_delete: bool) -> bool:
        retention = timedelta(days=self._policy.retention_days)
        age = retention if to_delete else self._file_after(is_bot=mail.slot.kind.goes_to_bot)
        return mail.at + age <= self._clock.now()

    def _file_after(self, *, is_bot: bool) -> timedelta:
        return timedelta(hours=self._policy.bots_file_after_h if is_bot else self._policy.senders_file_after_h)

    def _since(self, at: _Tidying) -> date | None:
        """Return since when a mailbox is searched; a person's may hold 100,000 messages, of which ours are new."""
        if not at.is_sender:
            return None
        return (self._clock.now() - timedelta(days=self._policy.retention_days + 7)).date()

    def _window(self, uids: Sequence[int]) -> Sequence[int]:
        """Return which messages of a very full folder are looked at today; another day those behind them."""
        if len(uids) <= _LOOKED_AT:
            return uids
        start = int(self._clock.now().timestamp() // _DAY_S) * _LOOKED_AT % len(uids)
        return sorted([*uids, *uids][start : start + _LOOKED_AT])


@dataclass
class _Tidying:
    """One mailbox in one run; ``own`` is the folder that mail is filed in."""

    reader: ImapReader
    mailbox: Mailbox
    is_sender: bool
    ends_at: float
    filed: Filed
    own: OwnFolder = OwnFolder("", exists=False)  # noqa: RUF009 - frozen

    @property
    def mailbox_id(self) -> int:
        return self.mailbox.access.mailbox_id

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends_at

    def problem(self, folder: str, why: object) -> None:
        log.warning("filing in %s of %s: %s", folder, self.mailbox.access.address, why)
        self.filed.problems.append(f"{folder}: {why}")


def _proven(
    mails: Mapping[int, HandledMail], folder: str, uidvalidity: int, digests: Mapping[int, str]
) -> dict[int, tuple[HandledMail, str]]:
    """Return the messages that are the copies on record, with their digests; what is gone is left out."""
    return {
        uid: (mail, digests[uid])
        for uid, mail in mails.items()
        if uid in digests and mail.is_copy(folder, uidvalidity, uid, digests[uid])
    }


def _groups(uids: Iterable[int]) -> list[list[int]]:
    ordered = sorted(set(uids))
    return [ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE)]
