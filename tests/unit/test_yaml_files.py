"""YAML that people write is read with limits: a file gives its content, or a line and a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emberflow.email_ops.content import check_scripts
from emberflow.errors import ConfigurationError
from emberflow.policy import document
from emberflow.yaml_files import UnreadableYamlError, read

HOSTILE: dict[str, tuple[str, int, str]] = {
    "lists nested thousands deep": ("id: a\nx: " + "[" * 5000 + "]" * 5000, 2, "nested more than 32 deep"),
    "lists that are never closed": ("id: a\nx: " + "[" * 100_000, 2, "nested more than 32 deep"),
    "mappings nested thousands deep": ("x: " + "{a: " * 5000 + "1" + "}" * 5000, 1, "nested more than 32 deep"),
    "blocks nested deep": ("\n".join(" " * depth + "a:" for depth in range(100)), 33, "nested more than 32 deep"),
    "a number of 5,000 digits": ("id: a\nx: " + "9" * 5000, 2, "a number of 5000 characters"),
    "a negative one": ("x: -" + "9" * 5000, 1, "a number of 5001 characters"),
    "a key of 900 digits": ("id: a\n" + "9" * 900 + ": 1", 2, "a number of 900 characters"),
    "a hexadecimal one": ("x: 0x" + "f" * 5000, 1, "a number of 5002 characters"),
    "aliases that multiply": (
        "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]),
        6, "more than 100000 values",
    ),
    "an alias within what it names": ("a: &a [*a]", 1, "alias"),
    "a day that there is not": ("id: a\nx: 2026-13-45", 2, "is not a value: month must be in 1..12"),
    "more than a megabyte": ("x: " + "a" * 1_100_000, 1, "the limit is 1000000"),
    "a tab": ("a:\n\t- 1", 2, "found character"),
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "hostile.yaml"
        path.write_text(content)
        return path

    return write


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_with_its_line(file: Callable[[str], Path], kind: str) -> None:
    content, line, reason = HOSTILE[kind]
    path = file(content)
    if kind == "an alias within what it names":
        with pytest.raises(ConfigurationError, match=r"hostile\.yaml"):
            document.load(path)
        return
    with pytest.raises(UnreadableYamlError) as caught:
        read(path)
    assert (caught.value.line, reason in caught.value.reason) == (line, True), str(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_scripts_and_policies_are_read_by_it(file: Callable[[str], Path], kind: str) -> None:
    content, line, _ = HOSTILE[kind]
    path = file(content)
    with pytest.raises(ConfigurationError, match=r"hostile\.yaml") as caught:
        document.load(path)
    assert f"line {line}" in str(caught.value)
    scripts, problems = check_scripts(path.parent)
    assert scripts == []
    assert all(problem.file == path for problem in problems)
    assert line in [problem.line for problem in problems]


def test_text_may_be_long_and_quoted_digits_are_text(file: Callable[[str], Path]) -> None:
    digits = "9" * 5000
    assert read(file(f"a: '{digits}'\nb: {'word ' * 500}\nc: &c [1]\nd: *c")).content == {
        "a": digits, "b": ("word " * 500).strip(), "c": [1], "d": [1],
    }  # fmt: skip


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes("name: gelöscht".encode("cp1252"))
    with pytest.raises(ConfigurationError, match=r"policy\.yaml.*line 1: cannot be read"):
        document.load(path)


def test_a_key_that_stands_twice_in_a_policy_is_refused(file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigurationError, match="line 3: name: is there more than once"):
        document.load(file("name: a\nlabel: b\nname: c\n"))


def test_a_wrong_value_of_a_policy_is_named_with_its_line(file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"line 5: inbox\.shards: "):
        document.load(file("name: a\nlabel: b\n\ninbox:\n  shards: 0\n"))
