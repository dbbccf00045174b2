"""The generated parts of the pages: they are as the code says, and a difference is found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emberflow.accounts import lifecycle
from emberflow.cli.main import app
from emberflow.database.tables import metadata
from emberflow.domain.events import EVENTS
from emberflow.domain.slot import TRANSITIONS
from emberflow.reporting import documentation
from emberflow.reporting.documentation import EVERYWHERE, PAGES, DocumentationError, changes, parts, written_anew

PAGE = "# A page\n\nBy hand.\n\n<!-- generated: a -->\nold\n<!-- end -->\n\nBy hand, too.\n"
MAKERS = {"a": lambda: "new"}


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PAGES, tmp_path / "docs"))


def test_every_page_is_as_the_code_says() -> None:
    assert [documentation.difference(*one) for one in changes(PAGES)] == []


def test_a_part_is_written_anew_and_what_is_around_it_stays() -> None:
    assert written_anew(PAGE, MAKERS) == PAGE.replace("old", "new")
    assert written_anew(PAGE.replace("old\n", ""), MAKERS) == PAGE.replace("old", "new")


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (PAGE.replace("<!-- end -->", ""), "has no partner"),
        (PAGE + "<!-- end -->\n", "has no partner"),
        (PAGE.replace("old", "<!-- generated: a -->"), "has no partner"),
        (PAGE.replace("generated: a", "generated: b"), "nothing makes the part 'b'"),
    ],
)
def test_a_marker_that_nothing_belongs_to_is_refused(page: str, complaint: str) -> None:
    with pytest.raises(DocumentationError, match=complaint):
        written_anew(page, MAKERS)


def test_a_part_that_is_in_no_page_is_missed(pages: Path) -> None:
    """A new table or mart needs its place in the dictionary."""
    dictionary = pages / "data-dictionary.md"
    dictionary.write_text(dictionary.read_text().replace("generated: table senders -->", "generated: table bots -->"))
    with pytest.raises(DocumentationError, match="no page has the part 'table senders'"):
        list(changes(pages))


def test_an_installed_package_has_no_pages_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(DocumentationError, match="run this in a clone"):
        list(changes(tmp_path / "docs"))


def test_the_command_finds_a_page_that_differs_and_mends_it(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "PAGES", pages)
    page = pages / "guarantees.md"
    right = page.read_text()
    page.write_text(right.replace("every check passed", "nobody looks"))
    run = CliRunner().invoke

    checked = run(app, ["docs", "--check"])
    assert checked.exit_code == 1
    assert "-    leased --> submitting: nobody looks" in checked.output
    assert "+    leased --> submitting: every check passed" in checked.output
    assert "run `emberflow docs`" in checked.output
    assert page.read_text() != right

    assert run(app, ["docs"]).exit_code == 0
    assert page.read_text() == right
    assert run(app, ["docs", "--check"]).exit_code == 0


# What the parts hold


def test_every_table_and_column_is_explained_and_no_comment_names_a_module() -> None:
    """D-B5"""
    columns = [column for table in metadata.sorted_tables for column in table.columns]
    silent = [str(column) for column in columns if column.name not in EVERYWHERE and not column.comment]
    assert silent + [table.name for table in metadata.sorted_tables if not table.comment] == []
    comments = [column.comment or "" for column in columns] + [table.comment or "" for table in metadata.sorted_tables]
    assert [comment for comment in comments if re.search(r"emberflow\.|queue_manager|accounts\.", comment)] == []


def test_a_table_is_shown_with_each_column_its_type_and_its_meaning() -> None:
    shown = parts()["table slot_states"]()
    assert "| `sent_at` | timestamptz, null | when the server took it; null unless sent |" in shown
    assert "| `slot_id` | bigint | `scheduled_tasks.id` |" in shown
    assert set(re.findall(r"^\| `(\w+)`", shown, re.MULTILINE)) == set(
        metadata.tables["ops.slot_states"].columns.keys()
    )


def test_a_mart_is_shown_with_its_grain_and_columns() -> None:
    shown = parts()["mart sender_scores"]()
    assert "One row per sender." in shown
    assert "| `score` | double precision | 0 (worst) to 100 (best); null without the minimum evidence. |" in shown


def test_the_diagram_and_the_table_have_every_way_of_a_slot() -> None:
    """Q-B4"""
    arrows = re.findall(r"^    (\S+) --> (\w+):", documentation.slot_diagram(), re.MULTILINE)
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == {(one.before or "[*]", one.after) for one in TRANSITIONS}
    rows = documentation.slot_transitions().splitlines()[2:]
    assert len(rows) == len(TRANSITIONS)


@pytest.mark.parametrize("kind", lifecycle.TRANSITIONS)
def test_the_diagram_of_a_sender_bot_or_egress_address_has_every_way_and_who_may_take_it(kind: lifecycle.Kind) -> None:
    arrows = re.findall(r"^    (\S+) --> (\w+): (.+)$", parts()[f"states {kind}"](), re.MULTILINE)
    shown = {(None if before == "[*]" else before, after): set(by.split(" / ")) for before, after, by in arrows}
    assert shown == lifecycle.TRANSITIONS[kind]
    assert len(arrows) == len(shown)


def test_the_tables_of_events_have_every_event_and_detail() -> None:
    """D-B1"""
    for table in (documentation.event_keys(), documentation.events()):
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(EVENTS)
    details = documentation.event_details()
    for name, kind in EVENTS.items():
        rows = [row for row in details.splitlines() if f"`{name}`" in row.split(" | ")[0]]
        assert [row.split(" | ")[1] for row in rows] == [f"`{detail}`" for detail in kind.details]
