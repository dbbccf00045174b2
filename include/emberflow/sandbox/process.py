"""The sandbox as a child process: start it, know where it listens, stop it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from emberflow.errors import StackError

_START_SECONDS = 20
_STOP_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class SandboxAddress:
    """Where a running sandbox listens, and the CA file that its certificates verify against."""

    host: str = "localhost"
    smtp_port: int
    smtps_port: int
    imap_port: int
    imaps_port: int
    ca_file: Path

    def as_json(self) -> dict[str, Any]:
        """Return plain values for the ready line and ``sandbox.json``."""
        return vars(self) | {"ca_file": str(self.ca_file)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SandboxAddress:
        """Read what `as_json` wrote; other keys are ignored."""
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        return cls(**(known | {"ca_file": Path(fields["ca_file"])}))


@contextmanager
def running_sandbox(
    directory: Path, *, smtp_port: int = 0, smtps_port: int = 0, imap_port: int = 0, imaps_port: int = 0
) -> Iterator[SandboxAddress]:
    """Run a sandbox on ``directory`` for the length of the block; port 0 means any free port.

    Accounts may be created before or while it runs. Its mail is gone afterwards; the log of deliveries stays.

    Raises:
        StackError: it was not ready within 20 seconds; the message ends with what it wrote to stderr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ports = {"smtp": smtp_port, "smtps": smtps_port, "imap": imap_port, "imaps": imaps_port}
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    log_path = directory / "sandbox.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "emberflow.sandbox", str(directory), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield _await_ready(process, log_path)
    finally:
        _stop(process)


def _await_ready(process: subprocess.Popen[str], log_path: Path) -> SandboxAddress:
    stdout = cast(IO[str], process.stdout)
    readable, _, _ = select.select([stdout], [], [], _START_SECONDS)
    line = stdout.readline() if readable else ""
    if not line:
        _stop(process)
        why = "ended" if readable else f"was not ready within {_START_SECONDS} s"
        raise StackError(f"the mail sandbox {why}: {log_path.read_text()[-2000:].strip() or 'no output'}")
    return SandboxAddress.from_json(json.loads(line))


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    cast(IO[str], process.stdout).close()
