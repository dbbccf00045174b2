"""How each mailbox was read the last time: when, what kept it from that, whether it shows Junk, what stays unfiled.

A run has a time budget. The mailboxes that it does not reach come first in the next run, because who was tried longest
ago is first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from emberflow.accounts import logins
from emberflow.accounts.logins import LoginPolicy
from emberflow.queue_manager.receiving.filing import Arrived, Filed
from emberflow.queue_manager.receiving.turns import Turn

_PROBLEM_CHARACTERS = 500
_ACTOR = "inbox"

_IN_TURN = text("""
    select
        mailboxes.id as mailbox_id,
        mailboxes.address,
        coalesce(readings.failures, 0) as failures,
        senders.id is not null as is_sender,
        readings.looked_through_at
    from ops.mailboxes
    left join ops.senders on senders.mailbox_id = mailboxes.id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    left join ops.mailbox_readings as readings on readings.mailbox_id = mailboxes.id
    left join ops.login_refusals as refusals on refusals.mailbox_id = mailboxes.id and refusals.protocol = 'imap'
    where mailboxes.id % :shards = :shard
        and (refusals.next_try_at is null or refusals.next_try_at <= :now)
        and mailboxes.check_passed
        and (senders.state in ('active', 'paused') or bots.status in ('active', 'paused'))
    order by readings.tried_at nulls first, mailboxes.id
""")

# Filing what arrived may work while deleting fails every day: only a whole look without a problem takes one back.
_RECORD = text("""
    insert into ops.mailbox_readings as readings
        (mailbox_id, tried_at, read_at, failures, problem, junk_folder, junk_looked_for_at, looked_through_at,
        unfiled_since, unfiled_because)
    values (
        :mailbox_id, :at, case when :problem is null then cast(:began_at as timestamptz) end,
        case when cast(:problem as text) is null then 0 else 1 end, :problem, :junk_folder,
        case when :saw_folders then cast(:at as timestamptz) end,
        :at, case when cast(:unfiled_because as text) is not null then cast(:at as timestamptz) end, :unfiled_because
    )
    on conflict (mailbox_id) do update
    set tried_at = excluded.tried_at,
        read_at = coalesce(excluded.read_at, readings.read_at),
        failures = case when excluded.problem is null then 0 else readings.failures + 1 end,
        problem = excluded.problem,
        junk_folder = case when :saw_folders then excluded.junk_folder else readings.junk_folder end,
        junk_looked_for_at = coalesce(excluded.junk_looked_for_at, readings.junk_looked_for_at),
        looked_through_at = case
            when :was_looked_through or readings.looked_through_at is null then excluded.looked_through_at
            else readings.looked_through_at
        end,
        unfiled_since = case
            when excluded.unfiled_because is not null then coalesce(readings.unfiled_since, excluded.unfiled_since)
            when not :was_looked_through then readings.unfiled_since
        end,
        unfiled_because = case
            when excluded.unfiled_because is not null then excluded.unfiled_because
            when not :was_looked_through then readings.unfiled_because
        end
""")


@dataclass
class Outcome:
    """What became of one reading.

    ``began_at`` is when its first folder was begun with: what came later may not have been seen. ``was_read``: at least
    one folder was; ``junk_folder`` says nothing unless ``saw_folders``. ``login_refused`` is what the server says of
    the login, ``no_answer`` why it could not be connected to. ``waits_because``: nothing was tried, and the mailbox is
    not at fault. ``arrived`` was handled and is to be filed at once, ``filed`` is what became of filing.
    """

    problems: list[str]
    was_logged_in: bool = False
    began_at: datetime | None = None
    login_refused: str | None = None
    no_answer: str | None = None
    waits_because: str | None = None
    was_read: bool = False
    saw_folders: bool = False
    junk_folder: str | None = None
    arrived: list[Arrived] = field(default_factory=list)
    filed: Filed = field(default_factory=Filed)

    @property
    def junk_told(self) -> str:
        """Return which folder was looked into as Junk, for the record."""
        return self.junk_folder or ("none" if self.saw_folders else "unknown")


def in_turn(connection: Connection, shard: int, shards: int, now: datetime) -> list[Turn]:
    """Return the mailboxes of a shard that are in use, the one that was tried longest ago first.

    One whose login was refused a short time ago is left out.
    """
    rows = connection.execute(_IN_TURN, {"shard": shard, "shards": shards, "now": now})
    return [Turn(**row) for row in rows.mappings()]


def record(connection: Connection, turn: Turn, outcome: Outcome, at: datetime, policy: LoginPolicy) -> None:
    """Store what became of a reading; logins that were refused in a row take the mailbox out of use."""
    if outcome.login_refused is not None:
        said = outcome.login_refused
        logins.refused(connection, turn.mailbox_id, "imap", said, now=at, policy=policy, actor=_ACTOR)
    elif outcome.was_logged_in:
        logins.taken(connection, [turn.mailbox_id], "imap")
    connection.execute(
        _RECORD,
        {
            "mailbox_id": turn.mailbox_id,
            "at": at,
            "began_at": outcome.began_at,
            "problem": "; ".join(outcome.problems)[:_PROBLEM_CHARACTERS] or None,
            "saw_folders": outcome.saw_folders,
            "junk_folder": outcome.junk_folder,
            "was_looked_through": outcome.filed.is_day_done,
            "unfiled_because": "; ".join(outcome.filed.problems)[:_PROBLEM_CHARACTERS] or None,
        },
    )
