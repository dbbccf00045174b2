{#
    What evidence of a UTC day still counts: half after each half-life, in whole days up to the instant described.
    After 60 half-lives it counts nothing. That is less than a double's last bit beside one fresh mail, and PostgreSQL
    raises an error where a power underflows (2^-1074) or overflows: one message with an impossible date would stop
    every score. A day after that instant counts like the instant's own.
#}
{% macro freshness(utc_day, half_life_days) -%}
    {%- set half_lives -%}
        (cast({{ as_of() }} at time zone 'UTC' as date) - {{ utc_day }}) / {{ half_life_days }}
    {%- endset -%}
    case
            when {{ half_lives }} <= 60 then power(0.5::double precision, greatest({{ half_lives }}, 0))
            else 0
        end
{%- endmacro %}
