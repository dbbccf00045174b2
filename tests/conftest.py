"""What every test shares: a clean environment, one PostgreSQL server and one mail sandbox for the session."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg2 import sql
from sqlalchemy import Engine, make_url
from typer.testing import CliRunner

from emberflow.cli.main import app
from emberflow.database.engine import open_engine
from emberflow.database.migrate import upgrade
from emberflow.email_ops import oauth
from emberflow.email_ops.egress import install_loopback_guard
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.sandbox import running_sandbox
from emberflow.sandbox.rules import Rules, write_rules
from emberflow.settings import settings
from tests.worlds import Command, Sandbox, World

# A loaded machine is slow, not wrong.
hypothesis_settings.register_profile("emberflow", deadline=None)
hypothesis_settings.load_profile("emberflow")

# Nothing that the caller's shell has set may steer a test.
for name in [name for name in os.environ if name.startswith(("AIRFLOW", "EMBERFLOW_", "DBT_"))]:
    del os.environ[name]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux keeps files there in memory; ours get a directory of their own
_ROOM = 2 * 1024**3  # bytes
_TEMPLATE = "template_emberflow"
_DROP = sql.SQL("drop database {} with (force)")
_numbers = count(1)


# Every destination outside this machine that anybody in this process asked a Python socket for.
_asked_for: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto", "socket.sendmsg") or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0])
    if not host.startswith("127.") and host not in ("::1", "localhost"):
        _asked_for.append(host)


# Before the product's guard, whose refusal would end the round of hooks.
sys.addaudithook(_watch)


@pytest.fixture
def outside() -> list[str]:
    """The destinations outside this machine that the test asks a socket for, whether or not the guard stops it."""
    _asked_for.clear()
    return _asked_for


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests on this machine, and away from the state of a stack that runs in this clone."""
    install_loopback_guard()
    os.environ["EMBERFLOW_HOME"] = str(tmp_path_factory.mktemp("home"))
    settings.cache_clear()


@pytest.fixture(autouse=True)
def _no_grants_of_another_test() -> None:
    """Access tokens are kept per process by mailbox id, and every test's database begins with mailbox 1."""
    oauth.forget_everything()


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for data that nobody keeps: in memory where there is room, because a database has 300 files."""
    for left in _SHARED_MEMORY.glob("emberflow-tests-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():  # its process was killed
            shutil.rmtree(left, ignore_errors=True)
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM:
        yield tmp_path_factory.mktemp("memory")
        return
    directory = _SHARED_MEMORY / f"emberflow-tests-{os.getpid()}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server without databases of its own."""
    server = EmbeddedPostgres(memory / "postgres")
    server.start(die_with_parent=True)
    try:
        # Data that nobody keeps need not survive a power cut.
        _administer(server, sql.SQL("alter system set fsync = off"), sql.SQL("select pg_reload_conf()"))
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database that others are copied from."""
    postgres.create_database(_TEMPLATE)
    engine = open_engine(postgres.url(_TEMPLATE))
    upgrade(engine)
    engine.dispose()
    return _TEMPLATE


@pytest.fixture(scope="session")
def _clones(postgres: EmbeddedPostgres, template: str) -> Iterator[_Clones]:
    with ThreadPoolExecutor(1) as worker:
        yield _Clones(postgres, template, worker)


@pytest.fixture
def database(postgres: EmbeddedPostgres, _clones: _Clones) -> Iterator[Engine]:
    """An engine of a migrated, empty database that is this test's own."""
    name = _clones.take()
    engine = open_engine(postgres.url(name))
    try:
        yield engine
    finally:
        engine.dispose()
        _clones.drop(name)


@pytest.fixture
def bare_database(postgres: EmbeddedPostgres) -> Iterator[Engine]:
    """An engine of a database without Emberflow's schema that is this test's own."""
    name = f"bare_{next(_numbers)}"
    postgres.create_database(name)
    engine = open_engine(postgres.url(name))
    try:
        yield engine
    finally:
        engine.dispose()
        _administer(postgres, _DROP.format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A running mail sandbox that files nothing to Junk until its rules change."""
    directory = tmp_path_factory.mktemp("sandbox")
    write_rules(directory, Rules(default=0))
    with running_sandbox(directory) as address:
        yield Sandbox(address, directory)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set variables of the configuration that a process would find, for this test."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield set_variables
    settings.cache_clear()


@pytest.fixture
def run(world: World, configure: Callable[..., None]) -> Command:
    """Run a command as a process with the configuration of the test's own ``world`` would, at the machine's time."""
    configure(**world.variables())
    return lambda *arguments, **options: CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand out the longest files first, which would otherwise be waited for in the end."""
    markers = ((item, item.get_closest_marker("long")) for item in items)
    seconds = {item: 0 if marker is None else marker.kwargs["seconds"] for item, marker in markers}
    items.sort(key=lambda item: -seconds[item])


class _Clones:
    """Copies of the template, each made while the test before it runs, because PostgreSQL needs a while."""

    def __init__(self, postgres: EmbeddedPostgres, template: str, worker: ThreadPoolExecutor) -> None:
        self._postgres = postgres
        self._template = template
        self._worker = worker
        self._next = worker.submit(self._make)

    def take(self) -> str:
        name = self._next.result()
        self._next = self._worker.submit(self._make)
        return name

    def drop(self, name: str) -> None:
        self._worker.submit(_administer, self._postgres, _DROP.format(sql.Identifier(name)))

    def _make(self) -> str:
        name = f"test_{next(_numbers)}"
        copy = sql.SQL("create database {} template {} strategy file_copy")
        _administer(self._postgres, copy.format(sql.Identifier(name), sql.Identifier(self._template)))
        return name


def _administer(postgres: EmbeddedPostgres, *statements: sql.Composable) -> None:
    address = make_url(postgres.url("postgres"))
    connection = psycopg2.connect(host=str(address.query["host"]), user=address.username, dbname=address.database)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
