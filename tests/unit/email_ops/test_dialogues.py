"""Many dialogues in one thread, with servers of which some misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from emberflow.domain.attempt import Attempt
from emberflow.email_ops.dialogues import Dialogues, Ended
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.timeouts import Timeouts
from tests.unit.email_ops.fake_mail_servers import Authority, FaultySmtpServer, an_access, hang

MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
TIMEOUTS = Timeouts(connect=10, greeting=10, command=10, data_start=10, data_block=10, end_of_data=10)


class NotNowError(Exception):
    """What a leader says who does not give permission."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Leader:
    """Leads dialogues until all have ended; says yes to all but ``refusals``. Times are seconds since the start."""

    dialogues: Dialogues[str]
    refusals: Mapping[str, Exception] = field(default_factory=dict)
    ends: dict[str, Ended] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def lead(self) -> dict[str, Ended]:
        started = time.monotonic()
        while True:
            # Of several that end in one turn, the last may be reported after there were none left.
            events = self.dialogues.turn(10 if len(self.dialogues) else 0)
            if not events and not len(self.dialogues):
                return self.ends
            for key, event in events:
                if event is not None:
                    self.ends[key] = event
                    self.took_s[key] = time.monotonic() - started
                elif key in self.refusals:
                    self.dialogues.refuse(key, self.refusals[key])
                else:
                    self.dialogues.permit(key, 60)


@pytest.fixture
def dialogues() -> Iterator[Dialogues[str]]:
    with Dialogues[str]() as several:
        yield several


class Scene:
    """Servers, connections to them, and the dialogues over these."""

    def __init__(self, authority: Authority, dialogues: Dialogues[str], stack: ExitStack) -> None:
        self._authority = authority
        self._dialogues = dialogues
        self._stack = stack

    def begin(
        self, key: str, timeouts: Timeouts = TIMEOUTS, **server: object
    ) -> tuple[FaultySmtpServer, SmtpConnection]:
        faulty = FaultySmtpServer(self._authority.server_context(), **server)  # type: ignore[arg-type]
        access = an_access(smtp_port=self._stack.enter_context(faulty.running()))
        connection = SmtpConnection(access, "sandbox", {"localhost": self._authority.ca_file}, timeouts)
        self._stack.enter_context(connection)
        assert connection.open() is None
        self.again(key, connection)
        return faulty, connection

    def again(self, key: str, connection: SmtpConnection) -> None:
        assert connection.session is not None
        steps = connection.dialogue(MESSAGE, "ann@north.test", "bo@south.test")
        self._dialogues.begin(key, connection.session, steps)


@pytest.fixture
def scene(authority: Authority, dialogues: Dialogues[str]) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(authority, dialogues, stack)


def outcome(ended: Ended) -> tuple[str, str]:
    assert isinstance(ended.attempt, Attempt)
    return ended.attempt.outcome, ended.attempt.stage


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "eod"])
def test_a_silent_server_delays_no_dialogue_but_its_own(scene: Scene, dialogues: Dialogues[str], stage: str) -> None:
    """E-F6: it ends by its own time-out, while the others have long ended."""
    impatient = Timeouts(connect=10, greeting=10, command=1.5, data_start=1.5, data_block=1.5, end_of_data=1.5)
    scene.begin("silent", impatient, faults={stage: hang})
    servers = [scene.begin(f"quick{number}")[0] for number in range(5)]
    leader = Leader(dialogues)
    leader.lead()
    assert outcome(leader.ends["silent"]) == ("uncertain" if stage == "eod" else "transient", stage)
    assert {outcome(leader.ends[f"quick{number}"]) for number in range(5)} == {("sent", "eod")}
    # Its time runs since its last command, which on a loaded machine is long before the others begin.
    assert max(took for key, took in leader.took_s.items() if key != "silent") < leader.took_s["silent"]
    assert [len(server.accepted) for server in servers] == [1] * 5


def test_a_dialogue_that_is_refused_ends_with_the_reason_and_leaves_its_session_clean(
    scene: Scene, dialogues: Dialogues[str]
) -> None:
    """Q-B5: nothing of it was sent, and the next message goes over the same session."""
    server, connection = scene.begin("refused")
    scene.begin("allowed")
    ends = Leader(dialogues, {"refused": NotNowError("gap")}).lead()
    assert isinstance(ends["refused"].error, NotNowError)
    assert outcome(ends["allowed"]) == ("sent", "eod")
    assert server.accepted == []
    scene.again("later", connection)
    assert outcome(Leader(dialogues).lead()["later"]) == ("sent", "eod")
    assert (server.connections, len(server.accepted), server.commands.count("RSET")) == (1, 1, 1)


def test_a_session_that_had_ended_before_the_message_began_asks_for_another_one(
    scene: Scene, dialogues: Dialogues[str]
) -> None:
    """Idle servers hang up; that is no failure of the message."""
    _, connection = scene.begin("first")
    assert outcome(Leader(dialogues).lead()["first"]) == ("sent", "eod")
    connection.abort()
    scene.again("second", connection)
    assert Leader(dialogues).lead()["second"] == Ended(attempt=None)
    assert connection.session is None


class Away:
    """The module ``time`` of a process that was stopped for hours."""

    def monotonic(self) -> float:
        return time.monotonic() + 10_000


def test_answers_that_arrived_while_the_process_was_stopped_are_heard_whatever_the_time(
    scene: Scene, dialogues: Dialogues[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-F5: every deadline is over when it goes on, and the servers have accepted every message."""
    released = threading.Event()
    faults = {"eod": [lambda _: released.wait(10), "250 2.0.0 queued"]}
    servers = [scene.begin(f"mail{number}", faults=faults, store_at_eod=True)[0] for number in range(3)]
    permitted = 0
    while not all(server.accepted for server in servers):
        for key, event in dialogues.turn(0.1):
            assert event is None
            dialogues.permit(key, 60)
            permitted += 1
    released.set()
    time.sleep(0.5)  # the answers lie in the sockets by then
    for module in ("dialogues", "smtp_session"):
        monkeypatch.setattr(f"emberflow.email_ops.{module}.time", Away())
    ends = Leader(dialogues).lead()
    assert (permitted, {outcome(ended) for ended in ends.values()}, len(ends)) == (3, {("sent", "eod")}, 3)


def test_a_dialogue_that_is_cut_reports_nothing_and_leaves_no_session(scene: Scene, dialogues: Dialogues[str]) -> None:
    """For a mail whose outcome is reported already."""
    server, connection = scene.begin("cut")
    while not dialogues.turn(10):
        pass
    dialogues.cut("cut")
    dialogues.cut("cut")
    assert dialogues.turn(0) == []
    assert (server.accepted, connection.session, len(dialogues)) == ([], None, 0)
    _, silent = scene.begin("silent", faults={"mail": hang})
    dialogues.cut("silent")
    assert dialogues.turn(0) == []
    assert silent.session is None


def test_another_thread_ends_a_turn_at_once(dialogues: Dialogues[str]) -> None:
    threading.Timer(0.05, dialogues.wake).start()
    started = time.monotonic()
    assert dialogues.turn(30) == []
    assert time.monotonic() - started < 10


def test_what_is_left_is_cut_off_without_a_complete_message(authority: Authority) -> None:
    """Q-F5: a leader that gives up in the middle leaves nothing at the server."""
    with ExitStack() as stack:
        with Dialogues[str]() as dialogues:
            server, connection = Scene(authority, dialogues, stack).begin("left")
            while not dialogues.turn(10):
                pass
        assert (server.accepted, connection.session, len(dialogues)) == ([], None, 0)
