-- Every count of the report is a count over events (D-B4).
-- Events keep arriving while the report is built: those recorded before `as_of` must be in it, later ones may be.
-- In a database at rest the two bounds are equal.

with

report as (

    select * from {{ ref('rpt_sender_reputation') }}

),

mail_events as (

    select * from {{ ref('stg_ops__mail_events') }}

),

senders as (

    select * from {{ ref('stg_ops__senders') }}

),

reported as (

    select
        report.sender_id,
        report.as_of,
        figures.figure,
        figures.reported

    from report

    cross join lateral (
        values
        ('sent', report.sent),
        ('inbox', report.inbox),
        ('junk', report.junk),
        ('rescued', report.rescued),
        ('replied', report.replied),
        ('hard_bounces', report.hard_bounces),
        ('deferrals', report.deferrals)
    ) as figures (figure, reported)

),

labelled as (

    select
        mail_events.event_id,
        mail_events.sender_id,
        mail_events.occurred_at,
        mail_events.recorded_at,
        case
            when mail_events.event_type = 'placed_inbox' and mail_events.direction = 'to_bot' then 'inbox'
            when mail_events.event_type = 'placed_junk' and mail_events.direction = 'to_bot' then 'junk'
            when mail_events.mailbox_id <> senders.mailbox_id and mail_events.event_type in ('rescued', 'replied')
                then mail_events.event_type
            when mail_events.mailbox_id <> senders.mailbox_id then null
            when mail_events.event_type = 'sent' then 'sent'
            when mail_events.concerns = 'mailbox' or mail_events.is_believed is false then null
            when mail_events.outcome = 'permanent' and mail_events.concerns = 'host' then null
            when mail_events.outcome = 'permanent' and mail_events.scope = 'message' then 'hard_bounces'
            when mail_events.outcome = 'transient' and mail_events.scope = 'message' then 'deferrals'
            when mail_events.outcome = 'transient' and mail_events.reply_code / 100 = 4 then 'deferrals'
        end as figure

    from mail_events

    inner join senders on mail_events.sender_id = senders.sender_id

),

counted as (

    select
        reported.sender_id,
        reported.figure,
        reported.reported,
        count(labelled.event_id) filter (where labelled.recorded_at < reported.as_of) as at_least,
        count(labelled.event_id) as at_most

    from reported

    left join labelled
        on reported.sender_id = labelled.sender_id
        and reported.figure = labelled.figure
        and reported.as_of > labelled.occurred_at

    group by reported.sender_id, reported.figure, reported.reported

)

select * from counted

where reported not between at_least and at_most
