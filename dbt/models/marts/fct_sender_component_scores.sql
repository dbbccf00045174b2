with

senders as (

    select * from {{ ref('stg_ops__senders') }}

),

policies as (

    select * from {{ ref('stg_ops__policies') }}

),

deliveries as (

    select * from {{ ref('int_deliveries__sender_day') }}

),

components as (

    select * from {{ ref('reputation_components') }}

),

curves as (

    select * from {{ ref('reputation_curves') }}

),

-- Replies and rescues are left out on purpose: they are what our own bots do.
observations as (

    select
        deliveries.sender_id,
        deliveries.utc_day,
        figures.component,
        figures.events,
        figures.opportunities

    from deliveries

    cross join lateral (
        values
        ('placement', deliveries.placed_inbox, deliveries.placed_inbox + deliveries.placed_junk),
        ('hard_bounces', deliveries.hard_bounces, deliveries.attempts),
        ('deferrals', deliveries.deferrals, deliveries.attempts)
    ) as figures (component, events, opportunities)

),

model_in_force as (

    select
        components.*,
        components.weight / sum(components.weight) over () as share

    from components

    inner join policies on components.model_version = policies.reputation_model

),

aged as (

    select
        senders.sender_id,
        model_in_force.*,
        observations.utc_day,
        observations.events,
        observations.opportunities,
        {{ freshness('observations.utc_day', 'model_in_force.half_life_days') }} as freshness

    from senders

    cross join model_in_force

    left join observations
        on senders.sender_id = observations.sender_id
        and model_in_force.component = observations.component

),

-- Summed in the order of the days: sums of floats depend on their order, and a rebuild must give the same bits.
decayed as (

    select
        sender_id,
        model_version,
        component,
        weight,
        share,
        prior_rate,
        prior_strength,
        coalesce(sum(events * freshness order by utc_day), 0) as decayed_events,
        coalesce(sum(opportunities * freshness order by utc_day), 0) as decayed_opportunities

    from aged

    group by sender_id, model_version, component, weight, share, prior_rate, prior_strength

),

shrunk as (

    select
        *,
        (decayed_events + prior_strength * prior_rate) / (decayed_opportunities + prior_strength) as rate

    from decayed

),

pieces as (

    select
        model_version,
        component,
        lag(rate, 1, '-infinity') over knots as from_rate,
        lag(points, 1, points) over knots as from_points,
        rate as to_rate,
        points as to_points,
        max(rate) over (partition by model_version, component) as last_rate

    from curves

    window knots as (partition by model_version, component order by rate)

),

scored as (

    select
        shrunk.*,
        case
            when pieces.from_points = pieces.to_points then pieces.to_points
            else
                pieces.from_points
                + (pieces.to_points - pieces.from_points)
                * (least(shrunk.rate, pieces.last_rate) - pieces.from_rate) / (pieces.to_rate - pieces.from_rate)
        end as exact_points

    from shrunk

    left join pieces
        on shrunk.model_version = pieces.model_version
        and shrunk.component = pieces.component
        and least(shrunk.rate, pieces.last_rate) > pieces.from_rate
        and least(shrunk.rate, pieces.last_rate) <= pieces.to_rate

),

rounded as (

    select
        ----------  ids
        sender_id,
        component,

        ---------- strings
        model_version,

        ---------- numerics
        weight,
        decayed_events,
        decayed_opportunities,
        rate,
        cast(round(cast(exact_points as numeric), 6) as double precision) as points,
        cast(round(cast(share * exact_points as numeric), 6) as double precision) as contribution,

        ---------- timestamps
        {{ as_of() }} as as_of

    from scored

)

select * from rounded
