"""What the stack leaves on the disk is for its owner only, whatever the operator's umask is."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emberflow import private_files
from emberflow.local_stack import airflow
from emberflow.local_stack.processes import Service
from emberflow.local_stack.stack import Stack


@pytest.fixture(autouse=True)
def _careless_umask() -> Iterator[None]:
    """An operator whose shell lets everybody read what it writes."""
    before = os.umask(0o000)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_process_of_the_stack_writes_for_its_owner_only(tmp_path: Path) -> None:
    """F-B1: its log, its pid file, and whatever it creates itself."""
    made = tmp_path / "made"
    service = Service("writer", tmp_path / "run")
    service.start(
        [
            sys.executable,
            "-c",
            f"import time; open({str(made)!r}, 'w').close(); print('up', flush=True); time.sleep(60)",
        ],
        dict(os.environ),
        die_with_parent=True,
    )
    try:
        deadline = time.monotonic() + 30
        while "up" not in service.log_tail() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mode(tmp_path / "run") == 0o700
        assert mode(service.log_file) == mode(tmp_path / "run" / "writer.pid") == mode(made) == 0o600
    finally:
        service.stop()


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    directory, log = tmp_path / "run", tmp_path / "run" / "old.log"
    directory.mkdir(mode=0o755)
    log.write_text("old\n")
    log.chmod(0o644)

    private_files.make_directory(directory)
    with private_files.append(log) as file:
        file.write(b"new\n")

    assert (mode(directory), mode(log)) == (0o700, 0o600)
    assert log.read_text() == "old\nnew\n"


def test_the_home_its_keys_and_its_ports_are_closed(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "home", attached=True)
    private_files.make_directory(stack.home)
    stack.settings()
    stack.sandbox_address()

    assert mode(stack.home) == 0o700
    assert {file.name: mode(file) for file in stack.home.iterdir()} == {"keys.env": 0o600, "ports.json": 0o600}


def test_airflow_keeps_its_logs_and_its_password_to_itself(tmp_path: Path) -> None:
    """Airflow sets the modes of its logs itself and asks no umask."""
    keys = dict.fromkeys(("AIRFLOW_FERNET_KEY", "AIRFLOW_API_SECRET_KEY", "AIRFLOW_JWT_SECRET"), "key")
    variables = airflow.environment(tmp_path / "airflow", "postgresql://", 8080, keys, "chosen")

    assert variables["AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS"] == "0o700"
    assert variables["AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS"] == "0o600"
    passwords = Path(variables["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    assert json.loads(passwords.read_text()) == {"admin": "chosen"}
    assert (mode(passwords), mode(passwords.parent)) == (0o600, 0o700)
