"""Files of variables of the stack, ``keys.env`` and ``stack.env``: a line ``NAME='value'`` for each.

Settings read the same files with python-dotenv, so a quote or a backslash in a value is escaped as that library
understands it, by a backslash. A shell would want ``'"'"'`` instead, which python-dotenv refuses together with the rest
of the value; no shell reads these files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from emberflow import private_files

_LINE = re.compile(r"^(\w+)=(?:'((?:\\[\s\S]|[^'\\])*)'|([^\n]*))$", re.MULTILINE)
_ESCAPED = re.compile(r"\\([\\'])")


def read(file: Path) -> dict[str, str]:
    """Return the variables of a file, by name; a value without quotes is taken as it stands."""
    return {name: bare or _ESCAPED.sub(r"\1", quoted) for name, quoted, bare in _LINE.findall(file.read_text())}


def write(file: Path, variables: Mapping[str, str]) -> None:
    """Write a file that only its owner may read, in a directory that only its owner may enter."""
    lines = [f"{name}='{_escaped(value)}'\n" for name, value in variables.items()]
    private_files.make_directory(file.parent)
    private_files.write_text(file, "".join(lines))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("'", r"\'")
