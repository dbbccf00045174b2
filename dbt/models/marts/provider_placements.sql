{{
    config(
        materialized='incremental',
        incremental_strategy='merge',
        unique_key='provider',
        on_schema_change='fail'
    )
}}

-- Merged, never rebuilt: the planner reads this table while it is being refreshed.
-- Every provider is computed anew each time, so there is nothing to filter on an incremental run.

with

mail_events as (

    select * from {{ ref('int_mail_events__scored') }}

    where occurred_at < {{ as_of() }}

),

policies as (

    select * from {{ ref('stg_ops__policies') }}

),

components as (

    select * from {{ ref('reputation_components') }}

),

placed as (

    select
        provider,
        cast(occurred_at at time zone 'UTC' as date) as utc_day,
        count(*) filter (where event_type = 'placed_inbox') as inbox,
        count(*) filter (where event_type = 'placed_junk') as junk

    from mail_events

    where event_type in ('placed_inbox', 'placed_junk') and direction = 'to_bot' and provider is not null

    group by provider, utc_day

),

aged as (

    select
        placed.*,
        components.model_version,
        {{ freshness('placed.utc_day', 'components.half_life_days') }} as freshness

    from placed

    cross join components

    inner join policies on components.model_version = policies.reputation_model

    where components.component = 'placement'

),

-- Summed in the order of the days: sums of floats depend on their order, and a rebuild must give the same bits.
decayed as (

    select
        ----------  ids
        provider,

        ---------- strings
        model_version,

        ---------- numerics
        sum(inbox * freshness order by utc_day) as inbox,
        sum(junk * freshness order by utc_day) as junk,

        ---------- timestamps
        {{ as_of() }} as as_of

    from aged

    group by provider, model_version

)

select * from decayed
