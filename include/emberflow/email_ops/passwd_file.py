"""Mailboxes as lines of a passwd-file of Dovecot's, and of a map of Postfix's if it needs one.

A line is ``address:{ARGON2ID}hash`` and what the operator's settings put after it. Lines are only ever added, under a
lock (``FILE.lock``), each in one write, so that owner, mode and a mount on the very file stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from emberflow.email_ops import password_hashes
from emberflow.email_ops.addresses import normalise
from emberflow.email_ops.provisioning import MailboxTakenError, ProvisioningError
from emberflow.settings import ProvisionPasswdFile

NOTICED_WITHIN_S = 2.0  # Dovecot 2.3 compares the file's time and size once in each second of its clock
_POSTMAP_SECONDS = 30.0


def has(place: ProvisionPasswdFile, address: str) -> bool:
    """Return whether the file has a line of this address.

    Raises:
        ProvisioningError: it cannot be read.
    """
    return _stored(place.file, _key(address)) is not None


def create(place: ProvisionPasswdFile, address: str, password: SecretStr) -> None:
    """Add the mailbox ``address``; one that is there with this password is left as it is.

    Raises:
        AddressError: the address cannot stand in a passwd-file.
        MailboxTakenError: the file has it with another password.
        ProvisioningError: the file cannot be read or written; or it was, and the map was not.
    """
    key = _key(address)
    with _locked(place.file):
        stored = _stored(place.file, key)
        if stored is None:
            _add(place.file, f"{key}:{password_hashes.hashed(password)}{place.fields}")
        elif not password_hashes.is_of(stored, password):
            raise MailboxTakenError(f"{place.file} has {key} already, with another password")
        if place.mailbox_map is not None:
            _add_to_map(place.mailbox_map, place.map_type, key)


def _key(address: str) -> str:
    key = normalise(address)
    if ":" in key or key.startswith("#"):
        raise ProvisioningError(f"{key} cannot stand in a passwd-file")
    return key


def _stored(file: Path, key: str) -> str | None:
    """Return the password field of a line; None if there is no line."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise ProvisioningError(f"the passwd-file {file} cannot be read: {error.strerror}") from error
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip().lower() == key:
            return rest.partition(":")[0]
    return None


def _add_to_map(file: Path, map_type: str | None, key: str) -> None:
    try:
        known = {line.split()[0].lower() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise ProvisioningError(f"the map {file} cannot be read: {error}", is_certain=False) from error
    if key not in known:
        _add(file, f"{key} OK")
    if map_type is None:
        return
    try:
        subprocess.run(
            ["postmap", f"{map_type}:{file}"],  # noqa: S607 - wherever the system has it
            env=os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"},
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_POSTMAP_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProvisioningError(f"postmap {map_type}:{file} failed: {last_line}", is_certain=False) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProvisioningError(f"postmap {map_type}:{file} failed: {error}", is_certain=False) from None


def _add(file: Path, line: str) -> None:
    try:
        is_open = not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
        with file.open("ab") as out:
            out.write((b"\n" if is_open else b"") + line.encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise ProvisioningError(f"{file} cannot be written: {error.strerror}", is_certain=False) from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other runs of this program out; what else writes the file has its own ways."""
    lock = file.with_name(f"{file.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ProvisioningError(f"{lock} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
