{{
    config(
        materialized='incremental',
        incremental_strategy='merge',
        unique_key='sender_id',
        on_schema_change='fail'
    )
}}

-- Merged, never rebuilt: the planner reads this table while it is being refreshed.
-- Every sender is computed anew each time, so there is nothing to filter on an incremental run.

with

components as (

    select * from {{ ref('fct_sender_component_scores') }}

),

deliveries as (

    select * from {{ ref('int_deliveries__sender_day') }}

),

requirements as (

    select * from {{ ref('reputation_evidence') }}

),

bands as (

    select * from {{ ref('reputation_bands') }}

),

graded as (

    select
        sender_id,
        model_version,
        as_of,
        sum(weight * points) / sum(weight) as average_points,
        min(points) as worst_points

    from components

    group by sender_id, model_version, as_of

),

placed as (

    select
        sender_id,
        sum(placed_inbox) as placed_inbox,
        sum(placed_inbox + placed_junk) as placements,
        count(*) filter (where placed_inbox + placed_junk > 0) as evidence_days

    from deliveries

    group by sender_id

),

seen_by as (

    select
        deliveries.sender_id,
        count(distinct seen.provider) as providers

    from deliveries

    cross join lateral unnest(deliveries.providers) as seen (provider)

    group by deliveries.sender_id

),

evidence as (

    select
        graded.*,
        coalesce(placed.placements, 0) as placements,
        cast(placed.placed_inbox as double precision) / nullif(placed.placements, 0) as inbox_rate,
        coalesce(placed.evidence_days, 0) as evidence_days,
        coalesce(seen_by.providers, 0) as providers

    from graded

    left join placed on graded.sender_id = placed.sender_id

    left join seen_by on graded.sender_id = seen_by.sender_id

),

judged as (

    select
        evidence.*,
        case
            when
                evidence.evidence_days >= requirements.minimum_days
                and evidence.placements >= requirements.minimum_placements
                and evidence.providers >= requirements.minimum_providers
                then
                    round(
                        cast(
                            requirements.blend_average * evidence.average_points
                            + requirements.blend_worst * evidence.worst_points
                            as numeric
                        ),
                        6
                    )
        end as score

    from evidence

    inner join requirements on evidence.model_version = requirements.model_version

),

banded as (

    select
        ----------  ids
        judged.sender_id,

        ---------- strings
        judged.model_version,
        coalesce(band.score_band, 'unscored') as score_band,

        ---------- numerics
        cast(judged.score as double precision) as score,
        cast(judged.placements as bigint) as placements,
        judged.inbox_rate,
        judged.evidence_days,
        judged.providers,

        ---------- timestamps
        judged.as_of

    from judged

    left join lateral (
        select bands.score_band
        from bands
        where bands.model_version = judged.model_version and bands.lowest_score <= judged.score
        order by bands.lowest_score desc
        limit 1
    ) as band on true

)

select * from banded
