"""What came to the mailboxes without a token of ours, as the operator sees it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, RowMapping, text

_LISTED = text("""
    select
        messages.id,
        mailboxes.address as mailbox,
        messages.kind,
        messages.counts,
        messages.from_address,
        messages.subject,
        messages.arrived_at,
        messages.slot_id,
        messages.matched_by,
        array_to_string(messages.followed, ', ') as followed,
        concat_ws(
            ' ', messages.bounce_severity, messages.bounce_action, messages.bounce_status, messages.bounce_recipient,
            'back on ' || messages.return_date
        ) as says,
        (
            select string_agg(one ->> 'where' || ': ' || (one ->> 'says'), '; ' order by place)
            from jsonb_array_elements(messages.evidence) with ordinality as evidence (one, place)
        ) as evidence
    from ops.inbound_messages as messages
    inner join ops.mailboxes on mailboxes.id = messages.mailbox_id
    where messages.kind = any(:kinds)
    order by messages.recorded_at desc, messages.id desc
    limit :limit
""")
_LATELY = text("""
    select
        count(*) filter (where kind = 'bounce' and counts and bounce_action = 'failed') as bounces,
        count(*) filter (
            where kind = 'bounce' and counts and bounce_action = 'failed' and bounce_severity = 'hard'
        ) as hard,
        count(*) filter (where kind = 'complaint' and counts) as complaints,
        count(*) filter (where kind in ('bounce', 'complaint') and not counts) as not_counting,
        count(*) filter (where 'suppressed' = any(followed)) as suppressed
    from ops.inbound_messages
    where recorded_at > clock_timestamp() - interval '7 days'
""")
_OWN_THAT_BOUNCE = text("""
    select
        mailboxes.address,
        min(bots.id) is not null as is_bot,
        count(distinct messages.mailbox_id) as mailboxes
    from ops.inbound_messages as messages
    inner join ops.scheduled_tasks as tasks on tasks.id = messages.slot_id
    inner join ops.mailboxes on mailboxes.id = tasks.to_mailbox_id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    left join ops.senders on senders.mailbox_id = mailboxes.id
    where
        messages.recorded_at > clock_timestamp() - interval '7 days'
        and messages.kind = 'bounce'
        and messages.counts
        and messages.bounce_action = 'failed'
        and messages.bounce_severity = 'hard'
        and mailboxes.removed_at is null
        and (bots.status = 'active' or senders.state = 'active')
    group by mailboxes.id
    order by mailboxes desc, mailboxes.address
""")
_REQUESTS = text("""
    select distinct messages.from_address
    from ops.inbound_messages as messages
    where
        messages.kind = 'opt_out'
        and not messages.counts
        and messages.recorded_at > clock_timestamp() - interval '7 days'
        and not exists (select from ops.mailboxes where mailboxes.address = messages.from_address)
        and not exists (
            select from ops.suppressions
            where
                (suppressions.kind, suppressions.value) in (
                    ('address', messages.from_address), ('domain', split_part(messages.from_address, '@', 2))
                )
        )
    order by messages.from_address
""")


def listed(connection: Connection, kinds: Sequence[str], limit: int) -> Sequence[RowMapping]:
    """Return the newest messages of these kinds; ``says`` is what a bounce or an absence tells."""
    return connection.execute(_LISTED, {"kinds": list(kinds), "limit": limit}).mappings().all()


def lately(connection: Connection) -> Row[tuple[int, int, int, int, int]]:
    """Return of the last 7 days: failures that count, the hard ones of them, complaints that count, reports that do
    not, and how many addresses were suppressed for any of it.
    """
    return connection.execute(_LATELY).one()


def own_that_bounce(connection: Connection) -> Sequence[Row[tuple[str, bool, int]]]:
    """Return the mailboxes of ours to which mail came back as to no such address within 7 days, worst first.

    Each with its address, whether it is a bot's, and how many mailboxes were told so.
    """
    return connection.execute(_OWN_THAT_BOUNCE).all()


def unsettled_requests(connection: Connection) -> Sequence[str | None]:
    """Return who asked for no more mail within 7 days, could not be tied to a mail, and is not suppressed."""
    return connection.execute(_REQUESTS).scalars().all()
