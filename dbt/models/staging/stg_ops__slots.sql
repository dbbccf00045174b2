with

source as (

    select * from {{ source('ops', 'slots') }}

),

renamed as (

    select
        ----------  ids
        id as slot_id,
        idempotency_key,
        sender_id,
        bot_id,
        from_mailbox_id,
        to_mailbox_id,
        message_id,

        ---------- strings
        task_type,
        status,
        reason,

        ---------- numerics
        turn,
        attempts,

        ---------- timestamps
        target_time,
        submitted_at,
        sent_at,
        created_at

    from source

)

select * from renamed
