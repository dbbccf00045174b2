with

source as (

    select * from {{ source('ops', 'policies') }}

),

renamed as (

    select
        ----------  ids
        id as policy_id,

        ---------- strings
        name as policy_name,
        document #>> '{reputation,model}' as reputation_model,

        ---------- timestamps
        valid_from

    from source

    where valid_to is null

)

select * from renamed
