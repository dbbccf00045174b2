"""The policy's section about DNS: what may be named in it, and whom a selector belongs to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from emberflow.policy.document import shipped
from emberflow.policy.domain_checks import BlockListPolicy, DomainCheckPolicy


def test_no_block_list_is_asked_by_default_and_72_hours_are_the_limit() -> None:
    """Towards S-B9"""
    for name in ("standard", "demo"):
        section = shipped(name).domain_checks
        assert section.block_lists == ()
        assert section.required_of_domains == ("spf", "dkim", "dmarc")
        assert set(section.limits_s().values()) == {72 * 3600}


def test_a_domain_has_its_own_selectors_or_those_of_all_others() -> None:
    section = DomainCheckPolicy(dkim_selectors={"North.test.": ("a", "b"), "*": ("s1",)})
    assert section.selectors_of("north.test") == ("a", "b")
    assert section.selectors_of("south.test") == ("s1",)
    assert DomainCheckPolicy().selectors_of("south.test") == ()


@pytest.mark.parametrize("zone", ["zen.list.test", "{dqs}.zen.dq.test"])
def test_a_zone_is_a_name_and_may_begin_with_a_key(zone: str) -> None:
    assert BlockListPolicy(zone=zone).zone == zone


@pytest.mark.parametrize("zone", ["", "list", "zen..test", "zen.{dqs}.test", "{}.zen.test", "zen.test.", "a b.test"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValidationError):
        BlockListPolicy(zone=zone)
