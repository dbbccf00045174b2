"""The small files of the state directory: replaced as a whole, and re-read when somebody replaced them."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from emberflow.errors import ConfigurationError

T = TypeVar("T")

logger = logging.getLogger(__name__)


def replace_file(path: Path, text: str) -> None:
    """Replace ``path`` by a file of mode 0600 that holds ``text``; a reader never sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock between processes; the lock file stays behind, empty.

    Raises:
        BlockingIOError: ``wait`` is false and another process holds the lock.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


class Watched(Generic[T]):
    """The parsed content of a file, which is read again whenever the file was replaced or edited.

    Looking costs one ``stat``. A change that cannot be read is reported to the log once, and the last good
    content stays.

    Raises:
        ConfigurationError: the file is unreadable from the start (``parse`` raised ``ValueError``).
    """

    def __init__(self, path: Path, parse: Callable[[str], T], missing: T) -> None:
        self._path = path
        self._parse = parse
        self._missing = missing
        self._stamp: tuple[int, int, int] | None = None
        self._content = missing
        try:
            self._follow()
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}; correct or remove the file") from error

    def content(self) -> T:
        """Return what the file says now, or ``missing`` when there is no such file."""
        try:
            self._follow()
        except ValueError as error:
            logger.warning("%s: %s; what it said before still holds", self._path, error)
        return self._content

    def _follow(self) -> None:
        try:
            status = self._path.stat()
            # The inode tells two replacements within one tick of the file system's clock apart.
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._stamp = stamp
                self._content = self._parse(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._stamp, self._content = None, self._missing
