"""YAML that people write: read with limits, so that no file costs more than a message with its line.

A file may be 1 MB, nested 32 deep and, with its aliases written out, hold 100,000 values; a number may have 100
characters. PyYAML has no such limits: it crashes the interpreter, or raises what nobody expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)

_LARGEST_BYTES = 1_000_000
_DEEPEST = 32
_MOST_VALUES = 100_000
_LONGEST_NUMBER = 100
_NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-FxXoO_:.]*")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # tenfold as quick, where PyYAML was built with libyaml


class UnreadableYamlError(Exception):
    """A file is not YAML, or beyond a limit; ``line`` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True)
class Document:
    """A file's content, and where it stands: ``repeated`` are keys that a mapping has twice, as (line, key)."""

    content: Any
    node: yaml.Node | None
    repeated: tuple[tuple[int, str], ...]

    def line(self, location: Location) -> int:
        """Return the line (from 1) of the key or element at ``location``, or of its nearest ancestor that is there."""
        node = self.node
        line = 1 if node is None else node.start_mark.line + 1
        for step in location:
            if isinstance(node, yaml.MappingNode):
                pairs = [(key, value) for key, value in node.value if key.value == step]
                if not pairs:
                    break
                key, node = pairs[-1]
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line


def read(path: Path) -> Document:
    """Return the one document of a file.

    Raises:
        UnreadableYamlError: it cannot be read, is not YAML, or is beyond a limit.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise UnreadableYamlError(1, f"has {size} bytes; the limit is {_LARGEST_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnreadableYamlError(1, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableYamlError(1, f"cannot be read: {error}") from error
    try:
        _require_limits(text)
        return _parse(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UnreadableYamlError(line, str(error.problem)) from error
    except yaml.YAMLError as error:
        raise UnreadableYamlError(1, f"is not YAML: {error}") from error


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file that a person wrote; ``line`` counts from 1."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Checked(Generic[Model]):
    """A file as a model reads it: ``value`` is None if it cannot be read so; ``mistakes`` are in order of lines."""

    value: Model | None
    mistakes: list[Mistake]
    document: Document | None


def check(path: Path, model: type[Model]) -> Checked[Model]:
    """Read a file as a model, and name every mistake with its line."""
    try:
        document = read(path)
    except UnreadableYamlError as error:
        return Checked(None, [Mistake(path, error.line, error.reason)], None)
    found = [Mistake(path, line, f"{key}: is there more than once") for line, key in document.repeated]
    value = None
    try:
        value = model.model_validate(document.content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        found += [
            Mistake(
                path,
                document.line(detail["loc"]),
                f"{spell(detail['loc']) or model.__name__.lower()}: {_reason(detail, model)}",
            )
            for detail in details
            if not any(_is_within(other["loc"], detail["loc"]) for other in details)
        ]
    return Checked(value, sorted(found, key=lambda mistake: mistake.line), document)


def spell(location: Location) -> str:
    """Return a location as a person counts: elements of lists from 1."""
    return ".".join(str(step + 1) if isinstance(step, int) else step for step in location)


def _is_within(location: Location, outer: Location) -> bool:
    """A list of which an element is wrong is also reported as too short: the element's mistake says enough."""
    return len(location) > len(outer) and location[: len(outer)] == outer


def _reason(detail: ErrorDetails, model: type[BaseModel]) -> str:
    match detail["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            known = f"; known are {', '.join(model.model_fields)}" if len(detail["loc"]) == 1 else ""
            return f"is not a known key{known}"
        case "string_type":
            return f"is not text but {detail['input']!r:.60}; put it in quotes"
        case "tuple_type":
            return "is not a list"
        case "model_type" | "dict_type":
            return "is not a mapping of keys to values"
        case "too_short" | "string_too_short" if not detail["input"]:
            return "is empty"
        case "too_short":
            return f"has {detail['ctx']['actual_length']} entries and needs {detail['ctx']['min_length']}"
        case "too_long":
            return f"has {detail['ctx']['actual_length']} entries and may have {detail['ctx']['max_length']}"
        case _:
            return detail["msg"].removeprefix("Value error, ")


def _require_limits(text: str) -> None:
    """Look at the events of the parser, which come one after the other however deep the file is nested."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
            if not event.style and len(event.value) > _LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise UnreadableYamlError(line, f"a number of {len(event.value)} characters")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _DEEPEST:
                raise UnreadableYamlError(line, f"is nested more than {_DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > _MOST_VALUES:
            raise UnreadableYamlError(line, f"holds more than {_MOST_VALUES} values, aliases written out")


def _parse(text: str) -> Document:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        repeated = tuple(_repeated_keys(node))  # before `<<` keys are merged in, which may repeat others
        try:
            return Document(loader.construct_document(node) if node else None, node, repeated)
        except (ValueError, OverflowError) as error:
            raise UnreadableYamlError(_first_wrong(node), f"is not a value: {error}") from error
        except RecursionError as error:
            raise UnreadableYamlError(1, "an alias stands within what it names") from error
    finally:
        loader.dispose()


def _first_wrong(node: yaml.Node | None) -> int:
    """Return the line of the first scalar that cannot be made into a value, such as 2026-13-45."""
    for scalar in _scalars(node):
        loader = _Loader("")
        try:
            loader.construct_document(scalar)
        except (ValueError, OverflowError):
            return int(scalar.start_mark.line) + 1
        finally:
            loader.dispose()
    return 1


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for element in node.value:
            yield from _scalars(element)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for element in pair:
                yield from _scalars(element)


def _repeated_keys(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield the keys that a mapping of the document has twice, of which YAML would silently keep the last.

    Each mapping is looked at once: aliases can name it again and again, and from inside of itself.
    """
    waiting, known = [node], set[int]()
    while waiting:
        mapping = waiting.pop()
        if not isinstance(mapping, yaml.MappingNode) or id(mapping) in known:
            continue
        known.add(id(mapping))
        seen: set[str] = set()
        for key, _ in mapping.value:
            if str(key.value) in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
        waiting += [value for _, value in reversed(mapping.value)]
