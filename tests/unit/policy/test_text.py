"""A policy is shown with the meaning and the range of every key, and what is shown is read back as the same policy."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from emberflow.delivery.reply_codes import ReplyRule
from emberflow.policy import document
from emberflow.policy.document import Policy
from emberflow.policy.text import as_text, meanings
from emberflow.senders.policy import PacingPolicy
from tests.worlds import a_policy


def models(kind: object) -> Iterator[type[BaseModel]]:
    """Every model that a policy may hold, the rows of the map of replies aside."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind is not ReplyRule:
            yield kind
            for field in kind.model_fields.values():
                yield from models(field.annotation)
        return
    for part in typing.get_args(kind):
        yield from models(part)


@pytest.mark.parametrize("model", sorted(set(models(Policy)) - {Policy}, key=attrgetter("__name__")))
def test_every_key_of_a_policy_is_explained(model: type[BaseModel]) -> None:
    explained = meanings(model)
    nested = {name for name, field in model.model_fields.items() if any(True for _ in models(field.annotation))}
    assert set(model.model_fields) - nested - explained.keys() == set()
    assert all(len(meaning) > 10 for meaning in explained.values())


@pytest.mark.parametrize(
    "policy",
    [
        document.shipped("standard"),
        document.shipped("demo"),
        Policy.model_validate({"name": "own", "label": "own", "ramp": {"shape": "table", "rows": [5, 9, 14]}}),
        a_policy(caps={"sender_24h_by_provider": {"a: b # c": 3}}),
        a_policy(selection={"provider_shares": {"google": 0.5}}, pacing={"weekdays": (6,)}),
        Policy(name="yes", label="a: 'label' # of \U0001f331 words " * 20),
    ],
    ids=["standard", "demo", "a table", "odd keys", "shares", "odd words"],
)
def test_what_is_shown_is_read_back_as_the_same_policy(policy: Policy, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(as_text(policy), encoding="utf-8")
    assert document.load(file) == policy


def test_a_key_is_shown_with_its_meaning_and_its_range() -> None:
    lines = as_text(document.shipped("standard")).splitlines()
    place = lines.index("  lease_s: 120  # from 2 to 3600, default 120")
    assert lines[place - 1] == "  # how long the slots of a dead worker wait"
    assert "  weekdays: [mon, tue, wed, thu, fri]" in lines
    assert "  max_daily_growth: 1.3  # above 1 and below 2, default 1.3" in lines
    assert all(len(line) <= 100 for line in lines if line.lstrip().startswith("#"))


@pytest.mark.parametrize("days", [["mon", "Wed", " SUNDAY "], [0, 2, 6], ["0", "2", "6"]])
def test_weekdays_are_read_by_name_and_by_number(days: list[object]) -> None:
    assert PacingPolicy.model_validate({"weekdays": days}).weekdays == (0, 2, 6)


@pytest.mark.parametrize("day", ["someday", "mo", "", 7, -1])
def test_what_is_no_weekday_is_refused(day: object) -> None:
    with pytest.raises(ValidationError) as caught:
        PacingPolicy.model_validate({"weekdays": [day]})
    assert isinstance(day, int) or "mon, tue, wed, thu, fri, sat, sun" in str(caught.value)
