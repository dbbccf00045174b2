with

senders as (

    select * from {{ ref('stg_ops__senders') }}

),

mailboxes as (

    select * from {{ ref('stg_ops__mailboxes') }}

),

deliveries as (

    select * from {{ ref('int_deliveries__sender_day') }}

),

components as (

    select * from {{ ref('fct_sender_component_scores') }}

),

scores as (

    select * from {{ ref('sender_scores') }}

),

totals as (

    select
        sender_id,
        sum(sent) as sent,
        sum(placed_inbox) as inbox,
        sum(placed_junk) as junk,
        sum(rescued) as rescued,
        sum(replied) as replied,
        sum(hard_bounces) as hard_bounces,
        sum(deferrals) as deferrals

    from deliveries

    group by sender_id

),

worst as (

    select distinct on (sender_id)
        sender_id,
        component

    from components

    order by sender_id asc, points asc, weight desc, component asc

),

reported as (

    select
        ----------  ids
        senders.sender_id,

        ---------- strings
        mailboxes.address,
        mailboxes.domain,
        mailboxes.provider,
        senders.state,
        scores.model_version,
        coalesce(scores.score_band, 'unscored') as score_band,
        case when scores.score is not null then worst.component end as worst_component,

        ---------- numerics
        scores.score,
        cast(coalesce(totals.sent, 0) as bigint) as sent,
        cast(coalesce(totals.inbox, 0) as bigint) as inbox,
        cast(coalesce(totals.junk, 0) as bigint) as junk,
        scores.inbox_rate,
        cast(coalesce(totals.rescued, 0) as bigint) as rescued,
        cast(coalesce(totals.replied, 0) as bigint) as replied,
        cast(coalesce(totals.hard_bounces, 0) as bigint) as hard_bounces,
        cast(coalesce(totals.deferrals, 0) as bigint) as deferrals,

        ---------- timestamps
        {{ as_of() }} as as_of

    from senders

    inner join mailboxes on senders.mailbox_id = mailboxes.mailbox_id

    left join totals on senders.sender_id = totals.sender_id

    left join worst on senders.sender_id = worst.sender_id

    left join scores on senders.sender_id = scores.sender_id

)

select * from reported
