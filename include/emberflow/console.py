"""How commands and the demo speak: one console, tables from rows or the same as JSON, a progress bar for long steps."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

# Redirected output has no width: whoever reads it gets each line whole.
_UNLIMITED = 100_000
console = Console(width=None if sys.stdout.isatty() else _UNLIMITED, highlight=False)

_READABLE = 14  # characters; a column of words that is narrower breaks most of them
_RULES = 3  # characters that a column's borders and padding take


@dataclass(frozen=True)
class Section:
    """One table of what a command shows; ``key`` names it in JSON.

    ``least`` are columns that give way, the first one first, where a terminal is too narrow for all.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str | None = None
    least: Sequence[str] = ()


def show(*sections: Section, as_json: bool = False) -> None:
    """Print sections as tables, or as JSON: one as an array of objects, several as an object of such arrays."""
    if as_json:
        arrays = records(*sections)
        print_json(arrays if len(sections) > 1 else arrays[sections[0].key])
        return
    for section in sections:
        _print(section)


def print_json(document: Any) -> None:
    """Print a document for programs: instants in ISO 8601, numbers as numbers, on as many lines as it needs."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=_as_json))


def records(*sections: Section) -> dict[str, list[dict[str, Any]]]:
    """Return each section's rows as objects, under its key."""
    return {section.key: _rows_of(section) for section in sections}


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str | None = None) -> None:
    """Print rows under headings; numbers are right-aligned, None is a dash."""
    show(Section("rows", title, columns, [list(row) for row in rows], caption))


def show_facts(title: str, facts: Iterable[tuple[str, Any]]) -> None:
    """Print what is known of one thing, a line for each name and value."""
    console.print(Text(title, "italic"))
    console.print(_facts(list(facts)))


def spell(value: Any) -> str:
    """Return a value as a person reads it; instants are UTC."""
    if value is None or value != value:  # noqa: PLR0124 - NaN is the one value unequal to itself
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _print(section: Section) -> None:
    if not section.rows:
        console.print(Text(section.title, "italic"))
        if section.caption:
            console.print(Text(section.caption, "dim italic"))
        return
    left_out: list[str] = []
    while left_out != list(section.least) and _least_width(section, left_out) > console.width:
        left_out.append(section.least[len(left_out)])
    if _least_width(section, left_out) > console.width:
        _print_records(section)
        return
    caption = section.caption
    if left_out:
        hint = f"No room for {', '.join(left_out)}: widen the terminal, or use --json."
        caption = hint if caption is None else f"{caption}\n{hint}"
    # A table would fold its title at its own width.
    console.print(Text(section.title, "italic"))
    shown = Table(header_style="bold")
    for index, name in enumerate(section.columns):
        if name in left_out:
            continue
        numbers = any(isinstance(row[index], int | float | Decimal) for row in section.rows)
        width = _least_column(section, index)
        # What a row is about stays in one piece: people copy it.
        shown.add_column(
            name,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=index == 0,
            min_width=width if console.width < _UNLIMITED else None,
        )
    for row in section.rows:
        # As Text, because markup in a server's answer is not ours.
        cells = [_cell(value) for name, value in zip(section.columns, row, strict=True) if name not in left_out]
        shown.add_row(*cells)
    console.print(shown)
    if caption:
        console.print(Text(caption, "dim italic"))


def _print_records(section: Section) -> None:
    """Print each row as lines of its own, for a terminal that is too narrow for a table."""
    console.print(Text(section.title, "italic"))
    for row in section.rows:
        console.print(_facts(list(zip(section.columns, row, strict=True))))
        console.print()
    if section.caption:
        console.print(Text(section.caption, "dim"))


def _facts(facts: Sequence[tuple[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True, width=max((len(name) for name, _ in facts), default=0))
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, _cell(value))
    return grid


def _least_width(section: Section, left_out: Sequence[str]) -> int:
    kept = [index for index, name in enumerate(section.columns) if name not in left_out]
    return 1 + sum(_least_column(section, index) + _RULES for index in kept)


def _least_column(section: Section, index: int) -> int:
    """Return the characters below which a column cannot be read: words may wrap, numbers and first columns may not."""
    lines = [line.cell_len for row in section.rows for line in _cell(row[index]).split()]
    heading = max(map(len, section.columns[index].split()), default=0)
    longest = max(lines, default=0)
    may_wrap = index > 0 and not any(isinstance(row[index], int | float | Decimal | datetime) for row in section.rows)
    return max(heading, min(longest, _READABLE) if may_wrap else longest)


def _cell(value: Any) -> Text:
    return value if isinstance(value, Text) else Text(spell(value))


def _rows_of(section: Section) -> list[dict[str, Any]]:
    keys = [re.sub(r"\W+", "_", name.removesuffix(" (UTC)")).strip("_") for name in section.columns]
    return [dict(zip(keys, map(_plain, row), strict=True)) for row in section.rows]


def _plain(value: Any) -> Any:
    """Return a cell as a value of JSON, which knows neither colours nor NaN."""
    if isinstance(value, Text):
        return value.plain
    return None if value != value else value  # noqa: PLR0124 - NaN is the one value unequal to itself


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if hasattr(value, "item"):  # a number of NumPy's
        return value.item()
    return str(value)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; call the yielded function with a text to advance it by one step."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(text: object = None) -> None:
            if text is not None and not console.is_terminal:
                console.print(f"  {text}", style="dim")
            bar.update(task, advance=1, description=description if text is None else f"{description}: {text}")

        yield advance
