-- Every `sent` event belongs to a slot that is sent, and every sent slot has its event (D-B4).
-- Like the other invariants it is judged after the last mart: a breach must turn red, but append-only events
-- keep it red, and that must not freeze the scores which the planner goes on reading.
-- depends_on: {{ ref('rpt_sender_reputation') }}

with

sent_events as (

    select * from {{ ref('stg_ops__mail_events') }}

    where event_type = 'sent'

),

sent_slots as (

    select * from {{ ref('stg_ops__slots') }}

    where status = 'sent'

)

select
    sent_events.event_id,
    sent_events.slot_id as slot_of_event,
    sent_slots.slot_id as sent_slot

from sent_events

full join sent_slots on sent_events.slot_id = sent_slots.slot_id

where sent_events.event_id is null or sent_slots.slot_id is null
