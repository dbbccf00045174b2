"""Whose word counts when a server says that a recipient does not exist.

A refusal is said by the submission server of the mailbox that sends, and a server can be wrong about everybody: a
domain that it takes for its own, an alias table that is gone, a relay that is not allowed to ask. A recipient is shared
by all, so one party's word never changes its state. Until others say the same, a refusal fails its own mail, keeps that
mailbox from trying that recipient again for a while, and lowers nothing.

* A recipient is *unknown* once ``servers`` parties (``server_parties``) have refused it, for as many mailboxes, within
  ``span_s``. A mail that another mailbox gets to it afterwards contradicts what was said before.
* A server is the *outlier* if no other party refuses the recipients that it refuses: ``outlier_recipients`` of them in
  a row, while it took no other mail, of whichever mailbox; or as many that other parties reached afterwards, before it
  did so itself. The mailboxes that met those refusals stop. If others come to say the same, they go on by themselves.
* A mailbox is the outlier at a server that serves others: as many in a row, while it got no other mail away itself,
  that others reached afterwards.

What a server said counts against a mailbox only as long as the mailbox uses that server.

The evidence is ``ops.recipient_refusals``, a row for each recipient, server and mailbox that sent through it; every
reply is an ``attempt`` event as well. Whoever changes evidence holds one lock for all of it, taken before any other
row, so that two workers never each see half of it. Refusals are rare: where there are none, it costs one SELECT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, text

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery import server_parties
from emberflow.delivery.server_parties import Party, network_of, organisation_of

_CONCERNED = text("""
    select 1
    from ops.recipient_refusals
    where
        (served_at is null and from_mailbox_id = any(cast(:mailboxes as bigint[])))
        or (server_served_at is null and smtp_host = any(cast(:hosts as text[])))
        or (
            (accepted_at is null or (contradicted_at is not null and smtp_host = any(cast(:hosts as text[]))))
            and recipient = any(cast(:recipients as text[]))
        )
    limit 1
""")

_LOCK = text("select pg_advisory_xact_lock(hashtextextended('emberflow.recipient_refusals', 0))")

_FORGET = text("delete from ops.recipient_refusals where refused_at <= :since")

# A recipient that is out of use already is settled: who asked it too late is no witness and no outlier.
_REFUSED = text("""
    insert into ops.recipient_refusals
        (recipient, smtp_host, from_mailbox_id, to_mailbox_id, refused_at, reason, organisation, network)
    select distinct on (said.recipient, said.smtp_host, said.from_mailbox_id)
        said.recipient, said.smtp_host, said.from_mailbox_id, said.to_mailbox_id, cast(:now as timestamptz),
        said.reason, said.organisation, said.network
    from jsonb_to_recordset(cast(:said as jsonb)) as said (
        recipient text, smtp_host text, from_mailbox_id bigint, to_mailbox_id bigint, reason text,
        organisation text, network text
    )
    left join ops.bots on bots.mailbox_id = said.to_mailbox_id
    left join ops.senders on senders.mailbox_id = said.to_mailbox_id
    where said.to_mailbox_id is null or bots.status = 'active' or senders.state = 'active'
    order by said.recipient, said.smtp_host, said.from_mailbox_id
    on conflict (recipient, smtp_host, from_mailbox_id) do update
    set refused_at = excluded.refused_at, reason = excluded.reason,
        organisation = excluded.organisation, network = excluded.network,
        accepted_at = null, served_at = null, judged_at = null, contradicted_at = null, server_served_at = null
""")

_SERVED = text("""
    update ops.recipient_refusals
    set
        server_served_at = coalesce(server_served_at, :now),
        served_at = case
            when from_mailbox_id = any(cast(:mailboxes as bigint[])) then coalesce(served_at, :now)
            else served_at
        end
    where (smtp_host = any(cast(:hosts as text[])) and server_served_at is null)
        or (from_mailbox_id = any(cast(:mailboxes as bigint[])) and served_at is null)
""")

_WITHDRAWN = text("""
    delete from ops.recipient_refusals
    using jsonb_to_recordset(cast(:said as jsonb)) as said (recipient text, from_mailbox_id bigint)
    where recipient_refusals.recipient = said.recipient and recipient_refusals.from_mailbox_id = said.from_mailbox_id
""")

# Who reaches the recipient first decides whether the server is contradicted. Its own word takes that back.
_CONTRADICTED = text("""
    with said as (
        select refusals.recipient, refusals.smtp_host, refusals.from_mailbox_id,
            bool_or(said.organisation = refusals.organisation or said.network = refusals.network) as is_by_its_own
        from ops.recipient_refusals as refusals
        inner join jsonb_to_recordset(cast(:said as jsonb)) as said (recipient text, organisation text, network text)
            on said.recipient = refusals.recipient
        group by refusals.recipient, refusals.smtp_host, refusals.from_mailbox_id
    )

    update ops.recipient_refusals as refusals
    set
        accepted_at = coalesce(accepted_at, :now),
        contradicted_at = case
            when said.is_by_its_own then null
            when accepted_at is null then cast(:now as timestamptz)
            else contradicted_at
        end
    from said
    where (refusals.recipient, refusals.smtp_host, refusals.from_mailbox_id)
        = (said.recipient, said.smtp_host, said.from_mailbox_id)
    returning refusals.smtp_host
""")

_SAID_OF = text("""
    select recipient, smtp_host, from_mailbox_id, organisation, network
    from ops.recipient_refusals
    where recipient = any(cast(:recipients as text[])) and accepted_at is null
    order by recipient, smtp_host, from_mailbox_id
""")

_SETTLED = text("""
    delete from ops.recipient_refusals
    where recipient = any(cast(:recipients as text[]))
    returning from_mailbox_id, judged_at
""")

# `mailboxes` is the one that was refused.
SAYS_ITS_SERVER: Final = (
    "refusals.smtp_host in (lower(mailboxes.smtp_host), lower(mailboxes.smtp_host) || ':' || mailboxes.smtp_port)"
)

_OUTLIERS = text(f"""
    with said as (
        select
            refusals.*,
            not exists (
                select from ops.recipient_refusals as others
                where others.recipient = refusals.recipient and others.accepted_at is null
                    and others.organisation <> refusals.organisation
                    and coalesce(others.network <> refusals.network, true)
            ) as is_alone
        from ops.recipient_refusals as refusals
        inner join ops.mailboxes on mailboxes.id = refusals.from_mailbox_id and {SAYS_ITS_SERVER}
        where refusals.smtp_host = any(cast(:hosts as text[]))
    ),

    of_servers as (
        select
            smtp_host,
            count(distinct recipient) filter (where is_alone and server_served_at is null) as in_a_row,
            count(distinct recipient) filter (where contradicted_at is not null) as contradicted
        from said
        group by smtp_host
    ),

    of_mailboxes as (
        select
            smtp_host,
            from_mailbox_id,
            count(distinct recipient) filter (where served_at is null and accepted_at is not null) as reached
        from said
        group by smtp_host, from_mailbox_id
    ),

    outliers as (
        select distinct on (said.from_mailbox_id) said.from_mailbox_id, smtp_host, in_a_row, contradicted, reached
        from said
        inner join of_servers using (smtp_host)
        inner join of_mailboxes using (smtp_host, from_mailbox_id)
        where said.judged_at is null
            and (
                (in_a_row >= :recipients and said.is_alone and said.server_served_at is null)
                or (contradicted >= :recipients and said.contradicted_at is not null)
                or (reached >= :recipients and said.served_at is null and said.accepted_at is not null)
            )
        order by said.from_mailbox_id, smtp_host
    ),

    judged as (
        update ops.recipient_refusals
        set judged_at = :now
        from outliers
        where recipient_refusals.from_mailbox_id = outliers.from_mailbox_id
            and recipient_refusals.smtp_host = outliers.smtp_host
    )

    select from_mailbox_id, smtp_host, greatest(in_a_row, contradicted, reached) as recipients
    from outliers
    order by from_mailbox_id
""")  # noqa: S608 - a condition from here

_STILL_OUTLIERS = text("""
    select from_mailbox_id
    from ops.recipient_refusals
    where from_mailbox_id = any(cast(:mailboxes as bigint[])) and judged_at is not null
    group by from_mailbox_id
    having count(distinct recipient) >= :recipients
""")


class RefusalPolicy(BaseModel):
    """When it is believed that a recipient does not exist, and when a server is doubted instead.

    ``servers`` that say so for different mailboxes are the least corroboration there is. ``span_s`` is for how long a
    refusal counts, and keeps its mailbox from that recipient: a week, in which every pair of servers of a working pool
    meets. ``outlier_recipients`` in a row that nobody else refuses are no longer chance: where one recipient in twenty
    is gone, three in a row come once in eight thousand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: int = Field(
        default=2,
        ge=2,
        le=10,
        description="servers that must say so of different mailboxes before a recipient is believed to be gone",
    )
    span_s: int = Field(default=604_800, ge=60, le=2_592_000, description="for how long such a refusal counts")
    outlier_recipients: int = Field(
        default=3,
        ge=2,
        le=100,
        description="recipients in a row that one server alone refuses, until the server is doubted",
    )


@dataclass(frozen=True)
class Said:
    """What a submission server said of a recipient: ``refusal`` is why it does not exist, None that mail was taken.

    ``recipient`` is an address in normal form; ``to_mailbox_id`` is None if it is not ours. ``peer`` is the address and
    port that said so; None: unknown.
    """

    smtp_host: str
    from_mailbox_id: int
    recipient: str
    to_mailbox_id: int | None
    refusal: str | None
    peer: tuple[str, int] | None = None

    @property
    def party(self) -> Party:
        """Whose word it is."""
        return Party(organisation_of(self.smtp_host), network_of(self.peer))


@dataclass(frozen=True)
class Outlier:
    """A mailbox whose server refuses ``recipients`` recipients that nobody else refuses."""

    mailbox_id: int
    smtp_host: str
    recipients: int


@dataclass(frozen=True)
class Findings:
    """What follows: ``unknown`` recipients with the servers that say so, ``outliers``, and mailboxes that are none."""

    unknown: dict[str, list[str]] = field(default_factory=dict)
    outliers: list[Outlier] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)


def lock(connection: Connection, said: Sequence[Said]) -> bool:
    """Lock the evidence if ``said`` concerns it, before any other row is locked; return whether it does."""
    taken = [one for one in said if one.refusal is None]
    concerns = len(taken) < len(said) or bool(
        prepared.rows_of(
            connection,
            _CONCERNED,
            {
                "mailboxes": [one.from_mailbox_id for one in taken],
                "hosts": sorted({one.smtp_host.lower() for one in taken}),
                "recipients": [one.recipient for one in taken],
            },
        )
    )
    if concerns:
        connection.execute(_LOCK)
    return concerns


def weigh(connection: Connection, said: Sequence[Said], *, now: datetime, policy: RefusalPolicy) -> Findings:
    """Add what was said to the evidence, under :func:`lock`, and return what is known now that was not before."""
    refused = [one for one in said if one.refusal is not None]
    taken = [one for one in said if one.refusal is None]
    connection.execute(_FORGET, {"since": now - timedelta(seconds=policy.span_s)})
    connection.execute(_REFUSED, {"said": rows_as_json([_refusal(one) for one in refused]), "now": now})
    hosts = {one.smtp_host.lower() for one in refused} | _accept(connection, taken, now)
    unknown = _unknown(connection, sorted({one.recipient for one in refused}), policy.servers)
    settled = connection.execute(_SETTLED, {"recipients": sorted(unknown)}).all()
    outliers = connection.execute(
        _OUTLIERS, {"hosts": sorted(hosts), "recipients": policy.outlier_recipients, "now": now}
    ).all()
    doubted = sorted({row.from_mailbox_id for row in settled if row.judged_at is not None})
    asked = {"mailboxes": doubted, "recipients": policy.outlier_recipients}
    still: set[int] = set(connection.execute(_STILL_OUTLIERS, asked).scalars())
    return Findings(
        unknown=unknown,
        outliers=[Outlier(row.from_mailbox_id, row.smtp_host, row.recipients) for row in outliers],
        cleared=[mailbox_id for mailbox_id in doubted if mailbox_id not in still],
    )


def _accept(connection: Connection, taken: Sequence[Said], now: datetime) -> set[str]:
    """Take in what was delivered, and return the servers that are contradicted by it."""
    if not taken:
        return set()
    said = rows_as_json(
        {"recipient": one.recipient, "from_mailbox_id": one.from_mailbox_id} | asdict(one.party) for one in taken
    )
    hosts = sorted({one.smtp_host.lower() for one in taken})
    connection.execute(_WITHDRAWN, {"said": said})
    connection.execute(_SERVED, {"mailboxes": [one.from_mailbox_id for one in taken], "hosts": hosts, "now": now})
    return set(connection.execute(_CONTRADICTED, {"said": said, "now": now}).scalars())


def _unknown(connection: Connection, recipients: Sequence[str], servers: int) -> dict[str, list[str]]:
    """Return which of ``recipients`` enough parties refuse, with the servers that say so."""
    found: dict[str, list[str]] = {}
    rows = connection.execute(_SAID_OF, {"recipients": recipients}).all()
    for recipient, group in groupby(rows, key=attrgetter("recipient")):
        said = list(group)
        parties = server_parties.count({Party(row.organisation, row.network) for row in said})
        if parties >= servers and len({row.from_mailbox_id for row in said}) >= servers:
            found[recipient] = sorted({row.smtp_host for row in said})
    return found


def _refusal(said: Said) -> dict[str, object]:
    return {
        "recipient": said.recipient,
        "smtp_host": said.smtp_host.lower(),
        "from_mailbox_id": said.from_mailbox_id,
        "to_mailbox_id": said.to_mailbox_id,
        "reason": said.refusal,
    } | asdict(said.party)
