"""What dies is started again, not too often, and what happened can be read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from emberflow.errors import StackError
from emberflow.local_stack import supervisor
from emberflow.local_stack.stack import Part, Stack
from emberflow.local_stack.supervisor import MOST_TRIES, Supervisor, histories


class Fake:
    """A part that runs while the test lets it."""

    def __init__(self, name: str, *needs: str) -> None:
        self.name = name
        self.answers = True
        self.runs = True
        self.can_start = True
        self.starts: list[float] = []
        self.part = Part(name, lambda: self.runs, self._start, needs, lambda: self.answers)
        self.clock = 0.0

    def _start(self) -> None:
        self.starts.append(self.clock)
        if not self.can_start:
            raise StackError(f"{self.name} cannot start")
        self.runs = True


class Watch:
    """A supervisor on a clock of its own, which goes on by a second per look."""

    def __init__(self, home: Path, *fakes: Fake) -> None:
        self.home = home
        self.fakes = fakes
        self.now = 0.0
        (home / "run").mkdir()
        record = home / "run" / "supervisor.json"
        self.supervisor = Supervisor([fake.part for fake in fakes], record, lambda: self.now)

    def look(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += 1
            for fake in self.fakes:
                fake.clock = self.now
            self.supervisor.look()

    def restarts(self, name: str) -> int:
        return int(histories(self.home)[name]["restarts"])


def test_a_part_that_died_is_started_again_at_once_and_counted(tmp_path: Path) -> None:
    part = Fake("part")
    watch = Watch(tmp_path, part)
    watch.look(3)
    assert (part.starts, watch.restarts("part")) == ([], 0)

    part.runs = False
    watch.look()

    assert (part.starts, part.runs, watch.restarts("part")) == ([4.0], True, 1)
    assert histories(tmp_path)["part"]["last"] is not None


def test_pauses_between_tries_grow_and_tries_come_to_an_end(tmp_path: Path) -> None:
    part = Fake("part")
    watch = Watch(tmp_path, part)
    part.runs, part.can_start = False, False

    watch.look(3600)

    pauses = [later - sooner for sooner, later in zip(part.starts, part.starts[1:], strict=False)]
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert set(pauses[5:]) == {60}
    assert len(part.starts) == MOST_TRIES
    assert histories(tmp_path)["part"] == {"restarts": 0, "last": None, "gave_up": True}


def test_a_part_that_ran_for_a_minute_is_well_again(tmp_path: Path) -> None:
    part = Fake("part")
    watch = Watch(tmp_path, part)
    for _ in range(MOST_TRIES + 5):
        part.runs = False
        watch.look(61)

    assert watch.restarts("part") == MOST_TRIES + 5
    assert histories(tmp_path)["part"]["gave_up"] is False


def test_what_needs_the_database_waits_for_it_and_loses_no_try(tmp_path: Path) -> None:
    database, scheduler = Fake("database"), Fake("scheduler", "database")
    watch = Watch(tmp_path, database, scheduler)
    database.runs = database.can_start = scheduler.runs = False

    watch.look(100)
    assert (scheduler.starts, watch.restarts("scheduler")) == ([], 0)
    database.can_start = True
    watch.look(70)

    assert scheduler.runs
    assert watch.restarts("scheduler") == 1


def test_what_runs_but_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    api, scheduler = Fake("api"), Fake("scheduler", "api")
    watch = Watch(tmp_path, api, scheduler)
    api.answers = scheduler.runs = False

    watch.look(10)
    assert scheduler.starts == []
    api.answers = True
    watch.look()

    assert (api.starts, scheduler.starts) == ([], [11.0])


def test_without_a_supervisor_there_is_no_history(tmp_path: Path) -> None:
    assert histories(tmp_path) == {}


def test_a_full_disk_does_not_end_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, looks = threading.Event(), []

    def look(_: Supervisor) -> None:
        looks.append(1)
        if len(looks) == 2:
            stop.set()
        raise OSError("No space left on device")

    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    monkeypatch.setattr(Supervisor, "look", look)

    supervisor.supervise(Stack(tmp_path, attached=False), stop)

    assert len(looks) == 2


def test_only_one_command_at_a_time_starts_or_stops_a_stack(tmp_path: Path) -> None:
    waits, done = threading.Event(), []

    def another() -> None:
        with Stack(tmp_path, attached=False).alone(waits.set):
            done.append("second")

    with Stack(tmp_path, attached=False).alone():
        thread = threading.Thread(target=another)
        thread.start()
        assert waits.wait(30)
        done.append("first")
    thread.join(30)

    assert done == ["first", "second"]
