"""Connections that are opened, reused and hung up, with servers in this process and places that are counted here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from sqlalchemy import create_engine

from emberflow.accounts.mailboxes import Mailbox
from emberflow.clock import ManualClock
from emberflow.delivery.connections import ConnectionPolicy
from emberflow.delivery.guard import Refusal
from emberflow.domain.slot import Slot
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.email_ops.smtp_session import run
from emberflow.email_ops.timeouts import Timeouts
from emberflow.queue_manager import egress_logins
from emberflow.queue_manager.permits import Permits, Place
from emberflow.queue_manager.sending import connection_pool
from emberflow.queue_manager.sending.connection_pool import ConnectionPool, Message, NotNowError, Opened, PlaceWanted
from tests.unit.delivery.mails import NOON, a_mail
from tests.unit.email_ops.fake_mail_servers import Authority, FaultySmtpServer, an_access, hang

MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
PATIENT = Timeouts(connect=30, greeting=30, command=30, login=60)


class FewPlaces(Permits):
    """Permits that this process counts instead of PostgreSQL."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.asked = 0

    def take(self, limits: Mapping[str, int]) -> Place | None:
        self.asked += 1
        if any(self.taken.count(name) >= limit for name, limit in limits.items()):
            return None
        self.taken += limits
        return Place(self, [(name, 0) for name in limits])

    def free(self, permits: list[tuple[str, int]]) -> None:
        for name, _ in permits:
            self.taken.remove(name)


class Scene:
    """A pool, the servers that it connects to, and what it told."""

    def __init__(self, authority: Authority, stack: ExitStack) -> None:
        self._authority = authority
        self._stack = stack
        self.places = FewPlaces()
        self.mistake: BaseException | None = None
        self.told: SimpleQueue[Message] = SimpleQueue()
        self.pool = stack.enter_context(
            ConnectionPool(
                "test",
                create_engine("sqlite://"),
                self.places,
                ManualClock(NOON),
                ConnectionPolicy(per_host=1),
                connect=self._connect,
                tell=self.told.put,
            )
        )

    def _connect(self, sender: Mailbox) -> SmtpConnection:
        if self.mistake is not None:
            raise self.mistake
        return SmtpConnection(sender.access, "sandbox", {"localhost": self._authority.ca_file}, PATIENT)

    def mailbox(
        self, mailbox_id: int = 1, egress_ip_id: int | None = None, **server: Any
    ) -> tuple[FaultySmtpServer, Mailbox]:
        """A mailbox and a server of its own, which is `localhost` like the others."""
        faulty = FaultySmtpServer(self._authority.server_context(), **server)
        port = self._stack.enter_context(faulty.running())
        return faulty, Mailbox(an_access(mailbox_id=mailbox_id, smtp_port=port), "Ann", "other", "UTC", egress_ip_id)

    def open(self, sender: Mailbox) -> Opened:
        """Have a session opened and return what was told in the end."""
        self.pool.open(mail_of(sender), sender)
        return self.answer(sender)

    def answer(self, sender: Mailbox) -> Opened:
        """Wait until it is told how opening ended, and hang up others' connections whenever a place is wanted."""
        while True:
            told = self.told.get(timeout=20)
            if isinstance(told, Opened):
                return told
            self.pool.close_all_but({sender.access.mailbox_id})


def mail_of(sender: Mailbox) -> Slot:
    return a_mail(from_mailbox_id=sender.access.mailbox_id)


def refusal_in(told: Opened) -> Refusal:
    assert told.failed is not None
    assert isinstance(told.failed.error, NotNowError)
    return told.failed.error.refusal


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def scene(authority: Authority) -> Iterator[Scene]:
    with ExitStack() as stack:
        scene = Scene(authority, stack)
        yield scene
        scene.pool.close()


def test_a_connection_is_kept_for_the_next_mail_of_its_mailbox(scene: Scene) -> None:
    """E-F1"""
    server, sender = scene.mailbox()
    assert scene.pool.kept(1) is None
    assert scene.open(sender) == Opened(mail_of(sender))
    kept = scene.pool.kept(1)
    assert kept is not None
    assert kept.session is not None
    scene.pool.close_all_but({1})
    assert scene.open(sender).failed is None
    assert scene.pool.kept(1) is kept
    assert (server.connections, scene.places.taken) == (1, ["host:localhost"])


def test_a_session_that_is_over_is_opened_again_in_the_same_place(scene: Scene) -> None:
    """E-F1: a host with one place would refuse a second one."""
    server, sender = scene.mailbox(faults={"mail": ["421 4.4.2 idle for too long"]}, once=frozenset({"mail"}))
    scene.open(sender)
    connection = scene.pool.kept(1)
    assert connection is not None
    assert connection.session is not None
    run(connection.dialogue(MESSAGE, "ann@north.test", "bo@south.test"), connection.session, lambda: 60.0)
    assert connection.session is None
    assert scene.open(sender).failed is None
    assert (scene.pool.kept(1), server.connections) == (connection, 2)
    assert scene.places.taken == ["host:localhost"]


def test_a_connection_without_work_is_hung_up_and_gives_its_place_back(scene: Scene) -> None:
    server, sender = scene.mailbox()
    scene.open(sender)
    scene.pool.close_all_but(())
    assert scene.pool.kept(1) is None
    scene.pool.close()
    assert (scene.places.taken, server.commands.count("QUIT")) == ([], 1)


def test_a_place_that_others_hold_is_asked_for_until_one_hangs_up(scene: Scene) -> None:
    """E-F4: one connection to a host at most, and each mailbox is served."""
    _, first = scene.mailbox(1)
    server, second = scene.mailbox(2)
    scene.open(first)
    scene.pool.open(mail_of(second), second)
    assert scene.told.get(timeout=20) == PlaceWanted()
    assert server.connections == 0
    assert scene.answer(second).failed is None
    assert (scene.pool.kept(1), server.connections) == (None, 1)
    assert scene.places.taken == ["host:localhost"]


def test_a_mail_without_a_place_is_put_back_for_ten_seconds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-F4: no attempt is counted, and nothing was connected to."""
    monkeypatch.setattr(connection_pool, "_PLACE_PAUSE_S", 0)
    server, sender = scene.mailbox()
    scene.places.taken.append("host:localhost")
    assert refusal_in(scene.open(sender)) == Refusal("connection_limit", NOON + timedelta(seconds=10))
    assert (scene.pool.kept(1), server.connections) == (None, 0)
    scene.places.taken.clear()


def test_an_address_that_has_used_up_its_logins_takes_no_place(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """B-F5"""
    full = Refusal("egress_ip_logins_cap", NOON + timedelta(hours=1))
    monkeypatch.setattr(egress_logins, "may_log_in", lambda _connection, egress_ip_id, _now: {7: full}[egress_ip_id])
    server, sender = scene.mailbox(egress_ip_id=7)
    assert refusal_in(scene.open(sender)) == full
    assert (scene.places.taken, server.connections) == ([], 0)


def test_a_login_that_is_refused_is_told_as_an_attempt(scene: Scene) -> None:
    _, sender = scene.mailbox(faults={"auth": "535 5.7.8 bad credentials"})
    told = scene.open(sender)
    assert told.failed is not None
    assert told.failed.attempt is not None
    assert (told.failed.attempt.stage, told.failed.attempt.reply_code) == ("auth", 535)


@pytest.mark.parametrize("error", [LookupError("unknown encoding"), SystemExit()], ids=["error", "exit"])
def test_an_error_that_nobody_foresaw_is_told_too(scene: Scene, error: BaseException) -> None:
    """E-F6: a mail that is never told of would wait for ever."""
    _, sender = scene.mailbox()
    scene.mistake = error
    told = scene.open(sender)
    assert told.failed is not None
    assert told.failed.error is error
    assert (scene.pool.kept(1), scene.places.taken) == (None, [])


def test_after_a_stop_nothing_is_opened_and_the_mail_is_due_when_it_was(scene: Scene) -> None:
    server, sender = scene.mailbox()
    scene.pool.open_no_more()
    assert refusal_in(scene.open(sender)) == Refusal("run stopped", mail_of(sender).target_time)
    assert (server.connections, scene.places.taken) == (0, [])


def test_after_a_stop_nobody_waits_for_a_place(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped long before it has asked as often as it may."""
    monkeypatch.setattr(connection_pool, "_PLACE_PAUSE_S", 0.05)
    _, sender = scene.mailbox()
    scene.places.taken.append("host:localhost")
    scene.pool.open(mail_of(sender), sender)
    assert scene.told.get(timeout=20) == PlaceWanted()
    scene.pool.open_no_more()
    assert refusal_in(scene.answer(sender)).reason == "connection_limit"
    assert scene.places.asked < connection_pool._PLACE_ATTEMPTS
    scene.places.taken.clear()


def test_connections_that_are_cut_end_every_wait(scene: Scene) -> None:
    """Q-F5: also the wait of an opener. The server itself hangs up after five seconds."""
    server, sender = scene.mailbox(faults={"auth": hang})
    scene.pool.open(mail_of(sender), sender)
    while not any(command.startswith("AUTH") for command in server.commands):
        time.sleep(0.01)
    scene.pool.abort()
    told = scene.told.get(timeout=4)
    assert isinstance(told, Opened)
    assert told.failed is not None
    assert told.failed.attempt is not None
    assert (told.failed.attempt.outcome, told.failed.attempt.stage) == ("transient", "auth")


def test_closing_waits_for_openers_and_hangs_up_everywhere(scene: Scene) -> None:
    server, sender = scene.mailbox()
    scene.pool.open(mail_of(sender), sender)
    scene.pool.close()
    assert scene.told.get(timeout=0) == Opened(mail_of(sender))
    with pytest.raises(Empty):
        scene.told.get_nowait()
    assert (server.commands.count("QUIT"), scene.places.taken) == (1, [])
