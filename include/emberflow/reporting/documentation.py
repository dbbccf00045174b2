"""The parts of the pages in ``docs/`` that are made from the code, so that they cannot say anything else.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is around it is written by hand. ``NAME``
is a key of ``parts()``, for instance ``slot-states`` or ``table mailboxes``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml
from sqlalchemy.dialects import postgresql

from emberflow.accounts import lifecycle
from emberflow.database.tables import metadata
from emberflow.domain.events import EVENTS, Detail
from emberflow.domain.slot import ENDS, TRANSITIONS, SlotStatus
from emberflow.errors import EmberflowError
from emberflow.locations import PROJECT_ROOT

PAGES = PROJECT_ROOT / "docs"
MARTS = PROJECT_ROOT / "dbt" / "models" / "marts"

# The rules at the top of the dictionary say once what these are.
EVERYWHERE = frozenset({"id", "created_at"})

_PART = re.compile(r"^<!-- generated: (?P<name>[^\n]+?) -->\n(?P<text>.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- (?:generated:[^\n]*|end) -->$", re.MULTILINE)


class DocumentationError(EmberflowError):
    """A page has markers that no part belongs to, or a part that must be somewhere is nowhere."""


def parts() -> dict[str, Callable[[], str]]:
    """Return what makes each part, by its name."""
    named: dict[str, Callable[[], str]] = {
        "slot-states": slot_diagram,
        "slot-transitions": slot_transitions,
        "event-keys": event_keys,
        "events": events,
        "event-details": event_details,
    }
    named |= {f"states {kind}": partial(lifecycle_diagram, kind) for kind in lifecycle.TRANSITIONS}
    named |= {f"table {table.name}": partial(table_columns, table) for table in metadata.sorted_tables}
    named |= {f"mart {name}": partial(mart_columns, model) for name, model in marts().items()}
    return named


def written_anew(page: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """Return the text of a page with all its parts as they are now.

    Raises:
        DocumentationError: a marker has no partner, or names no part.
    """
    found = list(_PART.finditer(page))
    if len(_MARK.findall(page)) != 2 * len(found):
        raise DocumentationError("a marker `<!-- generated: NAME -->` or `<!-- end -->` has no partner")
    unknown = sorted({one["name"] for one in found} - makers.keys())
    if unknown:
        raise DocumentationError(f"nothing makes the part {unknown[0]!r}; these can be made: {', '.join(makers)}")
    return _PART.sub(lambda one: f"<!-- generated: {one['name']} -->\n{makers[one['name']]()}\n<!-- end -->", page)


def changes(pages: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the pages that differ from what they should be: the file, its text, and its text anew.

    Raises:
        DocumentationError: as above, a part is in no page, or there are no pages, as in an installed package.
    """
    if not pages.is_dir():
        raise DocumentationError(f"there are no pages in {pages}: run this in a clone of the repository")
    makers = parts()
    missing = set(makers)
    for file in sorted(pages.rglob("*.md")):
        page = file.read_text(encoding="utf-8")
        missing -= {one["name"] for one in _PART.finditer(page)}
        try:
            wanted = written_anew(page, makers)
        except DocumentationError as error:
            raise DocumentationError(f"{file.name}: {error}") from None
        if wanted != page:
            yield file, page, wanted
    if missing:
        raise DocumentationError(
            f"no page has the part {min(missing)!r}: write `<!-- generated: {min(missing)} -->` and `<!-- end -->` "
            "where it belongs and run `emberflow docs`"
        )


def difference(file: Path, page: str, wanted: str) -> str:
    """Return the lines that differ, as a unified diff without context."""
    lines = unified_diff(page.splitlines(), wanted.splitlines(), file.name, file.name, n=0, lineterm="")
    return "\n".join(lines)


# States and events


def slot_diagram() -> str:
    """Return the states and ways of ``TRANSITIONS`` as a Mermaid diagram, one arrow for each pair of states."""
    labels: dict[tuple[str, str], dict[str, None]] = {}
    for one in TRANSITIONS:
        labels.setdefault((one.before or "[*]", one.after), {})[one.label] = None
    arrows = [f"    {before} --> {after}: {' / '.join(said)}" for (before, after), said in labels.items()]
    ends = [f"    {status} --> [*]" for status in ENDS]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, *ends, "```"])


def slot_transitions() -> str:
    """Return ``TRANSITIONS`` as a table, in the order of the states that they lead from."""
    order = [None, *SlotStatus]
    rows = (
        (_code(one.before or ""), _code(one.after), one.by, one.when, one.reason)
        for one in sorted(TRANSITIONS, key=lambda one: order.index(one.before))
    )
    return _table(("From", "To", "Who", "When", "Reason stored"), rows)


def lifecycle_diagram(kind: lifecycle.Kind) -> str:
    """Return the states of senders, bots or egress addresses as a Mermaid diagram; an arrow says who may take it."""
    ways = sorted(lifecycle.TRANSITIONS[kind].items(), key=lambda way: (way[0][0] or "", way[0][1]))
    arrows = [f"    {before or '[*]'} --> {after}: {' / '.join(sorted(by))}" for (before, after), by in ways]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```"])


def event_keys() -> str:
    """Return the natural keys of events as a table."""
    rows = ((_code(name), " or ".join(map(_code, kind.keys)), kind.so_that) for name, kind in EVENTS.items())
    return _table(("Event", "`natural_key`", "Therefore"), rows)


def events() -> str:
    """Return what each event means, at which mailbox it happens, and what the daily facts make of it, as a table."""
    rows = ((_code(name), one.meaning, one.mailbox, one.counts_as or "nothing") for name, one in EVENTS.items())
    return _table(("Event", "What happened", "`mailbox_id`", "Counts as"), rows)


def event_details() -> str:
    """Return the details of events as a table; events with the same details share their rows."""
    rows = (
        (", ".join(_code(name) for name, one in EVENTS.items() if one.details == kind.details), key, detail)
        for kind in EVENTS.values()
        for key, detail in kind.details.items()
    )
    shown = ((names, _code(key), _values(detail), detail.meaning) for names, key, detail in rows)
    return _table(("Event", "Detail", "Type, or values", "Meaning"), dict.fromkeys(shown))


def _values(detail: Detail) -> str:
    kind = {str: "text", int: "integer", bool: "boolean"}[detail.type]
    return (", ".join(map(_code, detail.values)) or kind) + (", null" if detail.is_optional else "")


# Tables and marts


def table_columns(table: sa.Table) -> str:
    """Return what a table is and its columns, as their comments say."""
    rows = (
        (_code(column.name), _type(column), _text(column.comment or ""))
        for column in table.columns
        if column.name not in EVERYWHERE
    )
    return f"{_text(table.comment or '')}\n\n{_table(('Column', 'Type', 'Meaning'), rows)}"


def marts() -> dict[str, dict[str, Any]]:
    """Return the marts as dbt describes them, by name."""
    models: list[dict[str, Any]] = []
    for file in sorted(MARTS.rglob("*.yml")):
        models += yaml.safe_load(file.read_text(encoding="utf-8"))["models"]
    return {model["name"]: model for model in models}


def mart_columns(model: Mapping[str, Any]) -> str:
    """Return what a mart is and its columns, as dbt describes them."""
    columns = model["columns"]
    rows = ((_code(one["name"]), _short(one["data_type"]), " ".join(one["description"].split())) for one in columns)
    return f"{' '.join(model['description'].split())}\n\n{_table(('Column', 'Type', 'Meaning'), rows)}"


def _type(column: sa.Column[Any]) -> str:
    name = column.type.compile(postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    return f"{_short(name)}, null" if column.nullable else _short(name)


def _short(type_name: str) -> str:
    return type_name.replace("timestamp with time zone", "timestamptz")


def _text(comment: str) -> str:
    """Return a database comment as Markdown: what looks like a name in code stays as it is written."""
    return re.sub(r"(?<![`\w])(\w*_\w+(?:\.\w+)?|\w+\.id)(?![`\w])", r"`\1`", comment)


def _code(word: str) -> str:
    return f"`{word}`" if word else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _cell(content: str) -> str:
    return content.replace("|", "\\|")
