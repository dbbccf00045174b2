{# A layer's schema is its own name (`staging`, `marts`), without the target's as a prefix. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
