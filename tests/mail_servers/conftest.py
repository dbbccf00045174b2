"""Dovecot and Postfix for the length of the tests: one of each per test process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mail_servers import dovecot as dovecots
from tests.mail_servers import postfix as postfixes
from tests.mail_servers.dovecot import Dovecot
from tests.mail_servers.postfix import Postfix
from tests.mail_servers.servers import RealServers
from tests.worlds import Sandbox


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory with a short name that other users may enter: pytest's own is closed to the servers' users."""
    directory = Path(tempfile.mkdtemp(prefix="emberflow-mail-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def dovecot(open_directory: Path) -> Iterator[Dovecot]:
    """A running Dovecot; the test is skipped where there is none."""
    reason = dovecots.why_not()
    if reason is not None:
        pytest.skip(reason)
    directory = open_directory / "dovecot"
    directory.mkdir()
    with Dovecot(directory) as server:
        yield server


@pytest.fixture(scope="session")
def postfix(open_directory: Path, dovecot: Dovecot) -> Iterator[Postfix]:
    """A running Postfix in front of Dovecot; the test is skipped where there is none, or no right to run it."""
    reason = postfixes.why_not()
    if reason is not None:
        pytest.skip(reason)
    directory = open_directory / "postfix"
    directory.mkdir()
    with Postfix(directory, dovecot) as server:
        yield server


@pytest.fixture(scope="session")
def real_servers(dovecot: Dovecot, postfix: Postfix) -> RealServers:
    """Both, as the sandbox of a world."""
    return RealServers.of(dovecot, postfix)


@pytest.fixture(params=["sandbox", "Postfix and Dovecot"])
def servers(request: pytest.FixtureRequest) -> Sandbox:
    """The mail sandbox, and the real servers: what holds for one holds for the other."""
    name = "sandbox" if request.param == "sandbox" else "real_servers"
    found = request.getfixturevalue(name)
    assert isinstance(found, Sandbox)
    return found
