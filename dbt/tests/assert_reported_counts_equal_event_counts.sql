-- Every count of the report is a count over events (D-B4).
-- Events keep arriving while the report is built: those recorded before `as_of` must be in it, later ones may be.
-- In a database at rest the two bounds are equal. A mail that came back is undone as a hard bounce by a refusal at SMTP
-- or a placement.

with

report as (

    select * from {{ ref('rpt_sender_reputation') }}

),

mail_events as (

    select * from {{ ref('int_mail_events__scored') }}

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

undoing as (

    select
        mail_events.slot_id,
        min(mail_events.recorded_at) as undone_at

    from mail_events

    inner join mail_events as returned
        on mail_events.slot_id = returned.slot_id and returned.event_type = 'returned'

    where
        mail_events.occurred_at < (select max(report.as_of) from report)
        and (
            mail_events.event_type in ('placed_inbox', 'placed_junk')
            or (
                mail_events.outcome = 'permanent' and mail_events.scope = 'message'
                and coalesce(mail_events.concerns, '') not in ('mailbox', 'host')
                and mail_events.is_believed is not false
            )
        )

    group by mail_events.slot_id

),

labelled as (

    select
        mail_events.event_id,
        mail_events.sender_id,
        mail_events.occurred_at,
        mail_events.recorded_at,
        case when mail_events.event_type = 'returned' then undoing.undone_at end as undone_at,
        case
            when mail_events.event_type = 'placed_inbox' and mail_events.direction = 'to_bot' then 'inbox'
            when mail_events.event_type = 'placed_junk' and mail_events.direction = 'to_bot' then 'junk'
            when mail_events.mailbox_id <> senders.mailbox_id and mail_events.event_type in ('rescued', 'replied')
                then mail_events.event_type
            when mail_events.mailbox_id <> senders.mailbox_id then null
            when mail_events.event_type = 'sent' then 'sent'
            when mail_events.event_type = 'returned' and mail_events.status like '4.%' then null
            when mail_events.event_type = 'returned' then 'hard_bounces'
            when mail_events.concerns = 'mailbox' or mail_events.is_believed is false then null
            when mail_events.outcome = 'permanent' and mail_events.concerns = 'host' then null
            when mail_events.outcome = 'permanent' and mail_events.scope = 'message' then 'hard_bounces'
            when mail_events.outcome = 'transient' and mail_events.scope = 'message' then 'deferrals'
            when mail_events.outcome = 'transient' and mail_events.reply_code / 100 = 4 then 'deferrals'
        end as figure

    from mail_events

    inner join senders on mail_events.sender_id = senders.sender_id

    left join undoing on mail_events.slot_id = undoing.slot_id

),

counted as (

    select
        reported.sender_id,
        reported.figure,
        reported.reported,
        count(labelled.event_id) filter (
            where labelled.recorded_at < reported.as_of and labelled.undone_at is null
        ) as at_least,
        count(labelled.event_id) filter (
            where labelled.undone_at is null or labelled.undone_at >= reported.as_of
        ) as at_most

    from reported

    left join labelled
        on reported.sender_id = labelled.sender_id
        and reported.figure = labelled.figure
        and reported.as_of > labelled.occurred_at

    group by reported.sender_id, reported.figure, reported.reported

)

select * from counted

where reported not between at_least and at_most
