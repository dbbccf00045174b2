"""What waits in the queue, for how long, and for whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from emberflow.database import server_clock

# Minutes, each column twice the one before it, as in Postfix's qshape (QSHAPE_README); the last one has no end.
AGES_MIN = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
End = Literal["sender", "recipient"]

_LISTED = text("""
    select
        slots.id,
        slots.status,
        slots.task_type,
        slots.turn,
        from_mailbox.address as from_address,
        coalesce(to_mailbox.address, slots.to_address) as to_address,
        case slots.status
            when 'uncertain' then slots.submitted_at
            when 'submitting' then slots.submitted_at
            when 'sent' then slots.sent_at
            else slots.due_since
        end as since,
        concat_ws('; ', slots.reason, slots.binding_cap) as reason,
        states.unresolved_at is not null as is_unresolved,
        states.look_again_at
    from ops.slots
    inner join ops.slot_states as states on states.slot_id = slots.id
    inner join ops.mailboxes as from_mailbox on from_mailbox.id = slots.from_mailbox_id
    left join ops.mailboxes as to_mailbox on to_mailbox.id = slots.to_mailbox_id
    where slots.status = any(:statuses)
    order by since, slots.id
    limit :limit
""")

_IN_DOUBT = text("""
    select
        count(*) filter (where unresolved_at is null) as waiting,
        count(*) filter (where unresolved_at is not null) as unresolved,
        count(*) filter (where unresolved_at is null and look_again_at is not null) as hindered,
        extract(epoch from clock_timestamp() - min(submitted_at)) as oldest_s
    from ops.slot_states
    where status = 'uncertain'
""")

_SHAPE = text("""
    select
        split_part(
            case :end
                when 'sender' then from_mailbox.address
                else coalesce(to_mailbox.address, slots.to_address)
            end,
            '@',
            2
        ) as domain,
        width_bucket(
            extract(epoch from cast(:now as timestamptz) - slots.due_since) / 60.0,
            cast(:ages as numeric[])
        ) as age,
        count(*) as slots
    from ops.slots
    inner join ops.mailboxes as from_mailbox on from_mailbox.id = slots.from_mailbox_id
    left join ops.mailboxes as to_mailbox on to_mailbox.id = slots.to_mailbox_id
    where slots.status in ('planned', 'leased') and slots.due_since <= :now
    group by 1, 2
""")


@dataclass(frozen=True)
class Waiting:
    """One slot as the operator sees it.

    ``status`` is the slot's, and ``unresolved`` for an uncertain one that was found nowhere. ``since`` is when it was
    submitted, was sent, or first became due. ``remedy`` is the command for it, or until when there is nothing to do
    (UTC); None where nobody has to do anything.
    """

    id: int
    status: str
    what: str
    from_address: str
    to_address: str
    since: datetime
    reason: str
    remedy: str | None


@dataclass(frozen=True)
class InDoubt:
    """How many mails are uncertain: ``waiting`` to be looked for, or ``unresolved``, found nowhere.

    Of those that wait, ``hindered`` were looked for in vain because something is amiss. ``oldest_s``: since the oldest
    was submitted, in seconds; None without any.
    """

    waiting: int
    unresolved: int
    hindered: int
    oldest_s: float | None

    def __str__(self) -> str:
        """Return the figures in words."""
        if self.oldest_s is None:
            return "none"
        age = f"{self.oldest_s / 86_400:.1f} d" if self.oldest_s >= 86_400 else f"{self.oldest_s / 60:.0f} min"
        return f"{self.unresolved} unresolved, {self.waiting} waiting to be looked for, the oldest for {age}"


def in_doubt(connection: Connection) -> InDoubt:
    """Count the mails of which nobody knows whether they were sent."""
    row = connection.execute(_IN_DOUBT).one()
    oldest_s = None if row.oldest_s is None else float(row.oldest_s)
    return InDoubt(row.waiting, row.unresolved, row.hindered, oldest_s)


def listed(
    connection: Connection, statuses: Sequence[str], limit: int, *, now: datetime | None = None
) -> list[Waiting]:
    """Return the slots in these statuses, the oldest first; ``now`` is the database's if it is not given."""
    from emberflow.policy.versions import in_force
    from emberflow.queue_manager.receiving.reconcile import settle_time

    settle = settle_time(in_force(connection).policy)
    now = now or server_clock.now(connection)
    rows = connection.execute(_LISTED, {"statuses": list(statuses), "limit": limit})
    return [
        Waiting(
            id=row.id,
            status="unresolved" if row.is_unresolved else row.status,
            what=f"{row.task_type.replace('_', ' ')}, turn {row.turn}",
            from_address=row.from_address,
            to_address=row.to_address,
            since=row.since,
            reason=row.reason,
            remedy=_remedy(row, now, settle),
        )
        for row in rows
    ]


def shape(connection: Connection, end: End, *, now: datetime) -> dict[str, list[int]]:
    """Return how many due slots wait per domain of the ``end``, by age, and all of them under ``TOTAL``, first.

    The n-th number counts those that have waited less than the n-th of ``AGES_MIN``, and not less than the one before
    it; the last number, those that have waited longer than all. Waiting counts from the first target time.
    """
    by_domain: dict[str, list[int]] = defaultdict(lambda: [0] * (len(AGES_MIN) + 1))
    for row in connection.execute(_SHAPE, {"end": end, "now": now, "ages": list(AGES_MIN)}):
        by_domain[row.domain][row.age] += row.slots
        by_domain["TOTAL"][row.age] += row.slots
    ordered = sorted(by_domain.items(), key=lambda item: (item[0] != "TOTAL", -sum(item[1]), item[0]))
    return dict(ordered)


def _remedy(slot: Row[Any], now: datetime, settle: timedelta) -> str | None:
    if slot.status == "parked":
        return f"queue release {slot.id}"
    if slot.status != "uncertain":
        return None
    if slot.is_unresolved:
        return f"queue settle {slot.id}"
    if slot.look_again_at is not None:
        return f"mend what hinders the search, or queue settle {slot.id}"
    settled = slot.since + settle
    return f"wait until {settled:%H:%M}" if now < settled else "run queue reconcile"
