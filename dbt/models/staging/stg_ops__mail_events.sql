with

source as (

    select * from {{ source('ops', 'mail_events') }}

),

renamed as (

    select
        ----------  ids
        id as event_id,
        natural_key,
        mailbox_id,
        slot_id,
        sender_id,
        bot_id,
        message_id,

        ---------- strings
        event_type,
        details ->> 'task_type' as task_type,
        details ->> 'outcome' as outcome,
        details ->> 'stage' as stage,
        details ->> 'scope' as scope,
        details ->> 'rule' as rule,
        details ->> 'concerns' as concerns,
        details ->> 'enhanced_code' as enhanced_code,
        details ->> 'server_text' as server_text,
        details ->> 'direction' as direction,
        details ->> 'provider' as provider,
        details ->> 'status' as status,
        details ->> 'answer' as answer,

        ---------- numerics
        cast(details ->> 'attempt' as integer) as attempt,
        cast(details ->> 'turn' as integer) as turn,
        cast(details ->> 'reply_code' as integer) as reply_code,

        ---------- booleans
        cast(details ->> 'is_believed' as boolean) as is_believed,
        cast(details ->> 'is_rescued' as boolean) as is_rescued,
        cast(details ->> 'is_read' as boolean) as is_read,
        cast(details ->> 'is_important' as boolean) as is_important,
        cast(details ->> 'is_starred' as boolean) as is_starred,
        cast(details ->> 'is_archived' as boolean) as is_archived,

        ---------- timestamps
        occurred_at,
        recorded_at

    from source

)

select * from renamed
