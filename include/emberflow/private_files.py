"""Files and directories of an instance that nobody but their owner may read, whatever the umask is.

Logs name mailboxes and what servers said about them, and state names processes and ports; neither concerns other
accounts of the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

UMASK = 0o077  # of every process that the stack starts


def make_directory(path: Path) -> None:
    """Make ``path`` unless it is there, and close it to others (mode 0700) if it is ours."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o700)


def append(path: Path) -> BinaryIO:
    """Open ``path`` to append bytes; it has mode 0600 from its first byte on, also if an earlier version made it."""
    return _open(path, os.O_APPEND)


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path``, which has mode 0600 from its first byte on."""
    with _open(path, os.O_TRUNC) as file:
        file.write(text.encode())


def _open(path: Path, how: int) -> BinaryIO:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")
