"""Texts with variables: what a template may do, and what hostile templates and hostile values cannot."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emberflow.campaigns.templates import (
    LARGEST_CHARACTERS,
    MissingValueError,
    TemplateError,
    compile_html,
    compile_text,
    spin,
    unknown,
)
from emberflow.errors import EmberflowError

ANNA = {"first_name": "Anna", "company": "Example GmbH", "city": "", "since": "2024-03-05"}


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("Hi {{ first_name }}", "Hi Anna"),
        ("Hi {{first_name|there}}", "Hi Anna"),
        ("Hi {{nick_name|there}}", "Hi there"),
        ("Hi {{ nick_name | my friend }}", "Hi my friend"),
        ("In {{ city|your town }}", "In your town"),
        ("{{ nick|it's you }}", "it's you"),
        ("{{ first_name | upcase }}", "ANNA"),
        ("{{ nick | default: 'x' | upcase }}", "X"),
        ("{% if company %}at {{ company }}{% else %}where you work{% endif %}", "at Example GmbH"),
        ("{% if city %}in {{ city }}{% endif %}!", "!"),
        ("{% unless nick %}no{% endunless %}", "no"),
        ("{% case company %}{% when 'Example GmbH' %}yes{% endcase %}", "yes"),
        ("{% assign who = first_name %}{{ who }}", "Anna"),
        ("{{ since | date: '%d %B %Y' }}", "05 March 2024"),
        ("a {b} c } d { e", "a {b} c } d { e"),
        ("{% comment %} {a|b {% endcomment %}x", "x"),
    ],
)
def test_a_template_writes_the_fields_of_a_lead(template: str, written: str) -> None:
    assert compile_text(template).render(ANNA) == written


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ nick }}", "nick"),
        ("{{ city }}", "city"),
        ("{{ nick | upcase }}", "nick"),
        ("{{ nick | truncate: 3 }}", "nick"),
        ("{{ nick | date: '%Y' }}", "nick"),
        ("{{ first_name.__class__ }}", "first_name"),
        ("{% assign who = nick %}{{ who }}", "nick"),
        ("{{ nick | default }}", "nick"),
        ("{{ nick | default: '' }}", "nick"),
        ("{{ city | default: ' ' }}", "city"),
        ("{{ first_name | truncate: 0, '' }}", "first_name"),
    ],
)
def test_a_value_that_is_not_there_is_an_error_and_never_an_empty_place(template: str, name: str) -> None:
    """C-B3."""
    with pytest.raises(MissingValueError) as caught:
        compile_text(template).render(ANNA)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a\n{{ first_name", "line 2: "),
        ("{% for x in company %}{% endfor %}", "for"),
        ("{% include 'x' %}", "include"),
        ("{% render 'x' %}", "render"),
        ("{% tablerow x in y %}{% endtablerow %}", "tablerow"),
        ("{% capture x %}a{% endcapture %}", "capture"),
        ("{% liquid assign x = 1 %}", "liquid"),
        ("{% increment x %}", "increment"),
        ("{{ x | append: x }}", "append"),
        ("{{ x | replace: 'a', 'b' }}", "replace"),
        ("{{ x | base64_decode }}", "base64_decode"),
        ("{{ first_name| }}", "empty fallback"),
        ('{{ a|it\'s "x" }}', "quotation marks"),
        ("one\n{a|b", "line 2: a group of alternatives is opened"),
        ("{% if first_name %}", "endif"),
        ("{{ spin__0 }}", "the product's own"),
        ("x" * (LARGEST_CHARACTERS + 1), "the limit is"),
        ("{% if a %}" * 40 + "{% endif %}" * 40, "nest"),
        ("{a|b}" * 101, "more than 100 groups"),
        ("{{" * 4000, "pieces of markup"),
        ("a\ud800", "half of a character"),
        ("{" + "|" * 50 + "}", "50 alternatives"),
    ],
)
def test_what_is_beyond_the_profile_is_refused_when_it_is_written(template: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_text(template)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", ["now", "today", "tomorrow", "1700000000", "<b>"])
def test_a_date_is_a_day_of_the_leads_data_and_never_the_clock(value: str) -> None:
    """Else a preview would not be what is sent."""
    with pytest.raises(TemplateError, match="is not a day"):
        compile_text("{{ day | date: '%Y' }}").render({"day": value})


def test_what_a_template_writes_is_bounded() -> None:
    template = compile_text("{{ x }}" * 500)
    assert len(template.render({"x": "y" * 100})) == 50_000
    with pytest.raises(TemplateError, match="limit"):
        template.render({"x": "y" * 200})


HOSTILE = [
    "{a|b}",
    "{{ company }}",
    "{% if a %}",
    "a|b",
    "}",
    "{",
    "%}",
    "}}",
    "<script>",
    "a\r\nBcc: x@y",
    "\x00",
    "''",
]


@given(value=st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1)).filter(str.strip))
@example(value="{x|y}")
def test_a_value_is_never_read_as_a_template(value: str) -> None:
    """They are put in after groups and tags were read."""
    template = compile_text("{Dear|Hello} {{ name }}, {% if name %}at {{ name | default: 'x' }}{% endif %}")
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    assert template.render({"name": value}, [1]) == f"Hello {lines}, at {lines}"


def test_values_are_escaped_in_html_and_left_as_they_are_in_text() -> None:
    assert compile_html("<b>{{ name }}</b>").render({"name": "<i>&"}) == "<b>&lt;i&gt;&amp;</b>"
    assert compile_text("{{ name }}").render({"name": "<i>&"}) == "<i>&"


@given(text=st.text(alphabet="{}|%ab '\n-", max_size=60))
def test_any_text_is_a_template_or_refused_with_a_reason(text: str) -> None:
    with suppress(EmberflowError):
        template = compile_text(text)
        template.render({"a": "1", "b": "2"}, [0] * len(template.groups))


@pytest.mark.parametrize(
    ("template", "choices", "written"),
    [
        ("{Hi|Hello}", [0], "Hi"),
        ("{Hi|Hello}", [1], "Hello"),
        ("{Hi {{ first_name }}|Hello}", [0], "Hi Anna"),
        ("{Dear|{Good|Fine} day}", [1, 1], "Fine day"),
        ("{a|}{ |b}c", [1, 0], " c"),
        ("{ {x} |b}", [0], " {x} "),
        ("{% if first_name %}{a|b}{% endif %}", [1], "b"),
    ],
)
def test_a_group_writes_the_alternative_that_was_chosen(template: str, choices: list[int], written: str) -> None:
    assert compile_text(template).render(ANNA, choices) == written


def test_a_template_names_its_variables_and_groups() -> None:
    template = compile_text("{Hi|Hello|Dear} {{first_name|there}}{% if company %} {{ city | upcase }}{% endif %} {a|b}")
    assert template.variables == ("first_name", "company", "city")
    assert template.groups == (3, 2)
    assert template.written.startswith("{Hi|Hello|Dear} {{ first_name | default: 'there' }}")
    assert unknown(template.variables, ["first_name", "company", "address"]) == ["city"]


def test_choices_must_be_as_many_as_groups() -> None:
    with pytest.raises(ValueError, match="1 choices for 2 groups"):
        compile_text("{a|b}{c|d}").render({}, [1])


def test_a_lead_always_draws_the_same_and_leads_together_draw_every_alternative_alike() -> None:
    leads = np.arange(10_000, dtype=np.int64)
    drawn = spin(7, "text", leads, 1, (4, 2))
    assert drawn.shape == (10_000, 2)
    some = np.array([17, 4711], dtype=np.int64)
    assert (spin(7, "text", some, 1, (4, 2)) == drawn[some]).all()
    assert (spin(7, "html", leads, 1, (4, 2)) == drawn).all()
    shares = Counter(drawn[:, 0].tolist())
    assert set(shares) == {0, 1, 2, 3}
    assert all(abs(count - 2500) < 200 for count in shares.values())
    assert (spin(7, "text", leads, 2, (4, 2)) != drawn).any()
    assert (spin(8, "text", leads, 1, (4, 2)) != drawn).any()
