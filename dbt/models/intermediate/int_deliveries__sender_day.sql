{{
    config(
        indexes=[{'columns': ['sender_id', 'utc_day'], 'unique': true}]
    )
}}

with

mail_events as (

    select * from {{ ref('int_mail_events__scored') }}

    where occurred_at < {{ as_of() }}

),

senders as (

    select * from {{ ref('stg_ops__senders') }}

),

-- A mail between a sender and a bot may go either way: both carry the sender's id.
events_of_senders as (

    select
        mail_events.*,
        cast(mail_events.occurred_at at time zone 'UTC' as date) as utc_day,
        mail_events.mailbox_id = senders.mailbox_id as is_at_sender,
        coalesce(
            mail_events.event_type = 'attempt'
            and mail_events.outcome = 'permanent' and mail_events.scope = 'message'
            and coalesce(mail_events.concerns, mail_events.scope) not in ('mailbox', 'host')
            and mail_events.is_believed is not false,
            false
        ) as is_refusal

    from mail_events

    inner join senders on mail_events.sender_id = senders.sender_id

),

-- A report is one server's word: what was refused at SMTP is counted there, and what lies at its recipient has arrived.
judged as (

    select
        events_of_senders.*,
        events_of_senders.is_refusal
        or (
            events_of_senders.event_type = 'returned'
            and coalesce(events_of_senders.status, '') not like '4.%'
            and not exists (
                select 1 from events_of_senders as others
                where
                    others.slot_id = events_of_senders.slot_id
                    and (others.is_refusal or others.event_type in ('placed_inbox', 'placed_junk'))
            )
        ) as is_hard_bounce

    from events_of_senders

),

counted as (

    select
        ----------  ids
        sender_id,
        utc_day,

        ---------- what the sender did
        count(*) filter (where event_type = 'attempt' and is_at_sender) as attempts,
        count(*) filter (where event_type = 'sent' and is_at_sender) as sent,
        count(*) filter (where is_hard_bounce and is_at_sender) as hard_bounces,
        count(*) filter (
            where event_type = 'attempt' and is_at_sender and outcome = 'transient'
            and (scope = 'message' or reply_code between 400 and 499)
            and concerns is distinct from 'mailbox'
        ) as deferrals,

        ---------- where its mail was found
        count(*) filter (where event_type = 'placed_inbox' and direction = 'to_bot') as placed_inbox,
        count(*) filter (where event_type = 'placed_junk' and direction = 'to_bot') as placed_junk,
        coalesce(
            array_agg(distinct provider order by provider) filter (
                where event_type in ('placed_inbox', 'placed_junk') and direction = 'to_bot'
            ),
            '{}'
        ) as providers,

        ---------- what the bots did with it
        count(*) filter (where event_type = 'rescued' and not is_at_sender) as rescued,
        count(*) filter (where event_type = 'replied' and not is_at_sender) as replied

    from judged

    group by sender_id, utc_day

)

select * from counted
