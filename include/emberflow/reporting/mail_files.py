"""Raw messages in files, one after another: single messages, mbox files, Maildirs and other folders, standard input.

Of each message as much is kept as is read of one (256 KiB), so a large file costs time and no memory.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

STANDARD_INPUT = "-"

# RFC 4155: `From `, the envelope sender, and a time. A sentence that begins with `From` has no time.
_ENVELOPE = re.compile(rb"From \S+ .*\d{1,2}:\d{2}.*\d{4}")
_CR_ENVELOPE = re.compile(rb"\AFrom \S+ [^\r\n]{1,200}\r(?!\n)")
_MAILDIR = ("new", "cur")
_LINE_BYTES = 64 * 1024


@dataclass(frozen=True)
class MailFile:
    """One message, ``file`` being its path, and behind ``#`` its number in an mbox of several; or why there is none."""

    file: str
    raw: bytes = b""
    problem: str | None = None


def messages_in(paths: list[str], limit: int) -> Iterator[MailFile]:
    """Yield the messages of files and folders in their order, each cut at ``limit`` bytes. Never raises."""
    for path in paths:
        try:
            if path == STANDARD_INPUT:
                yield from _messages_of(path, sys.stdin.buffer, limit)
            elif Path(path).is_dir():
                yield from _of_folder(Path(path), limit)
            else:
                with Path(path).open("rb") as opened:
                    yield from _messages_of(path, opened, limit)
        except (OSError, ValueError) as error:
            yield MailFile(path, problem=_why(error))


def _of_folder(folder: Path, limit: int) -> Iterator[MailFile]:
    is_maildir = all((folder / name).is_dir() for name in _MAILDIR)
    folders = [folder / name for name in _MAILDIR] if is_maildir else [folder]
    files = sorted(file for each in folders for file in each.iterdir() if file.is_file())
    if not files:
        yield MailFile(str(folder), problem="there is no message in this folder")
    for file in files:
        try:
            with file.open("rb") as opened:
                yield from _messages_of(str(file), opened, limit)
        except OSError as error:
            yield MailFile(str(file), problem=_why(error))


def _messages_of(name: str, opened: BinaryIO, limit: int) -> Iterator[MailFile]:
    first = opened.readline(_LINE_BYTES)
    if not _ENVELOPE.match(first) or not first.endswith(b"\n"):
        raw = first + opened.read(max(limit - len(first), 0))
        # Old Macs end lines with CR alone, and then all is one line here.
        yield MailFile(name, _CR_ENVELOPE.sub(b"", raw, count=1)[:limit])
        return
    # The number stands behind a name only if there is a second message, so one is held back.
    held: bytes | None = None
    number = 0
    for raw in _of_mbox(opened, limit):
        if held is not None:
            number += 1
            yield MailFile(f"{name}#{number}", held)
        held = raw
    if held is not None:
        yield MailFile(f"{name}#{number + 1}" if number else name, held)


def _of_mbox(opened: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield what stands between the lines that begin a message, behind an empty one (RFC 4155)."""
    kept: list[bytes] = []
    size = 0
    is_after_empty_line = False
    while line := opened.readline(_LINE_BYTES):
        if is_after_empty_line and _ENVELOPE.match(line):
            yield b"".join(kept)[:limit]
            kept, size = [], 0
        elif size < limit:
            kept.append(line)
            size += len(line)
        is_after_empty_line = line in (b"\n", b"\r\n")
    yield b"".join(kept)[:limit]


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
