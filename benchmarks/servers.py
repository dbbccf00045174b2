"""What a benchmark runs against: a PostgreSQL of its own, an SMTP sink, and peers installed on demand.

Everything but the cache of installed peers is gone when its block ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sqlalchemy import Engine

from emberflow.database.engine import open_engine
from emberflow.database.migrate import upgrade
from emberflow.errors import EmberflowError, StackError
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.sandbox.certificates import ensure_certificates
from emberflow.settings import PROJECT_ROOT, home

HERE = Path(__file__).resolve().parent
_START_S = 20.0
_INSTALL_S = 600.0
_WORKER_S = 900.0


class PeerError(EmberflowError):
    """A peer could not be installed or did not finish; the benchmark goes on without it and says so."""


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="emberflow-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def postgres_server(directory: Path) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL server with the product's settings: durable commits, autovacuum on."""
    server = EmbeddedPostgres(directory)
    try:
        server.start(die_with_parent=True)
        yield server
    finally:
        server.stop()


@contextmanager
def emberflow_database(server: EmbeddedPostgres, name: str) -> Iterator[Engine]:
    """Yield the product's engine of a new database with the product's schema."""
    server.create_database(name)
    engine = open_engine(server.url(name))
    try:
        upgrade(engine)
        yield engine
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Sink:
    """A running sink: it takes every message on ``localhost:port`` over STARTTLS and AUTH, and counts them."""

    pid: int
    port: int
    ca_file: Path


@contextmanager
def smtp_sink(directory: Path) -> Iterator[Sink]:
    """Run the sink in a process of its own."""
    certificates = ensure_certificates(directory)
    with running([sys.executable, "-m", "benchmarks.sink", str(certificates.cert_file), str(certificates.key_file)],
                 directory / "sink.log") as (process, ready):  # fmt: skip
        yield Sink(process.pid, int(ready["port"]), certificates.ca_file)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a server that prints one JSON line when it is ready and ends with its standard input; yield both.

    Raises:
        StackError: no line came within 20 seconds.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=PROJECT_ROOT
        )
    stdout = cast(IO[str], process.stdout)
    try:
        readable, _, _ = select.select([stdout], [], [], _START_S)
        line = stdout.readline() if readable else ""
        if not line:
            raise StackError(f"{' '.join(command[:3])} did not start: {log.read_text()[-2000:]}")
        yield process, json.loads(line)
    finally:
        cast(IO[str], process.stdin).close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stdout.close()


def run_worker(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run one round of a contender in a process of its own and return the JSON object on its last line of output.

    Raises:
        PeerError: it failed; the text carries the end of what it wrote to stderr.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_WORKER_S, cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL, env=os.environ | dict(environment or {}),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise PeerError(f"`{' '.join(command[1:4])}` ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def python_for_peers() -> Path:
    """Return the Python of a virtual environment that holds ``peers.txt``, made unless it is there.

    Raises:
        PeerError: the packages cannot be installed.
    """
    requirements = HERE / "peers.txt"
    place = _cache(requirements)
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=False)
        _install(
            [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-r", str(requirements)], place
        )
    return python


def node_modules() -> Path:
    """Return a ``node_modules`` directory that holds what ``package-lock.json`` pins, made unless it is there.

    Raises:
        PeerError: Node.js or npm is missing, or the packages cannot be installed.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise PeerError("Node.js with npm is not installed (Debian: apt-get install nodejs npm)")
    lock = HERE / "package-lock.json"
    place = _cache(lock)
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, place)
        _install([npm, "ci", "--prefix", str(place), "--ignore-scripts", "--no-audit", "--no-fund"], place)
    return place / "node_modules"


def _cache(pins: Path) -> Path:
    """Return the cache directory of what ``pins`` names; other pins have another one."""
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()[:12]
    return home() / "bench-peers" / f"{pins.stem}-{digest}"


def _install(command: Sequence[str], place: Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"cannot install the peers: {error}") from error
    if done.returncode != 0:
        raise PeerError(f"cannot install the peers: {done.stderr.strip()[-600:]}")
    (place / "complete").touch()
