-- More of what is better never earns fewer points, and every component of a version can be read off a curve.

with

components as (

    select * from {{ ref('reputation_components') }}

),

curves as (

    select * from {{ ref('reputation_curves') }}

),

steps as (

    select
        *,
        points - lag(points) over (partition by model_version, component order by rate) as gain

    from curves

)

select
    components.model_version,
    components.component,
    steps.rate,
    steps.gain

from components

left join steps
    on components.model_version = steps.model_version
    and components.component = steps.component

where
    steps.component is null
    or (components.higher_is_better and steps.gain < 0)
    or (not components.higher_is_better and steps.gain > 0)
