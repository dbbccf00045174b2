"""Single messages of our mailboxes that could not be read, moved or marked: set aside, so that no other waits for them.

What cannot be parsed within the limits is not read again. What a server refuses is tried again, after 15 minutes,
1 hour, 4 and 16 hours; then it is given up. Either way its row stays and says why, until a person has it tried again
or forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, TextClause, text

from emberflow.errors import EmberflowError

if TYPE_CHECKING:  # commands that show what was set aside load no mail client
    from emberflow.email_ops.imap import Cursor, Unread

Act = Literal["rescue", "mark_read", "important", "star", "archive"]
Step = Literal["read"] | Act

_REASON_CHARACTERS = 300
_NOT_PRINTABLE = re.compile(r"[^ -~\xa1-\ud7ff\ue000-\U0010ffff]+")

_NOTE = text("""
    insert into ops.message_faults as faults
        (mailbox_id, folder, uidvalidity, uid, step, reason, size, first_at, last_at, next_try_at)
    values (
        :mailbox_id, :folder, :uidvalidity, :uid, :step, :reason, :size, :at, :at,
        case when not :is_final then cast(:at as timestamptz) + interval '15 minutes' end
    )
    on conflict (mailbox_id, folder, uidvalidity, uid, step) do update
    set reason = excluded.reason,
        size = coalesce(excluded.size, faults.size),
        tries = faults.tries + 1,
        last_at = excluded.last_at,
        next_try_at = case
            when not :is_final and faults.tries < 4
            then excluded.last_at + interval '15 minutes' * power(4, faults.tries)
        end
    where faults.next_try_at <= excluded.last_at
""")

_DUE = text("""
    select uidvalidity, uid
    from ops.message_faults
    where mailbox_id = :mailbox_id and folder = :folder and step = :step and next_try_at <= :now
    order by next_try_at, uid
    limit 50
""")

# Where it is archived, a mail has another number: its marks come first, unless they were given up.
_ACTS_DUE = text("""
    select step, uidvalidity, uid
    from ops.message_faults as acts
    where mailbox_id = :mailbox_id and folder = :folder and step <> 'read' and next_try_at <= :now
        and not (
            step = 'archive'
            and exists (
                select
                from ops.message_faults as marks
                where (marks.mailbox_id, marks.folder, marks.uidvalidity, marks.uid)
                    = (acts.mailbox_id, acts.folder, acts.uidvalidity, acts.uid)
                    and marks.step in ('mark_read', 'important', 'star')
                    and marks.next_try_at is not null
            )
        )
    order by next_try_at, uid
    limit 50
""")

_GIVEN_UP = text("""
    select uidvalidity, uid
    from ops.message_faults
    where mailbox_id = :mailbox_id and folder = :folder and step = 'read' and next_try_at is null
""")

_SET_ASIDE = text("""
    select step, uidvalidity, uid
    from ops.message_faults
    where mailbox_id = :mailbox_id and folder = :folder
        and (cast(:uidvalidity as bigint) is null or uidvalidity <> :uidvalidity or uid >= :next_uid)
""")

_SETTLE = text("""
    delete from ops.message_faults
    where mailbox_id = :mailbox_id and folder = :folder and uidvalidity = :uidvalidity and step = :step
        and uid = any(:uids)
""")

_TRY_AGAIN = text("""
    update ops.message_faults
    set next_try_at = last_at
    where id = :id
    returning (select address from ops.mailboxes where mailboxes.id = mailbox_id) as address, folder, uid, reason
""")

_FORGET = text("""
    delete from ops.message_faults
    where id = :id
    returning (select address from ops.mailboxes where mailboxes.id = mailbox_id) as address, folder, uid, reason
""")


@dataclass(frozen=True)
class SetAside:
    """A message that was set aside, as people name it."""

    address: str
    folder: str
    uid: int
    reason: str


@dataclass(frozen=True)
class Place:
    """Where a message lies: its number holds under one UIDVALIDITY of one folder (RFC 9051 2.3.1.1)."""

    mailbox_id: int
    folder: str
    uidvalidity: int


def note(connection: Connection, place: Place, step: Step, faults: Iterable[Unread], at: datetime) -> None:
    """Record one more failure of each message, unless it was given up or is not due for another try yet."""
    for fault in faults:
        reason = _NOT_PRINTABLE.sub(" ", fault.reason)[:_REASON_CHARACTERS]
        values = {"uid": fault.uid, "size": fault.size, "is_final": fault.is_final, "step": step, "at": at}
        connection.execute(_NOTE, vars(place) | values | {"reason": reason})


def due(connection: Connection, mailbox_id: int, folder: str, step: Step, now: datetime) -> dict[int, list[int]]:
    """Return by UIDVALIDITY which messages of a folder are to be tried again now, at most 50."""
    uids: dict[int, list[int]] = {}
    for row in connection.execute(_DUE, {"mailbox_id": mailbox_id, "folder": folder, "step": step, "now": now}):
        uids.setdefault(row.uidvalidity, []).append(row.uid)
    return uids


def acts_due(connection: Connection, mailbox_id: int, folder: str, now: datetime) -> dict[tuple[Act, int], list[int]]:
    """Return by act and UIDVALIDITY which messages of a folder are to be moved or marked now, at most 50."""
    uids: dict[tuple[Act, int], list[int]] = {}
    for row in connection.execute(_ACTS_DUE, {"mailbox_id": mailbox_id, "folder": folder, "now": now}):
        uids.setdefault((row.step, row.uidvalidity), []).append(row.uid)
    return uids


def given_up(connection: Connection, mailbox_id: int, folder: str) -> frozenset[tuple[int, int]]:
    """Return (UIDVALIDITY, UID) of the messages of a folder that are never read again."""
    rows = connection.execute(_GIVEN_UP, {"mailbox_id": mailbox_id, "folder": folder})
    return frozenset((row.uidvalidity, row.uid) for row in rows)


def set_aside(
    connection: Connection, mailbox_id: int, folder: str, step: Step, after: Cursor | None = None
) -> set[tuple[int, int]]:
    """Return (UIDVALIDITY, UID) of the messages of a folder that wait for another try, or were given up.

    Those that a reading ``after`` a cursor does not come to are left out, so that a flood of long ago costs nothing.
    """
    return all_set_aside(connection, mailbox_id, folder, after).get(step, set())


def all_set_aside(
    connection: Connection, mailbox_id: int, folder: str, after: Cursor | None
) -> dict[Step, set[tuple[int, int]]]:
    """Return by step what :func:`set_aside` does."""
    about = {"mailbox_id": mailbox_id, "folder": folder, "uidvalidity": None, "next_uid": None}
    found: dict[Step, set[tuple[int, int]]] = {}
    for row in connection.execute(_SET_ASIDE, about | ({} if after is None else vars(after))):
        found.setdefault(row.step, set()).add((row.uidvalidity, row.uid))
    return found


def settle(connection: Connection, place: Place, step: Step, uids: Collection[int]) -> None:
    """Forget the failures of messages with which the step succeeded, or that are gone."""
    if uids:
        connection.execute(_SETTLE, vars(place) | {"step": step, "uids": list(uids)})


def try_again(connection: Connection, fault_id: int) -> SetAside:
    """Have the next run of the inbox try a message once more, whether or not it was given up.

    Raises:
        EmberflowError: no such message is set aside.
    """
    return _one(connection, _TRY_AGAIN, fault_id)


def forget(connection: Connection, fault_id: int) -> SetAside:
    """Delete what is known of a message, its bytes too; the message stays where it lies.

    Raises:
        EmberflowError: no such message is set aside.
    """
    return _one(connection, _FORGET, fault_id)


def _one(connection: Connection, statement: TextClause, fault_id: int) -> SetAside:
    row = connection.execute(statement, {"id": fault_id}).mappings().one_or_none()
    if row is None:
        raise EmberflowError(f"no message with the number {fault_id} is set aside: see `emberflow inbox quarantined`")
    return SetAside(**row)
