with

source as (

    select * from {{ source('ops', 'sender_days') }}

),

renamed as (

    select
        ----------  ids
        sender_id,
        local_day,

        ---------- numerics
        ramp_day,
        ramp_volume,
        score,
        health_multiplier,
        daily_factor,
        warmup_quota,
        total_quota,
        warmup_sent,
        reply_sent

    from source

)

select * from renamed
