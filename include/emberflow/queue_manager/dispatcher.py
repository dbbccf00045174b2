"""Dispatch: hold due slots to their second and send each of them once.

A *lane* is a fixed share of the sending mailboxes (mailbox id modulo the number of lanes). A run takes the lane's
advisory lock, so that a mailbox is sent from by one process of all hosts at a time, claims what is due, and leads
several SMTP dialogues at once, each mailbox's own mails one after the other over one connection.

A mail is sent between two transactions: ``submission.submit`` immediately before DATA, and ``_record`` after the
server's answer. Dialogues that reach one of them at the same moment share its commit. If this process dies in between,
the slot's lease lapses in state ``submitting`` and it becomes ``uncertain``: it is never sent again blindly.

On SIGTERM a run stops within a few seconds: what was not submitted goes back to the queue, and what was is waited for
as long as Airflow waits before it kills.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import FrameType
from typing import TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError

from emberflow.clock import Clock
from emberflow.crash_points import reach
from emberflow.email_ops.addresses import AddressError, domain_of
from emberflow.email_ops.content import BUILT_IN, load_scripts
from emberflow.email_ops.egress import Mode
from emberflow.email_ops.message import OutgoingMessage, UnsafeMessageError, build
from emberflow.email_ops.smtp import Attempt, SmtpConnection
from emberflow.email_ops.tokens import sign
from emberflow.errors import EgressRefusedError
from emberflow.queue_manager import breakers, consequences, egress, ledger, reply_codes, store, submission
from emberflow.queue_manager.connection_slots import ConnectionSlots, Lease
from emberflow.queue_manager.group_commit import GroupCommit
from emberflow.queue_manager.guard import Refusal, Route
from emberflow.queue_manager.mailboxes import Mailbox, keep_replaced_refresh_tokens, open_mailboxes
from emberflow.queue_manager.policies import in_force
from emberflow.queue_manager.reply_codes import Verdict
from emberflow.queue_manager.slots import Slot
from emberflow.queue_manager.store import End
from emberflow.queue_manager.submission import breaker_keys
from emberflow.queue_manager.switches import enter_mail_mode
from emberflow.randomness import state, uniforms
from emberflow.settings import Settings

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CLAIMED_PER_THREAD = 4  # enough that no thread waits for the next claim, few enough to renew and to give back
_LONGEST_NAP_S = 2.0
_PLACE_ATTEMPTS, _PLACE_PAUSE_S, _PLACE_RETRY_S = 50, 0.1, 10
_STOP_GRACE_S = 4.0  # Airflow's supervisor sends SIGKILL five seconds after SIGTERM
_RECORD_PATIENCE_S = 60.0
_GUARD_PATIENCE_S = 2.0  # enough for a deadlock or a failover; longer, and the mail server hangs up
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
        policy = in_force(connection).policy
        now = clock.now()
        tidied = store.tidy(connection, now=now, policy=policy.queue)
        ledger.record_parked(connection, tidied.parked, now)
        if tidied.is_anything:
            log.warning("tidied the queue: %s", tidied)
        return store.lanes_due(connection, policy.dispatch.lanes, now + timedelta(seconds=policy.dispatch.window_s))


def dispatch_lane(engine: Engine, lane: int, *, clock: Clock, settings: Settings) -> LaneReport:
    """Send what is or becomes due in ``lane`` during one run.

    Raises:
        ConfigurationError: no policy is in force, a key is missing, or live mode is only half switched on.
    """
    report = LaneReport(lane)
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
    with _alone(engine, lane) as session:
        if session is not None:
            with _stop_signal() as stop:
                _Run(engine, lane, mode, clock, settings, report, ConnectionSlots(session)).work(stop)
        else:
            report.was_busy = True
    return report


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True)
class _Line:
    """A mailbox's connection and the place at its host that it takes up."""

    connection: SmtpConnection
    place: Lease


@dataclass(frozen=True)
class _Result:
    """What a dialogue has to tell about its slot; ``submitted_at`` is None if it was never submitted."""

    slot: Slot
    route: Route | None = None
    attempt: Attempt | None = None
    refusal: Refusal | None = None
    submitted_at: datetime | None = None
    subject: str = ""
    unbuilt: str | None = None


class _Run:
    """One run over one lane."""

    def __init__(
        self,
        engine: Engine,
        lane: int,
        mode: Mode,
        clock: Clock,
        settings: Settings,
        report: LaneReport,
        places: ConnectionSlots,
    ) -> None:
        self._engine = engine
        self._lane = lane
        self._mode: Mode = mode
        self._clock = clock
        self._settings = settings
        self._report = report
        self._places = places
        with engine.begin() as connection:
            self._policy = in_force(connection).policy
        dispatch = self._policy.dispatch
        self._scripts = load_scripts(settings.scripts_dir or BUILT_IN)
        self._capacity = dispatch.threads * _CLAIMED_PER_THREAD
        # Everything below is shared by the threads of this run and guarded by _changed.
        self._changed = threading.Condition()
        self._waiting: dict[int, deque[Slot]] = {}  # claimed slots by mailbox; a key is a mailbox that is being served
        self._held: dict[int, Slot] = {}  # claimed and not submitted: their leases are renewed
        self._in_flight = 0
        self._is_stopping = False
        self._failures: list[BaseException] = []
        self._boxes: dict[int, Mailbox] = {}
        self._lines: dict[int, _Line] = {}

    def work(self, stop: threading.Event) -> None:
        """Claim and send until the run is over, ``stop`` is set, or something fails that no slot is to blame for."""
        dispatch = self._policy.dispatch
        name = f"lane-{self._lane}"
        with (
            # Not durable at once: if a crash loses a record, the slot is still `submitting` and will be reconciled.
            GroupCommit(
                self._engine,
                f"{name}-records",
                self._record,
                crowd=self._crowd,
                patience_s=_RECORD_PATIENCE_S,
                is_durable=False,
            ) as self._records,
            GroupCommit(
                self._engine, f"{name}-guard", self._submit, crowd=self._crowd, patience_s=_GUARD_PATIENCE_S
            ) as self._guard,
            ThreadPoolExecutor(dispatch.threads, thread_name_prefix=name) as self._pool,
            _ticking(dispatch.lease_s / 3, self._renew),
        ):
            try:
                self._claim_until(self._clock.now() + timedelta(seconds=dispatch.window_s), stop)
            finally:
                self._finish(stop)
        for failure in self._failures:
            raise failure

    def _crowd(self) -> int:
        """Return how many dialogues may be about to ask for one of the two commits: about half of those under way."""
        return (min(len(self._waiting), self._policy.dispatch.threads) + 1) // 2

    # The thread of the run

    def _claim_until(self, ends_at: datetime, stop: threading.Event) -> None:
        while not stop.is_set() and not self._failures:
            now = self._clock.now()
            with self._changed:
                free = self._capacity - self._in_flight
            claimed = self._claim(min(now, ends_at), free) if free >= self._capacity // 2 else 0
            if claimed:
                continue
            with self._changed:
                if self._in_flight:
                    self._changed.wait(0.25)
                    continue
            with self._engine.begin() as connection:
                due = store.next_due(connection, self._lane, self._policy.dispatch.lanes)
            if due is None or due > ends_at or now >= ends_at:
                return
            # What is due and was not claimed is held by the kill switch: look again after a nap, never at once.
            wait_s = (due - now).total_seconds()
            self._clock.sleep(min(wait_s, _LONGEST_NAP_S) if wait_s > 0 else _LONGEST_NAP_S)

    def _claim(self, until: datetime, limit: int) -> int:
        dispatch = self._policy.dispatch
        with self._engine.begin() as connection:
            slots = store.claim(
                connection,
                lane=self._lane,
                lanes=dispatch.lanes,
                now=until,
                limit=limit,
                lease_s=dispatch.lease_s,
                policy=self._policy.queue,
            )
            if not slots:
                return 0
            ids = {slot.from_mailbox_id for slot in slots} | {
                slot.to_mailbox_id for slot in slots if slot.to_mailbox_id is not None
            }
            opened = open_mailboxes(connection, self._settings, ids - self._boxes.keys())
            self._boxes |= opened.boxes
            usable = [slot for slot in slots if self._boxes.keys() >= _mailboxes_of(slot)]
            routes = {slot.id: self._route(slot) for slot in usable}
            keys = {slot.id: breaker_keys(slot, routes[slot.id]) for slot in usable}
            blocked = breakers.admit(connection, keys, self._clock.now(), self._policy.breakers)
        reach("after_claim")
        self._close_idle_lines({slot.from_mailbox_id for slot in usable})
        for slot in slots:
            if slot.id not in routes:
                log.error("slot %s is held: %s", slot.id, "; ".join(opened.unreadable.values()) or "no mailbox")
                self._tell(_Result(slot, refusal=self._later("secret_unreadable")))
            elif slot.id in blocked:
                block = blocked[slot.id]
                self._tell(_Result(slot, refusal=Refusal(block.reason, block.retry_at)))
            else:
                self._enqueue(slot)
        return len(slots)

    def _enqueue(self, slot: Slot) -> None:
        with self._changed:
            self._in_flight += 1
            self._held[slot.id] = slot
            if slot.from_mailbox_id in self._waiting:
                self._waiting[slot.from_mailbox_id].append(slot)
                return
            self._waiting[slot.from_mailbox_id] = deque([slot])
        self._pool.submit(self._serve, slot.from_mailbox_id)

    def _renew(self) -> None:
        with self._changed:
            held = list(self._held.values())
        with self._engine.begin() as connection:
            store.renew(connection, held, self._policy.dispatch.lease_s)

    def _finish(self, stop: threading.Event) -> None:
        """Give back what was not begun, and wait for the dialogues that are under way."""
        with self._changed:
            self._is_stopping = True
            unbegun = [slot for queue in self._waiting.values() for slot in queue]
            for queue in self._waiting.values():
                queue.clear()
            self._in_flight -= len(unbegun)
        for slot in unbegun:
            self._tell(_Result(slot, refusal=Refusal("run stopped", slot.target_time)))
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, _STOP_GRACE_S if stop.is_set() else None)
            is_left = bool(self._in_flight)
        if is_left:
            # A dialogue that is still waiting for its answer loses its connection, and its slot is uncertain.
            for line in self._lines.values():
                line.connection.abort()
        self._pool.shutdown()
        self._close_idle_lines()
        with self._engine.begin() as connection:
            keep_replaced_refresh_tokens(connection, self._settings)

    def _close_idle_lines(self, wanted: Collection[int] = ()) -> None:
        """Keep a connection while its mailbox has work; servers hang up on idle ones anyway."""
        with self._changed:
            idle = [box for box in self._lines if box not in self._waiting and box not in wanted]
            closing = [self._lines.pop(box) for box in idle]
        for line in closing:
            line.connection.close()
            line.place.release()

    # The threads of the dialogues

    def _serve(self, mailbox_id: int) -> None:
        while True:
            with self._changed:
                queue = self._waiting[mailbox_id]
                if not queue or self._failures:
                    if not queue:
                        del self._waiting[mailbox_id]
                    return
                slot = queue.popleft()
            try:
                # Recorded before the next mail of the same mailbox: a crash leaves one of them in doubt, not two.
                self._tell(self._send(slot)).result()
                reach("after_record_commit")
            except BaseException as failure:
                with self._changed:
                    self._failures.append(failure)
            finally:
                with self._changed:
                    self._in_flight -= 1
                    self._held.pop(slot.id, None)
                    self._changed.notify_all()

    def _send(self, slot: Slot) -> _Result:
        sender = self._boxes[slot.from_mailbox_id]
        recipient = slot.to_address or self._boxes[_known(slot.to_mailbox_id)].access.address
        route = self._route(slot)
        try:
            subject, message = self._message(slot, sender, recipient)
        except (UnsafeMessageError, AddressError, KeyError, ValueError) as error:
            reason = f"message cannot be built: {type(error).__name__}: {error}"[:200]
            return _Result(slot, route, unbuilt=reason)
        submitted_at: list[datetime] = []

        def before_data() -> float:
            if self._is_stopping:
                raise _RefusedError(Refusal("run stopped", slot.target_time))
            refusal, moment = self._guard.ask(slot).result()
            if refusal is not None:
                raise _RefusedError(refusal)
            submitted_at.append(moment)
            with self._changed:
                self._held.pop(slot.id, None)
            return self._policy.dispatch.write_within_s

        try:
            attempt = self._line(sender).deliver(message, sender.access.address, recipient, before_data=before_data)
        except _RefusedError as refused:
            return _Result(slot, route, refusal=refused.refusal)
        except EgressRefusedError as error:
            log.warning("slot %s is held: %s", slot.id, error)
            return _Result(slot, route, refusal=self._later("egress_refused"))
        return _Result(slot, route, attempt, submitted_at=submitted_at[0] if submitted_at else None, subject=subject)

    def _message(self, slot: Slot, sender: Mailbox, recipient: str) -> tuple[str, bytes]:
        if slot.bot_id is None or slot.to_mailbox_id is None:
            raise ValueError("cold mail has no builder in this version")
        payload = slot.payload
        subject, body = self._scripts.render(
            payload["script"],
            slot.turn,
            seed=self._settings.seed,
            key=(payload["thread"],),
            from_name=sender.display_name,
            to_name=self._boxes[slot.to_mailbox_id].display_name,
        )
        message = OutgoingMessage(
            message_id=slot.message_id,
            from_address=sender.access.address,
            from_name=sender.display_name,
            to_address=recipient,
            subject=subject,
            body=body,
            date=slot.target_time,
            in_reply_to=payload.get("in_reply_to"),
            references=tuple(payload.get("references", ())),
            token=sign(self._settings.require_token_keys(), slot.id, slot.sender_id, slot.bot_id, slot.turn),
            auto_reply=not slot.goes_to_bot,
        )
        return subject, build(message)

    def _line(self, sender: Mailbox) -> SmtpConnection:
        """Return the mailbox's connection; a new one needs a place at its host, and a login of its egress address."""
        mailbox_id = sender.access.mailbox_id
        line = self._lines.get(mailbox_id)
        if line is None:
            place = self._place(sender)
            connection = SmtpConnection(
                sender.access, self._mode, self._settings.ca_files, self._policy.dispatch.timeouts
            )
            line = _Line(connection, place)
            with self._changed:
                self._lines[mailbox_id] = line
        return line.connection

    def _place(self, sender: Mailbox) -> Lease:
        now = self._clock.now()
        if sender.egress_ip_id is not None:
            with self._engine.begin() as connection:
                refusal = egress.may_log_in(connection, sender.egress_ip_id, now)
            if refusal is not None:
                raise _RefusedError(refusal)
        limits = self._policy.connections.limits(
            host=sender.access.smtp_host, provider=sender.provider, egress_address=sender.access.source_address
        )
        for _ in range(_PLACE_ATTEMPTS):
            place = self._places.take(limits)
            if place is not None:
                return place
            self._close_idle_lines()
            with self._changed:
                self._changed.wait(_PLACE_PAUSE_S)
        raise _RefusedError(Refusal("connection_limit", now + timedelta(seconds=_PLACE_RETRY_S)))

    def _route(self, slot: Slot) -> Route:
        sender = self._boxes[slot.from_mailbox_id]
        recipient = None if slot.to_mailbox_id is None else self._boxes[slot.to_mailbox_id]
        address = slot.to_address or _known(recipient).access.address
        return Route(
            smtp_host=sender.access.smtp_host,
            sender_provider=sender.provider,
            sender_domain=domain_of(sender.access.address),
            recipient_address=address,
            recipient_provider=domain_of(address) if recipient is None else recipient.provider,
            egress_address=sender.access.source_address,
        )

    def _later(self, reason: str) -> Refusal:
        """Keep a slot that cannot be sent as things are set up, without stopping the others of its lane."""
        return Refusal(reason, self._clock.now() + timedelta(seconds=self._policy.dispatch.retry_s))

    def _tell(self, result: _Result) -> Future[str]:
        with self._changed:
            self._held.pop(result.slot.id, None)
        told = self._records.ask(result)
        told.add_done_callback(self._was_told)
        return told

    def _was_told(self, told: Future[str]) -> None:
        error = told.exception()
        with self._changed:
            if error is not None:
                self._failures.append(error)
            else:
                self._report.ends[told.result()] += 1

    # The threads of the group commits

    def _submit(self, connection: Connection, slots: Sequence[Slot]) -> list[tuple[Refusal | None, datetime]]:
        now = self._clock.now()
        said = submission.submit(connection, slots, now=now, policy=self._policy)
        return [(said[slot.id].refusal, now) for slot in slots]

    def _record(self, connection: Connection, results: Sequence[_Result]) -> list[str]:
        """Write what became of slots: state, counters, pairs, conversations and events in one transaction."""
        now = self._clock.now()
        ends = [self._end(result, now) for result in results]
        # A slot that the guard says is not ours any more is not written to, whatever its row holds: if the answer to
        # the guard's own commit was lost, it is `submitting` under our token, and its lease alone may end that.
        ours = [end for result, (_, end, _) in zip(results, ends, strict=True) if result.refusal != submission.LOST]
        changed = store.finish(connection, ours)
        names = []
        for result, (name, end, _) in zip(results, ends, strict=True):
            is_mine = result.slot.id in changed
            names.append(name if is_mine else "fenced")
            if not is_mine:
                continue
            if end.status in ("planned", "failed") and result.submitted_at is not None:
                submission.take_back(connection, result.slot, submitted_at=result.submitted_at, now=now)
            if end.status in ("failed", "cancelled"):
                ledger.close_conversation(connection, result.slot)
        named = list(zip(results, names, strict=True))
        ledger.record(
            connection,
            tried=[ledger.Tried(result.slot, result.attempt, now) for result in results if result.attempt is not None],
            fenced=[ledger.Late(result.slot, now) for result, name in named if name == "fenced"],
            sent=[ledger.Sent(result.slot, now, result.subject) for result, name in named if name == "sent"],
            cooldown_s=self._policy.bots.cooldown_s,
        )
        consequences.draw(
            connection,
            [
                consequences.Answer(result.slot, result.route, verdict)
                for result, (_, _, verdict) in zip(results, ends, strict=True)
                if result.route is not None and result.attempt is not None
            ],
            now=now,
            policy=self._policy.breakers,
        )
        reach("before_record_commit")
        return names

    def _end(self, result: _Result, now: datetime) -> tuple[str, End, Verdict | None]:
        """Return what the run calls this result, what becomes of the slot, and what the server's answer means."""
        slot = result.slot
        if result.unbuilt is not None:
            # A message that cannot exist (a bad name, a script that is gone): no retry can help it.
            log.error("slot %s: %s", slot.id, result.unbuilt)
            return "failed", End(slot, "failed", result.unbuilt, counts_as_attempt=True), None
        if result.attempt is None:
            refusal = _known(result.refusal)
            if refusal.retry_at is None:
                return "refused", End(slot, "cancelled", refusal.reason, binding_cap=refusal.binding_cap), None
            held = End(slot, "planned", refusal.reason, retry_at=refusal.retry_at, binding_cap=refusal.binding_cap)
            return "held", held, None
        attempt = result.attempt
        if attempt.outcome == "sent":
            return "sent", End(slot, "sent", sent_at=now), None
        reason = f"{attempt.stage} {attempt.reply_code or ''} {attempt.server_text}".replace("  ", " ")[:200]
        verdict = reply_codes.judge(
            attempt, provider=_known(result.route).sender_provider, rules=self._policy.smtp_replies.rules
        )
        if attempt.outcome == "uncertain":
            log.warning("slot %s: uncertain (%s)", slot.id, reason)
            return "uncertain", End(slot, "uncertain", reason), verdict
        counts = result.submitted_at is None
        if verdict.final or slot.attempts + 1 >= self._policy.dispatch.maximum_attempts:
            log.warning("slot %s: failed (%s)", slot.id, reason)
            return "failed", End(slot, "failed", reason, counts_as_attempt=counts), verdict
        log.warning("slot %s: retry (%s)", slot.id, reason)
        retry_at = now + timedelta(seconds=self._backoff_s(slot, verdict))
        return "retry", End(slot, "planned", reason, retry_at=retry_at, counts_as_attempt=counts), verdict

    def _backoff_s(self, slot: Slot, verdict: Verdict) -> float:
        """Return the pause before the next attempt: doubling unless the server named it, with the slot's jitter."""
        dispatch = self._policy.dispatch
        wait_s = verdict.wait_s or dispatch.retry_s
        if verdict.action == "retry":
            wait_s *= 2**slot.attempts
        draw = uniforms(state(self._settings.seed, "retry_jitter"), [slot.id], [slot.attempts])[0]
        return float(wait_s * (1 + dispatch.retry_jitter * draw))


def _mailboxes_of(slot: Slot) -> set[int]:
    return {slot.from_mailbox_id} | ({slot.to_mailbox_id} if slot.to_mailbox_id is not None else set())


def _known(value: _T | None) -> _T:
    """Return what an earlier step has made sure of."""
    if value is None:
        raise RuntimeError("a slot came without what its claim had checked")
    return value


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, while a run is under way in the main thread.

    Airflow's own handler would only call ``on_kill``, and its supervisor kills five seconds later.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ticking(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` every so many seconds of real time, in a thread of its own; a failure ends nothing but that call."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            try:
                act()
            except OperationalError:
                log.warning("leases could not be renewed; the database is asked again", exc_info=True)

    thread = threading.Thread(target=tick, name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _alone(engine: Engine, lane: int) -> Iterator[Connection | None]:
    """Yield the database session that holds the lane's advisory lock, or None if another worker's does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        key = {"space": _LOCK_SPACE, "lane": lane}
        is_taken: bool = session.execute(text("select pg_try_advisory_lock(:space, :lane)"), key).scalar_one()
        try:
            yield session if is_taken else None
        finally:
            if is_taken:
                # A session that was lost took its locks with it.
                with suppress(DBAPIError, PendingRollbackError):
                    session.execute(text("select pg_advisory_unlock(:space, :lane)"), key)
