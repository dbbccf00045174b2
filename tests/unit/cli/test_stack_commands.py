"""``up`` and ``down``: what is stopped when something goes wrong, and by whom. The stack itself is a fake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer

from emberflow.cli import stack_commands
from emberflow.errors import EmberflowError, StackError
from emberflow.local_stack import supervisor
from emberflow.local_stack.processes import Service
from emberflow.local_stack.stack import Stack


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the commands did to the stack, in order."""
    done: list[str] = []
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("EMBERFLOW_HOME", str(tmp_path))
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    for name in ("start", "stop", "supervise_in_background"):
        monkeypatch.setattr(Stack, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(Stack, "is_running", lambda _: False)
    monkeypatch.setattr(Stack, "parts", lambda _: [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield done
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(*_: object) -> None:
    raise StackError("no room on the disk")


def test_up_leaves_a_supervisor_behind(calls: list[str]) -> None:
    stack_commands.up(foreground=False)

    assert calls == ["start", "supervise_in_background"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MAIL_MODE", "Live"),
        ("CA_FILES", "foo"),
        ("CA_FILES", '{"mail.north.test": "/nowhere/ca.pem"}'),
        ("SECRET_KEYS", '{"k1": "short"}'),
        ("SCRIPTS_DIR", "/nowhere"),
        ("DBT_DIR", "/nowhere"),
    ],
)
def test_with_a_wrong_setting_nothing_is_written_or_started(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """E-B10"""
    monkeypatch.setenv(f"EMBERFLOW_{variable}", value)

    with pytest.raises(EmberflowError, match=r"EMBERFLOW_|/nowhere"):
        stack_commands.up(foreground=False)

    assert calls == []
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("place", ["/proc/zz", "/etc/passwd"])
def test_a_home_that_cannot_be_made_is_one_line(place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emberflow.cli", "up"],
        env={"EMBERFLOW_HOME": place}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"emberflow: EMBERFLOW_HOME: {place} cannot be used (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("then", "now"), [("live", None), (None, "live"), ("live", "sandbox")])
def test_up_refuses_to_start_beside_processes_that_run_with_other_settings(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str | None, now: str | None
) -> None:
    """E-B10: half a stack in live mode is none that an operator asked for."""

    def choose(mode: str | None) -> None:
        monkeypatch.delenv("EMBERFLOW_MAIL_MODE", raising=False)
        if mode is not None:
            monkeypatch.setenv("EMBERFLOW_MAIL_MODE", mode)

    choose(then)
    scheduler = Service("airflow-scheduler", tmp_path / "run")
    scheduler.start(["sleep", "60"], Stack(tmp_path, attached=False).environment(), die_with_parent=True)
    try:
        choose(now)
        with pytest.raises(StackError, match=r"airflow-scheduler \(EMBERFLOW_MAIL_MODE\).*`\./emberflow down` first"):
            stack_commands.up(foreground=False)
        assert calls == []

        choose(then)
        stack_commands.up(foreground=False)
        assert calls == ["start", "supervise_in_background"]
    finally:
        scheduler.stop()


def test_a_start_that_fails_is_undone(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "start", fail)

    with pytest.raises(StackError):
        stack_commands.up(foreground=False)

    assert calls == ["stop"]


def test_a_stack_that_ran_before_stays_up_and_watched_when_a_second_start_fails(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "start", fail)
    monkeypatch.setattr(Stack, "is_running", lambda _: True)

    with pytest.raises(StackError):
        stack_commands.up(foreground=False)

    assert calls == ["supervise_in_background"]


def end_once_watched(home: Path) -> threading.Thread:
    """Send SIGTERM to this process as soon as it watches over the stack."""

    def end() -> None:
        while not (home / "run" / "supervisor.pid").exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    return thread


def test_in_the_foreground_it_stays_and_stops_the_stack_when_it_is_asked_to_end(
    calls: list[str], tmp_path: Path
) -> None:
    thread = end_once_watched(tmp_path)

    stack_commands.up(foreground=True)

    thread.join(10)
    assert calls == ["start", "stop"]
    assert not (tmp_path / "run" / "supervisor.pid").exists()


def test_what_a_down_stops_is_left_to_it(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`down` holds the lock, tells the process in the foreground to end, and waits for that."""
    watch = supervisor.supervise
    thread = end_once_watched(tmp_path)
    with ExitStack() as down:

        def watched(stack: Stack, stop: threading.Event) -> None:
            down.enter_context(Stack(tmp_path, attached=False).alone())
            watch(stack, stop)

        monkeypatch.setattr(supervisor, "supervise", watched)
        stack_commands.up(foreground=True)

    thread.join(10)
    assert calls == ["start"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("was_running", "done", "said"),
    [
        (False, ["stop"], "stopped: nothing of the stack runs"),
        (True, ["supervise_in_background"], "the stack that ran before is left as it is"),
    ],
)
def test_an_up_that_is_interrupted_says_what_it_leaves_behind(
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    was_running: bool,
    done: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(Stack, "start", interrupt)
    monkeypatch.setattr(Stack, "is_running", lambda _: was_running)

    with pytest.raises(typer.Exit) as ended:
        stack_commands.up(foreground=False)

    assert (calls, ended.value.exit_code) == (done, 130)
    assert said in capsys.readouterr().err


def test_a_down_that_is_interrupted_names_what_still_runs_and_the_next_step(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stack, "stop", interrupt)
    sandbox = Service("mail-sandbox", tmp_path / "run")
    sandbox.start(["sleep", "60"], {}, die_with_parent=True)
    try:
        with pytest.raises(typer.Exit) as ended:
            stack_commands.down()
    finally:
        sandbox.stop()

    assert ended.value.exit_code == 130
    said = capsys.readouterr()
    assert said.err == "stopped: still running: mail-sandbox; run `./emberflow down` again\n"
    assert said.out == ""
