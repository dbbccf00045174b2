with

source as (

    select * from {{ source('ops', 'senders') }}

),

renamed as (

    select
        ----------  ids
        id as sender_id,
        mailbox_id,

        ---------- strings
        state,
        state_reason,

        ---------- timestamps
        state_changed_at,
        created_at

    from source

)

select * from renamed
