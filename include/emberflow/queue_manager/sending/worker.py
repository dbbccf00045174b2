"""One run over one shard: hold due slots to their second and send each of them once.

One thread claims and leads all dialogues (``email_ops.dialogues``) and alone decides what happens next. What blocks is
done by others, who only report back to it: connecting and hanging up by two small pools, the two transactions of a mail
by a thread each. These are ``pre_send.submit`` immediately before DATA, and ``outcomes.Recorder.record`` after the
server's answer; dialogues that reach one of them at the same moment share its commit. If this process dies in between,
the slot's lease lapses in state ``submitting`` and it becomes ``uncertain``: it is never sent again blindly.

Whatever goes wrong with one slot is that slot's outcome: it is put back with the reason, its attempts are counted, and
after the last one it has failed; if its message was submitted, it is uncertain. The run goes on. What no slot is to
blame for ends it: the database is away or has another schema, the configuration is incomplete, or one mailbox after the
other meets an unknown error and nothing is sent in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ProgrammingError

from emberflow.accounts.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.clock import Clock
from emberflow.crash_points import reach
from emberflow.database import restores
from emberflow.database.engine import is_away
from emberflow.delivery.guard import Refusal, Route
from emberflow.domain.attempt import Attempt
from emberflow.domain.slot import Slot
from emberflow.email_ops.addresses import AddressError
from emberflow.email_ops.dialogues import Dialogues, Ended
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.policy.script_sets import ScriptLibrary
from emberflow.policy.versions import in_force
from emberflow.queue_manager import egress_logins, host_breakers, pre_send, slot_store
from emberflow.queue_manager.permits import Lease, Permits
from emberflow.queue_manager.pre_send import breaker_keys
from emberflow.queue_manager.sending import builders, slot_message
from emberflow.queue_manager.sending.group_commit import GroupCommit
from emberflow.queue_manager.sending.recorder import Recorded, Recorder, Result
from emberflow.settings import Settings

log = logging.getLogger(__name__)
_Report = tuple[Slot | None, Callable[..., None], tuple[Any, ...]]

_CLAIMED_PER_DIALOGUE = 4  # enough that no dialogue waits for the next claim, few enough to renew and to give back
_CLAIM_AGAIN_S = 0.25  # after a claim that found less than it asked for
_LONGEST_NAP_S = 2.0
_LONGEST_TURN_S = 0.25  # so soon a signal to stop is seen
_OPENERS, _CLOSERS = 16, 4
_PERMIT_ATTEMPTS, _PERMIT_PAUSE_S, _PERMIT_RETRY_S = 50, 0.1, 10
_STOP_GRACE_S = 4.0  # Airflow's supervisor sends SIGKILL five seconds after SIGTERM
_RECORD_PATIENCE_S = 60.0
_LONGEST_OVERTIME_S = 900.0  # after its window a run claims what is overdue for so long at most; the next run goes on
_STUMBLES = 5  # mailboxes, one after the other, with unknown errors: the fault is ours
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


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True)
class _Line:
    """A mailbox's connection and the place at its host that it takes up."""

    connection: SmtpConnection
    place: Lease

    def hang_up(self) -> None:
        try:
            self.connection.close()
        finally:
            self.place.release()


@dataclass
class _Mail:
    """A slot whose turn has come, and its message.

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
        dispatch = self._policy.dispatch
        self._scripts = ScriptLibrary()
        self._capacity = dispatch.dialogues * _CLAIMED_PER_DIALOGUE
        self._waiting: dict[int, deque[Slot]] = {}  # claimed slots by mailbox; a key is a mailbox that is being served
        self._ready: deque[int] = deque()  # such mailboxes of which no mail is under way
        self._under_way: dict[int, int] = {}  # the slot whose turn it is, by mailbox
        self._mails: dict[int, _Mail] = {}  # those of them whose dialogue has begun, by slot
        self._in_flight: set[int] = set()  # slots that are claimed and not recorded yet; none is claimed again
        self._refused: set[int] = set()  # mailboxes that a server refused in this run
        self._is_stopping = False
        self._stumbled: set[int] = set()  # mailboxes with an unknown error, since a mail was sent
        self._told_of: set[int] = set()  # slots whose outcome is such an error; a second one leaves them to their lease
        self._failures: list[BaseException] = []
        self._boxes: dict[int, Mailbox] = {}
        self._lines: dict[int, _Line] = {}
        self._reports: SimpleQueue[_Report] = SimpleQueue()  # what other threads want done by this one
        self._held: dict[int, Slot] = {}  # claimed and not submitted: their leases are renewed
        self._held_lock = threading.Lock()

    def work(self, stop: threading.Event) -> None:
        """Claim and send until the run is over, ``stop`` is set, or something fails that no slot is to blame for."""
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
            ThreadPoolExecutor(_OPENERS, thread_name_prefix=f"{name}-open") as self._openers,
            ThreadPoolExecutor(_CLOSERS, thread_name_prefix=f"{name}-close") as self._closers,
            _ticking(dispatch.lease_s / 3, self._renew),
        ):
            try:
                self._claim_until(self._clock.now() + timedelta(seconds=dispatch.window_s), stop)
            finally:
                self._finish(stop)
                self._high_water.close()
        for failure in self._failures:
            raise failure

    def _crowd(self) -> int:
        """Return how many dialogues may be about to ask for one of the two commits: about half of those under way.

        Any thread may ask.
        """
        return (len(self._under_way) + 1) // 2

    def _claim_until(self, ends_at: datetime, stop: threading.Event) -> None:
        claim_at = 0.0
        give_up_at = time.monotonic() + self._policy.dispatch.window_s + _LONGEST_OVERTIME_S
        while not stop.is_set() and not self._failures and time.monotonic() < give_up_at:
            now = self._clock.now()
            free = self._capacity - len(self._in_flight)
            if free >= self._capacity // 2 and (not self._in_flight or time.monotonic() >= claim_at):
                claimed = self._claim(min(now, ends_at), free)
                claim_at = time.monotonic() + (_CLAIM_AGAIN_S if claimed < free else 0.0)
                if claimed:
                    continue
            if self._in_flight:
                self._turn(_LONGEST_TURN_S)
                continue
            with self._engine.begin() as connection:
                due = slot_store.next_due(connection, self._shard, self._policy.dispatch.shards)
            if due is None or due > ends_at or now >= ends_at:
                return
            # What is due and was not claimed is held by the kill switch: look again after a nap, never at once.
            wait_s = (due - now).total_seconds()
            self._clock.sleep(min(wait_s, _LONGEST_NAP_S) if wait_s > 0 else _LONGEST_NAP_S)

    def _claim(self, until: datetime, limit: int) -> int:
        dispatch = self._policy.dispatch
        with self._engine.begin() as connection:
            slots = slot_store.claim(
                connection,
                shard=self._shard,
                shards=dispatch.shards,
                now=until,
                limit=limit,
                lease_s=dispatch.lease_s,
                policy=self._policy.queue,
                held=self._in_flight,
            )
            if not slots:
                return 0
            ids = {slot.from_mailbox_id for slot in slots} | {
                slot.to_mailbox_id for slot in slots if slot.to_mailbox_id is not None
            }
            opened = open_mailboxes(connection, self._settings, ids - self._boxes.keys())
            self._boxes |= opened.boxes
            self._scripts.fetch(connection, [slot.payload for slot in slots])
            now = self._clock.now()
            refused = builders.without_builder(slots, now) | pre_send.unfit(
                connection, slots, now=now, policy=self._policy, seed=self._seed
            )
            refused |= {
                slot.id: self._later("secret_unreadable")
                for slot in slots
                if slot.id not in refused and not self._boxes.keys() >= _mailboxes_of(slot)
            }
            routes, unbuilt = self._routes([slot for slot in slots if slot.id not in refused])
            usable = [slot for slot in slots if slot.id in routes]
            keys = {slot.id: breaker_keys(slot, routes[slot.id]) for slot in usable}
            blocked = host_breakers.admit(connection, keys, self._clock.now(), self._policy.breakers)
        reach("after_claim")
        for reason in opened.unreadable.values():
            log.error("slots are held: %s", reason)
        refused |= {slot_id: Refusal(block.reason, block.retry_at) for slot_id, block in blocked.items()}
        self._in_flight |= {slot.id for slot in slots}
        self._close_idle_lines({slot.from_mailbox_id for slot in usable})
        for slot in slots:
            if slot.id in refused:
                self._tell(Result(slot, refusal=refused[slot.id]))
            elif slot.id in unbuilt:
                self._tell(Result(slot, unbuilt=unbuilt[slot.id]))
            else:
                self._enqueue(slot)
        return len(slots)

    def _routes(self, slots: Sequence[Slot]) -> tuple[dict[int, Route], dict[int, str]]:
        """Return which way the slots' mails go, and why others go none, by slot."""
        routes: dict[int, Route] = {}
        unbuilt: dict[int, str] = {}
        for slot in slots:
            try:
                routes[slot.id] = slot_message.route_of(slot, self._boxes)
            except Exception as error:
                unbuilt[slot.id] = _unbuilt(error)
        return routes, unbuilt

    def _enqueue(self, slot: Slot) -> None:
        with self._held_lock:
            self._held[slot.id] = slot
        mailbox_id = slot.from_mailbox_id
        if mailbox_id not in self._waiting:
            self._waiting[mailbox_id] = deque()
            self._ready.append(mailbox_id)
        self._waiting[mailbox_id].append(slot)

    def _renew(self) -> None:
        """Renew the leases of what is not submitted; in the thread that ticks."""
        with self._held_lock:
            held = list(self._held.values())
        with self._engine.begin() as connection:
            slot_store.renew(connection, held, self._policy.dispatch.lease_s)

    def _finish(self, stop: threading.Event) -> None:
        """Give back what was not begun, and wait for the dialogues that are under way."""
        self._is_stopping = True
        for queue in self._waiting.values():
            while queue:
                self._give_back(queue.popleft(), "run stopped")
        patience_s = _STOP_GRACE_S if stop.is_set() else self._policy.dispatch.timeouts.longest_s + _RECORD_PATIENCE_S
        self._turn_until(time.monotonic() + patience_s)
        if self._in_flight:
            # A dialogue that is still waiting for its answer loses its connection, and its slot is uncertain.
            for line in list(self._lines.values()):
                line.connection.abort()
            self._turn_until(time.monotonic() + _RECORD_PATIENCE_S)
        self._openers.shutdown()
        self._waiting.clear()
        self._close_idle_lines()
        self._closers.shutdown()
        with self._engine.begin() as connection:
            keep_replaced_refresh_tokens(connection, self._settings)

    def _turn_until(self, deadline: float) -> None:
        is_over = False
        while self._in_flight and not is_over:
            # Looked at before the turn: what arrived while this process was stopped is read all the same.
            is_over = time.monotonic() >= deadline
            self._turn(0 if is_over else _LONGEST_TURN_S)

    def _give_back(self, slot: Slot, reason: str) -> None:
        self._tell(Result(slot, refusal=Refusal(reason, slot.target_time)))

    def _close_idle_lines(self, wanted: Collection[int] = ()) -> None:
        """Keep a connection while its mailbox has work; servers hang up on idle ones anyway."""
        for mailbox_id in set(self._lines) - self._waiting.keys() - set(wanted):
            self._closers.submit(self._lines.pop(mailbox_id).hang_up)

    # One turn: begin what may begin, let the dialogues go on, do what other threads reported.

    def _turn(self, timeout_s: float) -> None:
        while self._ready and len(self._under_way) < self._policy.dispatch.dialogues:
            self._serve(self._ready.popleft())
        for slot_id, event in self._dialogues.turn(timeout_s):
            mail = self._mails[slot_id]
            if event is None:
                self._attempt(mail.slot, self._ask, mail)
            else:
                self._attempt(mail.slot, self._end_dialogue, mail, event)
        with suppress(Empty):
            while True:
                slot, step, arguments = self._reports.get_nowait()
                self._attempt(slot, step, *arguments)

    def _attempt(self, slot: Slot | None, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step of one mail. An error is the mail's outcome; one that no mail is to blame for ends the run.

        Then, and if the outcome of an error could not be recorded either, the slot waits for its lease.
        """
        try:
            step(*arguments)
        except BaseException as failure:
            if slot is None or _is_nobodys(failure):
                self._failures.append(failure)
            else:
                log.exception("slot %s: unknown error", slot.id)
                self._stumbled.add(slot.from_mailbox_id)
                if len(self._stumbled) >= _STUMBLES:
                    self._failures.append(failure)
                elif slot.id not in self._told_of:
                    self._told_of.add(slot.id)
                    self._tell_error(slot, failure)
                    return
            if slot is not None:
                self._forget(slot)

    def _tell_error(self, slot: Slot, error: BaseException) -> None:
        """Have an error recorded as what became of a slot: uncertain if its message may have left, else not sent."""
        self._dialogues.cut(slot.id)
        mail = self._mails.get(slot.id)
        text = f"{type(error).__name__}: {error}"
        box = self._boxes.get(slot.from_mailbox_id)
        shown = text if box is None else box.access.public_text(text)
        if mail is not None and mail.may_leave:
            self._tell(mail.result(attempt=Attempt("uncertain", "eod", "mailbox", None, None, shown)))
            return
        attempt = Attempt("transient", "dial", "message", None, None, shown)
        if mail is not None and mail.submitted_at is not None:
            self._tell(mail.result(attempt=attempt))
            return
        self._tell(Result(slot, slot_message.route_of(slot, self._boxes), attempt))

    def _report_back(self, slot: Slot | None, step: Callable[..., None], *arguments: Any) -> None:
        """Have ``step`` done by the thread of the run; any thread may ask."""
        self._reports.put((slot, step, arguments))
        self._dialogues.wake()

    def _serve(self, mailbox_id: int) -> None:
        """Begin with the next mail of a mailbox of which none is under way."""
        queue = self._waiting[mailbox_id]
        while queue:
            slot = queue.popleft()
            if self._failures:
                self._give_back(slot, "run stopped")
            elif self._refused & _mailboxes_of(slot):
                # Its mailbox is paused by now: a later claim sees that, and nobody logs in for it.
                self._tell(Result(slot, refusal=self._later("a server refused its mailbox")))
            else:
                self._under_way[mailbox_id] = slot.id
                self._attempt(slot, self._begin, slot)
                return
        del self._waiting[mailbox_id]

    def _begin(self, slot: Slot) -> None:
        route = slot_message.route_of(slot, self._boxes)
        try:
            scripts = self._scripts.of(slot.payload)
            subject, message = slot_message.write(slot, self._boxes, scripts, self._seed, self._settings)
        except slot_message.UNWRITABLE as error:
            self._tell_unbuilt(slot, route, error)
            return
        mail = self._mails[slot.id] = _Mail(slot, route, subject, message)
        self._go_on(mail)

    def _go_on(self, mail: _Mail) -> None:
        """Begin the dialogue over the mailbox's session, or have that opened first."""
        access = self._boxes[mail.slot.from_mailbox_id].access
        line = self._lines.get(access.mailbox_id)
        session = None if line is None else line.connection.session
        if line is None or session is None:
            self._openers.submit(self._open, mail, line)
            return
        try:
            steps = line.connection.dialogue(mail.message, access.address, mail.route.recipient_address)
        except (AddressError, ValueError) as error:
            self._tell_unbuilt(mail.slot, mail.route, error)
        else:
            self._dialogues.begin(mail.slot.id, session, steps)

    def _open(self, mail: _Mail, line: _Line | None) -> None:
        """Open a session, which takes a place at its host and a login of its egress address; in an opener's thread."""
        sender = self._boxes[mail.slot.from_mailbox_id]
        try:
            self._require_going_on(mail.slot)
            if line is None:
                connection = SmtpConnection(
                    sender.access, self._mode, self._settings.ca_files, self._policy.dispatch.timeouts
                )
                line = self._lines[mail.slot.from_mailbox_id] = _Line(connection, self._place(sender))
            failed = line.connection.open()
        except BaseException as error:
            self._report_back(mail.slot, self._end_dialogue, mail, Ended(error=error))
        else:
            if failed is None:
                self._report_back(mail.slot, self._go_on, mail)
            else:
                self._report_back(mail.slot, self._end_dialogue, mail, Ended(attempt=failed))

    def _require_going_on(self, slot: Slot) -> None:
        if self._is_stopping:
            raise _RefusedError(Refusal("run stopped", slot.target_time))

    def _ask(self, mail: _Mail) -> None:
        """MAIL and RCPT are accepted: ask whether this mail may leave now."""
        try:
            self._require_going_on(mail.slot)
        except _RefusedError as refusal:
            self._dialogues.refuse(mail.slot.id, refusal)
            return
        asked = self._guard.ask(mail.slot)
        asked.add_done_callback(lambda said: self._report_back(mail.slot, self._answer, mail, said))

    def _answer(self, mail: _Mail, said: Future[tuple[Refusal | None, datetime]]) -> None:
        error = said.exception()
        if error is not None:
            self._dialogues.refuse(mail.slot.id, error)
            return
        refusal, moment = said.result()
        if refusal is not None:
            self._dialogues.refuse(mail.slot.id, _RefusedError(refusal))
            return
        mail.submitted_at = moment
        self._high_water.rise(mail.slot, moment)
        self._release(mail.slot)
        mail.may_leave = True
        self._dialogues.permit(mail.slot.id, self._policy.dispatch.write_within_s)

    def _end_dialogue(self, mail: _Mail, ended: Ended) -> None:
        if isinstance(ended.error, _RefusedError):
            self._tell(mail.result(refusal=ended.error.refusal))
        elif isinstance(ended.error, EgressRefusedError):
            log.warning("slot %s is held: %s", mail.slot.id, ended.error)
            self._tell(mail.result(refusal=self._later("egress_refused")))
        elif isinstance(ended.error, ConfigurationError) and mail.submitted_at is None:
            log.error("slot %s is held: %s", mail.slot.id, ended.error)
            self._tell(mail.result(refusal=self._later(f"not configured: {ended.error}"[:200])))
        elif ended.error is not None:
            raise ended.error
        elif ended.attempt is None:
            self._go_on(mail)
        else:
            self._tell(mail.result(attempt=ended.attempt))

    def _tell_unbuilt(self, slot: Slot, route: Route, error: Exception) -> None:
        self._tell(Result(slot, route, unbuilt=_unbuilt(error)))

    def _tell(self, result: Result) -> None:
        """Have a result recorded, before the next mail of its mailbox: a crash leaves one of them in doubt, not two."""
        slot = result.slot
        self._release(slot)
        recorded = self._records.ask(result)
        recorded.add_done_callback(lambda recorded: self._report_back(slot, self._note, slot, recorded))

    def _note(self, slot: Slot, recorded: Future[Recorded]) -> None:
        ended = recorded.result()
        self._report.ends[ended.name] += 1
        if ended.name == "sent":
            self._stumbled.clear()
        self._refused |= ended.stopped
        if self._under_way.get(slot.from_mailbox_id) == slot.id:
            reach("after_record_commit")
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        """The slot is nothing of this run's any more; its mailbox may go on."""
        self._release(slot)
        self._in_flight.discard(slot.id)
        self._mails.pop(slot.id, None)
        if self._under_way.get(slot.from_mailbox_id) == slot.id:
            del self._under_way[slot.from_mailbox_id]
            self._ready.append(slot.from_mailbox_id)

    def _release(self, slot: Slot) -> None:
        """Its lease is not renewed any more."""
        with self._held_lock:
            self._held.pop(slot.id, None)

    def _place(self, sender: Mailbox) -> Lease:
        """Take a place at the mailbox's host, and a login of its egress address; in an opener's thread."""
        now = self._clock.now()
        if sender.egress_ip_id is not None:
            with self._engine.begin() as connection:
                refusal = egress_logins.may_log_in(connection, sender.egress_ip_id, now)
            if refusal is not None:
                raise _RefusedError(refusal)
        limits = self._policy.connections.limits(
            host=sender.access.smtp_host, provider=sender.provider, egress_address=sender.access.source_address
        )
        for _ in range(_PERMIT_ATTEMPTS):
            lease = self._permits.take(limits)
            if lease is not None:
                return lease
            if self._is_stopping:
                break
            self._report_back(None, self._close_idle_lines)
            time.sleep(_PERMIT_PAUSE_S)
        raise _RefusedError(Refusal("connection_limit", now + timedelta(seconds=_PERMIT_RETRY_S)))

    def _later(self, reason: str) -> Refusal:
        """Keep a slot that cannot be sent as things are set up, without stopping the others of its shard."""
        return Refusal(reason, self._clock.now() + timedelta(seconds=self._policy.dispatch.retry_s))

    # The threads of the group commits

    def _submit(self, connection: Connection, slots: Sequence[Slot]) -> list[tuple[Refusal | None, datetime]]:
        now = self._clock.now()
        said = pre_send.submit(connection, slots, now=now, policy=self._policy, seed=self._seed)
        return [(said[slot.id].refusal, now) for slot in slots]


def _unbuilt(error: Exception) -> str:
    return f"message cannot be built: {type(error).__name__}: {error}"[:200]


def _is_nobodys(error: BaseException) -> bool:
    """Return whether no slot is to blame for an error, so that the next one would meet it too."""
    if not isinstance(error, Exception):
        return True
    return isinstance(error, ConfigurationError | ProgrammingError) or is_away(error)  # programming: another schema


def _mailboxes_of(slot: Slot) -> set[int]:
    return {slot.from_mailbox_id} | ({slot.to_mailbox_id} if slot.to_mailbox_id is not None else set())


@contextmanager
def _ticking(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` every so many seconds of real time, in a thread of its own; a failure ends nothing but that call."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            try:
                act()
            except Exception:
                log.warning("leases could not be renewed; the database is asked again", exc_info=True)

    thread = threading.Thread(target=tick, name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
