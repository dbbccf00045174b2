"""What name servers said of sending domains and egress addresses, as the operator sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, case, func, select, text

from emberflow.database.tables import domain_checks

_WORST_FIRST = case({"fail": 0, "unknown": 1}, value=domain_checks.c.status, else_=2)
_NEVER_CHECKED = text("""
    select count(*)
    from (
        select distinct split_part(mailboxes.address, '@', 2) as subject
        from ops.senders
        inner join ops.mailboxes on mailboxes.id = senders.mailbox_id
        where mailboxes.removed_at is null and senders.state = 'active'
    ) as used
    where not exists (
        select from ops.domain_checks as known where known.subject_kind = 'domain' and known.subject = used.subject
    )
""")


@dataclass(frozen=True)
class Summary:
    """Counts of checks by outcome, an example of those that fail and of those not known, and how old the oldest is."""

    passed: int
    failing: int
    unknown: int
    never_checked: int
    failing_example: str | None
    unknown_example: str | None
    oldest_h: float | None


def listed(connection: Connection, subjects: Sequence[str] = ()) -> Sequence[RowMapping]:
    """Return the last outcome of every check, or of those of these domains and addresses; what fails stands first."""
    query = select(domain_checks).order_by(
        domain_checks.c.subject_kind.desc(), _WORST_FIRST, domain_checks.c.subject, domain_checks.c.check_name
    )
    if subjects:
        query = query.where(domain_checks.c.subject.in_(subjects))
    return connection.execute(query).mappings().all()


def summary(connection: Connection) -> Summary:
    """Return what the doctor says of the checks."""
    names = domain_checks.c
    told = names.subject + ": " + names.check_name + ": " + names.summary
    row = connection.execute(
        select(
            func.count().filter(names.status == "pass").label("passed"),
            func.count().filter(names.status == "fail").label("failing"),
            func.count().filter(names.status == "unknown").label("unknown"),
            func.min(told).filter(names.status == "fail").label("failing_example"),
            func.min(told).filter(names.status == "unknown").label("unknown_example"),
            (func.extract("epoch", func.clock_timestamp() - func.min(names.checked_at)) / 3600).label("oldest_h"),
        )
    ).one()
    never = int(connection.execute(_NEVER_CHECKED).scalar_one())
    oldest_h = None if row.oldest_h is None else float(row.oldest_h)
    return Summary(row.passed, row.failing, row.unknown, never, row.failing_example, row.unknown_example, oldest_h)
