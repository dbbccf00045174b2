"""Reconcile: what became of mails whose worker never learned the answer to the final dot (Q-F5).

An ``uncertain`` mail is settled by evidence, never by sending it again. Once its settle time is over (see
``ReconcilePolicy``), it is looked for:

1. Warm-up and replies, in the recipient's own mailbox: every folder, because filters and people move mail, by its
   Message-ID, and by its token, because some providers write their own Message-ID. Every folder is searched twice, or
   a mail that was moved from a folder not yet searched to one searched already would count as absent.
2. What was not found there, and all cold mail, in the sender's mailbox: a delivery status notification that returns
   it (RFC 3464), or the copy that many providers file under Sent when they accept a mail.

A mail that is found becomes ``sent``, with everything that follows from an acknowledged mail. One that came back is
``failed``; it did leave, so it stays counted. One that is ours at both ends and provably in neither did not leave: it
is uncounted and planned again, or ``failed`` without attempts left, or ``expired`` when the next plan makes up for it.
With any doubt a slot stays ``uncertain`` and says why; then `emberflow queue settle` takes a person's answer.

Doubt is a mailbox that is out of use or cannot be logged in to, a folder that cannot be read, a mailbox whose Junk
folder is not shown, and always a recipient who is not ours.

A decision is about one uncertainty of one slot: it holds only if, under the row's lock, the slot is still uncertain
after the same number of attempts. Reconciling twice, at once, or while the inbox is read therefore settles once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg2.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, RowMapping, text
from sqlalchemy.exc import OperationalError

from emberflow.clock import Clock
from emberflow.email_ops.delivery_status import read_returned
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.received import ReceivedMessage, parse
from emberflow.email_ops.tokens import TokenError, WarmupToken, sign, verify
from emberflow.errors import EgressRefusedError, EmberflowError
from emberflow.queue_manager import ledger, store, submission
from emberflow.queue_manager.database_clock import shared
from emberflow.queue_manager.ledger import Sent
from emberflow.queue_manager.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.queue_manager.policies import Policy, in_force
from emberflow.queue_manager.slots import Slot
from emberflow.queue_manager.switches import enter_mail_mode
from emberflow.settings import Settings

_REASON_CHARACTERS = 300
_GIVE_WAY = "500ms"  # below PostgreSQL's deadlock_timeout of 1 s: reconciling waits its turn, others' work goes on

_DUE = text("""
    select *
    from ops.slots
    where status = 'uncertain'
        and submitted_at <= :settled
        and submitted_at > :forgotten
        and coalesce(to_mailbox_id, from_mailbox_id) % :shards = :shard
    order by id
""")

_SHARDS_DUE = text("""
    select distinct coalesce(to_mailbox_id, from_mailbox_id) % :shards as shard
    from ops.slots
    where status = 'uncertain' and submitted_at <= :settled and submitted_at > :forgotten
    order by shard
""")

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

_LEAVE = text("""
    update ops.slot_states
    set status = :status,
        sent_at = case when :status = 'sent' then submitted_at end,
        reason = :reason,
        lease_token = null,
        lease_until = null
    where slot_id = :id and status = 'uncertain'
""")

_NOTE = text("""
    update ops.slot_states
    set reason = :reason
    where slot_id = :id and status = 'uncertain' and attempts = :attempts and reason is distinct from :reason
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
    """What mailboxes say of one mail: where it lies, why it came back, or why nothing can be told."""

    verdict: Literal["present", "returned", "absent", "unknown"]
    detail: str
    subject: str = ""


@dataclass
class ReconcileReport:
    """How many slots came to which end, and by slot id why others are still uncertain."""

    ends: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, str] = field(default_factory=dict)


def settle_time(policy: Policy) -> timedelta:
    """Return how long after its submission an uncertain mail is looked for."""
    return timedelta(seconds=policy.dispatch.write_within_s + policy.reconcile.settle_s)


def due_shards(connection: Connection, *, now: datetime, policy: Policy, shards: int) -> list[int]:
    """Return the shards (of the mailboxes to look into, by id) that have an uncertain slot to settle."""
    return list(connection.execute(_SHARDS_DUE, _span(now, policy) | {"shards": shards}).scalars())


def run(engine: Engine, *, clock: Clock, settings: Settings, shard: int = 0, shards: int = 1) -> ReconcileReport:
    """Look for the uncertain mails of ``shard`` whose settle time is over, and settle those that can be settled.

    Raises:
        ConfigurationError: no policy is in force, a key is missing, or live mode is only half switched on.
    """
    clock = shared(engine, clock)
    report = ReconcileReport()
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        policy = in_force(connection).policy
        span = _span(clock.now(), policy) | {"shard": shard, "shards": shards}
        mails = [Uncertain.of(row) for row in connection.execute(_DUE, span).mappings()]
        if not mails:
            return report
        boxes, unusable = _mailboxes(connection, mails, settings)
    findings = _Search(mode, settings, boxes, unusable).look_for(mails)
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    for mail in mails:
        end = _conclude(engine, mail, findings[mail.slot.id], policy, clock.now())
        if end == "unknown":
            report.waiting[mail.slot.id] = findings[mail.slot.id].detail
        elif end == "busy":
            report.waiting[mail.slot.id] = "others are writing to its row right now"
        else:
            report.ends[end] += 1
    return report


def settle(
    connection: Connection, slot_id: int, *, is_sent: bool, by: str, why: str, now: datetime, policy: Policy
) -> str:
    """Settle a slot as a person decided and return its new status.

    Raises:
        EmberflowError: the slot is not ``uncertain``.
    """
    row = store.lock(connection, slot_id)
    if row is None or row["status"] != "uncertain":
        raise EmberflowError(f"slot {slot_id} is not uncertain: there is nothing to settle; see `emberflow queue list`")
    mail = Uncertain.of(row)
    told = {"by": by, "why": why}
    if is_sent:
        settle_as_sent(connection, mail, subject="", at=now, cooldown_s=policy.bots.cooldown_s, told=told)
        return "sent"
    return _settle_as_absent(connection, mail, at=now, policy=policy, told=told)


def settle_as_sent(
    connection: Connection, mail: Uncertain, *, subject: str, at: datetime, cooldown_s: int, told: Mapping[str, str]
) -> None:
    """Record that an uncertain slot, locked by the caller, was sent when it was submitted.

    ``told`` says how this is known, for the event: ``by`` and ``where`` or ``why``.
    """
    reason = f"found {told['where']}" if "where" in told else f"settled by {told['by']}: {told['why']}"
    _leave(connection, mail, "sent", reason)
    ledger.record_sent(connection, [Sent(mail.slot, mail.submitted_at, subject)], cooldown_s=cooldown_s)
    _record(connection, mail, at, {"found": "present", **told})


def _settle_as_absent(
    connection: Connection, mail: Uncertain, *, at: datetime, policy: Policy, told: Mapping[str, str]
) -> str:
    """Uncount a mail that did not leave, and plan it again if that still makes sense; return the new status."""
    slot = mail.slot
    submission.take_back(connection, slot, submitted_at=mail.submitted_at, now=at)
    if slot.attempts >= policy.dispatch.maximum_attempts:
        status, reason = "failed", f"not sent in {slot.attempts} attempts"
    elif slot.is_made_up_for and slot.target_time < at - timedelta(seconds=policy.queue.overdue_s):
        status, reason = "expired", "overdue"
    else:
        status, reason = "planned", "not sent by the last attempt"
    _leave(connection, mail, status, reason)
    if status != "planned":
        ledger.close_conversation(connection, slot)
    _record(connection, mail, at, {"found": "absent", **told})
    return status


def _settle_as_returned(connection: Connection, mail: Uncertain, *, at: datetime, why: str) -> None:
    _leave(connection, mail, "failed", f"returned: {why}")
    ledger.close_conversation(connection, mail.slot)
    _record(connection, mail, at, {"found": "returned", "by": "reconcile", "why": why})


def _conclude(engine: Engine, mail: Uncertain, finding: Finding, policy: Policy, now: datetime) -> str:
    """Do what ``finding`` asks for, if this very uncertainty still stands; return what became of the slot."""
    try:
        with engine.begin() as connection:
            connection.execute(text(f"set local lock_timeout = '{_GIVE_WAY}'"))
            if finding.verdict == "unknown":
                note = {"id": mail.slot.id, "attempts": mail.slot.attempts}
                connection.execute(_NOTE, note | {"reason": f"not settled: {finding.detail}"[:_REASON_CHARACTERS]})
                return "unknown"
            row = store.lock(connection, mail.slot.id)
            if row is None or row["status"] != "uncertain" or row["attempts"] != mail.slot.attempts:
                return "settled_meanwhile"
            locked = Uncertain.of(row)
            if finding.verdict == "absent":
                return _settle_as_absent(connection, locked, at=now, policy=policy, told={"by": "reconcile"})
            if finding.verdict == "returned":
                _settle_as_returned(connection, locked, at=now, why=finding.detail)
                return "failed"
            told = {"by": "reconcile", "where": finding.detail}
            cooldown_s = policy.bots.cooldown_s
            settle_as_sent(connection, locked, subject=finding.subject, at=now, cooldown_s=cooldown_s, told=told)
            return "sent"
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable | DeadlockDetected):
            return "busy"
        raise


def _leave(connection: Connection, mail: Uncertain, status: str, reason: str) -> None:
    connection.execute(_LEAVE, {"id": mail.slot.id, "status": status, "reason": reason[:_REASON_CHARACTERS]})


def _record(connection: Connection, mail: Uncertain, at: datetime, details: dict[str, Any]) -> None:
    ledger.record_event(
        connection,
        "reconciled",
        # A slot is uncertain at most once for each attempt.
        f"reconciled:{mail.slot.idempotency_key}:{mail.slot.attempts}",
        occurred_at=at,
        mailbox_id=mail.slot.from_mailbox_id,
        slot=mail.slot,
        details=details,
    )


def _span(now: datetime, policy: Policy) -> dict[str, datetime]:
    return {
        "settled": now - settle_time(policy),
        "forgotten": now - timedelta(seconds=policy.reconcile.look_back_s),
    }


def _mailboxes(
    connection: Connection, mails: Iterable[Uncertain], settings: Settings
) -> tuple[Mapping[int, Mailbox], dict[int, str]]:
    """Return the mailboxes that may be logged in to, and why others may not."""
    ids = {id_ for mail in mails for id_ in (mail.slot.from_mailbox_id, mail.slot.to_mailbox_id) if id_ is not None}
    unusable: dict[int, str] = {}
    for row in connection.execute(_IN_USE, {"ids": sorted(ids)}):
        if not row.is_checked:
            unusable[row.id] = f"{row.address} has not passed its connection check"
        elif not row.is_active:
            unusable[row.id] = f"{row.address} is not active"
    opened = open_mailboxes(connection, settings, ids - unusable.keys())
    return opened.boxes, unusable | dict(opened.unreadable)


class _Search:
    """One run's look into mailboxes: one connection for all mails that may lie in the same one."""

    def __init__(
        self, mode: Mode, settings: Settings, boxes: Mapping[int, Mailbox], unusable: Mapping[int, str]
    ) -> None:
        self._mode: Mode = mode
        self._settings = settings
        self._boxes = boxes
        self._unusable = unusable

    def look_for(self, mails: Sequence[Uncertain]) -> dict[int, Finding]:
        """Return a finding for every mail, by slot id."""
        findings: dict[int, Finding] = {}
        for mailbox_id, group in _grouped(mails, lambda slot: slot.to_mailbox_id).items():
            findings |= self._in_mailbox(mailbox_id, group, self._at_recipient)
        left = [mail for mail in mails if mail.slot.is_cold or findings[mail.slot.id].verdict == "absent"]
        for mailbox_id, group in _grouped(left, lambda slot: slot.from_mailbox_id).items():
            findings |= self._in_mailbox(mailbox_id, group, self._at_sender)
        return findings

    def _in_mailbox(
        self,
        mailbox_id: int,
        mails: Sequence[Uncertain],
        look: Callable[[ImapReader, Sequence[Uncertain]], dict[int, Finding]],
    ) -> dict[int, Finding]:
        if mailbox_id not in self._boxes:
            return _unknown(mails, self._unusable.get(mailbox_id, f"mailbox {mailbox_id} is gone"))
        access = self._boxes[mailbox_id].access
        try:
            with ImapReader(access, self._mode, self._settings.ca_files) as reader:
                return look(reader, mails)
        except (ImapError, EgressRefusedError) as error:
            return _unknown(mails, f"{access.address}: {error}")

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
        return found | {mail.slot.id: Finding("absent", "in no folder of its recipient") for mail in missing}

    def _at_sender(self, reader: ImapReader, mails: Sequence[Uncertain]) -> dict[int, Finding]:
        """Return what the sender's mailbox says; a mail that is ours at both ends and in neither is absent."""
        since = min(mail.submitted_at for mail in mails).date() - timedelta(days=1)
        wanted = {mail.slot.message_id: mail.slot.id for mail in mails}
        found: dict[int, Finding] = {}
        for folder in ("INBOX", reader.find_folder("\\Junk")):
            for raw in reader.reports(folder, since) if folder is not None else ():
                returned = read_returned(raw)
                if returned is not None and returned.message_id in wanted:
                    why = f"{returned.status or ''} {returned.diagnostic or ''}".strip() or "no reason given"
                    found[wanted[returned.message_id]] = Finding("returned", why)
        sent = reader.find_folder("\\Sent")
        if sent is not None:
            left = [mail for mail in mails if mail.slot.id not in found]
            found |= self._in_folder(reader, sent, "sender", left)
        missing = [mail for mail in mails if mail.slot.id not in found]
        foreign = [mail for mail in missing if mail.slot.is_cold]
        return (
            found
            | {mail.slot.id: Finding("absent", "at neither end") for mail in missing}
            | _unknown(foreign, "its recipient's mailbox is not ours; it is neither under Sent nor was it returned")
        )

    def _in_folder(
        self, reader: ImapReader, folder: str, whose: Literal["recipient", "sender"], mails: Sequence[Uncertain]
    ) -> dict[int, Finding]:
        if not mails:
            return {}
        by_id = reader.find_by_message_id([mail.slot.message_id for mail in mails], folder)
        tokens = {mail.slot.id: self._token_search(mail.slot) for mail in mails if not mail.slot.is_cold}
        by_token = reader.find_by_header("X-Emberflow-Token", list(tokens.values()), folder)
        found: dict[int, Finding] = {}
        for mail in mails:
            uids = by_id.get(mail.slot.message_id, []) + by_token.get(tokens.get(mail.slot.id, ""), [])
            for uid in dict.fromkeys(uids):
                raw = reader.raw_message(folder, uid)
                if raw is None:
                    raise ImapError("imap_command", "a message was moved while it was looked at")
                message = parse(raw, uid=uid, folder=folder, size=len(raw), internal_date=None)
                if self._is_copy(mail.slot, message):
                    where = f"in {folder} of its {whose}"
                    found[mail.slot.id] = Finding("present", where, message.subject or "")
                    break
        return found

    def _token_search(self, slot: Slot) -> str:
        """Return the part of the slot's token that no change of keys alters."""
        named = _token_of(slot)
        token = sign(self._settings.require_token_keys(), named.slot_id, named.sender_id, named.bot_id, named.turn)
        return token.rpartition(".")[0] + "."

    def _is_copy(self, slot: Slot, message: ReceivedMessage) -> bool:
        """Judge a message that a search returned: servers match parts of values, and strangers copy headers."""
        if message.message_id == slot.message_id:
            return True
        if slot.is_cold or message.token is None:
            return False
        try:
            return verify(self._settings.require_token_keys(), message.token) == _token_of(slot)
        except TokenError:
            return False


def _token_of(slot: Slot) -> WarmupToken:
    if slot.bot_id is None:
        raise ValueError(f"slot {slot.id} is cold mail, which carries no token")
    return WarmupToken(slot.id, slot.sender_id, slot.bot_id, slot.turn)


def _grouped(mails: Iterable[Uncertain], mailbox: Callable[[Slot], int | None]) -> dict[int, list[Uncertain]]:
    groups: dict[int, list[Uncertain]] = defaultdict(list)
    for mail in mails:
        mailbox_id = mailbox(mail.slot)
        if mailbox_id is not None:
            groups[mailbox_id].append(mail)
    return groups


def _unknown(mails: Iterable[Uncertain], why: str) -> dict[int, Finding]:
    return {mail.slot.id: Finding("unknown", why) for mail in mails}
