"""What the documents refer to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emberflow.locations import PROJECT_ROOT

DECISIONS = PROJECT_ROOT / "docs" / "decisions"
DOCUMENTS = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Return the names under which GitHub links to a document's headings."""
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for path, anchor in _LINK.findall(document.read_text(encoding="utf-8")):
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_link_to_a_missing_file_or_heading_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What is `there`\n")
    document = tmp_path / "document.md"
    document.write_text("[a](other.md#what-is-there) [b](other.md#nothing) [c](gone.md) [d](https://a.test/gone)\n")
    assert broken_links(document) == ["other.md#nothing", "gone.md#"]


def test_decisions_are_numbered_without_a_gap_and_listed_with_their_titles() -> None:
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    rows = []
    for number, page in enumerate(pages, start=1):
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix(f"# {number:04}: ")
        rows.append(f"| [{number:04}]({page.name}) | {title} |")
    assert re.findall(r"^\| \[.*$", index, re.MULTILINE) == rows
