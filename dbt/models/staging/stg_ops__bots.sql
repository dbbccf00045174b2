with

source as (

    select * from {{ source('ops', 'bots') }}

),

renamed as (

    select
        ----------  ids
        id as bot_id,
        mailbox_id,

        ---------- strings
        status,
        source as origin,

        ---------- timestamps
        born_at,
        created_at

    from source

)

select * from renamed
