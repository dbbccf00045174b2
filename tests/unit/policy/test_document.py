"""Policy files: what ships, what is refused, and which row is in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from emberflow.errors import ConfigurationError
from emberflow.policy.document import Policy, load, shipped
from emberflow.senders.policy import LinearRamp


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(content)
        return path

    return write


def test_the_standard_policy_is_the_documented_defaults() -> None:
    """S-B3, S-B5, S-B6, B-B2, B-B3, B-F3: the numbers that their sentences name."""
    policy = shipped("standard")
    assert policy.ramp == LinearRamp(start=5, step=2, maximum=30)
    assert policy.quota.total_daily_cap == 50
    assert (policy.pacing.gap_minimum_s, policy.pacing.gap_jitter_s, policy.pacing.spread_s) == (600, 300, None)
    assert policy.pacing.weekdays == (0, 1, 2, 3, 4)
    assert (policy.bots.daily_inbound_cap, policy.bots.new_bot_cap, policy.bots.cap_step_per_day) == (40, 5, 2)
    assert (policy.selection.pair_cooldown_h, policy.selection.pair_weekly_maximum) == (72, 3)
    assert (policy.replies.rate, policy.replies.floor_s, policy.replies.ceiling_s) == (0.30, 120, 72 * 3600)
    assert policy == Policy(name="standard", label="standard", profiles=policy.profiles)
    assert policy.profile(None).ramp == policy.ramp


def test_the_demonstrations_policy_says_that_it_is_one() -> None:
    """Short gaps come only with a label that shows wherever their numbers do."""
    assert shipped("demo").label.startswith("demo")


def test_a_lease_outlasts_the_longest_smtp_transaction() -> None:
    """Q-F5: RFC 5321 4.5.3.2 asks for 2, 3 and 10 minutes from DATA on, and the dot is written in time for all."""
    for dispatch in (shipped("standard").dispatch, shipped("demo").dispatch):
        timeouts = dispatch.timeouts
        assert (timeouts.data_start, timeouts.data_block, timeouts.end_of_data) == (120, 180, 600)
        assert dispatch.submitting_lease_s >= timeouts.longest_after_guard_s
        assert dispatch.write_within_s + timeouts.data_block + timeouts.end_of_data <= dispatch.submitting_lease_s


@pytest.mark.parametrize("name", ["standard", "demo"])
def test_a_policy_survives_being_stored(name: str) -> None:
    """D-F1"""
    policy = shipped(name)
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: x", "label: Field required"),
        ("{name: x, label: x, ramp: {begin: 5}}", "ramp.linear.begin: Extra inputs are not permitted"),
        ("{name: x, label: x, rampp: {}}", "rampp: Extra inputs are not permitted"),
        ("{name: x, label: x, ramp: {start: 0}}", "ramp.linear.start: Input should be greater than or equal to 1"),
        ("{name: x, label: x, replies: {rate: 1.5}}", "replies.rate: Input should be less than or equal to 1"),
        ("{name: x, label: x, pacing: {gap_minimum_s: 2}}", "gaps under 20 s need a demonstration policy"),
        ("{name: x, label: x, dispatch: {shards: 0}}", "dispatch.shards: Input should be greater than or equal to 1"),
        (
            "{name: x, label: x, inbox: {retention_days: 6}}",
            "retention_days: Input should be greater than or equal to 7",
        ),
        ("{name: x, label: x, inbox: {folder: Warm/up}}", "a folder's name is printable"),
        ("{name: x, label: x, inbox: {folder: Inbox}}", "handled mail is moved out of INBOX"),
        ("{name: x, label: x, placement_tests: {within_s: 60, arrival_s: 50, gap_s: 10}}", "no probe could leave"),
        ("{name: x, label: x", "is not YAML"),
        ("", "is not a valid policy"),
        ("[1, 2]", "is not a valid policy"),
    ],
)
def test_a_policy_with_a_mistake_is_refused_and_the_mistake_is_named(
    file: Callable[[str], Path], content: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(file(content))
    assert "policy.yaml" in str(caught.value)


def test_a_policy_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the policy .*missing\.yaml: No such file"):
        load(tmp_path / "missing.yaml")


def test_the_shipped_files_hold_only_known_sections() -> None:
    folder = Path(load.__code__.co_filename).parents[1] / "policies"
    for path in folder.glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= set(Policy.model_fields)
        assert shipped(path.stem).name == path.stem


def test_a_document_of_before_that_says_lanes_is_read() -> None:
    """Policies in the database keep their text for ever: slots refer to them."""
    document = shipped("standard").model_dump(mode="json")
    document["dispatch"]["lanes"] = document["dispatch"].pop("shards") + 1

    assert Policy.model_validate(document).dispatch.shards == shipped("standard").dispatch.shards + 1
