"""Other people's collections of returned mail, fetched from the package indexes when a test asks for them.

Nothing of them is in this repository. What was read before they were chosen: ``flufl.bounce`` is Apache-2.0,
``bounced`` and ``baunsu`` are MIT; all three put their samples into the packages that they publish.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

# Seconds; an index that is not reachable refuses or is silent.
_PATIENCE = 60


class Unreachable(Exception):  # noqa: N818 - a reason to skip, not a fault
    """A package cannot be had here and now; the text says why."""


class Expected(NamedTuple):
    """What the authors of ``flufl.bounce`` expect of one of their samples."""

    file: Path
    recipients: frozenset[str]
    is_temporary: bool


def of_pypi(name: str, version: str, below: Path) -> Path:
    """Return the unpacked source distribution of a package.

    Raises:
        Unreachable: no index has it, or none answers.
    """
    arguments = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, f"{name}=={version}"]
    return _fetched([sys.executable, *arguments, "--dest"], f"{name}-{version}", below)


def of_npm(name: str, version: str, below: Path) -> Path:
    """Return the unpacked package of the npm registry.

    Raises:
        Unreachable: there is no npm, no registry has it, or none answers.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Unreachable("npm is not installed")
    return _fetched([npm, "pack", "--silent", f"{name}@{version}", "--pack-destination"], f"{name}-{version}", below)


def expected_of_flufl(unpacked: Path) -> list[Expected]:
    """Return the table in the tests of ``flufl.bounce``: a sample, whose addresses bounced, and whether for a time."""
    tests = next(unpacked.glob("flufl*/tests"))
    tree = ast.parse((tests / "test_detectors.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "DETECTORS"
    )
    rows = ast.literal_eval(table)
    return [
        Expected(tests / "data" / file, frozenset(address.decode().lower() for address in addresses), is_temporary)
        for _, file, addresses, is_temporary in rows
        if addresses
    ]


def _fetched(command: list[str], label: str, below: Path) -> Path:
    unpacked = below / label
    if unpacked.is_dir():
        return unpacked
    partly = below / f"{label}.partly"
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    try:
        subprocess.run([*command, str(partly)], check=True, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(f"{label} cannot be fetched: {error}") from error
    (archive,) = partly.glob("*.tar.gz") if list(partly.glob("*.tar.gz")) else partly.glob("*.tgz")
    with tarfile.open(archive) as opened:
        _extract(opened, partly)
    archive.unlink()
    partly.rename(unpacked)
    return unpacked


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Write the files of an archive below ``folder`` and nothing else: Debian's Python 3.11.2 knows no filters."""
    for member in archive:
        target = (folder / member.name).resolve()
        content = archive.extractfile(member) if member.isfile() else None
        if content is not None and target.is_relative_to(folder.resolve()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
