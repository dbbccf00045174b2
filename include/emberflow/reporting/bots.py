"""The bots as the operator sees them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, text

from emberflow.reporting.senders import NO_ZONE

_LISTED = text("""
    select bots.id, mailboxes.address, mailboxes.provider, mailboxes.zone, bots.profile, bots.status,
        coalesce(bots.status_reason, case when zones.name is null then :no_zone end) as status_reason,
        bots.status_remedy, bots.source, bots.attested_by, bots.born_at, bots.interaction_limits,
        mailboxes.check_stage, mailboxes.check_text,
        coalesce(days.inbound_sent, 0) as inbound_today, coalesce(days.reply_sent, 0) as replies_today
    from ops.bots
    inner join ops.mailboxes on mailboxes.id = bots.mailbox_id
    left join ops.zones on zones.name = mailboxes.zone
    left join ops.bot_days as days
        on days.bot_id = bots.id
        and days.local_day = ops.local_day(clock_timestamp(), mailboxes.zone)
    where mailboxes.removed_at is null
    order by mailboxes.address
""")


def listed(connection: Connection) -> Sequence[RowMapping]:
    """Return one row per bot with today's counts, ordered by address."""
    return connection.execute(_LISTED, {"no_zone": NO_ZONE}).mappings().all()
