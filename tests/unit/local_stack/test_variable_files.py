"""What the stack writes into `keys.env` and `stack.env` is read back as it was, by the stack and as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from emberflow.local_stack import variable_files
from emberflow.settings import read_settings

VALUES = ["it's", "'", "''", r"a\b", "a\\", r"\'", "two\nlines", "", "a # b", '{"o\'brien.test": "C:\\\\ca.pem"}']


@pytest.mark.parametrize("value", VALUES)
def test_a_value_with_quotes_and_backslashes_is_read_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A command or a password may hold any of them; what follows it in the file is read too."""
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))
    for name in ("EMBERFLOW_PROVISION_COMMAND", "EMBERFLOW_SEED"):
        monkeypatch.delenv(name, raising=False)
    variables = {"EMBERFLOW_PROVISION_COMMAND": value, "EMBERFLOW_SEED": "7"}
    variable_files.write(tmp_path / "stack.env", variables)

    assert variable_files.read(tmp_path / "stack.env") == variables
    settings = read_settings("stack.env")
    assert (settings.provision_command, settings.seed) == (value, 7)


def test_a_value_that_a_person_wrote_without_quotes_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "keys.env").write_text("A=one two\nB='three'\n\n# not a variable\nC=\n")
    assert variable_files.read(tmp_path / "keys.env") == {"A": "one two", "B": "three", "C": ""}
