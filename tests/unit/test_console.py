"""What tables look like on terminals of any width, in a pipe, and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from emberflow import console as module
from emberflow.console import Section, show, show_facts

NOON = datetime(2026, 6, 2, 12, tzinfo=UTC)
SENDERS = Section(
    "senders",
    "2 senders",
    ("address", "state", "quota", "score", "reason", "what to do"),
    [
        ("ann.with.a.long.name@alder.test", "paused", 12, 97.25, "its server refused it", "look at it, then resume"),
        ("bo@alder.test", "active", 5, None, None, None),
    ],
    least=("quota", "score"),
)  # fmt: skip


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Section, int], list[str]]:
    """Return the lines that a section is on a terminal of some width."""

    def at(section: Section, width: int) -> list[str]:
        written = io.StringIO()
        monkeypatch.setattr(module, "console", Console(file=written, width=width, highlight=False))
        show(section)
        return written.getvalue().splitlines()

    return at


def test_a_wide_terminal_shows_every_column(printed: Callable[[Section, int], list[str]]) -> None:
    text = "\n".join(printed(SENDERS, 140))
    assert all(heading in text for heading in SENDERS.columns)
    assert "No room" not in text


def test_at_80_columns_what_matters_least_gives_way_and_is_named(printed: Callable[[Section, int], list[str]]) -> None:
    lines = printed(SENDERS, 80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "ann.with.a.long.name@alder.test" in text
    assert "No room for quota, score: widen the terminal, or use --json." in " ".join(text.split())
    assert "97.25" not in text


def test_a_terminal_too_narrow_for_a_table_gets_a_line_for_each_value(
    printed: Callable[[Section, int], list[str]],
) -> None:
    lines = [line.rstrip() for line in printed(SENDERS, 44)]
    assert max(map(len, lines)) <= 44
    said = [line.split(maxsplit=1) for line in lines if line.strip()]
    assert ["address", "ann.with.a.long.name@alder.test"] in said
    assert ["score", "97.25"] in said


@given(st.integers(20, 200))
def test_no_word_is_ever_printed_letter_by_letter(width: int) -> None:
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "console", Console(file=written, width=width, highlight=False))
        show(SENDERS)
    assert "paused" in written.getvalue()
    assert "active" in written.getvalue()


def test_in_a_pipe_no_line_is_wrapped_or_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=written, width=module._UNLIMITED))
    show(Section("notes", "A note", ("slot", "reason"), [(1, "word " * 400)]))
    assert ("word " * 400).strip() in written.getvalue()


def test_json_has_the_same_rows_with_numbers_instants_and_nulls_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    section = Section(
        "slots", "x", ("slot", "target time (UTC)", "what to do", "score"), [(np.int64(7), NOON, None, float("nan"))]
    )
    show(section, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"slot": 7, "target_time": "2026-06-02T12:00:00+00:00", "what_to_do": None, "score": None}
    ]


def test_several_tables_are_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    show(SENDERS, Section("none", "Nothing", ("a",), []), as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [row["address"] for row in document["senders"]] == ["ann.with.a.long.name@alder.test", "bo@alder.test"]
    assert document["none"] == []


def test_a_listing_of_nothing_is_its_title_without_a_frame(printed: Callable[[Section, int], list[str]]) -> None:
    assert [
        line for line in printed(Section("senders", "0 senders", ("address", "state"), []), 80) if line.strip()
    ] == ["0 senders"]


@given(st.integers(30, 200))
def test_facts_are_a_line_for_each_name_and_value_at_any_width(width: int) -> None:
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "console", Console(file=written, width=width, highlight=False))
        show_facts("Slot 1", [("status", "sent"), ("message id", "<" + "x" * 90 + "@a.test>")])
    lines = [line.split() for line in written.getvalue().splitlines()]
    assert lines[0] == ["Slot", "1"]
    assert ["status", "sent"] in lines
