-- No slot has two `sent` events, whatever their natural keys say (D-B3).
-- depends_on: {{ ref('rpt_sender_reputation') }}

select
    slot_id,
    count(*) as sent_events

from {{ ref('stg_ops__mail_events') }}

where event_type = 'sent'

group by slot_id

having count(*) > 1
