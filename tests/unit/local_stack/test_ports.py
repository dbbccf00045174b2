"""The ports of stacks that start at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
