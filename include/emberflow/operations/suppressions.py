"""What people decide about who gets no mail."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from sqlalchemy import Connection, Engine

from emberflow import private_files
from emberflow.accounts import suppression_hashes, suppressions
from emberflow.accounts.suppression_hashes import Hasher
from emberflow.accounts.suppressions import Entry, Target
from emberflow.domain.suppression import SuppressionCause
from emberflow.errors import ConfigurationError
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.queue_manager.cancellation import Added, suppress
from emberflow.reporting.suppressions import exported
from emberflow.settings import Settings

__all__ = ["Added", "SuppressionCause", "Target", "add", "export_file", "import_file", "remove"]


def add(
    engine: Engine,
    actor: Actor,
    written: str,
    *,
    reason: str,
    settings: Settings,
    cause: SuppressionCause = SuppressionCause.OPERATOR,
) -> tuple[Target, Added]:
    """Send nothing to an address, a domain (``@example.com``) or a hashed address any more; cancel what is planned.

    Raises:
        AddressError: it is none of these.
        SecretError: it is a hash, and there is no key for hashes.
    """
    with doing(engine, actor, "suppressions.add", "", reason, cause=cause) as deed:
        hasher = _hasher(deed.connection, settings) if suppressions.is_hash(written) else None
        target = suppressions.parse_target(written, hasher)
        deed.subject = str(target)
        added = suppress(deed.connection, [Entry(target, cause, reason)], by=actor.name, hasher=hasher)
        deed.details |= vars(added)
    return target, added


def import_file(
    engine: Engine,
    actor: Actor,
    file: Path,
    *,
    reason: str,
    settings: Settings,
    cause: SuppressionCause = SuppressionCause.IMPORTED,
) -> tuple[int, Added]:
    """Suppress every address, domain and hash of a file, all rows or none; return how many, and what was new.

    ``cause`` and ``reason`` stand in for those of a row without its own.

    Raises:
        ImportRejectedError: it cannot be read, or a row is invalid.
        SecretError: it names hashes, and there is no key for hashes.
    """
    needs_key = suppressions.holds_hashes(file)
    with doing(engine, actor, "suppressions.import", str(file), reason) as deed:
        hasher = _hasher(deed.connection, settings) if needs_key else None
        entries = suppressions.read_file(file, cause, reason, hasher)
        added = suppress(deed.connection, entries, by=actor.name, hasher=hasher)
        deed.details |= {"rows": len(entries), **vars(added)}
    return len(entries), added


def export_file(engine: Engine, actor: Actor, file: Path, *, reason: str) -> int:
    """Write every entry to a CSV file that only its owner may read; return how many. It comes in again by import.

    Raises:
        ConfigurationError: there is such a file.
    """
    if file.exists():
        raise ConfigurationError(f"{file} is there already: name another file")
    with doing(engine, actor, "suppressions.export", str(file), reason) as deed:
        rows = exported(deed.connection)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(suppressions.COLUMNS)
        writer.writerows(suppressions.written_row(row) for row in rows)
        private_files.write_text(file, text.getvalue())
        deed.details["rows"] = len(rows)
    return len(rows)


def remove(engine: Engine, actor: Actor, written: str, *, reason: str) -> Target:
    """Allow mail to an address, a domain or a hash of an export again; what was cancelled stays cancelled.

    Raises:
        EmberflowError: there is no such entry.
    """
    target = suppressions.parse_target(written)
    with doing(engine, actor, "suppressions.remove", str(target), reason) as deed:
        suppressions.remove(deed.connection, target)
    return target


def _hasher(connection: Connection, settings: Settings) -> Hasher:
    return suppression_hashes.at_hand(connection, settings.secret_keys)
