-- A score needs the days, placements and providers that its model version asks for (S-B7), counted here from the
-- events themselves.
-- depends_on: {{ ref('rpt_sender_reputation') }}

with

scores as (

    select * from {{ ref('sender_scores') }}

),

mail_events as (

    select * from {{ ref('int_mail_events__scored') }}

),

requirements as (

    select * from {{ ref('reputation_evidence') }}

),

evidence as (

    select
        scores.sender_id,
        scores.model_version,
        scores.score,
        count(mail_events.event_id) as placements,
        count(distinct cast(mail_events.occurred_at at time zone 'UTC' as date)) as evidence_days,
        count(distinct mail_events.provider) as providers

    from scores

    left join mail_events
        on scores.sender_id = mail_events.sender_id
        and scores.as_of > mail_events.occurred_at
        and mail_events.event_type in ('placed_inbox', 'placed_junk')
        and mail_events.direction = 'to_bot'

    group by scores.sender_id, scores.model_version, scores.score

)

select evidence.*

from evidence

left join requirements on evidence.model_version = requirements.model_version

where
    evidence.score is not null
    and (
        requirements.model_version is null
        or evidence.evidence_days < requirements.minimum_days
        or evidence.placements < requirements.minimum_placements
        or evidence.providers < requirements.minimum_providers
    )
