with

source as (

    select * from {{ source('ops', 'mailboxes') }}

),

renamed as (

    select
        ----------  ids
        id as mailbox_id,

        ---------- strings
        address,
        split_part(address, '@', 2) as domain,
        display_name,
        provider,
        zone,

        ---------- timestamps
        created_at

    from source

)

select * from renamed
