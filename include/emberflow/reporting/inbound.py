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
        count(*) filter (where kind in ('bounce', 'complaint') and not counts) as not_counting
    from ops.inbound_messages
    where recorded_at > clock_timestamp() - interval '7 days'
""")


def listed(connection: Connection, kinds: Sequence[str], limit: int) -> Sequence[RowMapping]:
    """Return the newest messages of these kinds; ``says`` is what a bounce or an absence tells."""
    return connection.execute(_LISTED, {"kinds": list(kinds), "limit": limit}).mappings().all()


def lately(connection: Connection) -> Row[tuple[int, int, int, int]]:
    """Return of the last 7 days: failures that count, the hard ones of them, complaints that count, and the others."""
    return connection.execute(_LATELY).one()
