"""Dispatch: hold due slots to their second and send each of them once.

A *lane* is a fixed share of the sending mailboxes (mailbox id modulo the number of lanes), so one mailbox is
always sent from by one worker, whose connection it keeps. A run takes a lane's advisory lock, claims what is
due, sends it slot by slot, and ends after ``window_s``. It never sleeps while it holds a claim.

A mail is sent between two transactions: ``store.submit`` immediately before DATA, and ``_record`` after the
server's answer. If this process dies in between, the slot's lease lapses in state ``submitting`` and it becomes
``uncertain``: it is never sent again blindly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from emberflow.clock import Clock
from emberflow.database.secrets import SecretBox
from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.message import OutgoingMessage, UnsafeMessageError, build
from emberflow.email_ops.smtp import Attempt, SmtpConnection
from emberflow.email_ops.tokens import sign
from emberflow.errors import EgressRefusedError
from emberflow.queue_manager import ledger, store
from emberflow.queue_manager.mailboxes import Mailbox, open_mailboxes
from emberflow.queue_manager.policies import Policy, in_force
from emberflow.queue_manager.store import Refusal, Slot
from emberflow.queue_manager.switches import enter_mail_mode
from emberflow.settings import Settings

log = logging.getLogger(__name__)

# Small, because the slots of a batch wait on each other under one lease.
_BATCH = 10
_LONGEST_NAP_S = 2.0
_LOCK_SPACE = 0x656D62  # first argument of the two-part advisory lock: lanes of this product


@dataclass
class LaneReport:
    """How many slots of one lane came to which end in one run; ``was_busy`` means another worker had it."""

    lane: int
    was_busy: bool = False
    ends: Counter[str] = field(default_factory=Counter)


def due_lanes(engine: Engine, *, clock: Clock) -> list[int]:
    """Tidy the queue and return the lanes that have something to send within one run."""
    with engine.begin() as connection:
        policy = in_force(connection).policy.dispatch
        now = clock.now()
        tidied = store.tidy(connection, now=now, overdue_s=policy.overdue_s)
        if any(tidied.values()):
            log.warning("tidied the queue: %s", tidied)
        return store.lanes_due(connection, policy.lanes, now + timedelta(seconds=policy.window_s))


def dispatch_lane(engine: Engine, lane: int, *, clock: Clock, settings: Settings) -> LaneReport:
    """Send what is or becomes due in ``lane`` during one run.

    Raises:
        ConfigurationError: no policy is in force, a key is missing, or live mode is only half switched on.
    """
    report = LaneReport(lane)
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        policy = in_force(connection).policy
    with _alone(engine, lane) as alone, _Worker(engine, policy, mode, clock, settings, report) as worker:
        if not alone:
            report.was_busy = True
            return report
        ends_at = clock.now() + timedelta(seconds=policy.dispatch.window_s)
        while worker.work(lane, ends_at):
            pass
    return report


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class _Worker:
    """One run over one lane, with its open connections."""

    def __init__(
        self, engine: Engine, policy: Policy, mode: Mode, clock: Clock, settings: Settings, report: LaneReport
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._report = report
        self._box = SecretBox(settings.secret_keys)
        self._scripts = load_scripts(settings.scripts_dir or BUILT_IN)
        self._connections: dict[int, SmtpConnection] = {}
        self._open = ExitStack()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def work(self, lane: int, ends_at: datetime) -> bool:
        """Send the next batch, or sleep until something is due; return False when the run is over."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            slots = store.claim(
                connection,
                lane=lane,
                lanes=self._policy.dispatch.lanes,
                now=min(now, ends_at),
                limit=_BATCH,
                lease_s=self._policy.dispatch.lease_s,
            )
            due = store.next_due(connection, lane, self._policy.dispatch.lanes)
        if slots:
            self._send_batch(slots)
            return True
        if due is None or due > ends_at or now >= ends_at:
            return False
        wait_s = (due - now).total_seconds()
        # What is due and was not claimed is held by the kill switch: look again after a nap, never at once.
        self._clock.sleep(min(wait_s, _LONGEST_NAP_S) if wait_s > 0 else _LONGEST_NAP_S)
        return True

    def _send_batch(self, slots: list[Slot]) -> None:
        waiting = list(slots)
        try:
            with self._engine.begin() as connection:
                ids = {mailbox for slot in slots for mailbox in (slot.from_mailbox_id, slot.to_mailbox_id)}
                opened = open_mailboxes(connection, self._box, ids)
            while waiting:
                slot = waiting.pop(0)
                if slot.from_mailbox_id in opened.boxes and slot.to_mailbox_id in opened.boxes:
                    self._send(slot, opened.boxes)
                else:
                    log.error("slot %s is held: %s", slot.id, "; ".join(opened.unreadable.values()))
                    self._hold(slot, "secret_unreadable")
        finally:
            # Whatever stopped the run, a slot that was not tried must not wait for its lease to lapse.
            if waiting:
                with self._engine.begin() as connection:
                    for slot in waiting:
                        store.give_back(connection, slot, reason="run stopped", retry_at=slot.target_time)

    def _send(self, slot: Slot, boxes: Mapping[int, Mailbox]) -> None:
        sender, recipient = boxes[slot.from_mailbox_id], boxes[slot.to_mailbox_id]
        try:
            subject, message = self._message(slot, sender, recipient)
        except (UnsafeMessageError, AddressError, KeyError, ValueError) as error:
            self._give_up_unbuilt(slot, error)
            return
        submitted_at: list[datetime] = []

        def before_data() -> None:
            now = self._clock.now()
            with self._engine.begin() as connection:
                refusal = store.submit(connection, slot, now=now, policy=self._policy)
                if refusal is not None:
                    raise _RefusedError(refusal)
            submitted_at.append(now)

        try:
            attempt = self._connection(sender).deliver(
                message, sender.access.address, recipient.access.address, before_data=before_data
            )
        except _RefusedError as refused:
            self._refuse(slot, refused.refusal)
            return
        except EgressRefusedError as error:
            log.warning("slot %s is held: %s", slot.id, error)
            self._hold(slot, "egress_refused")
            return
        self._record(slot, attempt, submitted_at[0] if submitted_at else None, subject)

    def _message(self, slot: Slot, sender: Mailbox, recipient: Mailbox) -> tuple[str, bytes]:
        payload = slot.payload
        subject, body = self._scripts.render(
            payload["script"],
            slot.turn,
            seed=self._settings.seed,
            key=(payload["thread"],),
            from_name=sender.display_name,
            to_name=recipient.display_name,
        )
        message = OutgoingMessage(
            message_id=slot.message_id,
            from_address=sender.access.address,
            from_name=sender.display_name,
            to_address=recipient.access.address,
            subject=subject,
            body=body,
            date=slot.target_time,
            in_reply_to=payload.get("in_reply_to"),
            references=tuple(payload.get("references", ())),
            token=sign(self._settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id, slot.turn),
            auto_reply=not slot.goes_to_bot,
        )
        return subject, build(message)

    def _give_up_unbuilt(self, slot: Slot, error: Exception) -> None:
        """End a slot whose message cannot exist (a bad name, a script that is gone): no retry can help it."""
        reason = f"message cannot be built: {type(error).__name__}: {error}"[:200]
        with self._engine.begin() as connection:
            held = store.give_up(connection, slot, "failed", reason=reason)
            if held:
                ledger.close_conversation(connection, slot)
        self._report.ends["failed" if held else "fenced"] += 1
        log.error("slot %s: %s", slot.id, reason)

    def _connection(self, sender: Mailbox) -> SmtpConnection:
        mailbox_id = sender.access.mailbox_id
        if mailbox_id not in self._connections:
            self._connections[mailbox_id] = self._open.enter_context(
                SmtpConnection(sender.access, self._mode, self._settings.ca_files)
            )
        return self._connections[mailbox_id]

    def _hold(self, slot: Slot, reason: str) -> None:
        """Keep a slot that cannot be sent as things are set up, without stopping the others of its lane."""
        self._refuse(slot, Refusal(reason, self._clock.now() + timedelta(seconds=self._policy.dispatch.retry_s)))

    def _refuse(self, slot: Slot, refusal: Refusal) -> None:
        with self._engine.begin() as connection:
            if refusal.reason == "lease_lost":
                self._report.ends["fenced"] += 1
            elif refusal.retry_at is not None:
                store.give_back(connection, slot, reason=refusal.reason, retry_at=refusal.retry_at)
                self._report.ends["held"] += 1
            else:
                store.give_up(connection, slot, "cancelled", reason=refusal.reason)
                ledger.close_conversation(connection, slot)
                self._report.ends["refused"] += 1

    def _record(self, slot: Slot, attempt: Attempt, submitted_at: datetime | None, subject: str) -> None:
        now = self._clock.now()
        with self._engine.begin() as connection:
            if attempt.outcome == "sent":
                end = "sent"
                held = store.finish(connection, slot, "sent", sent_at=now)
            elif attempt.outcome == "uncertain":
                end = "uncertain"
                held = store.finish(connection, slot, "uncertain", reason=_reason(attempt))
            else:
                end, held = self._not_sent(connection, slot, attempt, now, was_submitted=submitted_at is not None)
            if not held:
                # The lease lapsed meanwhile and somebody else decides about this slot; only say what was seen.
                end = "fenced"
            ledger.record_attempt(connection, slot, attempt, now)
            if end == "sent":
                ledger.record_sent(connection, slot, now, subject=subject, cooldown_s=self._policy.bots.cooldown_s)
            elif end in ("retry", "failed") and submitted_at is not None:
                store.uncount(connection, slot, submitted_at=submitted_at)
            if end == "failed":
                ledger.close_conversation(connection, slot)
        self._report.ends[end] += 1
        if end != "sent":
            log.warning("slot %s: %s (%s)", slot.id, end, _reason(attempt))

    def _not_sent(
        self, connection: Connection, slot: Slot, attempt: Attempt, now: datetime, *, was_submitted: bool
    ) -> tuple[str, bool]:
        """Plan another attempt after a fault that may pass, or end the slot (RFC 5321 4.2.1)."""
        policy = self._policy.dispatch
        is_final = attempt.outcome == "permanent" and attempt.scope == "message"
        if is_final or slot.attempts + 1 >= policy.maximum_attempts:
            return "failed", store.give_up(
                connection, slot, "failed", reason=_reason(attempt), counts_as_attempt=not was_submitted
            )
        held = store.give_back(
            connection,
            slot,
            reason=_reason(attempt),
            retry_at=now + timedelta(seconds=policy.retry_s * 2**slot.attempts),
            counts_as_attempt=not was_submitted,
        )
        return "retry", held


def _reason(attempt: Attempt) -> str:
    return f"{attempt.stage} {attempt.reply_code or ''} {attempt.server_text}".replace("  ", " ")[:200]


@contextmanager
def _alone(engine: Engine, lane: int) -> Iterator[bool]:
    """Hold the lane's advisory lock for a run; yield False if another worker holds it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = {"space": _LOCK_SPACE, "lane": lane}
        taken: bool = connection.execute(text("select pg_try_advisory_lock(:space, :lane)"), key).scalar_one()
        try:
            yield taken
        finally:
            if taken:
                connection.execute(text("select pg_advisory_unlock(:space, :lane)"), key)
