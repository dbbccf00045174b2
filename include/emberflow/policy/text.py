"""A policy as an operator reads and edits it: YAML in which a comment says of every key what it means and may be.

Meanings are those that the models state, in the description of a field or in a paragraph of the class's docstring that
its names head. ``document.load`` reads the text back into the same policy.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from emberflow.policy.document import Policy
from emberflow.senders.policy import WEEKDAYS

_WIDTH = 100
_NAMES = re.compile(r"(``\w+``(, )?)+")
_BOUNDS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "and below {}"))


def as_text(policy: Policy) -> str:
    """Return the policy as commented YAML."""
    return "\n".join(_lines(policy, 0)) + "\n"


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what the fields of a model mean, by name; those that nothing is stated of are missing."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(model.__doc__ or "").splitlines():
        if _NAMES.fullmatch(line):
            names = re.findall(r"``(\w+)``", line)
        elif line.startswith("    "):
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".strip()
        else:
            names = []
    stated = {name: field.description for name, field in model.model_fields.items() if field.description}
    return {name: text.replace("``", "") for name, text in (found | stated).items()}


def _lines(model: BaseModel, depth: int) -> Iterator[str]:
    pad = "  " * depth
    kind = type(model)
    values = model.model_dump(mode="json")
    said = ""
    for name, field in kind.model_fields.items():
        value = getattr(model, name)
        meaning = meanings(kind).get(name, "")
        if isinstance(value, BaseModel):
            if depth == 0:
                yield ""
            yield from _comment(inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0], pad)
            yield f"{pad}{name}:"
            yield from _lines(value, depth + 1)
            continue
        if meaning != said:  # keys that are explained together stand together
            yield from _comment(meaning, pad)
            said = meaning
        shown = [WEEKDAYS[day] for day in value] if name == "weekdays" else values[name]
        first, *rest = _dumped(name, shown).splitlines()
        yield f"{pad}{first}" + ("" if rest else _range(field))
        yield from (f"{pad}{line}" for line in rest)


def _dumped(name: str, value: Any) -> str:
    """Return a key with its value; the innermost lists and mappings in one line."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    is_flat = isinstance(value, list | dict) and not any(isinstance(part, list | dict) for part in parts)
    document: Any = value if is_flat else {name: value}
    style = is_flat or (None if isinstance(value, list | dict) else False)
    dumped: str = yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True, width=1_000_000, default_flow_style=style
    )
    return f"{name}: {dumped}" if is_flat else dumped


def _comment(text: str, pad: str) -> Iterator[str]:
    for line in textwrap.wrap(
        " ".join(text.replace("``", "").split()), _WIDTH - len(f"{pad}# "), break_on_hyphens=False
    ):
        yield f"{pad}# {line}"


def _range(field: FieldInfo) -> str:
    bounds = [
        text.format(bound)
        for name, text in _BOUNDS
        if (bound := next((getattr(part, name) for part in field.metadata if hasattr(part, name)), None)) is not None
    ]
    stated = [" ".join(bounds)] if bounds else []
    default = field.get_default(call_default_factory=False)
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        stated.append(f"default {default}")
    return f"  # {', '.join(stated)}" if stated else ""
