"""Logs of the stack's processes do not grow for ever: they are rotated by size, and task logs are kept for some days.

The processes hold their logs open to append. So a log that is full is copied and then emptied in place, and each goes
on writing to the file that it has; what is written between the two steps is lost.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from emberflow import private_files

LARGEST_BYTES = 10_000_000
KEPT_COPIES = 3
TASK_LOG_DAYS = 14


def rotate(log: Path, largest_bytes: int = LARGEST_BYTES, kept: int = KEPT_COPIES) -> bool:
    """Empty ``log`` if it is larger than that; its content is ``log.1`` then, and older copies move on by one."""
    try:
        if log.stat().st_size <= largest_bytes:
            return False
    except FileNotFoundError:
        return False
    copies = [log.with_name(f"{log.name}.{number}") for number in range(1, kept + 1)]
    for older, newer in zip(reversed(copies), reversed(copies[:-1]), strict=False):
        if newer.exists():
            newer.replace(older)
    with log.open("rb") as content, private_files.append(copies[0]) as copy:
        shutil.copyfileobj(content, copy)
    os.truncate(log, 0)
    return True


def remove_old(directory: Path, before: float) -> int:
    """Remove the files below ``directory`` last written before that time stamp, then empty directories.

    Return how many files were removed.
    """
    removed = 0
    for file in _deepest_first(directory):
        try:
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            elif file.lstat().st_mtime < before:
                file.unlink()
                removed += 1
        except OSError:
            continue  # not empty, or gone already
    return removed


def _deepest_first(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory, topdown=False):
        yield from (Path(parent) / name for name in (*files, *directories))
