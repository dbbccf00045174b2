{#
    What evidence of a UTC day still counts: half after each half-life, in whole days up to the instant described.
#}
{% macro freshness(utc_day, half_life_days) -%}
    power(
            0.5::double precision,
            (cast({{ as_of() }} at time zone 'UTC' as date) - {{ utc_day }}) / {{ half_life_days }}
        )
{%- endmacro %}
