-- What a sender sent on a day of its own zone never exceeds that day's total quota (S-B5). The events are counted,
-- not the counters that the dispatcher keeps. A mail belongs to the day on which it was submitted; a day without
-- a quota allows none.
-- depends_on: {{ ref('rpt_sender_reputation') }}

with

mail_events as (

    select * from {{ ref('stg_ops__mail_events') }}

),

slots as (

    select * from {{ ref('stg_ops__slots') }}

),

senders as (

    select * from {{ ref('stg_ops__senders') }}

),

mailboxes as (

    select * from {{ ref('stg_ops__mailboxes') }}

),

sender_days as (

    select * from {{ ref('stg_ops__sender_days') }}

),

sent as (

    select
        senders.sender_id,
        ops.local_day(coalesce(slots.submitted_at, mail_events.occurred_at), mailboxes.zone) as local_day,
        count(*) as sent

    from mail_events

    inner join senders
        on mail_events.sender_id = senders.sender_id
        and mail_events.mailbox_id = senders.mailbox_id

    inner join mailboxes on senders.mailbox_id = mailboxes.mailbox_id

    left join slots on mail_events.slot_id = slots.slot_id

    where mail_events.event_type = 'sent'

    group by 1, 2

)

select
    sent.sender_id,
    sent.local_day,
    sent.sent,
    sender_days.total_quota

from sent

left join sender_days
    on sent.sender_id = sender_days.sender_id
    and sent.local_day = sender_days.local_day

where sent.sent > coalesce(sender_days.total_quota, 0)
