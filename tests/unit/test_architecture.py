"""The rules of the project that a type checker cannot see, held by the source text itself.

Each rule is a small function over a syntax tree; its test first shows that the rule sees a breach.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emberflow.database.tables import metadata
from emberflow.settings import PROJECT_ROOT

LIBRARY = PROJECT_ROOT / "include" / "emberflow"
CLOCKS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("Timestamp", "now"),
    ("Timestamp", "utcnow"),
    ("Timestamp", "today"),
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "localtime"),
    ("time", "gmtime"),
}
# Types, not draws: a generator that was made from a named stream may be passed on.
RANDOM_TYPES = {"Generator"}

# The one module that writes a table of states, or of their history. Migrations apart.
OWNERS = {
    "slot_states": "queue_manager/slot_store.py",
    "conversations": "queue_manager/event_log.py",
    "mail_events": "queue_manager/event_log.py",
    "bot_sender_interactions": "queue_manager/event_log.py",
    "plan_runs": "queue_manager/planning/planner.py",
    "send_counters": "queue_manager/counters.py",
    "host_breakers": "queue_manager/host_breakers.py",
    "recipient_refusals": "queue_manager/sending/refused_recipients.py",
    "state_changes": "accounts/lifecycle.py",
    "suppressions": "accounts/suppressions.py",
    "switches": "accounts/switches.py",
    "keys_in_force": "accounts/keys_in_force.py",
    "policies": "policy/versions.py",
    "script_sets": "policy/script_sets.py",
    "restores": "database/restores.py",
    "audit_log": "operations/audit.py",
}
WRITERS = {"insert", "update", "delete", "copy_rows", "copy_numbers"}

FOREIGN_ZONE = re.compile(r"at time zone (?!'UTC')")

Rule = Callable[[ast.Module], list[str]]


def attributes(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield (line, owner, name) for every ``owner.name``, the owner being the last part before the dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if isinstance(owner, ast.Name):
                yield node.lineno, owner.id, node.attr
            elif isinstance(owner, ast.Attribute):
                yield node.lineno, owner.attr, node.attr


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, full name) for everything that is imported, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def asks_the_machine_for_the_time(tree: ast.Module) -> list[str]:
    """Return the places that read the wall clock; ``time.monotonic`` measures and is no instant."""
    used = [f"line {line}: {owner}.{name}" for line, owner, name in attributes(tree) if (owner, name) in CLOCKS]
    names = {f"time.{name}" for owner, name in CLOCKS if owner == "time"}
    return used + [f"line {line}: {name}" for line, name in imported(tree) if name in names]


def draws_from_shared_randomness(tree: ast.Module) -> list[str]:
    """Return the places that use ``random`` or NumPy's global generator; ``secrets`` makes keys, not plans."""
    used = [
        f"line {line}: np.random.{name}"
        for line, owner, name in attributes(tree)
        if owner == "random" and name not in RANDOM_TYPES
    ]
    return used + [
        f"line {line}: {name}"
        for line, name in imported(tree)
        if name.partition(".")[0] == "random" or name.startswith("numpy.random")
    ]


def asks_another_zone_database(tree: ast.Module) -> list[str]:
    """Return SQL that lets PostgreSQL read a zone's name, and clocks that are not the clock module's."""
    return [
        f"line {node.lineno}: at time zone"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FOREIGN_ZONE.search(node.value)
    ] + [
        f"line {node.lineno}: ZoneInfo(...)"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ZoneInfo"
    ]


def guesses_the_kind_of_mail(tree: ast.Module) -> list[str]:
    """Return the comparisons of a slot's task type or bot, of which ``Slot.kind`` says what follows."""
    asked = {("slot", "bot_id"), ("slot", "task_type")}
    return [
        f"line {line}: {owner}.{name}"
        for comparison in ast.walk(tree)
        if isinstance(comparison, ast.Compare)
        for line, owner, name in attributes(comparison)
        if (owner, name) in asked
    ]


TASKS = {"emberflow.queue_manager.tasks", "emberflow.reporting.tasks"}


def reaches_below_the_tasks(tree: ast.Module) -> list[str]:
    """Return the imports of the library that are none of the modules with the tasks of DAGs."""
    return [
        f"line {line}: {name}"
        for line, name in imported(tree)
        if name.partition(".")[0] == "emberflow" and name not in TASKS
    ]


def writes(table: str) -> Rule:
    """Return the rule that finds SQL text which changes a table, COPY into it, and its object given to a writer."""
    statement = re.compile(
        rf"\b(?:insert\s+into|update(?:\s+only)?|delete\s+from|merge\s+into|truncate|copy)\s+(?:ops\.)?{table}\b",
        re.IGNORECASE,
    )

    def rule(tree: ast.Module) -> list[str]:
        found = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [f"line {node.lineno}: {match.group()}" for match in statement.finditer(node.value)]
            if isinstance(node, ast.Call) and called(node) in WRITERS:
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                given += [node.func.value] if isinstance(node.func, ast.Attribute) else []
                named = {one.value for one in given if isinstance(one, ast.Constant)}
                named |= {one.attr for one in given if isinstance(one, ast.Attribute)}
                named |= {one.id for one in given if isinstance(one, ast.Name)}
                if named & {table, f"ops.{table}"}:
                    found.append(f"line {node.lineno}: {called(node)}({table})")
        return found

    return rule


writes_slot_states = writes("slot_states")


def called(call: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def breaches(rule: Rule, files: list[Path]) -> dict[str, list[str]]:
    """Return what ``rule`` finds, by file."""
    found = {str(file.relative_to(PROJECT_ROOT)): rule(ast.parse(file.read_text())) for file in files}
    return {file: lines for file, lines in found.items() if lines}


def library(*, without: str) -> list[Path]:
    """Return the library's source files but one."""
    files = sorted(LIBRARY.rglob("*.py"))
    assert LIBRARY / without in files
    return [file for file in files if file != LIBRARY / without]


@pytest.mark.parametrize(
    ("rule", "breach", "fine"),
    [
        (asks_the_machine_for_the_time, "datetime.now(UTC)", "self._clock.now()"),
        (asks_the_machine_for_the_time, "dt.datetime.utcnow()", "SystemClock().now()"),
        (asks_the_machine_for_the_time, "import datetime; datetime.date.today()", "time.monotonic()"),
        (asks_the_machine_for_the_time, "from time import time", "from datetime import datetime, time"),
        (asks_the_machine_for_the_time, "time.time()", "from time import monotonic"),
        (asks_the_machine_for_the_time, "field(default_factory=datetime.now)", "datetime.fromisoformat(text)"),
        (draws_from_shared_randomness, "import random", "import secrets"),
        (draws_from_shared_randomness, "from random import choice", "from emberflow.randomness import uniforms"),
        (draws_from_shared_randomness, "np.random.default_rng()", "def f(draw: np.random.Generator): ..."),
        (draws_from_shared_randomness, "np.random.seed(1)", "generator(seed, 'replies').random()"),
        (asks_another_zone_database, "ZoneInfo('Europe/Berlin')", "clock_of('Europe/Berlin')"),
        (asks_another_zone_database, "text('select now() at time zone zone')", "text(\"now() at time zone 'UTC'\")"),
        (writes_slot_states, 'text(f"update ops.slot_states set status = {x}")', "text('select from ops.slot_states')"),
        (writes_slot_states, "'with a as (insert  into\\n ops.slot_states select 1)'", "'for update of slot_states'"),
        (writes_slot_states, "insert(tables.slot_states).values(rows)", "select(tables.slot_states)"),
        (writes_slot_states, "slot_states.update().where(x)", "slot_states.select().where(x)"),
        (writes_slot_states, "copy_rows(connection, 'ops.slot_states', rows)", "copy_rows(connection, 'ops.x', rows)"),
        (guesses_the_kind_of_mail, "slot.bot_id is None", "slot.kind.has_bot"),
        (guesses_the_kind_of_mail, "mail.slot.task_type == 'warmup'", "key(slot.bot_id, slot.task_type)"),
        (reaches_below_the_tasks, "from emberflow.database.engine import open_engine", "import pandas"),
        (reaches_below_the_tasks, "import emberflow.senders", "from emberflow.queue_manager import tasks"),
        (reaches_below_the_tasks, "from emberflow import settings", "import emberflow.queue_manager.tasks"),
        (
            reaches_below_the_tasks,
            "def task():\n    from emberflow.bots import limits",
            "from emberflow.reporting import tasks",
        ),
    ],
)
def test_a_rule_sees_its_breach_and_nothing_else(rule: Rule, breach: str, fine: str) -> None:
    assert rule(ast.parse(breach))
    assert rule(ast.parse(fine)) == []


def test_only_the_clock_asks_the_machine_what_time_it_is() -> None:
    assert breaches(asks_the_machine_for_the_time, library(without="clock.py")) == {}


def test_only_the_clock_reads_the_names_of_zones() -> None:
    """A migration that has been applied stays as it is; the last one that defines a view decides."""
    files = [file for file in library(without="clock.py") if "versions" not in file.parts]
    assert breaches(asks_another_zone_database, files) == {}


def test_only_the_named_streams_draw_random_numbers() -> None:
    assert breaches(draws_from_shared_randomness, library(without="randomness.py")) == {}


def test_no_module_guesses_the_kind_of_a_mail() -> None:
    """The next kind has other combinations of task type, bot and address."""
    assert breaches(guesses_the_kind_of_mail, library(without="domain/slot.py")) == {}


def test_only_the_slot_store_writes_the_states_of_slots() -> None:
    """Q-B4: migrations apart, which make the table and what holds it."""
    assert OWNERS["slot_states"] == "queue_manager/slot_store.py"
    assert writers_of("slot_states") == {}


@pytest.mark.parametrize("table", OWNERS)
def test_a_state_and_its_history_have_one_writer(table: str) -> None:
    assert writers_of(table) == {}
    assert writes(table)(ast.parse((LIBRARY / OWNERS[table]).read_text())), "its owner does not write it"


def writers_of(table: str) -> dict[str, list[str]]:
    """Return what writes a table besides its owner."""
    return writing(table, library(without=OWNERS[table]))


def writing(table: str, files: list[Path]) -> dict[str, list[str]]:
    """Return what writes a table: what makes the tables, and worlds for tests, are left out."""
    product = [file for file in files if not {"versions", "simulation"} & set(file.parts)]
    return breaches(writes(table), [file for file in product if table in file.read_text()])


def not_named(page: str, writers: dict[str, list[str]]) -> list[str]:
    """Return the tables and modules that write them, of which no row of the page tells that."""
    rows = [line for line in page.splitlines() if line.startswith("|")]
    return [
        f"{table}: {file}"
        for table, files in writers.items()
        for file in files
        if not any(re.search(rf"`{table}[.`]", row) and Path(file).name in row for row in rows)
    ]


def test_the_page_of_owners_names_whoever_writes_a_table() -> None:
    page = (PROJECT_ROOT / "docs" / "concepts" / "states-and-owners.md").read_text()
    files = sorted(LIBRARY.rglob("*.py"))
    writers = {table.name: list(writing(table.name, files)) for table in metadata.sorted_tables}

    assert len(writers["mailboxes"]) > 5
    assert not_named(page, writers) == []
    assert not_named(page.replace("zone_moves.py", ""), writers) != []


def test_dags_and_plugins_call_the_tasks_and_nothing_deeper() -> None:
    files = [file for folder in ("dags", "plugins") for file in sorted((PROJECT_ROOT / folder).rglob("*.py"))]

    assert len(files) >= 4
    assert breaches(reaches_below_the_tasks, files) == {}


def test_packages_import_only_from_those_above_them() -> None:
    """The contracts of import-linter in ``pyproject.toml``: layers, the pure core, no Airflow in the library."""
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run(
        [sys.executable, "-c", lint], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_integration_tests_lie_in_folders_named_after_packages() -> None:
    """What is about the whole stack, its documents and its installation lies in ``stack``."""
    packages = {folder.name for folder in LIBRARY.rglob("*") if (folder / "__init__.py").is_file()} | {"stack"}
    folder = PROJECT_ROOT / "tests" / "integration"
    files = [file.relative_to(folder) for file in folder.rglob("*.py")]
    assert len(files) > 40
    assert [str(file) for file in files if len(file.parts) != 2 or file.parts[0] not in packages] == []


# Of the unit tests that lie in no package's folder: those about the project as a whole.
ABOUT_THE_WHOLE = {"architecture", "benchmarks", "bootstrap", "compose_file", "documents", "features", "guarantees"}
ABOUT_THE_WHOLE |= {"light_packages"}


def test_unit_tests_lie_where_what_they_test_lies() -> None:
    """A folder for each package; beside them what is about a module that lies beside the packages."""
    folder = PROJECT_ROOT / "tests" / "unit"
    files = [file.relative_to(folder) for file in folder.rglob("test_*.py")]
    beside = {file.stem for file in LIBRARY.glob("*.py")} | ABOUT_THE_WHOLE
    assert len(files) > 80
    assert [str(file) for file in files if not (LIBRARY / file.parent / "__init__.py").is_file()] == []
    assert [
        str(file) for file in files if file.parent == Path() and file.stem.removeprefix("test_") not in beside
    ] == []
    # No test of a package's own module lies one folder too high.
    below = {file.stem: file.parent.name for file in (LIBRARY / "queue_manager").glob("*/*.py")}
    own = [file.stem.removeprefix("test_") for file in (folder / "queue_manager").glob("test_*.py")]
    assert [f"{name}: {below[name]}" for name in own if name in below] == []
