{{ config(materialized='view') }}

with

mail_events as (

    select * from {{ ref('stg_ops__mail_events') }}

),

probes as (

    select slot_id

    from {{ ref('stg_ops__slots') }}

    where task_type = 'placement_probe'

)

-- All columns that events have: what is asked for here is which rows.
select mail_events.* -- noqa: AM04

from mail_events

left join probes on mail_events.slot_id = probes.slot_id

where probes.slot_id is null
