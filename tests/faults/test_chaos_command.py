"""`emberflow chaos`: what it prints and how it exits, with a scenario that only pretends."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from emberflow import settings
from emberflow.cli import chaos_command
from emberflow.errors import ConfigurationError
from tests.faults.verdict import PROMISES, Verdict

_NOTHING_BROKEN: dict[str, Any] = dict.fromkeys(PROMISES, 0) | {
    "slots": 7, "accepted": 6, "refused_by_caps": 1, "suppressed": 0, "ends": {"sent": 6, "cancelled": 1},
    "in_doubt": 0, "kills": 2, "kills_by_kind": {"kill_9": 1, "clock_jump": 1}, "fenced_acks": 3, "seconds": 1.5,
}  # fmt: skip


def the_output(monkeypatch: pytest.MonkeyPatch, *arguments: str, **figures: Any) -> tuple[str, int]:
    """What the command prints and exits with after a run with these figures."""

    def run(*, slots: int, kills: int, seed: int, limit_s: float, tell: Any = lambda *_: None) -> Verdict:
        assert (slots, kills, seed, limit_s) == (7, 2, 5, 60.0)
        tell(3, "kill 9")
        tell(7, "clock jump")
        return Verdict(**(_NOTHING_BROKEN | figures))

    monkeypatch.setattr(chaos_command, "_scenario", lambda: SimpleNamespace(run=run))
    app = typer.Typer()
    app.command()(chaos_command.chaos)
    options = ["--slots", "7", "--kills", "2", "--seed", "5", "--limit", "60", *arguments]
    result = CliRunner().invoke(app, options)
    return result.output, result.exit_code


def test_a_good_run_is_shown_in_tables_and_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    output, code = the_output(monkeypatch)
    assert code == 0
    assert "Every promise was kept." in output
    assert "clock jump" in output


@pytest.mark.parametrize("promise", PROMISES)
def test_any_broken_promise_is_named_and_exits_with_1(monkeypatch: pytest.MonkeyPatch, promise: str) -> None:
    output, code = the_output(monkeypatch, **{promise: 2})
    assert code == 1
    assert "NOT kept." in output
    assert output.count("NO ") == 1


def test_json_is_one_object_with_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    output, code = the_output(monkeypatch, "--json", duplicates=1)
    summary = json.loads(output)
    assert code == 1
    wanted = {
        "slots", "kills", "kills_by_kind", "accepted", "duplicates", "lost", "over_cap", "undecided", "overlooked",
        "in_doubt", "seconds", "fenced_acks",
    }  # fmt: skip
    assert wanted <= summary.keys()
    assert (summary["duplicates"], summary["kills_by_kind"]["kill_9"]) == (1, 1)


def test_without_a_checkout_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    with pytest.raises(ConfigurationError, match="checkout"):
        chaos_command._scenario()
