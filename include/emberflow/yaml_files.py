"""YAML that people write: read with limits, so that no file costs more than a message with its line.

A file may be 1 MB, nested 32 deep and, with its aliases written out, hold 100,000 values; a number may have 100
characters. PyYAML has no such limits: it crashes the interpreter, or raises what nobody expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Location = tuple[int | str, ...]

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
