"""The table of docs/features.md and the tests say the same.

A test names the rows that it is about in its docstring, as in ``Q-B4, case 6: ...``; ``Towards B-B9`` if it asserts
what the sentence is made of, and not the sentence.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from emberflow.policy.document import shipped
from emberflow.settings import PROJECT_ROOT

TESTS = PROJECT_ROOT / "tests"
# How many rows each part has; they are counted from 1, and no number is ever given to another sentence.
ROWS = {
    "S-B": 11, "S-F": 10, "B-B": 11, "B-F": 10, "C-B": 11, "C-F": 11, "Q-B": 8, "Q-F": 10, "E-B": 10, "E-F": 10,
    "D-B": 8, "D-F": 10, "U-B": 8, "U-F": 9,
}  # fmt: skip
STATES = ("done", "partly", "missing")

_ROW = re.compile(r"^\| ([A-Z]-[A-Z]\d+) \| (.+?) \| (.*?) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`tests/([\w/]+\.py::\w+)`")
_ID = re.compile(r"\b[SBCQEDU]-[BF]\d+\b")
_TOWARDS = re.compile(r"\btowards ((?:[SBCQEDU]-[BF]\d+(?:, | and )?)+)", re.IGNORECASE)


class Row(NamedTuple):
    """One row of the table; ``tests`` are those that it names."""

    id: str
    state: str
    tests: Sequence[str]
    rest: str


class Claims(NamedTuple):
    """The rows that a test's docstring names: those whose sentence it asserts, and those that it leads towards."""

    proven: frozenset[str]
    towards: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Both."""
        return self.proven | self.towards


def table_of(document: str) -> list[Row]:
    """Return the rows of all tables of the document, in their order."""
    return [
        Row(row_id, state, _TEST.findall(what), _TEST.sub("", what).strip(", "))
        for row_id, _, state, what in _ROW.findall(document)
    ]


def claims_of(source: str) -> dict[str, Claims]:
    """Return what the tests of a file claim, by name."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {node.name: _claims(ast.get_docstring(node) or "") for node in functions if node.name.startswith("test_")}


def _claims(docstring: str) -> Claims:
    towards = {row_id for found in _TOWARDS.findall(docstring) for row_id in _ID.findall(found)}
    return Claims(frozenset(set(_ID.findall(docstring)) - towards), frozenset(towards))


def every_test(folder: Path) -> Iterator[tuple[str, Claims]]:
    """Yield every test, as the table writes it, with what it claims."""
    for file in sorted(folder.rglob("test_*.py")):
        for name, claims in claims_of(file.read_text(encoding="utf-8")).items():
            yield f"{file.relative_to(folder).as_posix()}::{name}", claims


def disagreements(rows: Sequence[Row], tests: Mapping[str, Claims]) -> list[str]:
    """Return what is wrong with the table by itself, and where the tests say something else."""
    expected = [f"{part}{number}" for part, count in ROWS.items() for number in range(1, count + 1)]
    found = [] if [row.id for row in rows] == expected else [f"the rows are {[row.id for row in rows]}"]
    for row in rows:
        found += [f"{row.id}: {problem}" for problem in _problems(row, tests)]
    states = {row.id: row.state for row in rows}
    for test, claims in tests.items():
        found += [f"{test} names {row_id}, which is no row" for row_id in sorted(claims.all - states.keys())]
        missing = sorted(row_id for row_id in claims.all if states.get(row_id) == "missing")
        found += [f"{test} names {row_id}, which is said to be missing" for row_id in missing]
    return found


def _problems(row: Row, tests: Mapping[str, Claims]) -> Iterator[str]:
    if row.state not in STATES:
        yield f"its state is {row.state!r}"
    if (row.state == "missing") == bool(row.tests):
        yield "a row names tests unless it is missing"
    if (row.state == "done") == bool(row.rest):
        yield "it says what is missing unless it is done"
    for test in row.tests:
        if test not in tests:
            yield f"there is no {test}"
        elif row.id not in tests[test].all:
            yield f"{test} does not name it"
        elif row.state == "done" and row.id in tests[test].towards:
            yield f"{test} leads towards it only"


def test_every_row_is_what_the_tests_say_it_is() -> None:
    document = (PROJECT_ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    assert disagreements(table_of(document), dict(every_test(TESTS))) == []


def test_whatever_names_a_row_names_one_that_exists() -> None:
    """Also comments, docstrings of modules, the code and the other documents."""
    known = {row.id for row in table_of((PROJECT_ROOT / "docs" / "features.md").read_text(encoding="utf-8"))}
    files = [
        file
        for folder in ("tests", "include", "dags", "plugins", "dbt", "docs", "benchmarks")
        for file in (PROJECT_ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sql", ".yml", ".yaml", ".md") and file != Path(__file__)
    ]
    assert len(files) > 100
    unknown = {
        str(file.relative_to(PROJECT_ROOT)): named
        for file in files
        if (named := set(_ID.findall(file.read_text(encoding="utf-8"))) - known)
    }
    assert unknown == {}


def defaults_of(document: str) -> dict[str, str]:
    """Return the policy's keys that the document names with a value, and the values as it writes them."""
    return dict(re.findall(r"`(\w+(?:\.\w+)+)` (\d[\d.:]*)", document.partition("\n## Defaults\n")[2]))


def in_the_policy(key: str) -> str:
    """Return the value of a key of the standard policy as the document writes values."""
    value: Any = shipped("standard")
    for part in key.split("."):
        value = getattr(value, part)
    return f"{value:%H:%M}" if isinstance(value, time) else str(int(value) if value == int(value) else value)


def test_the_defaults_are_those_of_the_standard_policy() -> None:
    documented = defaults_of((PROJECT_ROOT / "docs" / "features.md").read_text(encoding="utf-8"))
    assert len(documented) > 30
    assert documented == {key: in_the_policy(key) for key in documented}


# The comparison itself


def a_table(changes: Mapping[str, str] | None = None, without: str = "") -> str:
    """A document whose rows are all done, but for these: what stands after the sentence."""
    rows = {f"{part}{n}": f"done | `tests/a/test_a.py::test_{part[0]}_{part[2]}_{n}`"
            for part, count in ROWS.items() for n in range(1, count + 1)}  # fmt: skip
    rows |= changes or {}
    return "# A\n\n| ID | x |\n" + "".join(
        f"| {i} | It does `x`. | {rest} |\n" for i, rest in rows.items() if i != without
    )


def some_tests(changes: Mapping[str, str] | None = None) -> dict[str, Claims]:
    """Tests that fit `a_table`, but for the docstrings of these."""
    docstrings = {
        f"a/test_a.py::test_{part[0]}_{part[2]}_{n}": f"{part}{n}: it does."
        for part, count in ROWS.items()
        for n in range(1, count + 1)
    }
    return {test: _claims(docstring) for test, docstring in (docstrings | dict(changes or {})).items()}


def test_a_table_that_agrees_with_the_tests_is_good() -> None:
    changes = {
        "S-B2": "partly | `tests/a/test_a.py::test_S_B_2`, `tests/b/test_b.py::test_more`. Missing: the rest.",
        "Q-F3": "missing | There is none.",
    }
    tests = some_tests({"b/test_b.py::test_more": "Towards S-B2", "a/test_a.py::test_Q_F_3": "Of nothing."})
    assert disagreements(table_of(a_table(changes)), tests) == []


@pytest.mark.parametrize(
    ("rows", "docstrings", "without", "expected"),
    [
        ({}, {}, "B-F4", "the rows are"),
        ({}, {}, "U-F9", "the rows are"),
        ({"B-F4": "almost | `tests/a/test_a.py::test_B_F_4`"}, {}, "", "B-F4: its state is 'almost'"),
        ({"B-F4": "done | It is."}, {}, "", "B-F4: a row names tests unless it is missing"),
        ({"B-F4": "partly | Not all."}, {}, "", "B-F4: a row names tests unless it is missing"),
        ({"B-F4": "missing | `tests/a/test_a.py::test_B_F_4`"}, {}, "", "B-F4: a row names tests unless it is missing"),
        ({"B-F4": "done | `tests/a/test_a.py::test_B_F_4`. Missing: x"}, {}, "", "B-F4: it says what is missing"),
        ({"B-F4": "partly | `tests/a/test_a.py::test_B_F_4`"}, {}, "", "B-F4: it says what is missing"),
        ({"B-F4": "done | `tests/a/test_b.py::test_B_F_4`"}, {}, "", "B-F4: there is no a/test_b.py::test_B_F_4"),
        ({}, {"a/test_a.py::test_B_F_4": "B-F5"}, "", "B-F4: a/test_a.py::test_B_F_4 does not name it"),
        ({}, {"a/test_a.py::test_B_F_4": "B-F5, towards B-F3 and B-F4: x"}, "", "B-F4: a/test_a.py::test_B_F_4 leads"),
        ({}, {"a/test_a.py::test_more": "B-F44"}, "", "a/test_a.py::test_more names B-F44, which is no row"),
        ({"B-F4": "missing | None."}, {}, "", "a/test_a.py::test_B_F_4 names B-F4, which is said to be missing"),
    ],
)
def test_a_disagreement_is_found(rows: dict[str, str], docstrings: dict[str, str], without: str, expected: str) -> None:
    found = disagreements(table_of(a_table(rows, without)), some_tests(docstrings))
    assert any(line.startswith(expected) for line in found), found


def test_a_claim_is_read_from_the_docstring_of_any_test() -> None:
    source = '''
"""S-B9 stands for the module."""
async def test_one() -> None:
    """Q-B4, case 6: x. Towards B-B9, B-B10 and E-F10, also I1."""
class TestMany:
    def test_two(self) -> None:
        """D-F1"""
def test_none() -> None:
    # S-B1
    assert "S-B2"
def helper() -> None:
    """S-B3"""
'''
    assert claims_of(source) == {
        "test_one": Claims(frozenset({"Q-B4"}), frozenset({"B-B9", "B-B10", "E-F10"})),
        "test_two": Claims(frozenset({"D-F1"}), frozenset()),
        "test_none": Claims(frozenset(), frozenset()),
    }
