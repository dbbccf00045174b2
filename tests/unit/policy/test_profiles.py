"""Profiles: what a mailbox goes by that names one, and what a document may say of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.errors import ConfigurationError, UnknownProfileError
from emberflow.policy.document import Policy, load, shipped
from emberflow.policy.profiles import SECTIONS, is_name
from emberflow.policy.text import as_text
from emberflow.senders.policy import GeometricRamp, LinearRamp, TableRamp


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(f"name: x\nlabel: x\n{content}")
        return path

    return write


def a_document(profile: dict[str, Any], **sections: Any) -> Policy:
    return Policy.model_validate({"name": "x", "label": "x", **sections, "profiles": {"p": profile}})


def test_what_a_profile_leaves_out_is_the_documents_own_number() -> None:
    """S-B11, B-B11: key by key, also within a section and a section of a section."""
    policy = a_document(
        {"pacing": {"gap_minimum_s": 900}, "quota": {"cold": {"cap": 7}}, "replies": {"rate": 0.1}},
        pacing={"gap_jitter_s": 17, "window_end": "16:00"},
        quota={"total_daily_cap": 44, "cold": {"daily_step": 3}},
    )
    one = policy.profile("p")
    assert (one.pacing.gap_minimum_s, one.pacing.gap_jitter_s, one.pacing.window_end) == (900, 17, time(16))
    assert (one.quota.total_daily_cap, one.quota.cold.cap, one.quota.cold.daily_step) == (44, 7, 3)
    assert (one.replies.rate, one.replies.continue_rate) == (0.1, policy.replies.continue_rate)
    assert (one.ramp, one.bots) == (policy.ramp, policy.bots)
    assert policy.pacing.gap_minimum_s == 600


def test_without_a_profile_a_mailbox_goes_by_the_document_itself() -> None:
    policy = a_document({"bots": {"cooldown_s": 1}})
    own = policy.profile(None)
    assert {name: getattr(own, name) for name in SECTIONS} == {name: getattr(policy, name) for name in SECTIONS}
    assert (policy.rests.own_s, policy.rests.of_profiles) == (900, {"p": 1})


def test_a_ramp_of_another_shape_replaces_the_documents_whole_ramp_and_one_of_the_same_changes_it() -> None:
    ramp = {"shape": "linear", "start": 9, "step": 4, "maximum": 33}
    assert a_document({"ramp": {"maximum": 20}}, ramp=ramp).profile("p").ramp == LinearRamp(start=9, step=4, maximum=20)
    other = {"shape": "geometric", "growth": 1.2}
    assert a_document({"ramp": other}, ramp=ramp).profile("p").ramp == GeometricRamp(shape="geometric", growth=1.2)


def test_rows_of_its_own_take_the_place_of_the_documents_published_table() -> None:
    table = {"shape": "table", "table": "sendgrid_automated"}
    assert a_document({"ramp": {"rows": [2, 3]}}, ramp=table).profile("p").ramp == TableRamp(shape="table", rows=(2, 3))


def test_the_profiles_that_ship_are_smaller_and_slower() -> None:
    standard = shipped("standard")
    careful, slow = standard.profile("careful"), standard.profile("slow-replies")
    assert (careful.ramp.start, careful.ramp.maximum, careful.quota.total_daily_cap) == (2, 10, 20)
    assert careful.pacing.gap_minimum_s > standard.pacing.gap_minimum_s
    assert careful.quota.cold.sending_days == standard.quota.cold.sending_days_of_new_domain
    assert slow.replies.rate < standard.replies.rate
    assert slow.replies.slow_median_s < slow.replies.ceiling_s


def test_a_profile_that_nobody_knows_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(UnknownProfileError, match="has no profile 'q'; it has p"):
        a_document({}).profile("q")


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        ("  a:\n    queue: {overdue_s: 90}\n", "line 5: profiles.a.queue: .* may hold ramp, quota, pacing, bots, repl"),
        ("  a:\n    selection: {}\n", "line 5: profiles.a.selection: is not applied mailbox by mailbox"),
        ("  a:\n    replies: {rate: 2}\n", "line 5: profiles.a.replies.rate: Input should be less than or equal to 1"),
        ("  a:\n    bots:\n      cooldown: 3\n", "line 6: profiles.a.bots.cooldown: Extra inputs are not permitted"),
        ("  a:\n    ramp: {maximum: 3}\n", "line 5: profiles.a.ramp.linear: .*starts at 5, above its maximum 3"),
        ("  a:\n    ramp: {shape: steep}\n", "line 5: profiles.a.ramp: the shape of a ramp is linear, step"),
        ("  a:\n    pacing: {spread_s: 20}\n", "line 5: profiles.a.pacing.spread_s: belongs to a whole demonstration"),
        ("  a:\n    pacing: {gap_minimum_s: 2}\n", "line 5: profiles.a.pacing: .*need a demonstration policy"),
        ("  Careful: {}\n", "line 4: profiles.Careful: is no name of a profile: up to 40 lower-case letters"),
        ("  none: {}\n", "line 4: profiles.none: is no name of a profile: .*not 'none'"),
        ("  a:\n", "line 4: profiles.a: Input should be a valid dictionary"),
        ("  a: {bots: {cooldown_s: 3, cooldown_s: 4}}\n", "line 4: cooldown_s: is there more than once"),
    ],
)
def test_a_mistake_in_a_profile_is_named_with_its_line_and_key(
    file: Callable[[str], Path], profiles: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(file(f"profiles:\n{profiles}"))


def test_a_mistake_in_a_section_is_told_of_the_section_and_not_of_every_profile(file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(file("ramp: {start: 99}\nprofiles:\n  a: {bots: {cooldown_s: 3}}\n"))
    assert "line 3: ramp.linear.start" in str(caught.value)
    assert "profiles" not in str(caught.value)


@pytest.mark.parametrize("name", ["careful", "slow-replies", "a1", "a" * 40])
def test_a_name_is_a_lower_case_slug(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a--b", "-a", "a-", "a b", "none", "a" * 41, "ä"])
def test_anything_else_is_no_name(name: str) -> None:
    assert not is_name(name)


def test_a_policy_with_profiles_is_printed_and_stored_so_that_it_can_be_read_back(file: Callable[[str], Path]) -> None:
    """D-F1"""
    policy = shipped("standard")
    printed = file("").with_name("printed.yaml")
    printed.write_text(as_text(policy))
    assert load(printed) == policy
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy
    assert a_document({"pacing": {"weekdays": ["mon"], "window_start": "07:05"}}).profiles == {
        "p": {"pacing": {"weekdays": [0], "window_start": "07:05:00"}}
    }


def some_of(numbers: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=numbers)


PROFILES = some_of(
    {
        "ramp": some_of({"start": st.integers(1, 20), "maximum": st.integers(20, 50), "step": st.integers(0, 10)}),
        "quota": some_of(
            {
                "total_daily_cap": st.integers(1, 200),
                "warmup_reserve": st.floats(0, 0.5),
                "cold": some_of({"cap": st.integers(0, 100), "daily_step": st.integers(1, 10)}),
            }
        ),
        "pacing": some_of({"gap_minimum_s": st.integers(20, 5000), "window_start": st.times(max_value=time(17))}),
        "bots": some_of({"daily_inbound_cap": st.integers(1, 200), "cooldown_s": st.integers(0, 86_400)}),
        "replies": some_of({"rate": st.floats(0, 1), "maximum_turns": st.integers(1, 20)}),
        "actions": some_of({"rescue": st.floats(0, 1), "star": st.floats(0, 1)}),
    }
)


@given(PROFILES)
def test_a_profile_changes_what_it_states_and_nothing_else(stated: dict[str, Any]) -> None:
    """S-B11, B-B11, for every partial profile, also after it was stored as JSON."""

    def check(own: Any, got: Any, said: dict[str, Any]) -> None:
        for key in type(own).model_fields:
            if isinstance(said.get(key), dict):
                check(getattr(own, key), getattr(got, key), said[key])
            else:
                assert getattr(got, key) == said.get(key, getattr(own, key)), key

    policy = a_document(stated)
    for one in (policy, Policy.model_validate_json(policy.model_dump_json())):
        check(one.profile(None), one.profile("p"), stated)


@given(st.dictionaries(st.sampled_from(sorted(set(Policy.model_fields) - set(SECTIONS))), st.just({}), min_size=1))
def test_whatever_is_not_applied_mailbox_by_mailbox_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a profile may hold ramp, quota, pacing, bots, replies, actions"):
        a_document(stated)
