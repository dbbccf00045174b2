"""By which profiles of a policy mailboxes go: those of a computed plan, and those that the database names now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, RowMapping, text

from emberflow.policy.document import Policy

if TYPE_CHECKING:
    import pandas as pd

_IN_USE = text("""
    select named.profile, count(*) as mailboxes, sum(is_sender::integer) as senders, min(mailboxes.address) as example
    from (
        select mailbox_id, profile, true as is_sender from ops.senders
        union all
        select mailbox_id, profile, false from ops.bots
    ) as named
    inner join ops.mailboxes on mailboxes.id = named.mailbox_id
    where named.profile is not null and mailboxes.removed_at is null
    group by named.profile
    order by named.profile
""")


def in_use(connection: Connection) -> Sequence[RowMapping]:
    """Return how many mailboxes, and how many senders among them, name each profile, with the address of one."""
    return connection.execute(_IN_USE).mappings().all()


def of_planned(policy: Policy, mailbox: pd.DataFrame) -> str | None:
    """Return the profile by which one mailbox of a plan, a frame of one row, was planned; None: the document's own."""
    return list(policy.numbers_of)[int(mailbox["profile"].iloc[0])] if "profile" in mailbox else None


def apart(policy: Policy, mailboxes: pd.DataFrame) -> list[pd.DataFrame]:
    """Return mailboxes of a plan apart by their profiles, in the order of ``Policy.numbers_of``."""
    if "profile" not in mailboxes:
        return [mailboxes]
    return [mailboxes[mailboxes["profile"] == code] for code in range(len(policy.numbers_of))]
