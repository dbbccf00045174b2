"""A row of a file of leads: what is taken from it, what is refused and why."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.campaigns.leads import (
    LAWFUL_BASES,
    LONGEST_VALUE,
    MOST_COLUMNS,
    Columns,
    FieldType,
    Lead,
    Problem,
    columns_of,
    countries,
    read,
)
from emberflow.database import tables
from emberflow.email_ops.addresses import AddressError, normalise

ANN = "ann@one.example"


def a_row(columns: dict[str, Any], types: dict[str, FieldType] | None = None) -> Lead | Problem:
    plan = columns_of(["address", *columns], types or {})
    assert isinstance(plan, Columns)
    return read([ANN, *columns.values()], plan, normalise)


@pytest.mark.parametrize(
    ("column", "written", "normal"),
    [
        ("zone", " Europe/Berlin ", "Europe/Berlin"),
        ("country", "de", "DE"),
        ("source", "fair 2026", "fair 2026"),
        ("lawful_basis", "Legitimate interests", "legitimate_interests"),
        ("lawful_basis", "implied-consent", "implied_consent"),
    ],
)
def test_facts_are_kept_in_one_form(column: str, written: str, normal: str) -> None:
    """C-B1"""
    found = a_row({column: written})
    assert isinstance(found, Lead)
    assert getattr(found, column) == normal


@pytest.mark.parametrize(
    ("column", "written", "reason"),
    [
        ("zone", "Berlin", "is not an IANA time zone"),
        ("zone", "UTC+1", "is not an IANA time zone"),
        ("country", "Germany", "ISO 3166-1"),
        ("country", "UK", "ISO 3166-1"),
        ("lawful_basis", "bought", "is none of consent, implied_consent"),
        ("source", "two\nlines", "is not one line"),
        ("unsubscribed", "true", "tells of an opt-out"),
        ("subscribed", "no", "tells of an opt-out"),
        ("note", "a\0b", "control characters"),
        ("note", "x" * (LONGEST_VALUE + 1), "more than 1000 characters"),
    ],
)
def test_a_row_that_says_what_nobody_can_use_names_the_column(column: str, written: str, reason: str) -> None:
    """C-B1"""
    found = a_row({column: written})
    assert isinstance(found, Problem)
    assert (found.column, reason in found.reason) == (column, True)


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (FieldType.INTEGER, "-12", -12),
        (FieldType.INTEGER, "1.5", None),
        (FieldType.INTEGER, True, None),
        (FieldType.NUMBER, "1.5e3", 1500.0),
        (FieldType.NUMBER, "1,5", None),
        (FieldType.NUMBER, "1e999", None),
        (FieldType.BOOLEAN, "Yes", True),
        (FieldType.BOOLEAN, "0", False),
        (FieldType.BOOLEAN, "maybe", None),
        (FieldType.DATE, "2026-02-03", "2026-02-03"),
        (FieldType.DATE, "03.02.2026", None),
        (FieldType.TEXT, "007", "007"),
        (FieldType.TEXT, 7, "7"),
        (None, "12", "12"),
        (None, Decimal("1.5"), 1.5),
        (None, date(2026, 2, 3), "2026-02-03"),
        (None, datetime(2026, 2, 3, 4, 5), "2026-02-03T04:05:00"),  # noqa: DTZ001 - as Parquet has it
        (None, float("nan"), None),
        (None, [1, 2], None),
        (FieldType.DATE, date(2026, 2, 3), "2026-02-03"),
    ],
)
def test_a_custom_field_has_its_type_or_its_row_is_refused(kind: FieldType | None, written: Any, value: Any) -> None:
    """C-B1"""
    found = a_row({"extra": written}, {} if kind is None else {"extra": kind})
    if value is None:
        assert isinstance(found, Problem)
        assert found.column == "extra"
    else:
        assert isinstance(found, Lead)
        assert found.fields == {"extra": value}
        assert type(found.fields["extra"]) is type(value)


@pytest.mark.parametrize(
    ("names", "types", "reason"),
    [
        (["name"], {}, "one of them address"),
        (["address", "city", "city"], {}, "more than once"),
        (["address", *map(str, range(MOST_COLUMNS))], {}, "at most 200 are read"),
        (["address", "x" * 61], {}, "at most 60"),
        (["address"], {"size": FieldType.INTEGER}, "is no custom field"),
        (["address", "zone"], {"zone": FieldType.TEXT}, "is no custom field"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(names: list[str], types: dict[str, FieldType], reason: str) -> None:
    found = columns_of(names, types)
    assert isinstance(found, list)
    assert reason in found[0].reason


@given(st.lists(st.one_of(st.none(), st.text(max_size=20), st.integers(), st.floats(), st.booleans()), max_size=8))
def test_whatever_stands_in_a_row_it_is_a_lead_or_has_one_reason_without_its_values(values: list[Any]) -> None:
    """C-F10: a reason is kept when the person is erased."""
    plan = columns_of(["address", "zone", "country", "unsubscribed", "note"], {"note": FieldType.INTEGER})
    assert isinstance(plan, Columns)
    found = read(values, plan, normalise)
    if isinstance(found, Problem):
        assert not [value for value in values if isinstance(value, str) and "@" in value and value in found.reason]


@pytest.mark.parametrize(
    ("column", "written"),
    [
        ("status", "unsubscribed"),
        ("status", "Opted out"),
        ("status", "erased"),
        ("subscription_status", "Unsubscribed"),
        ("subscription_status", "no"),
        ("email_status", "Hard-Bounced"),
        ("lead_status", "do not contact"),
        ("consent", "withdrawn"),
        ("marketing_consent", False),
        ("unsubscribed_at", "2026-01-02"),
        ("unsubscribed_from_all_email", True),
        ("email_opt_out", "TRUE"),
        ("has_opted_out_of_email", 1),
        ("hasoptedoutofemail", "1"),
        ("opted_out_at", datetime(2026, 1, 2)),  # noqa: DTZ001 - as Parquet has it
        ("do_not_email", "x"),
        ("bounce_reason", "550"),
        ("email_opt_in", "no"),
    ],
)
def test_a_row_that_tells_of_an_opt_out_in_whatever_words_is_no_lead(column: str, written: Any) -> None:
    """C-B1: other tools put words around the ones that count, and a mail to such a person is a complaint."""
    found = a_row({column: written})
    assert isinstance(found, Problem)
    assert (found.column, "tells of an opt-out" in found.reason) == (column, True)


@pytest.mark.parametrize(
    ("column", "written", "kept"),
    [
        ("status", "active", False),
        ("state", "NO", False),
        ("step", "0", False),
        ("unsubscribed_at", "  ", False),
        ("email_opt_out", "false", False),
        ("bounce_count", 0.0, False),
        ("email_opt_in", "yes", False),
        ("lead_status", "new", True),
        ("unsubscribe_link", "https://one.example/u", True),
        ("marketing_consent", "given at a fair", True),
        ("order_status", "withdrawn", True),
    ],
)
def test_a_row_that_tells_of_no_opt_out_is_a_lead(column: str, written: Any, kept: bool) -> None:
    """C-B1"""
    found = a_row({column: written})
    assert isinstance(found, Lead)
    assert (column in found.fields) is kept


@pytest.mark.parametrize(
    "written", ["ann@münchen.example..", "Ann@One..Example", "ann smith@one.example", "ann@xn--a", "ANN@ONE_.EXAMPLE"]
)
def test_a_reason_repeats_no_part_of_an_address_in_any_spelling(written: str) -> None:
    """C-F10: a reason is kept when the person is erased."""
    plan = columns_of(["address"], {})
    assert isinstance(plan, Columns)
    found = read([written], plan, normalise)
    assert isinstance(found, Problem)
    local, _, domain = written.lower().rpartition("@")
    assert not [part for part in (local, domain, domain.strip("."), "xn--") if part in found.reason.lower()]


def test_a_reason_repeats_no_address_that_its_error_spells_otherwise() -> None:
    def refuse(_: str) -> str:
        raise AddressError("'Ann@ONE.example' is not a usable mail address: ann at one.example is unknown")

    plan = columns_of(["address"], {})
    assert isinstance(plan, Columns)
    found = read(["ann@one.example"], plan, refuse)
    assert found == Problem("address", "is not an address that mail can be sent to")


def test_the_lists_are_those_of_the_tables_and_the_standard() -> None:
    assert tables.LAWFUL_BASES == LAWFUL_BASES
    assert {"DE", "US", "GB", "XK"} & set(countries()) == {"DE", "US", "GB"}
    assert len(countries()) == 249
