"""Whatever prints a table prints the same as JSON: held by the source of the commands."""

from __future__ import annotations

import ast
from pathlib import Path

from emberflow.locations import PROJECT_ROOT

COMMANDS = PROJECT_ROOT / "include" / "emberflow" / "cli"
TABLES = {"show", "table", "Section"}  # of `emberflow.console`


def functions(files: list[Path]) -> list[ast.FunctionDef]:
    return [
        node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
    ]


def called(function: ast.FunctionDef) -> set[str]:
    """Return the names of called functions, also of another module's (``report.x``), but not of objects' methods."""
    modules = {"console", *(file.stem for file in COMMANDS.glob("*.py"))}
    names = set()
    for node in ast.walk(function):
        match node:
            case ast.Call(ast.Name(name)):
                names.add(name)
            case ast.Call(ast.Attribute(ast.Name(module), name)) if module in modules:
                names.add(name)
    return names


def showing(known: list[ast.FunctionDef]) -> set[str]:
    """Return the names of the functions that print a table, themselves or through another one of these."""
    names: set[str] = set()
    while found := {one.name for one in known if called(one) & (TABLES | names)} - names:
        names |= found
    return names


def without_the_option(known: list[ast.FunctionDef]) -> list[str]:
    """Return the commands that print a table and have no ``--json``."""
    tables = showing(known)
    commands = [one for one in known if any(".command(" in ast.unparse(how) for how in one.decorator_list)]
    return [one.name for one in commands if one.name in tables and "AsJson" not in ast.unparse(one.args)]


def test_every_command_that_prints_a_table_prints_it_as_json_too() -> None:
    known = functions(sorted(COMMANDS.glob("*.py")))
    assert {"list_senders", "set_bot", "set_secret"} <= showing(known)
    assert without_the_option(known) == []


def test_a_command_without_the_option_is_seen_through_what_it_calls() -> None:
    source = """
        @app.command("list")
        def listing(as_json: AsJson = False): show(rows)

        @app.command("set")
        def change(): _check()

        def _check(): console.table("Failed")

        @app.command("pause")
        def pause(): console.print("paused")
    """
    known = [
        node for node in ast.walk(ast.parse(source.replace("\n        ", "\n"))) if isinstance(node, ast.FunctionDef)
    ]
    assert without_the_option(known) == ["change"]
