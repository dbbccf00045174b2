"""One run over one shard: hold due slots to their second and send each of them once.

The run's thread claims, leads all dialogues (``email_ops.dialogues``) and alone decides what happens next. What blocks
is done by others, who only report back to it:

===========================  ===========================================================  =================
Thread                       What it runs                                                 What it tells
===========================  ===========================================================  =================
the run's (one)              :meth:`Worker.work` and every method that says nothing else
openers, closers (pools)     logging in and hanging up (``connection_pool``)              ``Opened``,
                                                                                          ``PlaceWanted``
guard (one)                  ``pre_send.submit``, immediately before DATA; durable        :class:`Judged`
records (one)                ``Recorder.record``, after the server's answer               :class:`Written`
renewal (one)                renewing what was claimed and not submitted (``leases``)     nothing
===========================  ===========================================================  =================

A message is a frozen dataclass that names its slot; it waits in the inbox, which any thread may fill, until the run's
thread reads it in its next turn. All other state of a :class:`Worker` belongs to the run's thread; the group commits
only ask for one number of it, how many mails are under way.

Dialogues that reach the guard or the recorder at the same moment share its commit (``group_commit``). If this process
dies in between, the slot's lease lapses in state ``submitting`` and it becomes ``uncertain``: it is never sent again
blindly.

Whatever goes wrong with one slot is that slot's outcome: it is put back with the reason, its attempts are counted, and
after the last one it has failed; if its message was submitted, it is uncertain. The run goes on. What no slot is to
blame for (``unknown_errors``) ends it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import assert_never

from sqlalchemy import Connection, Engine

from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens
from emberflow.clock import Clock
from emberflow.crash_points import reach
from emberflow.database import restores
from emberflow.delivery.guard import Refusal
from emberflow.delivery.routes import Route
from emberflow.domain.attempt import Attempt
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.dialogues import Dialogues, Ended
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.policy.versions import in_force
from emberflow.queue_manager import pre_send
from emberflow.queue_manager.permits import Permits
from emberflow.queue_manager.sending import connection_pool, slot_message
from emberflow.queue_manager.sending.admission import Admission, mailboxes_of, unbuilt_because
from emberflow.queue_manager.sending.connection_pool import ConnectionPool, NotNowError, Opened, PlaceWanted
from emberflow.queue_manager.sending.group_commit import GroupCommit
from emberflow.queue_manager.sending.leases import Leases, given_back, put_off
from emberflow.queue_manager.sending.recorder import Recorded, Recorder, Result
from emberflow.queue_manager.sending.turns import Turns
from emberflow.queue_manager.sending.unknown_errors import UnknownErrors
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_CLAIMED_PER_DIALOGUE = 4  # enough that no dialogue waits for the next claim, few enough to renew and to give back
_CLAIM_AGAIN_S = 0.25  # after a claim that found less than it asked for
_LONGEST_NAP_S = 2.0
_LONGEST_TURN_S = 0.25  # so soon a signal to stop is seen
_STOP_GRACE_S = 4.0  # Airflow's supervisor sends SIGKILL five seconds after SIGTERM
_RECORD_PATIENCE_S = 60.0
_LONGEST_OVERTIME_S = 900.0  # after its window a run claims what is overdue for so long at most; the next run goes on
_GUARD_PATIENCE_S = 2.0  # enough for a deadlock or a failover; longer, and the mail server hangs up


@dataclass
class SendingReport:
    """How many slots of one shard came to which end in one run; ``was_busy`` means another worker had it.

    ``refused`` says why this worker must not send at all; then it claimed nothing.
    """

    shard: int
    was_busy: bool = False
    refused: str | None = None
    ends: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Judgement:
    """What the pre-send check says of one mail: it may leave, counted as submitted ``at``, or why it may not."""

    refusal: Refusal | None
    at: datetime


@dataclass(frozen=True)
class Judged:
    """The pre-send check of ``slot`` is committed, or has failed; from the guard's thread."""

    slot: Slot
    said: Future[Judgement]


@dataclass(frozen=True)
class Written:
    """What became of ``slot`` is committed, or could not be written; from the recorder's thread."""

    slot: Slot
    recorded: Future[Recorded]


Message = connection_pool.Message | Judged | Written


@dataclass
class _Mail:
    """A slot whose turn has come, and its message. Only the run's thread reads or changes it.

    ``submitted_at`` is when the guard let it go; ``may_leave``: its dialogue was told so, and may have begun DATA.
    """

    slot: Slot
    route: Route
    subject: str
    message: bytes
    submitted_at: datetime | None = None
    may_leave: bool = False

    def result(self, *, attempt: Attempt | None = None, refusal: Refusal | None = None) -> Result:
        return Result(self.slot, self.route, attempt, refusal, self.submitted_at, self.subject)


class Worker:
    """One run over one shard. Its methods belong to the thread that calls :meth:`work`, unless they say otherwise."""

    def __init__(
        self,
        engine: Engine,
        shard: int,
        mode: Mode,
        clock: Clock,
        settings: Settings,
        report: SendingReport,
        permits: Permits,
    ) -> None:
        self._engine = engine
        self._shard = shard
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._report = report
        self._permits = permits
        with engine.begin() as connection:
            force = in_force(connection)
            self._high_water = restores.HighWater(connection, shard)
        self._policy, self._seed = force.policy, force.seed
        self._capacity = self._policy.dispatch.dialogues * _CLAIMED_PER_DIALOGUE
        self._leases = Leases(engine, shard, self._policy)
        self._admission = Admission(clock, settings, self._policy, self._seed)
        self._turns = Turns()
        self._errors = UnknownErrors()
        self._mails: dict[int, _Mail] = {}  # what is under way and could be written, by slot
        self._refused: set[int] = set()  # mailboxes that a server refused in this run
        self._is_stopping = False
        self._inbox: SimpleQueue[Message] = SimpleQueue()  # what other threads have to say

    def work(self, stop: threading.Event) -> None:
        """Claim and send until the run is over, ``stop`` is set, or something fails that no slot is to blame for.

        A run lasts ``dispatch.window_s`` seconds, and longer only while something overdue is left; after ``stop`` it
        ends within ``_STOP_GRACE_S`` seconds, except for what has to be recorded.

        Raises:
            Exception: the first failure that no slot is to blame for, once everything was given back or recorded.
        """
        dispatch = self._policy.dispatch
        name = f"shard-{self._shard}"
        with (
            Dialogues[int]() as self._dialogues,
            # Not durable at once: if a crash loses a record, the slot is still `submitting` and will be reconciled.
            GroupCommit(
                self._engine,
                f"{name}-records",
                Recorder(self._clock, self._policy, self._seed).record,
                crowd=self._crowd,
                patience_s=_RECORD_PATIENCE_S,
                is_durable=False,
            ) as self._records,
            GroupCommit(
                self._engine, f"{name}-guard", self._submit, crowd=self._crowd, patience_s=_GUARD_PATIENCE_S
            ) as self._guard,
            ConnectionPool(
                name,
                self._engine,
                self._permits,
                self._clock,
                self._policy.connections,
                connect=self._connection_of,
                tell=self._tell_run,
            ) as self._pool,
            self._leases.renewing(),
        ):
            try:
                self._claim_until(self._clock.now() + timedelta(seconds=dispatch.window_s), stop)
            finally:
                self._finish(stop)
                self._high_water.close()
        for failure in self._errors.failures:
            raise failure

    # Claim, and give back

    def _claim_until(self, ends_at: datetime, stop: threading.Event) -> None:
        claim_at = 0.0
        give_up_at = time.monotonic() + self._policy.dispatch.window_s + _LONGEST_OVERTIME_S
        while not stop.is_set() and not self._errors.failures and time.monotonic() < give_up_at:
            now = self._clock.now()
            free = self._capacity - len(self._leases)
            if free >= self._capacity // 2 and (not self._leases or time.monotonic() >= claim_at):
                claimed = self._claim(min(now, ends_at), free)
                claim_at = time.monotonic() + (_CLAIM_AGAIN_S if claimed < free else 0.0)
                if claimed:
                    continue
            if self._leases:
                self._turn(_LONGEST_TURN_S)
                continue
            due = self._leases.next_due()
            if due is None or due > ends_at or now >= ends_at:
                return
            # What is due and was not claimed is held by the kill switch: look again after a nap, never at once.
            wait_s = (due - now).total_seconds()
            self._clock.sleep(min(wait_s, _LONGEST_NAP_S) if wait_s > 0 else _LONGEST_NAP_S)

    def _claim(self, until: datetime, limit: int) -> int:
        with self._engine.begin() as connection:
            slots = self._leases.claim(connection, until, limit)
            if not slots:
                return 0
            admitted = self._admission.admit(connection, slots)
        reach("after_claim")
        self._leases.hold(slots)
        self._pool.close_all_but(self._turns.mailboxes | admitted.senders)
        for slot in admitted.to_try:
            self._leases.keep(slot)
            self._turns.add(slot)
        for result in admitted.settled:
            self._record(result)
        return len(slots)

    def _finish(self, stop: threading.Event) -> None:
        """Give back what was not begun, and wait for the dialogues that are under way."""
        self._is_stopping = True
        self._pool.open_no_more()
        for slot in self._turns.drain():
            self._record(given_back(slot, "run stopped"))
        patience_s = _STOP_GRACE_S if stop.is_set() else self._policy.dispatch.timeouts.longest_s + _RECORD_PATIENCE_S
        self._turn_until(time.monotonic() + patience_s)
        if self._leases:
            # A dialogue that is still waiting for its answer loses its connection, and its slot is uncertain.
            self._pool.abort()
            self._turn_until(time.monotonic() + _RECORD_PATIENCE_S)
        self._pool.close()
        with self._engine.begin() as connection:
            keep_replaced_refresh_tokens(connection, self._settings)

    def _turn_until(self, deadline: float) -> None:
        is_over = False
        while self._leases and not is_over:
            # Looked at before the turn: what arrived while this process was stopped is read all the same.
            is_over = time.monotonic() >= deadline
            self._turn(0 if is_over else _LONGEST_TURN_S)

    # One turn: begin what may begin, let the dialogues go on, read what other threads told.

    def _turn(self, timeout_s: float) -> None:
        self._begin_what_may()
        for slot_id, event in self._dialogues.turn(timeout_s):
            mail = self._mails[slot_id]
            step = partial(self._ask, mail) if event is None else partial(self._end_dialogue, mail, event)
            self._attempt(mail.slot, step)
        with suppress(Empty):
            while True:
                message = self._inbox.get_nowait()
                slot = None if isinstance(message, PlaceWanted) else message.slot
                self._attempt(slot, partial(self._read, message))

    def _read(self, message: Message) -> None:
        match message:
            case Opened(slot, failed):
                mail = self._mails[slot.id]
                if failed is None:
                    self._go_on(mail)
                else:
                    self._end_dialogue(mail, failed)
            case PlaceWanted():
                self._pool.close_all_but(self._turns.mailboxes)
            case Judged(slot, said):
                self._answer(self._mails[slot.id], said)
            case Written(slot, recorded):
                self._note(slot, recorded)
            case _:
                assert_never(message)

    def _attempt(self, slot: Slot | None, step: Callable[[], None]) -> None:
        """Do a step of one mail. An error is the mail's outcome, or ends the run; then the slot waits for its lease."""
        try:
            step()
        except BaseException as error:
            if slot is None:
                self._errors.is_outcome(None, error)
            elif self._errors.is_outcome(slot, error):
                self._record_error(slot, error)
            else:
                self._forget(slot)

    def _begin_what_may(self) -> None:
        """Begin with mails, until as many dialogues are under way as the policy allows."""
        while (slot := self._turns.take(self._policy.dispatch.dialogues)) is not None:
            if self._errors.failures:
                self._record(given_back(slot, "run stopped"))
            elif self._refused & mailboxes_of(slot):
                # Its mailbox is paused by now: a later claim sees that, and nobody logs in for it.
                self._record(Result(slot, refusal=self._later("a server refused its mailbox")))
            else:
                self._turns.begin(slot)
                self._attempt(slot, partial(self._begin, slot))

    # The steps of one mail, in their order

    def _begin(self, slot: Slot) -> None:
        boxes = self._admission.boxes
        route = slot_message.route_of(slot, boxes)
        try:
            scripts = self._admission.scripts.of(slot.payload)
            subject, message = slot_message.write(slot, boxes, scripts, self._seed, self._settings)
        except slot_message.UNWRITABLE as error:
            self._record(Result(slot, route, unbuilt=unbuilt_because(error)))
            return
        mail = self._mails[slot.id] = _Mail(slot, route, subject, message)
        self._go_on(mail)

    def _go_on(self, mail: _Mail) -> None:
        """Begin the dialogue over the mailbox's session, or have that opened first."""
        sender = self._admission.boxes[mail.slot.from_mailbox_id]
        connection = self._pool.kept(mail.slot.from_mailbox_id)
        session = None if connection is None else connection.session
        if connection is None or session is None:
            self._pool.open(mail.slot, sender)
            return
        try:
            steps = connection.dialogue(mail.message, sender.access.address, mail.route.recipient_address)
        except (AddressError, ValueError) as error:
            self._record(Result(mail.slot, mail.route, unbuilt=unbuilt_because(error)))
        else:
            self._dialogues.begin(mail.slot.id, session, steps)

    def _ask(self, mail: _Mail) -> None:
        """MAIL and RCPT are accepted: ask whether this mail may leave now."""
        if self._is_stopping:
            self._dialogues.refuse(mail.slot.id, NotNowError(Refusal("run stopped", mail.slot.target_time)))
            return
        asked = self._guard.ask(mail.slot)
        asked.add_done_callback(lambda said: self._tell_run(Judged(mail.slot, said)))

    def _answer(self, mail: _Mail, said: Future[Judgement]) -> None:
        error = said.exception()
        if error is not None:
            self._dialogues.refuse(mail.slot.id, error)
            return
        judgement = said.result()
        if judgement.refusal is not None:
            self._dialogues.refuse(mail.slot.id, NotNowError(judgement.refusal))
            return
        mail.submitted_at = judgement.at
        self._high_water.rise(mail.slot, judgement.at)
        self._leases.leave(mail.slot)
        mail.may_leave = True
        self._dialogues.permit(mail.slot.id, self._policy.dispatch.write_within_s)

    def _end_dialogue(self, mail: _Mail, ended: Ended) -> None:
        if isinstance(ended.error, NotNowError):
            self._record(mail.result(refusal=ended.error.refusal))
        elif isinstance(ended.error, EgressRefusedError):
            log.warning("slot %s is held: %s", mail.slot.id, ended.error)
            self._record(mail.result(refusal=self._later("egress_refused")))
        elif isinstance(ended.error, ConfigurationError) and mail.submitted_at is None:
            log.error("slot %s is held: %s", mail.slot.id, ended.error)
            self._record(mail.result(refusal=self._later(f"not configured: {ended.error}"[:200])))
        elif ended.error is not None:
            raise ended.error
        elif ended.attempt is None:
            self._go_on(mail)
        else:
            self._record(mail.result(attempt=ended.attempt))

    def _record_error(self, slot: Slot, error: BaseException) -> None:
        """Have an error recorded as what became of a slot: uncertain if its message may have left, else not sent."""
        self._dialogues.cut(slot.id)
        mail = self._mails.get(slot.id)
        text = f"{type(error).__name__}: {error}"
        box = self._admission.boxes.get(slot.from_mailbox_id)
        shown = text if box is None else box.access.public_text(text)
        if mail is not None and mail.may_leave:
            self._record(mail.result(attempt=Attempt("uncertain", "eod", "mailbox", None, None, shown)))
            return
        attempt = Attempt("transient", "dial", "message", None, None, shown)
        if mail is not None and mail.submitted_at is not None:
            self._record(mail.result(attempt=attempt))
            return
        self._record(Result(slot, slot_message.route_of(slot, self._admission.boxes), attempt))

    def _record(self, result: Result) -> None:
        """Have a result recorded, before the next mail of its mailbox: a crash leaves one of them in doubt, not two."""
        slot = result.slot
        self._leases.leave(slot)
        asked = self._records.ask(result)
        asked.add_done_callback(lambda recorded: self._tell_run(Written(slot, recorded)))

    def _note(self, slot: Slot, recorded: Future[Recorded]) -> None:
        ended = recorded.result()
        self._report.ends[ended.name] += 1
        if ended.name == "sent":
            self._errors.mail_was_sent()
        self._refused |= ended.stopped
        if self._turns.is_under_way(slot):
            reach("after_record_commit")
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        """The slot is nothing of this run's any more; its mailbox may go on."""
        self._leases.end(slot)
        self._mails.pop(slot.id, None)
        self._turns.end(slot)

    def _later(self, reason: str) -> Refusal:
        return put_off(reason, self._clock.now(), self._policy.dispatch.retry_s)

    # In other threads

    def _tell_run(self, message: Message) -> None:
        """Have the run's thread read a message; in any thread."""
        self._inbox.put(message)
        self._dialogues.wake()

    def _crowd(self) -> int:
        """Return how many dialogues may be about to ask for one of the two commits: about half of those under way.

        In the threads of the group commits.
        """
        return (self._turns.under_way + 1) // 2

    def _submit(self, connection: Connection, slots: Sequence[Slot]) -> list[Judgement]:
        """Run the pre-send check; in the guard's thread."""
        now = self._clock.now()
        said = pre_send.submit(connection, slots, now=now, policy=self._policy, seed=self._seed,
                                 keys=self._settings.secret_keys)  # fmt: skip
        return [Judgement(said[slot.id].refusal, now) for slot in slots]

    def _connection_of(self, sender: Mailbox) -> SmtpConnection:
        """Return a connection that is not open yet; in an opener's thread."""
        return SmtpConnection(sender.access, self._mode, self._settings.ca_files, self._policy.dispatch.timeouts)
