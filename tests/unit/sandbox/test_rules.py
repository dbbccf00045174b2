"""Where the mail sandbox files a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.errors import ConfigurationError
from emberflow.sandbox.rules import Rules, parse_rules, place, watch_rules

message_ids = st.text(max_size=60)
percentages = st.integers(0, 100)


@given(message_id=message_ids, percent=percentages)
def test_the_same_message_is_always_filed_to_the_same_folder(message_id: str, percent: int) -> None:
    rules = Rules(default=percent)
    assert place(message_id, "north.test", rules) == place(message_id, "south.test", rules)


@given(message_id=message_ids, percent=percentages, more=percentages)
def test_a_higher_percentage_never_brings_junk_back(message_id: str, percent: int, more: int) -> None:
    low, high = sorted((percent, more))
    if place(message_id, "north.test", Rules(default=low)) == "Junk":
        assert place(message_id, "north.test", Rules(default=high)) == "Junk"


@given(message_id=message_ids)
def test_none_and_all_mean_what_they_say(message_id: str) -> None:
    assert place(message_id, "north.test", Rules(default=0)) == "INBOX"
    assert place(message_id, "north.test", Rules(default=100)) == "Junk"


@pytest.mark.parametrize("percent", [5, 20, 50])
def test_the_share_of_junk_is_about_the_percentage(percent: int) -> None:
    folders = [place(f"<{number}@north.test>", "north.test", Rules(default=percent)) for number in range(10_000)]
    assert folders.count("Junk") / 10_000 == pytest.approx(percent / 100, abs=0.015)


def test_a_domain_of_its_own_goes_before_the_default() -> None:
    rules = parse_rules('{"junk_percent": {"default": 30, "North.test": 5}}')
    assert rules.junk_percent("north.TEST") == 5
    assert rules.junk_percent("south.test") == 30
    assert parse_rules('{"junk_percent": {"north.test": 5}}').junk_percent("south.test") == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"junk_percent": 5}',
        '{"junk_percent": {"default": 101}}',
        '{"junk_percent": {"a.test": "5"}}',
        '{"junk_percent": {"a.test": true}}',
    ],
)
def test_rules_that_mean_nothing_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"rules\.json"):
        watch_rules(tmp_path)


def test_a_missing_file_means_twenty_percent_and_a_change_holds_at_once(tmp_path: Path) -> None:
    rules = watch_rules(tmp_path)
    assert rules.content() == Rules(default=20)
    path = tmp_path / "rules.json"
    for percent in (0, 7, 100):
        path.write_text(json.dumps({"junk_percent": {"default": percent}}))
        assert rules.content().default == percent
    path.write_text("not json")
    assert rules.content().default == 100
    path.unlink()
    assert rules.content().default == 20
