"""Logins that a mail server refuses: one keeps the mailbox waiting, several in a row take it out of use (B-B10).

A refused login can be the server's own trouble, and whoever tries a wrong password again and again gets the account
locked. So the next try waits, and the last one counts as a failed connection check: the mailbox is unverified, nobody
logs in to it, and `emberflow senders|bots check` brings it back. SMTP and IMAP count apart: many providers let a
password in at the one and not at the other.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

from sqlalchemy import Connection, func, text, update

from emberflow.accounts import lifecycle
from emberflow.accounts.lifecycle import Cause
from emberflow.database.tables import mailboxes

MailProtocol = Literal["smtp", "imap"]

_COUNT = text("""
    insert into ops.login_refusals as known (mailbox_id, protocol, refused, server_text, first_at, next_try_at)
    values (:mailbox_id, :protocol, 1, :server_text, :now, :next_try_at)
    on conflict (mailbox_id, protocol) do update
    set refused = known.refused + 1, server_text = excluded.server_text, next_try_at = excluded.next_try_at
    returning refused
""")
_FORGET = text("delete from ops.login_refusals where mailbox_id = any(:ids) and protocol = any(:protocols)")
_PROTOCOLS: Final = ["smtp", "imap"]


class LoginPolicy(Protocol):
    """What is read of the policy in force (`delivery.corroboration.RefusalPolicy`)."""

    @property
    def logins(self) -> int: ...
    @property
    def login_retry_s(self) -> int: ...


def refused(
    connection: Connection,
    mailbox_id: int,
    protocol: MailProtocol,
    server_text: str,
    *,
    now: datetime,
    policy: LoginPolicy,
    actor: str,
) -> None:
    """Count a refused login; the last one that the policy allows takes the mailbox out of use.

    ``server_text`` holds no credentials (``MailboxAccess.public_text``).
    """
    values: dict[str, Any] = {
        "mailbox_id": mailbox_id,
        "protocol": protocol,
        "server_text": server_text,
        "now": now,
        "next_try_at": now + timedelta(seconds=policy.login_retry_s),
    }
    count: int = connection.execute(_COUNT, values).scalar_one()
    if count < policy.logins:
        return
    taken(connection, [mailbox_id])
    failed = {"check_passed": False, "check_stage": f"{protocol}_auth", "check_text": server_text}
    connection.execute(
        update(mailboxes).where(mailboxes.c.id == mailbox_id).values(**failed, checked_at=func.clock_timestamp())
    )
    cause = Cause("server", actor, "refused_logins", count, policy.logins)
    lifecycle.logins_refused(connection, mailbox_id, protocol, server_text, cause)


def taken(connection: Connection, mailbox_ids: Collection[int], protocol: MailProtocol | None = None) -> None:
    """Forget the refused logins of mailboxes that were let in, over ``protocol`` or both."""
    if mailbox_ids:
        protocols = _PROTOCOLS if protocol is None else [protocol]
        connection.execute(_FORGET, {"ids": list(mailbox_ids), "protocols": protocols})
