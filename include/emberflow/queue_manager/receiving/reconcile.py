"""Reconcile: what became of mails whose worker never learned the answer to the final dot (Q-F5).

An ``uncertain`` mail is settled by evidence. Once its settle time is over (see ``ReconcilePolicy``), it is looked for
in the mailboxes at both ends (``mail_search``):

* Found, it becomes ``sent``, with everything that follows from an acknowledged mail.
* Returned, it is ``failed``; it did leave, so it stays counted.
* Found nowhere, it stays ``uncertain`` and is *unresolved*: its reason says where it was looked for. It stays counted
  in every cap and quota, and its conversation is closed, so that nothing waits for it. It is looked for again at twice
  its age and so on until ``look_back_s``; whoever finds it later, this or the inbox reader, settles it all the same.
* With any doubt it waits and says why. What is in doubt for the whole of ``look_back_s`` is unresolved then.

Whoever has waited longest comes first. Each mail is settled as soon as its own mailboxes were searched, and what goes
wrong with it stays with it; what was not reached within ``run_s`` comes first the next time.

**Not found never sends a mail again**: a server can hold it longer than any settle time, or where IMAP does not show
it. What proves that a server did not take a mail is its own refusal of that very attempt, heard by a worker whose lease
had lapsed meanwhile: its result changed nothing, but its ``attempt`` event is there. Nothing else is a proof; what else
is planned again, a person has settled with ``emberflow queue settle SLOT --not-sent``.

A decision is about one uncertainty of one slot: it holds only if, under the row's lock, the slot is still uncertain
after the same number of attempts. Reconciling twice, at once, or while the inbox is read therefore settles once.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg2.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from emberflow.accounts.mailboxes import keep_replaced_refresh_tokens
from emberflow.accounts.switches import enter_mail_mode
from emberflow.bots.policy import Rests
from emberflow.clock import Clock
from emberflow.database import restores
from emberflow.database.engine import is_away
from emberflow.database.server_clock import shared
from emberflow.domain.events import EventType
from emberflow.errors import EmberflowError, WorkerRefusedError
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force
from emberflow.queue_manager import event_log, pre_send, slot_store
from emberflow.queue_manager.event_log import Sent
from emberflow.queue_manager.permits import Permits
from emberflow.queue_manager.receiving.imap_connections import ImapConnections
from emberflow.queue_manager.receiving.mail_search import Finding, MailSearch, Uncertain, searchable_mailboxes
from emberflow.queue_manager.slot_store import SettledStatus
from emberflow.settings import Settings

log = logging.getLogger(__name__)

_REASON_CHARACTERS = 300
_GIVE_WAY = "500ms"  # below PostgreSQL's deadlock_timeout of 1 s: reconciling waits its turn, others' work goes on
_PLACE_PATIENCE_S = 30.0  # how long a search waits for a free connection to a mail host

_DOUBT_PAUSE = timedelta(hours=1)  # what keeps a mail from being looked for may be mended any time

_IS_DUE = """
    slot_states.status = 'uncertain'
        and slot_states.submitted_at <= :settled
        and (
            :is_asked_for
            or slot_states.look_again_at <= :now
            or (slot_states.look_again_at is null and slot_states.unresolved_at is null)
        )
"""

_DUE = text(f"""
    select slots.*
    from ops.slot_states
    inner join ops.slots on slots.id = slot_states.slot_id
    where {_IS_DUE}
        and coalesce(slots.to_mailbox_id, slots.from_mailbox_id) % :shards = :shard
    order by coalesce(slot_states.look_again_at, slot_states.submitted_at), slots.id
""")  # noqa: S608 - made of this module's own constants

_SHARDS_DUE = text(f"""
    select distinct coalesce(tasks.to_mailbox_id, tasks.from_mailbox_id) % :shards as shard
    from ops.slot_states
    inner join ops.scheduled_tasks as tasks on tasks.id = slot_states.slot_id
    where {_IS_DUE}
    order by shard
""")  # noqa: S608 - made of this module's own constants

# A slot is submitted once for each of its attempts, so of the workers that had it under this number only the one that
# submitted it can have come as far as DATA.
_HEARD_TOO_LATE = text("""
    select distinct on (states.slot_id)
        states.slot_id,
        events.details ->> 'outcome' as outcome,
        concat_ws(' ', events.details ->> 'reply_code', events.details ->> 'server_text') as answer
    from ops.slot_states as states
    inner join ops.mail_events as events on events.slot_id = states.slot_id
    where states.slot_id = any(:ids)
        and events.event_type = 'attempt'
        and events.details ->> 'stage' in ('data', 'eod')
        and events.details ->> 'outcome' in ('sent', 'transient', 'permanent')
        and cast(events.details ->> 'attempt' as integer) = states.attempts
    order by states.slot_id, events.id
""")


@dataclass
class ReconcileReport:
    """How many slots came to which end, by slot id why others wait, and the mailboxes that were not reached in time.

    ``ends``: ``sent``, ``failed``, ``planned``, ``expired``, ``unresolved`` (found nowhere), ``not_found_again``
    (unresolved before), ``settled_meanwhile``.
    """

    ends: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, str] = field(default_factory=dict)
    not_reached: list[str] = field(default_factory=list)


def settle_time(policy: Policy) -> timedelta:
    """Return how long after its submission an uncertain mail is looked for."""
    return timedelta(seconds=policy.dispatch.write_within_s + policy.reconcile.settle_s)


def due_shards(connection: Connection, *, now: datetime, policy: Policy, shards: int) -> list[int]:
    """Return the shards (of the mailboxes to look into, by id) that have an uncertain slot to look for."""
    due = _due(now, policy, is_asked_for=False) | {"shards": shards}
    return list(connection.execute(_SHARDS_DUE, due).scalars())


def run(
    engine: Engine,
    *,
    clock: Clock,
    settings: Settings,
    shard: int = 0,
    shards: int = 1,
    is_asked_for: bool = False,
) -> ReconcileReport:
    """Look for the uncertain mails of ``shard`` that are due, and settle those that can be settled.

    The time is the database's. ``is_asked_for``: a person wants all of them looked for now that are past their settle
    time, however old they are, whenever they were looked for last, and however long it takes.

    Raises:
        ConfigurationError: no policy is in force, a key is missing, or live mode is only half switched on.
        WorkerRefusedError: this machine has other keys, or the database was restored.
    """
    clock = shared(engine, clock)
    held = restores.notice(engine)
    if held is not None:
        raise WorkerRefusedError(f"nothing is looked for: {held}")
    report = ReconcileReport()
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        settings.require_token_keys()
        policy = in_force(connection).policy
        due = _due(clock.now(), policy, is_asked_for=is_asked_for) | {"shard": shard, "shards": shards}
        mails = [Uncertain.of(row) for row in connection.execute(_DUE, due).mappings()]
        if not mails:
            return report
        mailboxes = searchable_mailboxes(connection, mails, settings)
    left = {mail.slot.id: mail for mail in mails}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        connections = ImapConnections(
            engine, Permits(session), policy.connections, mode, clock, settings, patience_s=_PLACE_PATIENCE_S
        )
        search = MailSearch(connections, settings, mailboxes)
        for findings in search.look_for(mails, math.inf if is_asked_for else policy.reconcile.run_s):
            found = [left.pop(slot_id) for slot_id in findings]
            with engine.begin() as connection:
                answers = _heard_too_late(connection, found)
            for mail in found:
                answer = answers.get(mail.slot.id)
                end, why = _conclude_alone(engine, mail, findings[mail.slot.id], answer, policy, clock.now())
                if end == "waiting":
                    report.waiting[mail.slot.id] = why
                else:
                    report.ends[end] += 1
    addresses = (mailboxes.addresses[mail.slot.first_mailbox_id] for mail in left.values())
    report.not_reached += dict.fromkeys(addresses)
    with engine.begin() as connection:
        keep_replaced_refresh_tokens(connection, settings)
    return report


def settle(
    connection: Connection, slot_id: int, *, is_sent: bool, by: str, why: str, now: datetime, policy: Policy
) -> str:
    """Settle a slot as a person decided and return its new status.

    Raises:
        EmberflowError: the slot is not ``uncertain``.
    """
    row = slot_store.lock(connection, slot_id)
    if row is None or row["status"] != "uncertain":
        raise EmberflowError(f"slot {slot_id} is not uncertain: there is nothing to settle; see `emberflow queue list`")
    mail = Uncertain.of(row)
    evidence = {"by": by, "why": why}
    if is_sent:
        settle_as_sent(connection, mail, subject="", at=now, rests=policy.rests, evidence=evidence)
        return "sent"
    return _settle_as_not_sent(connection, mail, at=now, policy=policy, evidence=evidence)


def settle_as_sent(
    connection: Connection, mail: Uncertain, *, subject: str, at: datetime, rests: Rests, evidence: Mapping[str, str]
) -> None:
    """Record that an uncertain slot, locked by the caller, was sent when it was submitted.

    ``evidence`` says how this is known, for the event: ``by``, and ``where``, ``answer`` or ``why``.
    """
    if "where" in evidence:
        reason = f"found {evidence['where']}"
    elif "answer" in evidence:
        reason = f"the server had answered: {evidence['answer']}"
    else:
        reason = f"settled by {evidence['by']}: {evidence['why']}"
    _leave(connection, mail, "sent", reason)
    event_log.record_sent(connection, [Sent(mail.slot, mail.submitted_at, subject)], rests=rests)
    _record(connection, mail, at, {"found": "present", **evidence})


def _settle_as_not_sent(
    connection: Connection, mail: Uncertain, *, at: datetime, policy: Policy, evidence: Mapping[str, str]
) -> str:
    """Uncount a mail that was not taken, and plan it again if that still makes sense; return the new status."""
    slot = mail.slot
    status: SettledStatus
    pre_send.take_back(connection, slot, submitted_at=mail.submitted_at, now=at)
    if slot.attempts >= policy.dispatch.maximum_attempts:
        status, reason = "failed", f"not sent in {slot.attempts} attempts"
    elif slot.kind.is_given_up and slot.target_time < at - timedelta(seconds=policy.queue.overdue_s):
        status, reason = "expired", "overdue"
    else:
        status, reason = "planned", "not sent by the last attempt"
    _leave(connection, mail, status, reason)
    if status == "planned":
        event_log.reopen_conversation(connection, slot)
    else:
        event_log.close_conversation(connection, slot)
    _record(connection, mail, at, {"found": "not_sent", **evidence})
    return status


def _settle_as_returned(connection: Connection, mail: Uncertain, *, at: datetime, why: str) -> None:
    _leave(connection, mail, "failed", f"returned: {why}")
    event_log.close_conversation(connection, mail.slot)
    _record(connection, mail, at, {"found": "returned", "by": "reconcile", "why": why})


def _conclude_alone(
    engine: Engine, mail: Uncertain, finding: Finding, answer: Mapping[str, str] | None, policy: Policy, now: datetime
) -> tuple[str, str]:
    """Conclude one mail; return what became of it, and why it waits if it does. Its error is its own doubt.

    Raises:
        DBAPIError: the database is away.
    """
    why = finding.detail
    for judged, heard in ((finding, answer), (None, None)):
        try:
            end = _conclude(engine, mail, judged or Finding("unknown", why), heard, policy, now)
        except Exception as error:  # one mail, whatever is wrong with it, is not all of them
            if is_away(error):
                raise
            log.exception("slot %s could not be settled", mail.slot.id)
            cause = error.orig if isinstance(error, DBAPIError) else error
            why = f"it could not be settled: {type(error).__name__}: {' '.join(str(cause).split())}"
        else:
            return ("waiting", "others are writing to its row right now") if end == "busy" else (end, why)
    return "waiting", why


def _conclude(
    engine: Engine, mail: Uncertain, finding: Finding, answer: Mapping[str, str] | None, policy: Policy, now: datetime
) -> str:
    """Do what ``finding`` asks for, if this very uncertainty still stands; return what became of the slot.

    ``answer`` is what the server said, if it was heard too late. What lies in a mailbox outweighs it.
    """
    try:
        with engine.begin() as connection:
            connection.execute(text(f"set local lock_timeout = '{_GIVE_WAY}'"))
            row = slot_store.lock(connection, mail.slot.id)
            if row is None or row["status"] != "uncertain" or row["attempts"] != mail.slot.attempts:
                return "settled_meanwhile"
            locked = Uncertain.of(row)
            rests = policy.rests
            if finding.verdict == "returned":
                _settle_as_returned(connection, locked, at=now, why=finding.detail)
                return "failed"
            if finding.verdict == "present":
                evidence = {"by": "reconcile", "where": finding.detail}
                settle_as_sent(connection, locked, subject=finding.subject, at=now, rests=rests, evidence=evidence)
                return "sent"
            if answer is not None:
                evidence = {"by": "reconcile", "answer": answer["answer"]}
                if answer["outcome"] != "sent":
                    return _settle_as_not_sent(connection, locked, at=now, policy=policy, evidence=evidence)
                settle_as_sent(connection, locked, subject="", at=now, rests=rests, evidence=evidence)
                return "sent"
            return _leave_in_doubt(connection, locked, finding, policy, now)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable | DeadlockDetected):
            return "busy"
        raise


def _leave_in_doubt(connection: Connection, mail: Uncertain, finding: Finding, policy: Policy, now: datetime) -> str:
    """Say what is known of a mail that cannot be settled, and when it is looked for again."""
    last_look = mail.submitted_at + timedelta(seconds=policy.reconcile.look_back_s)
    is_not_found = finding.verdict == "not_found"
    is_unresolved = is_not_found or now >= last_look
    pause = max(now - mail.submitted_at, timedelta(seconds=policy.reconcile.settle_s))
    look_again_at = now + (pause if is_not_found else min(pause, _DOUBT_PAUSE))
    if is_not_found:
        reason = f"unresolved, it is neither sent again nor uncounted: looked for in {finding.detail}"
    elif is_unresolved:
        reason = f"unresolved, it is neither sent again nor uncounted: never looked for everywhere: {finding.detail}"
    else:
        reason = f"not settled: {finding.detail}"
    slot_store.keep_in_doubt(
        connection,
        mail.slot,
        reason[:_REASON_CHARACTERS],
        look_again_at=min(look_again_at, last_look) if now < last_look else None,
        is_unresolved=is_unresolved,
        now=now,
    )
    if not is_unresolved:
        return "waiting"
    event_log.close_conversation(connection, mail.slot)
    evidence = {"found": "nowhere" if is_not_found else "unknown", "by": "reconcile", "where": finding.detail}
    return "unresolved" if _record(connection, mail, now, evidence, kind="unresolved") else "not_found_again"


def _leave(connection: Connection, mail: Uncertain, status: SettledStatus, reason: str) -> None:
    slot_store.settle(connection, mail.slot.id, status, reason[:_REASON_CHARACTERS])


def _record(
    connection: Connection, mail: Uncertain, at: datetime, details: dict[str, Any], *, kind: str = "reconciled"
) -> bool:
    return event_log.record_event(
        connection,
        EventType.RECONCILED,
        # A slot is uncertain at most once for each attempt, and unresolved at most once before that is over.
        f"{kind}:{mail.slot.idempotency_key}:{mail.slot.attempts}",
        occurred_at=at,
        mailbox_id=mail.slot.from_mailbox_id,
        slot=mail.slot,
        details=details,
    )


def _due(now: datetime, policy: Policy, *, is_asked_for: bool) -> dict[str, Any]:
    return {"now": now, "settled": now - settle_time(policy), "is_asked_for": is_asked_for}


def _heard_too_late(connection: Connection, mails: Sequence[Uncertain]) -> dict[int, Mapping[str, str]]:
    """Return the servers' answers to these very attempts that came when the worker's lease had lapsed, by slot id."""
    rows = connection.execute(_HEARD_TOO_LATE, {"ids": [mail.slot.id for mail in mails]}).mappings()
    return {row["slot_id"]: {"outcome": row["outcome"], "answer": row["answer"]} for row in rows}
