{#
    The instant that the figures describe: events before it count, and evidence ages up to it.
    `--event-time-end` names it (it has no zone and means UTC); without the flag it is the start of the
    invocation. Never a `--vars` value: each new one makes dbt parse the whole project again.
#}
{% macro as_of() -%}
    {%- set moment = invocation_args_dict.get('event_time_end') -%}
    {%- if moment -%}
        timestamptz '{{ moment }}+00'
    {%- else -%}
        timestamptz '{{ run_started_at.isoformat() }}'
    {%- endif -%}
{%- endmacro %}
