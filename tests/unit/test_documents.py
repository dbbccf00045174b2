"""What the documents refer to is there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from emberflow.database.tables import metadata
from emberflow.locations import PROJECT_ROOT
from emberflow.policy.document import shipped

DECISIONS = PROJECT_ROOT / "docs" / "decisions"
DOCUMENTS = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
# What these say was true when they were written, and stays.
OF_THEIR_TIME = [PROJECT_ROOT / "CHANGELOG.md", *DECISIONS.glob("[0-9]*.md")]
COLUMNS = 100

_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"^<!-- generated: .*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?!\w+://)[\w.][\w./-]*\.(?:py|md|sql|ya?ml|csv|json|toml|txt|service|svg)")
_FOLDER = re.compile(r"\w[\w./-]*/")
_NAME = re.compile(r"[a-z_]\w*(?:\.\w+)+")
# Folders below which a document may name a path, the first that fits counts.
_FROM = ("", "include/emberflow", "include/emberflow/queue_manager", "tests", "docs", "dbt", "deploy")
ELSEWHERE = {
    *("stack.env", "keys.env", "ports.json", "postgres/", "airflow/", "run/", "high_water/"),  # in the home of a stack
    *("pg_database.oid", "public.emberflow_schema_version"),  # PostgreSQL's and Alembic's
    "co.uk",
    "NNNN-what-was-decided.md",
}


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


# Names of files, modules, functions, columns and policy keys


def members(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """Yield the names that a module or class defines, dotted where a class or function holds them."""
    for one in node.body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef):
            yield one.name
            yield from (f"{one.name}.{name}" for name in members(one))
        elif isinstance(one, ast.Assign | ast.AnnAssign):
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def keys_of(model: BaseModel) -> Iterator[str]:
    """Yield the keys of a policy's document, dotted, with the names of its sections."""
    yield from (name for name, what in vars(type(model)).items() if isinstance(what, property))
    for name in type(model).model_fields:
        yield name
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from (f"{name}.{key}" for key in keys_of(value))


def columns_of(dictionary: str) -> Iterator[str]:
    """Yield tables and their columns, and views and models as the data dictionary has them."""
    for table in metadata.sorted_tables:
        yield f"ops.{table.name}"
        yield from (f"{table.name}.{column.name}" for column in table.columns)
    for model in (PROJECT_ROOT / "dbt").rglob("*"):
        if model.suffix in (".sql", ".csv"):
            yield f"{'seeds' if model.suffix == '.csv' else model.parent.name}.{model.stem}"
    for heading, body in re.findall(r"^### (\S+).*?\n(.*?)(?=^##|\Z)", dictionary, re.MULTILINE | re.DOTALL):
        name = heading.rpartition(".")[2]
        yield heading if "." in heading else f"ops.{name}"
        yield from (f"{name}.{column}" for column in re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))


@cache
def known_names() -> frozenset[str]:
    """Return every dotted name that a document may use, in each of its shorter forms."""
    whole = {f"policy.{key}" for key in keys_of(shipped("standard"))}
    whole |= set(columns_of((PROJECT_ROOT / "docs" / "data-dictionary.md").read_text(encoding="utf-8")))
    for folder in (PROJECT_ROOT / "include", PROJECT_ROOT / "dags"):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree = ast.parse(file.read_text(encoding="utf-8"))
            whole |= {module} | {f"{module}.{name}" for name in members(tree)}
            if folder.name == "dags":
                asked = (one.value for one in ast.walk(tree) if isinstance(one, ast.Constant))
                whole |= {value for value in asked if isinstance(value, str) and _NAME.fullmatch(value)}
    return frozenset(name.split(".", cut)[cut] for name in whole for cut in range(name.count(".") + 1))


@cache
def files() -> frozenset[str]:
    """Return the names of the project's files."""
    below = ("benchmarks", "dags", "dbt", "deploy", "docs", "include", "plugins", "tests")
    kept = [*PROJECT_ROOT.iterdir(), *(file for folder in below for file in (PROJECT_ROOT / folder).rglob("*"))]
    return frozenset(file.name for file in kept)


def is_there(path: str) -> bool:
    if "/" not in path:
        return path in files()
    return any((PROJECT_ROOT / folder / path).exists() for folder in _FROM)


def unknown_names(document: str) -> list[str]:
    """Return what a document names in code and is not there."""
    found: list[str] = []
    for said in _CODE.findall(_FENCE.sub("", document)):
        path, _, _ = said.partition("::")
        if said in ELSEWHERE:
            continue
        if _FILE.fullmatch(path) or _FOLDER.fullmatch(path):
            found += [] if is_there(path) else [said]
        elif _NAME.fullmatch(said):
            found += [] if said in known_names() else [said]
    return found


@pytest.mark.parametrize(
    "document",
    [one for one in DOCUMENTS if one not in OF_THEIR_TIME],
    ids=lambda path: str(path.relative_to(PROJECT_ROOT)),
)
def test_every_file_and_function_that_a_document_names_is_there(document: Path) -> None:
    assert unknown_names(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("said", "is_known"),
    [
        ("queue_manager/sending/worker.py", True),
        ("queue_manager/sending/no_worker.py", False),
        ("worker.py", True),
        ("labourer.py", False),
        ("dags/", True),
        ("dogs/", False),
        ("sending/worker.py::Worker", True),
        ("guard.judge", True),
        ("delivery.guard.judge", True),
        ("guard.acquit", False),
        ("restores.HighWater.rise", True),
        ("queue.overdue_s", True),
        ("queue.underdue_s", False),
        ("senders.state", True),
        ("senders.mood", False),
        ("ops.slots", True),
        ("marts.sender_scores", True),
        ("warmup_hourly.plan_hour", True),
        ("warmup_hourly.plan_year", False),
    ],
)
def test_a_name_is_known_if_it_is_in_the_tree(said: str, is_known: bool) -> None:
    assert unknown_names(f"It is `{said}`.\n\n```\n`gone.py`\n```\n") == ([] if is_known else [said])


# The map


def layers() -> list[set[str]]:
    """Return the packages as the import contracts order them, those of one layer together, the highest first."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    [contract] = [one for one in contracts if one["type"] == "layers"]
    return [{name.strip().removeprefix("emberflow.") for name in layer.split("|")} for layer in contract["layers"]]


def packages_on_the_map() -> list[set[str]]:
    """Return the packages in the first column of the map's first table, row by row, without those inside another."""
    text = (PROJECT_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = text.partition("\n## The packages\n")[2].partition("\n## ")[0].splitlines()
    named = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows if row.startswith("| `")]
    return [names for names in named if names]


def test_the_map_has_every_package_in_the_order_of_the_contracts() -> None:
    library = PROJECT_ROOT / "include" / "emberflow"
    packages = {folder.name for folder in library.iterdir() if len(list(folder.glob("*.py"))) > 1}
    place = {name: number for number, layer in enumerate(layers()) for name in layer}
    drawn = [names & packages for names in packages_on_the_map()]
    assert set().union(*drawn) == packages
    places = [place[name] for names in drawn for name in sorted(names, key=place.__getitem__)]
    assert places == sorted(places)


@pytest.mark.parametrize("page", sorted((PROJECT_ROOT / "docs" / "concepts").glob("*.md")), ids=lambda path: path.stem)
def test_a_concept_is_one_short_page_that_the_list_names(page: Path) -> None:
    listed = (page.parent / "README.md").read_text(encoding="utf-8")
    assert page.name == "README.md" or f"({page.name})" in listed
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


# The width of a page


def too_long(document: str) -> list[str]:
    """Return the lines that are wider than a page, but for tables and for what is made from the code."""
    lines = _GENERATED.sub("", document).splitlines()
    return [line for line in lines if len(line) > COLUMNS and not line.startswith("|")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_a_page_is_no_wider_than_a_hundred_columns(document: Path) -> None:
    assert too_long(document.read_text(encoding="utf-8")) == []


def test_a_wide_line_is_seen_and_a_wide_row_is_not() -> None:
    wide = "x" * (COLUMNS + 1)
    assert too_long(f"{wide}\n| {wide} |\n<!-- generated: x -->\n{wide}\n<!-- end -->\n") == [wide]
