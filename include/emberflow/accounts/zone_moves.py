"""What follows from another zone of a mailbox: its days change, and no cap begins anew.

A sender sends nothing more until the day has ended in both zones, and the present day of a bot in its new zone begins
with all that it did on the days of the old zone that overlap with it. What is planned keeps its time;
``slot_store.move_days`` says in which day that is now.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from sqlalchemy import Connection, func, select, text, update

from emberflow.clock import clock_of, known_zones, local_day
from emberflow.database.tables import mailboxes

_CARRY_INBOUND = text("""
    insert into ops.bot_days (bot_id, local_day, inbound_sent, reply_sent)
    select bots.id, :today, coalesce(sum(days.inbound_sent), 0), coalesce(sum(days.reply_sent), 0)
    from ops.bots
    left join ops.bot_days as days on days.bot_id = bots.id and days.local_day between :first and :last
    where bots.mailbox_id = :mailbox_id
    group by bots.id
    on conflict (bot_id, local_day) do update
    set inbound_sent = greatest(bot_days.inbound_sent, excluded.inbound_sent),
        reply_sent = greatest(bot_days.reply_sent, excluded.reply_sent)
""")


def keep_caps(
    connection: Connection, kind: Literal["sender", "bot"], mailbox_id: int, old: str, new: str
) -> datetime | None:
    """Keep the caps of the present day of a mailbox that moves to zone ``new``; return until when a sender waits."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    old = old if old in known_zones() else new
    if kind == "bot":
        start = _midnight(local_day(now, new), new)
        overlapping = {"first": local_day(start, old), "last": local_day(now, old), "today": local_day(now, new)}
        connection.execute(_CARRY_INBOUND, {"mailbox_id": mailbox_id, **overlapping})
        return None
    until = max(_midnight(local_day(now, one) + timedelta(days=1), one) for one in (old, new))
    later = func.greatest(mailboxes.c.next_send_at, until)
    connection.execute(update(mailboxes).where(mailboxes.c.id == mailbox_id).values(next_send_at=later))
    return until


def _midnight(day: date, zone: str) -> datetime:
    return datetime.combine(day, time(0), clock_of(zone)).astimezone(UTC)
