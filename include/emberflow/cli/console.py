"""How the command line speaks: one console, tables from rows, a progress bar for long steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

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

# Redirected output has no width of its own; 80 columns would cut addresses.
console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str | None = None) -> None:
    """Print rows under headings; numbers are right-aligned, None is a dash."""
    cells = [list(row) for row in rows]
    shown = Table(title=title, caption=caption, title_justify="left", caption_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        numbers = any(isinstance(row[index], int | float | Decimal) for row in cells)
        # What a row is about stays in one piece: people copy it.
        shown.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=index == 0)
    for row in cells:
        # As Text, because markup in a server's answer is not ours.
        shown.add_row(*(value if isinstance(value, Text) else Text(spell(value)) for value in row))
    console.print(shown)


def spell(value: Any) -> str:
    """Return a value as a person reads it; instants are UTC."""
    if value is None or value != value:  # noqa: PLR0124 - NaN is the one value unequal to itself
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.4g}"
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
