"""The evidence of what servers say of recipients (`delivery.corroboration`): ``ops.recipient_refusals``.

A row for each recipient, server and mailbox that sent through it; every reply is an ``attempt`` event as well. Whoever
changes evidence holds one lock for all of it, taken before any other row, so that two workers never each see half of
it. Refusals are rare: where there are none, it costs one SELECT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from emberflow.database import prepared
from emberflow.database.json_rows import rows_as_json
from emberflow.delivery.corroboration import Findings, Outlier, RefusalPolicy, Refused, Said, unknown
from emberflow.delivery.server_parties import Party
from emberflow.queue_manager.mailbox_servers import SAYS_ITS_SERVER

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

_FORGET_RECIPIENT = text("delete from ops.recipient_refusals where recipient = :recipient")

# A recipient that is out of use already is settled: who asked it too late is no evidence and no outlier.
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


def lock(connection: Connection, said: Sequence[Said]) -> bool:
    """Lock the evidence if ``said`` concerns it, before any other row is locked; return whether it does."""
    taken = [one for one in said if one.refusal is None]
    concerns = len(taken) < len(said) or bool(
        prepared.rows_of(
            connection,
            "read_concerned",
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


def forget(connection: Connection, recipient: str) -> None:
    """Remove what servers say of a recipient whose person was erased."""
    connection.execute(_LOCK)
    connection.execute(_FORGET_RECIPIENT, {"recipient": recipient})


def weigh(connection: Connection, said: Sequence[Said], *, now: datetime, policy: RefusalPolicy) -> Findings:
    """Add what was said to the evidence, under :func:`lock`, and return what is known now that was not before."""
    refused = [one for one in said if one.refusal is not None]
    taken = [one for one in said if one.refusal is None]
    connection.execute(_FORGET, {"since": now - timedelta(seconds=policy.span_s)})
    connection.execute(_REFUSED, {"said": rows_as_json([_refusal(one) for one in refused]), "now": now})
    hosts = {one.smtp_host.lower() for one in refused} | _accept(connection, taken, now)
    gone = _unknown(connection, sorted({one.recipient for one in refused}), policy.servers)
    settled = connection.execute(_SETTLED, {"recipients": sorted(gone)}).all()
    outliers = connection.execute(
        _OUTLIERS, {"hosts": sorted(hosts), "recipients": policy.outlier_recipients, "now": now}
    ).all()
    doubted = sorted({row.from_mailbox_id for row in settled if row.judged_at is not None})
    asked = {"mailboxes": doubted, "recipients": policy.outlier_recipients}
    still: set[int] = set(connection.execute(_STILL_OUTLIERS, asked).scalars())
    return Findings(
        unknown=gone,
        outliers=[Outlier(row.from_mailbox_id, row.smtp_host, row.recipients) for row in outliers],
        cleared=[mailbox_id for mailbox_id in doubted if mailbox_id not in still],
        policy=policy,
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
    rows = connection.execute(_SAID_OF, {"recipients": recipients})
    refused = [
        Refused(row.recipient, row.smtp_host, row.from_mailbox_id, Party(row.organisation, row.network)) for row in rows
    ]
    return unknown(refused, servers)


def _refusal(said: Said) -> dict[str, object]:
    return {
        "recipient": said.recipient,
        "smtp_host": said.smtp_host.lower(),
        "from_mailbox_id": said.from_mailbox_id,
        "to_mailbox_id": said.to_mailbox_id,
        "reason": said.refusal,
    } | asdict(said.party)
