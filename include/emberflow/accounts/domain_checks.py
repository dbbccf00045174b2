"""Checks of sending domains and egress addresses in DNS, and what follows from a failure that lasts (S-B9).

Checked are the domains of senders that are active, or were paused by these checks, and every egress address. Each is
asked about on its own, in a thread of its own and within its own time, so that a zone that hangs or floods costs itself
only. The last outcome of each check is a row of ``ops.domain_checks``, each change of one a row of
``ops.domain_check_changes``.

A check that the policy requires, and that has failed for longer than the policy allows, pauses the domain's senders or
holds the address. When no required check is overdue any more, that pause is taken back, and no other. An outcome that
is not known changes nothing (`delivery.lasting_failures`). The rows of a domain are kept as long as it has a sender
that is not stopped: when it comes back later, its time begins anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from threading import Event
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.dialects import postgresql

from emberflow.accounts import lifecycle
from emberflow.accounts.domain_inquiries import Means, Subject, inquiries_of, means_of, servers_of
from emberflow.accounts.lifecycle import Cause
from emberflow.accounts.switches import enter_mail_mode
from emberflow.clock import Clock
from emberflow.database.tables import domain_check_changes, domain_checks
from emberflow.delivery.lasting_failures import CheckState, after, lasting
from emberflow.email_ops.dns_questions import Answer, Question, Verdict, settle, shown
from emberflow.policy.document import Policy
from emberflow.policy.domain_checks import DomainCheckPolicy
from emberflow.policy.versions import in_force
from emberflow.settings import Settings

log = logging.getLogger(__name__)

ACTOR: Final = "domain_checks"
NOTHING_ASKED: Final = (
    "sandbox mode, and EMBERFLOW_DNS_SERVERS names no name server on this machine: nothing was looked up"
)
_TITLES: Final = {
    "spf": "SPF", "dkim": "DKIM", "dmarc": "DMARC", "mx": "MX", "tls": "TLS records", "reverse_dns": "reverse DNS",
    "block_list": "block lists",
}  # fmt: skip
_LONGEST_SUMMARY: Final = 1000

_BEGINS: Final = "DNS checks of {subject} fail"

# Text compares by bytes here: `starts_with` and the domain after the one @ that an address has.
_IN_USE: Final = """
    select distinct 'domain' as kind, split_part(mailboxes.address, '@', 2) as subject
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where mailboxes.removed_at is null
        and (
            senders.state = 'active'
            or senders.state = 'paused'
            and starts_with(
                senders.state_reason, 'DNS checks of ' || split_part(mailboxes.address, '@', 2) || ' fail'
            )
        )
    union all
    select 'address', address from ops.egress_ips
"""
_DUE: Final = text(f"""
    with in_use as ({_IN_USE}),
    last as (
        select subject_kind, subject, min(checked_at) as checked_at from ops.domain_checks group by 1, 2
    )
    select in_use.kind, in_use.subject
    from in_use
    left join last on last.subject_kind = in_use.kind and last.subject = in_use.subject
    where last.checked_at is null or last.checked_at <= :before
    order by last.checked_at nulls first, in_use.kind, in_use.subject
""")  # noqa: S608 - a constant
_FORGET: Final = text("""
    delete from ops.domain_checks
    where case subject_kind
        when 'address' then not exists (select from ops.egress_ips where address = subject)
        else not exists (
            select from ops.senders
            inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
            where mailboxes.removed_at is null and senders.state <> 'stopped'
                and split_part(mailboxes.address, '@', 2) = subject
        )
    end
""")
_ONE_AT_A_TIME: Final = text("select pg_advisory_xact_lock(hashtext('emberflow.domain_checks'), hashtext(:subject))")
_SENDERS: Final = text("""
    select mailboxes.id
    from ops.senders
    inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
    where mailboxes.removed_at is null and split_part(mailboxes.address, '@', 2) = :domain
        and senders.state = :state and (:begins = '' or starts_with(senders.state_reason, :begins))
    order by mailboxes.id
""")


@dataclass(frozen=True)
class Checked:
    """The outcomes of one subject, by check; ``failing_since`` is of those that fail, if they are stored."""

    subject: Subject
    at: datetime
    verdicts: Mapping[str, Verdict]
    failing_since: Mapping[str, datetime | None] = field(default_factory=dict)


@dataclass
class Report:
    """What one run came to.

    ``refused`` says why nothing was asked. ``not_reached`` come first the next time. ``faults`` are subjects whose
    check broke, by name: the task's log has all of it. ``paused`` and ``taken_back`` are mailboxes' domains and
    egress addresses.
    """

    refused: str | None = None
    subjects: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("pass", "fail", "unknown"), 0))
    paused: list[str] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def run(
    engine: Engine,
    *,
    clock: Clock,
    settings: Settings,
    subjects: Iterable[Subject] | None = None,
    actor: str = ACTOR,
    progress: Callable[[Checked], None] = lambda _: None,
) -> Report:
    """Check what is due (or these subjects, whenever they were checked), store the outcomes, and do what follows.

    A subject that is not in use is checked, shown by ``progress``, and not stored.

    Raises:
        WorkerRefusedError: this machine has other keys than those in force.
        ConfigurationError: live mode is half switched on, or a setting or the policy names what is not there.
        EgressRefusedError: sandbox mode, and a name server is not on this machine.
    """
    now = clock.now()
    with engine.begin() as connection:
        mode = enter_mail_mode(connection, settings)
        policy = in_force(connection).policy
        connection.execute(_FORGET)
        used = in_use(connection)
        due = used if subjects is not None else _due(connection, now, policy.domain_checks.interval_s)
    wanted = list(dict.fromkeys(subjects)) if subjects is not None else due
    servers = servers_of(mode, settings, policy.domain_checks.question_s)
    report = Report()
    if servers is None:
        report.refused = NOTHING_ASKED
        return report
    means = means_of(servers, settings, policy.domain_checks, wanted)
    is_stored = set(used).__contains__
    for checked in _checked(wanted, means, clock, report):
        report.subjects += 1
        for verdict in checked.verdicts.values():
            report.outcomes[verdict.status] += 1
        try:
            kept = _keep(engine, checked, policy, actor, report) if is_stored(checked.subject) else checked
        except Exception as error:  # it is this subject's outcome: the others are stored all the same
            log.exception("the checks of %s could not be stored", checked.subject.name)
            report.faults[checked.subject.name] = shown(f"{type(error).__name__}: {error}")
            continue
        progress(kept)
    return report


def in_use(connection: Connection) -> list[Subject]:
    """Return everything that a run checks."""
    return [Subject(row.kind, row.subject) for row in connection.execute(text(f"{_IN_USE} order by 1, 2"))]


def _due(connection: Connection, now: datetime, interval_s: float) -> list[Subject]:
    """Return what was not checked within the interval, longest ago first."""
    before = datetime.fromtimestamp(now.timestamp() - interval_s, tz=now.tzinfo)
    return [Subject(row.kind, row.subject) for row in connection.execute(_DUE, {"before": before})]


def _checked(wanted: Sequence[Subject], means: Means, clock: Clock, report: Report) -> Iterator[Checked]:
    """Yield the outcomes as they come, each within its time; nothing is begun after the run's."""
    give_up_at = time.monotonic() + means.policy.run_s
    is_over = Event()
    left = iter(wanted)
    pool = ThreadPoolExecutor(means.policy.at_once)
    pending: dict[Future[Checked], Subject] = {}
    try:
        while True:
            # No longer a queue than the threads need: what is not begun is told from what is under way.
            room = means.policy.at_once - len(pending) if time.monotonic() < give_up_at else 0
            for subject in islice(left, room):
                pending[pool.submit(_check, subject, means, clock, is_over)] = subject
            if not pending:
                report.not_reached += [subject.name for subject in left]
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                subject = pending.pop(future)
                try:
                    checked = future.result()
                except Exception as error:  # it is this subject's outcome: the others are checked all the same
                    log.exception("the checks of %s failed", subject.name)
                    report.faults[subject.name] = shown(f"{type(error).__name__}: {error}")
                    continue
                yield checked
    finally:
        is_over.set()
        pool.shutdown(cancel_futures=True)


def _check(subject: Subject, means: Means, clock: Clock, is_over: Event) -> Checked:
    at, until = clock.now(), time.monotonic() + means.policy.subject_s

    def ask(question: Question) -> Answer:
        return Answer(unknown="interrupted") if is_over.is_set() else means.ask(question, until=until)

    return Checked(subject, at, {check: settle(one, ask) for check, one in inquiries_of(subject, means).items()})


# Storing, and what follows


def _keep(engine: Engine, checked: Checked, policy: Policy, actor: str, report: Report) -> Checked:
    with engine.begin() as connection:
        states, summaries = _store(connection, checked)
    _follow(engine, checked, states, summaries, policy.domain_checks, actor, report)
    since = {name: state.failing_since for name, state in states.items()}
    return Checked(checked.subject, checked.at, checked.verdicts, since)


def _store(connection: Connection, checked: Checked) -> tuple[dict[str, CheckState], dict[str, str]]:
    """Store outcomes and return those that stand: one that was asked for later, meanwhile, stays."""
    kind, name = checked.subject.kind, checked.subject.name
    connection.execute(_ONE_AT_A_TIME, {"subject": f"{kind} {name}"})
    is_it = (domain_checks.c.subject_kind == kind, domain_checks.c.subject == name)
    known = {row.check_name: row for row in connection.execute(select(domain_checks).where(*is_it))}
    states: dict[str, CheckState] = {}
    summaries: dict[str, str] = {}
    for check, verdict in checked.verdicts.items():
        row = known.get(check)
        before = None if row is None else CheckState(row.status, row.failing_since)
        if row is not None and before is not None and row.checked_at > checked.at:
            states[check], summaries[check] = before, row.summary
            continue
        state = after(before, verdict.status, checked.at)
        states[check], summaries[check] = state, shown(verdict.summary, _LONGEST_SUMMARY)
        key = {"subject_kind": kind, "subject": name, "check_name": check}
        values: dict[str, Any] = {
            "status": state.status,
            "summary": summaries[check],
            "details": dict(verdict.details),
            "failing_since": state.failing_since,
            "checked_at": checked.at,
        }
        upsert = postgresql.insert(domain_checks).values(**key, **values)
        connection.execute(upsert.on_conflict_do_update(constraint="uq_domain_checks_subject", set_=values))
        if before is None or before.status != state.status:
            change = key | {"from_status": before and before.status, "to_status": state.status, "at": checked.at}
            connection.execute(insert(domain_check_changes).values(**change, summary=summaries[check]))
    gone = [check for check in known if check not in checked.verdicts]
    connection.execute(delete(domain_checks).where(*is_it, domain_checks.c.check_name.in_(gone)))
    return states, summaries


def _follow(
    engine: Engine,
    checked: Checked,
    states: Mapping[str, CheckState],
    summaries: Mapping[str, str],
    policy: DomainCheckPolicy,
    actor: str,
    report: Report,
) -> None:
    """Stop what has failed for too long, or take that back; each mailbox in a transaction of its own."""
    subject = checked.subject
    required = policy.required_of_domains if subject.kind == "domain" else policy.required_of_addresses
    limits_s = policy.limits_s()
    overdue = lasting(states, required, limits_s, checked.at)
    begins = _BEGINS.format(subject=subject.name)
    if not overdue.open:
        if _take_back(engine, subject, begins, Cause("dns", actor)):
            report.taken_back.append(subject.name)
        return
    if not overdue.failing:
        return
    told = [f"{_TITLES[one]} since {_since(states[one])} ({summaries[one]})" for one in overdue.failing]
    first = overdue.failing[0]
    lasted = (checked.at - (states[first].failing_since or checked.at)).total_seconds()
    cause = Cause("dns", actor, f"{first}_failing_hours", lasted / 3600, limits_s[first] / 3600)
    if _stop(engine, subject, f"{begins}: {'; '.join(told)}", cause):
        report.paused.append(subject.name)


def _since(state: CheckState) -> str:
    return f"{state.failing_since:%Y-%m-%d %H:%M} UTC"


def _stop(engine: Engine, subject: Subject, reason: str, cause: Cause) -> bool:
    if subject.kind == "address":
        with engine.begin() as connection:
            return lifecycle.hold_egress_because(connection, subject.name, reason, cause)
    remedy = (
        "correct the records, which `emberflow domains list` shows, then run "
        f"`emberflow domains check {subject.name}`: when they pass, it is active again"
    )
    stopped = False
    for mailbox_id in _senders(engine, subject.name, "active", ""):
        with engine.begin() as connection:
            stopped |= lifecycle.pause_because(connection, mailbox_id, reason, remedy, cause)
    return stopped


def _take_back(engine: Engine, subject: Subject, begins: str, cause: Cause) -> bool:
    if subject.kind == "address":
        with engine.begin() as connection:
            return lifecycle.take_back_egress(connection, subject.name, begins, cause)
    taken_back = False
    for mailbox_id in _senders(engine, subject.name, "paused", begins):
        with engine.begin() as connection:
            taken_back |= lifecycle.take_back(connection, mailbox_id, begins, cause)
    return taken_back


def _senders(engine: Engine, domain: str, state: str, begins: str) -> list[int]:
    with engine.begin() as connection:
        found = connection.execute(_SENDERS, {"domain": domain, "state": state, "begins": begins})
        return list(found.scalars())
