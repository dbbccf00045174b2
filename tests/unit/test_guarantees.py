"""The table "What broke elsewhere" of docs/guarantees.md and the tests say the same.

A test claims cases in its docstring, as in ``Q-B4, case 6: ...`` or ``cases 19 and 36``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from emberflow.settings import PROJECT_ROOT

TESTS = PROJECT_ROOT / "tests"
CASES = range(1, 41)

_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py::test_\w+)`")
_CLAIM = re.compile(r"\bcases? (\d+(?:(?:, | and )\d+)*)")


def table_of(document: str) -> list[tuple[int, str]]:
    """Return the rows of the table: the case, and what stands under "Here"."""
    section = document.partition("\n## What broke elsewhere\n")[2].partition("\n## ")[0]
    return [(int(number), here) for number, _, here in _ROW.findall(section)]


def claimed(source: str) -> dict[str, set[int]]:
    """Return the tests of a file and the cases that each of them claims."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {
        node.name: {int(number) for found in _CLAIM.findall(ast.get_docstring(node) or "") for number in numbers(found)}
        for node in functions
        if node.name.startswith("test_")
    }


def numbers(listed: str) -> list[str]:
    return re.findall(r"\d+", listed)


def every_test(folder: Path) -> Iterator[tuple[str, set[int]]]:
    """Yield every test, as the table writes it, with the cases that it claims."""
    for file in sorted(folder.rglob("test_*.py")):
        for name, cases in claimed(file.read_text(encoding="utf-8")).items():
            yield f"{file.relative_to(folder).as_posix()}::{name}", cases


def disagreements(table: Iterable[tuple[int, str]], tests: Mapping[str, set[int]]) -> list[str]:
    """Return what the table says and the tests do not, and the other way round."""
    rows = list(table)
    found = [f"the table's cases are {[number for number, _ in rows]}"] if [row[0] for row in rows] != [*CASES] else []
    listed = {number: set(_TEST.findall(here)) for number, here in rows}
    for number, here in rows:
        if not listed[number] and not here.startswith("not yet: "):
            found.append(f"case {number} has neither a test nor a reason")
        if listed[number] and here.startswith("not yet"):
            found.append(f"case {number} is said to be proven and not to be")
        found += [f"case {number}: there is no {test}" for test in listed[number] - tests.keys()]
        found += [
            f"case {number}: {test} does not name it"
            for test in listed[number] & tests.keys()
            if number not in tests[test]
        ]
    found += [
        f"{test} names case {number}, and the table does not name the test"
        for test, cases in tests.items()
        for number in sorted(cases)
        if test not in listed.get(number, set())
    ]
    return found


def test_every_case_has_a_test_that_names_it_or_a_reason() -> None:
    document = (PROJECT_ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert disagreements(table_of(document), dict(every_test(TESTS))) == []


# The comparison itself


GOOD = {number: (f"`a/test_a.py::test_{number}`", {number}) for number in CASES} | {
    22: ("not yet: nothing is classified.", set()),
    25: ("`a/test_a.py::test_24`, `a/test_a.py::test_25`. And more.", {25}),
    24: ("`a/test_a.py::test_24`", {24, 25}),
}  # fmt: skip


def compared(
    changes: Mapping[int, str] | None = None, claims: Mapping[str, set[int]] | None = None, without: int = 0
) -> list[str]:
    """Compare a table and tests that agree, but for these changes."""
    rows = {number: here for number, (here, _) in GOOD.items()} | dict(changes or {})
    document = "# A\n\n## What broke elsewhere\n\n| Case | What | Here |\n|---|---|---|\n"
    document += "".join(f"| {number} | x #{number}: `y` | {rows[number]} |\n" for number in CASES if number != without)
    tests = {f"a/test_a.py::test_{number}": cases for number, (_, cases) in GOOD.items() if number != 22}
    return disagreements(table_of(f"{document}\n## Next\n\n| 41 | x | y |\n"), tests | dict(claims or {}))


def test_a_table_that_agrees_with_the_tests_is_good() -> None:
    assert compared() == []


@pytest.mark.parametrize(
    ("changes", "claims", "without", "expected"),
    [
        ({}, {}, 7, "the table's cases are"),
        ({7: "somebody will"}, {"a/test_a.py::test_7": set()}, 0, "case 7 has neither a test nor a reason"),
        ({7: "not yet: `a/test_a.py::test_7`"}, {}, 0, "case 7 is said to be proven and not to be"),
        ({7: "`a/test_a.py::test_7`, `a/test_b.py::test_7`"}, {}, 0, "case 7: there is no a/test_b.py::test_7"),
        ({}, {"a/test_a.py::test_7": set()}, 0, "case 7: a/test_a.py::test_7 does not name it"),
        ({}, {"a/test_a.py::test_7": {7, 8}}, 0, "a/test_a.py::test_7 names case 8, and the table"),
        ({}, {"a/test_a.py::test_more": {41}}, 0, "a/test_a.py::test_more names case 41, and the table"),
        ({}, {"a/test_a.py::test_more": {22}}, 0, "a/test_a.py::test_more names case 22, and the table"),
    ],
)
def test_a_disagreement_is_found(
    changes: dict[int, str], claims: dict[str, set[int]], without: int, expected: str
) -> None:
    found = compared(changes, claims, without)
    assert any(line.startswith(expected) for line in found), found


def test_a_claim_is_read_from_the_docstring_however_many_cases_it_names() -> None:
    source = '''
def test_one() -> None:
    """Q-B4, case 6: x."""
def test_three() -> None:
    """I1, cases 8, 10 and 19: in any case, of 30."""
def test_none() -> None:
    assert "case 5"
def helper() -> None:
    """case 7"""
'''
    assert claimed(source) == {"test_one": {6}, "test_three": {8, 10, 19}, "test_none": set()}
