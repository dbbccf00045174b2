"""The ports of stacks that start at the same time."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from emberflow.errors import StackError
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.local_stack.stack import Stack


def test_of_two_stacks_that_start_together_only_one_counts_on_the_preferred_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("emberflow.local_stack.stack._PREFERRED_AIRFLOW_PORT", 20_001)
    ports = []
    stacks = [Stack(tmp_path / name, attached=False) for name in ("one", "other")]
    for stack in stacks:
        stack.home.mkdir()
        stack.sandbox_address()
        ports.append(json.loads((stack.home / "ports.json").read_text())["airflow"])
    assert ports[0] == 20_001
    assert ports[1] != 20_001


@pytest.mark.parametrize("taken", ["airflow", "imaps"])
def test_a_port_that_another_program_uses_is_named_and_nothing_is_started_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "start", lambda *_, **__: None)
    monkeypatch.setattr(EmbeddedPostgres, "create_database", lambda *_: None)
    stack = Stack(tmp_path, attached=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack.sandbox_address()
        ports = json.loads((tmp_path / "ports.json").read_text()) | {taken: port}
        (tmp_path / "ports.json").write_text(json.dumps(ports))
        try:
            with pytest.raises(StackError, match=rf"127\.0\.0\.1:{port} is used by another program"):
                stack.start_servers()
        finally:
            stack.stop()

    assert not list(tmp_path.glob("run/*.log"))


def test_what_the_supervisor_starts_again_looks_at_its_port_too(tmp_path: Path) -> None:
    stack = Stack(tmp_path, attached=False)
    stack.sandbox_address()
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = json.loads((tmp_path / "ports.json").read_text()) | {"airflow": other.getsockname()[1]}
        (tmp_path / "ports.json").write_text(json.dumps(ports))
        (api_server,) = (part for part in stack.parts() if part.name == "airflow-api-server")
        try:
            with pytest.raises(StackError, match="is used by another program"):
                api_server.start()
            assert not api_server.is_running()
        finally:
            stack.stop()
