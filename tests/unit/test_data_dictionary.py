"""docs/data-dictionary.md names the tables, columns and marts that there are, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from emberflow.database.tables import metadata
from emberflow.settings import PROJECT_ROOT

DICTIONARY = PROJECT_ROOT / "docs" / "data-dictionary.md"
# Every table has them, and the dictionary's rules say so once.
EVERYWHERE = {"id", "created_at"}
TABLES = {table.name: set(table.columns.keys()) for table in metadata.sorted_tables}


def mart_columns() -> dict[str, set[str]]:
    """Return the columns of every mart as its yml describes them."""
    models: list[dict[str, Any]] = []
    for file in sorted((PROJECT_ROOT / "dbt" / "models" / "marts").glob("*.yml")):
        models += yaml.safe_load(file.read_text(encoding="utf-8"))["models"]
    return {model["name"]: {column["name"] for column in model["columns"]} for model in models}


def sections(document: Path) -> dict[str, str]:
    """Return the text under each heading of the third level that is about a table, by the table's name."""
    parts = re.split(r"^### (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        name.split()[0].rpartition(".")[2]: text.partition("\n## ")[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def unnamed(columns: set[str], text: str) -> set[str]:
    """Return the columns that ``text`` does not name."""
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    return columns - named - EVERYWHERE


@pytest.mark.parametrize("table", TABLES)
def test_a_table_and_each_of_its_columns_is_explained(table: str) -> None:
    assert table in sections(DICTIONARY), f"### {table} is missing"
    assert unnamed(TABLES[table], sections(DICTIONARY)[table]) == set()


@pytest.mark.parametrize("mart", mart_columns())
def test_a_mart_and_each_of_its_columns_is_explained(mart: str) -> None:
    assert mart in sections(DICTIONARY), f"### {mart} is missing"
    assert unnamed(mart_columns()[mart], sections(DICTIONARY)[mart]) == set()


def test_no_column_is_explained_that_is_not_there() -> None:
    """The first cell of a row names columns, in tables that are headed so."""
    strangers = {}
    for name, text in sections(DICTIONARY).items():
        columns = TABLES.get(name) or mart_columns().get(name)
        if columns is None:
            continue
        tables = re.findall(r"^\| Column \|.*\n\|.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
        cells = re.findall(r"^\| (`.+?) \|", "".join(tables), flags=re.MULTILINE)
        named = {column for cell in cells for column in re.findall(r"`(\w+)`", cell)}
        if named - columns:
            strangers[name] = named - columns
    assert strangers == {}
