"""The record of an attempt: what becomes of the slot, and all that follows from it, in one transaction.

Results that come at the same moment share the transaction (``group_commit``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection

from emberflow.clock import Clock
from emberflow.crash_points import reach
from emberflow.delivery import reply_codes, retries
from emberflow.delivery.guard import Refusal
from emberflow.delivery.reply_codes import Disposition
from emberflow.delivery.routes import Route
from emberflow.domain.attempt import Attempt
from emberflow.domain.slot import Slot
from emberflow.policy.document import Policy
from emberflow.queue_manager import event_log, pre_send, slot_store
from emberflow.queue_manager.sending import consequences
from emberflow.queue_manager.sending.consequences import Answer
from emberflow.queue_manager.slot_store import End

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a dialogue has to tell about its slot; ``submitted_at`` is None if it was never submitted."""

    slot: Slot
    route: Route | None = None
    attempt: Attempt | None = None
    refusal: Refusal | None = None
    submitted_at: datetime | None = None
    subject: str = ""
    unbuilt: str | None = None


@dataclass(frozen=True)
class Recorded:
    """What the run calls a result, once it is committed, and the mailboxes that are out of use by then."""

    name: str
    stopped: frozenset[int]


class Recorder:
    """Writes what became of slots, by one policy; stateless, so that any thread may use it."""

    def __init__(self, clock: Clock, policy: Policy, seed: int) -> None:
        self._clock = clock
        self._policy = policy
        self._seed = seed

    def record(self, connection: Connection, results: Sequence[Result]) -> list[Recorded]:
        """Write what became of slots: state, counters, pairs, conversations and events in one transaction."""
        now = self._clock.now()
        ends = [self._end(result, now) for result in results]
        answers = [
            Answer(
                result.slot,
                result.route,
                disposition,
                result.attempt.peer,
                result.attempt.stage,
                result.attempt.server_text,
            )
            for result, (_, _, disposition) in zip(results, ends, strict=True)
            if result.route is not None and result.attempt is not None
        ]
        findings = consequences.weigh(connection, answers, now=now, policy=self._policy.refusals)
        # A slot that the guard says is not ours any more is not written to, whatever its row holds: if the answer to
        # the guard's own commit was lost, it is `submitting` under our token, and its lease alone may end that.
        ours = [end for result, (_, end, _) in zip(results, ends, strict=True) if result.refusal != pre_send.LOST]
        changed = slot_store.finish(connection, ours)
        names = [
            name if result.slot.id in changed else "fenced" for result, (name, _, _) in zip(results, ends, strict=True)
        ]
        named = list(zip(results, names, strict=True))
        # Bots before days, as in the pre-send check: two transactions that lock alike cannot deadlock.
        event_log.record(
            connection,
            tried=[
                event_log.Tried(
                    result.slot,
                    result.attempt,
                    now,
                    disposition,
                    consequences.is_believed(result.route, disposition, findings),
                )
                for result, (_, _, disposition) in zip(results, ends, strict=True)
                if result.attempt is not None
            ],
            fenced=[event_log.Late(result.slot, now) for result, name in named if name == "fenced"],
            sent=[event_log.Sent(result.slot, now, result.subject) for result, name in named if name == "sent"],
            rests=self._policy.rests,
        )
        for result, (_, end, _) in zip(results, ends, strict=True):
            if result.slot.id not in changed:
                continue
            if end.status in ("planned", "failed") and result.submitted_at is not None:
                pre_send.take_back(connection, result.slot, submitted_at=result.submitted_at, now=now)
            if end.status in ("failed", "cancelled"):
                event_log.close_conversation(connection, result.slot)
        stopped = consequences.draw(
            connection,
            answers,
            findings,
            now=now,
            policy=self._policy.breakers,
            refusals=self._policy.refusals,
        )
        reach("before_record_commit")
        return [Recorded(name, stopped) for name in names]

    def _end(self, result: Result, now: datetime) -> tuple[str, End, Disposition | None]:
        """Return what the run calls this result, what becomes of the slot, and what the server's answer means."""
        slot = result.slot
        if result.unbuilt is not None:
            # A message that cannot exist (a bad name, a script that is gone): no retry can help it.
            log.error("slot %s: %s", slot.id, result.unbuilt)
            return "failed", End(slot, "failed", result.unbuilt, counts_as_attempt=True), None
        if result.attempt is None:
            refusal = _known(result.refusal)
            if refusal.retry_at is None or slot.is_too_late(refusal.retry_at):
                return "refused", End(slot, "cancelled", refusal.reason, binding_cap=refusal.binding_cap), None
            held = End(slot, "planned", refusal.reason, retry_at=refusal.retry_at, binding_cap=refusal.binding_cap)
            return "held", held, None
        attempt = result.attempt
        if attempt.outcome == "sent":
            return "sent", End(slot, "sent", sent_at=now), None
        reason = f"{attempt.stage} {attempt.reply_code or ''} {attempt.server_text}".replace("  ", " ")[:200]
        disposition = reply_codes.judge(
            attempt, provider=_known(result.route).sender_provider, rules=self._policy.smtp_replies.rules
        )
        if attempt.outcome == "uncertain":
            log.warning("slot %s: uncertain (%s)", slot.id, reason)
            return "uncertain", End(slot, "uncertain", reason), disposition
        counts = result.submitted_at is None
        retry_at = now + timedelta(seconds=retries.backoff_s(slot, disposition, self._policy.dispatch, self._seed))
        if retries.is_over(slot, disposition, self._policy.dispatch) or slot.is_too_late(retry_at):
            log.warning("slot %s: failed (%s)", slot.id, reason)
            return "failed", End(slot, "failed", reason, counts_as_attempt=counts), disposition
        log.warning("slot %s: retry (%s)", slot.id, reason)
        return "retry", End(slot, "planned", reason, retry_at=retry_at, counts_as_attempt=counts), disposition


def _known(value: _T | None) -> _T:
    """Return what comes with every result of this kind."""
    if value is None:
        raise RuntimeError("a result is incomplete")
    return value
