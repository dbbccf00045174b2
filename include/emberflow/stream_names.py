"""What names a random stream, and choices that need no more than its name's hash (see ``emberflow.randomness``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date, datetime

Name = str | int | date | datetime


def states(seed: int, *names: Name) -> Callable[..., int]:
    """Return a function of more names that returns ``int(state(seed, *names, *more))``.

    What the streams' names have in common is spelled and hashed once: for an entity that draws many times.
    """
    begun = hashlib.sha256(joined([seed, *names, ""]))

    def of(*more: Name) -> int:
        stream = begun.copy()
        stream.update(joined(more))
        return integer(stream)

    return of


def joined(names: Sequence[Name]) -> bytes:
    """Spell the names as one, each ended by a character that none of them holds."""
    return "\x1f".join(map(_spell, names)).encode()


def integer(stream: hashlib._Hash) -> int:
    """Return the first 64 bits of a hash."""
    return int.from_bytes(stream.digest()[:8], "big")


def _spell(name: Name) -> str:
    return name.isoformat() if isinstance(name, date) else str(name)
