"""Preflight: what is projected from what is known of domains, and what is not held for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.campaigns.preflight import MOST_BOUNCES, Group, is_disposable, judge

KNOWN = {"good.example": True, "dead.example": False, "silent.example": None}


def takes_mail(domain: str) -> tuple[bool | None, str]:
    return KNOWN[domain], "because"


def test_dead_and_disposable_domains_bounce_and_roles_do_not() -> None:
    """C-F8"""
    found = judge(
        [Group("good.example", 90, 40), Group("dead.example", 4, 0), Group("mailinator.com", 6, 1)], takes_mail
    )
    assert (found.projected, found.at_most, found.roles) == (0.1, 0.1, 41)
    assert not found.is_good


def test_what_nobody_knows_is_counted_as_if_it_bounced() -> None:
    """C-F8: fail closed."""
    found = judge([Group("good.example", 90, 0), Group("silent.example", 10, 0)], takes_mail)
    assert (found.projected, found.at_most, found.is_good) == (0.0, 0.1, False)


@pytest.mark.parametrize(("dead", "is_good"), [(5, True), (6, False)])
def test_more_than_five_in_a_hundred_are_too_many(dead: int, is_good: bool) -> None:
    """C-F8"""
    found = judge([Group("good.example", 100 - dead, 0), Group("dead.example", dead, 0)], takes_mail)
    assert found.is_good is is_good


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("mailinator.com", True), ("a.mailinator.com", True), ("mailinator.com.example", False), ("gmail.com", False)],
)
def test_a_disposable_domain_covers_those_below_it(domain: str, expected: bool) -> None:
    assert is_disposable(domain) is expected


@given(st.lists(st.tuples(st.sampled_from(sorted(KNOWN)), st.integers(1, 1000)), min_size=1))
def test_the_judgements_add_up_and_the_bound_is_one(parts: list[tuple[str, int]]) -> None:
    found = judge([Group(domain, leads, 0) for domain, leads in parts], takes_mail)
    assert found.leads() == sum(leads for _, leads in parts)
    assert found.leads("takes mail") + found.leads("takes none", "disposable") + found.leads("unknown") == found.leads()
    assert 0 <= found.projected <= found.at_most <= 1
    assert found.is_good is (found.at_most <= MOST_BOUNCES)
