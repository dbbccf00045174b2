"""What people do with leads: bring a file in, undo it, have a list looked at, erase a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from emberflow.errors import ConfigurationError, EmberflowError
from emberflow.operations.actor import Actor
from emberflow.operations.audit import doing
from emberflow.settings import Settings

if TYPE_CHECKING:
    from emberflow.accounts.leads.importing import Imported as Imported  # noqa: PLC0414 - named by commands
    from emberflow.accounts.leads.importing import Wanted
    from emberflow.accounts.leads.undoing import Undone
    from emberflow.campaigns.preflight import Preflight
    from emberflow.queue_manager.erasure import Erased


def wanted(mode: str, defaults: Mapping[str, str], fields: Sequence[str], encoding: str | None) -> Wanted:
    """Return how a file is to be read; ``fields`` are NAME=TYPE of custom fields.

    Raises:
        ConfigurationError: there is no such mode or type, or a default is not what a row could say.
    """
    from emberflow.accounts.leads.importing import Wanted, mode_named
    from emberflow.campaigns.leads import FieldType

    types: dict[str, FieldType] = {}
    for one in fields:
        name, _, type_name = one.partition("=")
        if not name or type_name not in list(FieldType):
            raise ConfigurationError(f"--field {one!r} is not NAME=TYPE; types are {', '.join(FieldType)}")
        types[name] = FieldType(type_name)
    return Wanted(mode_named(mode), defaults, types, encoding)


def import_file(
    engine: Engine,
    actor: Actor,
    file: Path,
    wanted: Wanted,
    settings: Settings,
    *,
    reason: str,
    shown: int = 100,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Import a file of leads and return what became of its rows; ``shown`` limits those that are told one by one.

    Raises:
        ConfigurationError: there is no such file, or no such encoding.
        ImportRejectedError: the file or its header cannot be understood; nothing was written.
        BlindError: there are hashes of erased people, and their key is not on this machine.
    """
    from emberflow.accounts.leads import importing

    with doing(engine, actor, "leads.import", file.name, reason, mode=wanted.mode) as deed:
        done = importing.import_file(
            deed.connection, file, wanted, settings.secret_keys,
            by=actor.name, reason=reason, shown=shown, progress=progress,
        )  # fmt: skip
        deed.details |= {"batch": done.batch, **done.counts}
    return done


def try_file(
    engine: Engine,
    file: Path,
    wanted: Wanted,
    settings: Settings,
    *,
    shown: int = 100,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Return what :func:`import_file` would do; nothing of it stays.

    Raises:
        ConfigurationError, ImportRejectedError, BlindError: as :func:`import_file`.
    """
    from emberflow.accounts.leads import importing

    with engine.connect() as connection:
        return importing.import_file(
            connection, file, wanted, settings.secret_keys,
            by="", reason="", is_dry=True, shown=shown, progress=progress,
        )  # fmt: skip


def preflight(
    engine: Engine,
    settings: Settings,
    batch: int | None = None,
    *,
    seconds: float = 300,
    progress: Callable[[], None] = lambda: None,
) -> Preflight:
    """Have the domains of all leads, or of those that an import added, looked up; nothing is stored or sent.

    Raises:
        EmberflowError: there are no leads.
        EgressRefusedError: sandbox mode, and a name server is not on this machine.
    """
    from emberflow.accounts.leads import list_preflight

    return list_preflight.run(engine, settings, batch, seconds=seconds, progress=progress)


def erase(engine: Engine, actor: Actor, address: str, settings: Settings, *, reason: str) -> Erased:
    """Remove what names a person, known or not, and keep one keyed hash that suppresses for ever.

    The audit log names the hash, not the address; see that ``reason`` does not name it either.

    Raises:
        AddressError: it is no address.
        EmberflowError: it is a mailbox of this installation, or the reason holds the address.
        SecretError, ConfigurationError: there is no key for hashes.
    """
    from emberflow.accounts import suppression_hashes
    from emberflow.email_ops.addresses import normalise
    from emberflow.queue_manager import erasure

    normal = normalise(address)
    if normal in reason.lower():
        raise EmberflowError("the reason holds the address, and stays in the audit log: write it without")
    with doing(engine, actor, "leads.erase", "", reason) as deed:
        hasher = suppression_hashes.at_hand(deed.connection, settings.secret_keys)
        deed.subject = f"hash:{hasher.of(normal)}"
        done = erasure.erase(deed.connection, normal, hasher, by=actor.name)
        deed.details |= vars(done)
    return done


def undo_import(engine: Engine, actor: Actor, batch: int, *, reason: str) -> Undone:
    """Remove the leads that an import added, and put back what it changed.

    Raises:
        EmberflowError: there is no such import, it is undone already, mail was planned for or sent to a lead of it
            since, or a later import changed one.
    """
    from emberflow.accounts.leads import undoing

    with doing(engine, actor, "leads.undo_import", f"import {batch}", reason) as deed:
        done = undoing.undo(deed.connection, batch, by=actor.name)
        deed.details |= vars(done)
    return done
