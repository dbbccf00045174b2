"""Every line of the quickstart and of the runbook that can be typed does what the text says, in order, on any day.

Each document is typed into an empty directory with an empty home. Code fences without a language are lines for a shell.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from emberflow.cli.main import app
from emberflow.settings import PROJECT_ROOT
from tests.stacks import processes_of

README = PROJECT_ROOT / "README.md"
QUICKSTART = PROJECT_ROOT / "docs" / "quickstart.md"
RUNBOOK = PROJECT_ROOT / "docs" / "operations.md"

# Lines that are not typed here, by how they begin, and why.
ELSEWHERE = {
    "./emberflow demo": ".ci/run types it",
    "./emberflow test": "this is it",
    "export EMBERFLOW_PROVISION_COMMAND=": "needs a mail server of the operator's own",
    "emberflow bots create --domain bots.example.org": "needs a mail server of the operator's own",
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(?:\./)?emberflow ([a-z][^`]*)`")


def typed(document: Path) -> list[str]:
    """Return the lines for a shell, without their remarks and with continued lines in one piece."""
    fences = [body for language, body in _FENCE.findall(document.read_text(encoding="utf-8")) if not language]
    lines = "\n".join(fences).replace("\\\n", " ").splitlines()
    bare = [re.sub(r"\s+#\s.*$", "", line).strip() for line in lines]
    return [line for line in bare if line and not line.startswith("#") and not line.startswith(tuple(ELSEWHERE))]


@dataclass(frozen=True)
class Machine:
    """An empty directory and home in which lines are typed."""

    place: Path

    def type(self, lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Type lines into one shell, which echoes each and stops at the first that fails.

        ``emberflow`` is on its path as ``./emberflow`` is here.
        """
        environment = {
            "HOME": str(self.place / "home"), "EMBERFLOW_HOME": str(self.place / "emberflow home"),
            "PATH": f"{self.place}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        return subprocess.run(
            ["/bin/bash", "-ev", "-c", "\n".join(lines)], cwd=self.place, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "home").mkdir()
    (tmp_path / "emberflow").symlink_to(PROJECT_ROOT / "emberflow")
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.type(["./emberflow down"])


@pytest.mark.stack
@pytest.mark.long(seconds=250)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("document", [QUICKSTART, RUNBOOK], ids=["quickstart", "runbook"])
def test_every_line_can_be_typed_in_the_order_of_the_document(machine: Machine, document: Path) -> None:
    lines = typed(document)
    assert "./emberflow up" in lines
    while datetime.now(UTC).minute >= 56:  # what is left of the hour when the lines come to it may hold no mail
        time.sleep(5)
    done = machine.type(lines)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    if document == QUICKSTART:
        assert lines[-1] == "./emberflow down"
        assert processes_of(machine.place) == []


def test_the_readme_shows_two_commands_and_leaves_the_others_to_the_quickstart() -> None:
    shown = [line for body in _FENCE.findall(README.read_text(encoding="utf-8")) for line in body[1].splitlines()]
    assert [line.partition("#")[0].strip() for line in shown] == ["./emberflow demo", "./emberflow test"]


@pytest.mark.parametrize(
    "document", sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")]), ids=lambda path: path.name
)
def test_every_command_that_a_text_mentions_exists_with_its_options(document: Path) -> None:
    unknown = []
    for said in _INLINE.findall(document.read_text(encoding="utf-8")):
        command: Any = get_command(app)
        words = said.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        if words and words[0] != "--help" and hasattr(command, "by_default"):
            command = command.commands[command.by_default]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options |= {"--help"}
        bare = [word.strip("[]") for word in words]  # what may be left out stands in brackets
        asked = {word.partition("=")[0] for word in bare if word.startswith("--") and len(word) > 2}
        is_untouched = command.context_settings.get("ignore_unknown_options", False)
        if hasattr(command, "commands") and words and words[0] not in ("...", "--help"):
            unknown.append(said)
        elif not is_untouched and asked - options:
            unknown.append(f"{said}: {sorted(asked - options)}")
    assert unknown == []


def test_a_line_is_separated_from_its_remark_and_from_other_languages(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("```\n./emberflow up   # starts\n./b \\\n  --c\n```\n\n```ini\nx=1\n```\n")
    assert typed(text) == ["./emberflow up", "./b    --c"]
