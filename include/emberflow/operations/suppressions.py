"""What people decide about who gets no mail."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from emberflow.accounts import suppressions
from emberflow.accounts.suppressions import Target
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager.cancellation import Added, suppress

__all__ = ["Added", "Target", "add", "import_file", "remove"]


def add(engine: Engine, actor: Actor, written: str, *, reason: str) -> tuple[Target, Added]:
    """Send nothing to an address, or to a domain (``@example.com``), any more, and cancel what is planned for it.

    Raises:
        AddressError: it is neither.
    """
    target = suppressions.parse_target(written)
    with doing(engine, actor, "suppressions.add", str(target), reason) as deed:
        added = suppress(deed.connection, [(target, reason)], by=actor.name)
        deed.details |= vars(added)
    return target, added


def import_file(engine: Engine, actor: Actor, file: Path, *, reason: str) -> tuple[int, Added]:
    """Suppress every address and domain of a file, all rows or none; return how many it names, and what was new.

    ``reason`` stands in for that of a row without one.

    Raises:
        ImportRejectedError: it cannot be read, or a row is invalid.
    """
    pairs = suppressions.read_file(file, reason)
    with doing(engine, actor, "suppressions.import", str(file), reason, rows=len(pairs)) as deed:
        added = suppress(deed.connection, pairs, by=actor.name)
        deed.details |= vars(added)
    return len(pairs), added


def remove(engine: Engine, actor: Actor, written: str, *, reason: str) -> Target:
    """Allow mail to an address or a domain again; what was cancelled stays cancelled.

    Raises:
        EmberflowError: there is no such entry.
    """
    target = suppressions.parse_target(written)
    with doing(engine, actor, "suppressions.remove", str(target), reason) as deed:
        suppressions.remove(deed.connection, target)
    return target
