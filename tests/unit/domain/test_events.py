"""The catalogue of events: what it allows, and that the database, dbt and the pages know the same events."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from sqlalchemy import CheckConstraint

from emberflow.bots.policy import ReplyPolicy
from emberflow.bots.replies import decide_replies
from emberflow.database.tables import EVENT_TYPES, mail_events
from emberflow.delivery.reply_codes import Scope
from emberflow.domain.events import ANSWERS, EVENTS, Detail, EventType, check
from emberflow.domain.mail_kind import MailKind
from emberflow.email_ops.loop_guard import RISKS
from emberflow.email_ops.matching import Method
from emberflow.settings import PROJECT_ROOT
from tests.builders import a_received_mail, frame

MODELS = PROJECT_ROOT / "dbt" / "models"
STAGING = MODELS / "staging" / "stg_ops__mail_events"
SENT: dict[str, Any] = {"task_type": "warmup", "turn": 1}


def test_an_event_with_its_details_is_allowed() -> None:
    assert check("sent", "sent:warmup:1", SENT, has_slot=True) is EventType.SENT


@pytest.mark.parametrize(
    ("event_type", "key", "details", "has_slot", "complaint"),
    [
        ("opened", "opened:1", {}, True, "'opened' is no event"),
        ("sent", "sent:1", SENT | {"said": "x"}, True, "'said' is no detail"),
        ("sent", "sent:1", {"turn": 1}, True, "task_type cannot be None"),
        ("sent", "sent:1", SENT | {"turn": "1"}, True, "turn cannot be '1'"),
        ("sent", "sent:1", SENT | {"turn": True}, True, "turn cannot be True"),
        ("sent", "placed:1", SENT, True, "natural key cannot be 'placed:1'"),
        ("sent", "sent:1", SENT, False, "it is about a slot"),
        ("token_rejected", "token_rejected:1", {"reason": "odd", "uid": "INBOX:1:1"}, False, "reason cannot be 'odd'"),
    ],
)
def test_what_the_catalogue_does_not_know_is_refused(
    event_type: str, key: str, details: dict[str, Any], has_slot: bool, complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check(event_type, key, details, has_slot=has_slot)


def test_an_optional_detail_may_be_null_or_missing_and_nothing_else() -> None:
    code = Detail(int, "-", is_optional=True)
    assert code.allows(None)
    assert code.allows(250)
    assert not code.allows("250")
    assert not Detail(int, "-").allows(None)


def test_every_type_is_described_once_and_the_database_knows_the_same() -> None:
    assert tuple(EVENTS) == tuple(EventType) == EVENT_TYPES
    allowed = [str(one.sqltext) for one in mail_events.constraints if isinstance(one, CheckConstraint)]
    assert [re.findall(r"'(\w+)'", one) for one in allowed] == [list(EventType)]


def test_a_natural_key_names_its_event() -> None:
    """Placements share theirs: a mail is first found in one place."""
    prefixes = [key.partition(":")[0] for kind in EVENTS.values() for key in kind.keys]
    assert sorted({*prefixes}) == sorted(prefixes[:3] + prefixes[4:])
    assert prefixes[2] == prefixes[3] == "placed"


def test_whose_affair_a_refusal_is_can_be_what_the_map_of_replies_says() -> None:
    assert EVENTS[EventType.ATTEMPT].details["concerns"].values == get_args(Scope)


def test_why_a_mail_is_not_answered_can_be_whatever_keeps_it_from_being() -> None:
    """B-F2: what the loop guard finds and what a recipient draws are answers that an event may give."""
    rows = [a_received_mail(n, turn=1 + n % 6, replies_left=n % 3) for n in range(1, 200)]
    drawn = set(decide_replies(frame(*rows), ReplyPolicy(), 1)["reason"])
    assert drawn == {"replies", "rate", "turns", "reply_cap"}
    assert EVENTS[EventType.ACTED].details["answer"].values == ANSWERS
    assert drawn | set(RISKS) | {
        "script",
        "no_conversation",
        "not_rescued",
        "answered_by_hand",
        "perhaps_answered",
    } == set(ANSWERS)


def test_who_a_mail_did_not_reach_and_what_says_so_can_be_what_kinds_and_matching_say() -> None:
    details = EVENTS[EventType.RETURNED].details
    assert set(details["recipient"].values) == set(get_args(get_type_hints(MailKind)["recipient"]))
    assert set(details["by"].values) == {*get_args(Method)} - {"from_to_subject"}  # which ties no report


# dbt


def described() -> dict[str, dict[str, Any]]:
    """Return the columns of the staging model as its yml describes them."""
    [model] = yaml.safe_load(STAGING.with_suffix(".yml").read_text(encoding="utf-8"))["models"]
    return {column["name"]: column for column in model["columns"]}


def accepted(column: dict[str, Any]) -> tuple[str, ...] | None:
    found = [test["accepted_values"] for test in column.get("data_tests", ()) if "accepted_values" in test]
    return tuple(found[0]["arguments"]["values"]) if found else None


def details_in_sql() -> dict[str, str]:
    """Return the details that the staging model gives as columns, with the type that they are cast to."""
    sql = STAGING.with_suffix(".sql").read_text(encoding="utf-8")
    cast = dict(re.findall(r"cast\(details ->> '(\w+)' as (\w+)\)", sql))
    return {name: cast.get(name, "text") for name in re.findall(r"details ->> '(\w+)'", sql)}


def test_dbt_accepts_the_events_and_values_of_the_catalogue() -> None:
    """D-B1"""
    columns = described()
    assert accepted(columns["event_type"]) == tuple(EventType)
    values = {name: detail.values for kind in EVENTS.values() for name, detail in kind.details.items()}
    said = {name: accepted(column) for name, column in columns.items() if name != "event_type"}
    assert {name: one for name, one in said.items() if one} == {name: values[name] for name in ("outcome", "direction")}


def test_dbt_reads_details_that_there_are_as_what_they_are() -> None:
    types = {str: "text", int: "integer", bool: "boolean"}
    known = {name: types[detail.type] for kind in EVENTS.values() for name, detail in kind.details.items()}
    read = details_in_sql()
    assert read.items() <= known.items()
    assert read.keys() <= described().keys()


def test_the_daily_facts_count_the_events_that_say_so_and_no_others() -> None:
    """S-B7"""
    sql = (MODELS / "intermediate" / "int_deliveries__sender_day.sql").read_text(encoding="utf-8")
    named = set(re.findall(r"'(\w+)'", " ".join(re.findall(r"event_type (?:=|in) ([^\n]+?)(?: and|\n)", sql))))
    assert named == {name for name, kind in EVENTS.items() if kind.counts_as}
