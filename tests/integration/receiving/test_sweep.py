"""A run reads many mailboxes at once, within the limits of servers and addresses; a bad server costs its own only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from emberflow.accounts import egress
from emberflow.email_ops.imap import ImapReader
from emberflow.operations import mailboxes
from emberflow.queue_manager import pre_send
from emberflow.queue_manager.receiving import sweep
from emberflow.queue_manager.receiving.mailbox_reading import MailboxReading
from emberflow.queue_manager.receiving.sweep import ReadingReport
from emberflow.queue_manager.receiving.turns import SILENT_AFTER
from emberflow.sandbox import create_accounts
from tests.faults.kit.tcp_proxy import FaultyProxy, Weather, Wire
from tests.worlds import NOON, OPERATOR, PASSWORD, Member, Sandbox, World, a_policy, a_world

SILENT = {"replies": {"rate": 0.0}}
READERS = 4


def read(world: World) -> ReadingReport:
    return sweep.read_shard(world.engine, 0, clock=world.clock, settings=world.settings)


def a_full_world(database: Engine, sandbox: Sandbox, bots: int, **sections: Any) -> World:
    """Every bot has got one mail that nobody has read."""
    world = a_world(database, sandbox, 1, bots, a_policy(**(SILENT | sections)))
    world.quota(world.senders[0], 60, 80)
    for bot in world.bots:
        world.slot(bot=bot, gap_s=0)
    assert world.dispatch() == {"sent": bots}
    return world


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield how many readers were logged in at once, after each login."""
    now, seen, lock = 0, [], threading.Lock()
    enter, leave = ImapReader.__enter__, ImapReader.__exit__

    def entered(reader: ImapReader) -> ImapReader:
        nonlocal now
        with lock:
            now += 1
            seen.append(now)
        return enter(reader)

    def left(reader: ImapReader, *arguments: Any) -> None:
        nonlocal now
        leave(reader, *arguments)
        with lock:
            now -= 1

    with monkeypatch.context() as patch:
        patch.setattr(ImapReader, "__enter__", entered)
        patch.setattr(ImapReader, "__exit__", left)
        yield seen


def behind(world: World, proxy: FaultyProxy, members: list[Member]) -> None:
    """Let the proxy stand before the IMAP server of these mailboxes: to us, a server of their own."""
    for member in members:
        world.change("update ops.mailboxes set imap_port = :port where id = :id", port=proxy.port, id=member.mailbox_id)


def test_a_shard_reads_its_mailboxes_at_once_and_records_each_mail_once(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_full_world(database, sandbox, 8, inbox={"shards": 1, "readers": 4})
    together = threading.Barrier(4, timeout=60)
    real, met = MailboxReading._read_folders, iter(range(4))

    def wait_for_three_others(reading: MailboxReading, *arguments: Any) -> Any:
        if next(met, None) is not None:
            together.wait()
        return real(reading, *arguments)

    monkeypatch.setattr(MailboxReading, "_read_folders", wait_for_three_others)
    report = read(world)
    assert (report.found, report.unreadable, report.mailboxes) == ({"inbox": 8}, [], 9)
    assert len(world.events("placed_inbox")) == 8
    assert read(world).found == {}


def test_open_connections_over_imap_never_exceed_the_limit_of_their_host(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-F4"""
    world = a_full_world(
        database, sandbox, 8, inbox={"shards": 1, "readers": 8}, connections={"per_host": 2, "per_host_of": {}}
    )
    with counted(monkeypatch) as at_once:
        assert read(world).found == {"inbox": 8}
    assert (max(at_once), len(at_once)) == (2, 9)


def test_a_server_that_hangs_costs_its_own_mailboxes_only(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were read are fresh, the others are not."""
    world = a_full_world(database, sandbox, 14, inbox={"shards": 1, "readers": READERS})
    monkeypatch.setattr(sweep, "_READ_S", 1.0)
    world.clock.advance(timedelta(minutes=5))
    with FaultyProxy(sandbox.address.imaps_port) as proxy:
        proxy.set(Weather(to_client=Wire(swallow=True)))
        behind(world, proxy, world.bots[:9])
        report = read(world)

    assert report.found == {"inbox": 5}
    assert {line.partition(":")[0] for line in report.unreadable} == {bot.address for bot in world.bots[:9]}
    left_out = [line for line in report.unreadable if "did not answer for" in line]
    assert len(left_out) >= 9 - SILENT_AFTER - READERS
    query = "select mailbox_id from ops.mailbox_readings where read_at > :before and problem is null"
    fresh = {row["mailbox_id"] for row in world.rows(query, before=NOON)}
    assert fresh == {member.mailbox_id for member in (*world.senders, *world.bots[9:])}
    world.change("update ops.mailboxes set imap_port = :port", port=sandbox.address.imaps_port)
    assert read(world).found == {"inbox": 9}


def test_a_mailbox_is_read_from_its_own_source_address(
    database: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-F5"""
    world = a_full_world(database, sandbox, 2)
    with world.engine.begin() as connection:
        egress.add(connection, "127.0.0.9", logins_per_hour=None, actor="a test")
        egress.assign(connection, "127.0.0.9", [world.bots[0].address])
    from_address: dict[int, str] = {}
    enter = ImapReader.__enter__

    def note(reader: ImapReader) -> ImapReader:
        opened = enter(reader)
        from_address[reader._access.mailbox_id] = reader._client.sock.getsockname()[0]
        return opened

    monkeypatch.setattr(ImapReader, "__enter__", note)
    assert read(world).found == {"inbox": 2}
    assert from_address[world.bots[0].mailbox_id] == "127.0.0.9"
    assert from_address[world.bots[1].mailbox_id] == "127.0.0.1"


def test_logins_over_imap_count_at_their_address_and_who_must_wait_is_read_in_the_next_hour(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-F5"""
    world = a_full_world(database, sandbox, 3, inbox={"shards": 1, "readers": 1})
    with world.engine.begin() as connection:
        egress.add(connection, "127.0.0.9", logins_per_hour=2, actor="a test")
        egress.assign(connection, "127.0.0.9", [bot.address for bot in world.bots])

    report = read(world)
    assert report.found == {"inbox": 2, "waiting_for_a_login": 1}
    (waiting,) = report.unreadable
    assert "egress_ip_logins_cap: egress_ip_logins_hour:127.0.0.9 2/2" in waiting
    assert world.value("select count(*) from ops.mailbox_readings where problem is not null") == 0
    world.clock.advance(timedelta(hours=1))
    assert read(world).found["inbox"] == 1


def test_a_bot_that_lets_nobody_in_three_times_leaves_the_pool_with_a_reason_and_a_check_brings_it_back(
    database: Engine, sandbox: Sandbox
) -> None:
    """B-B10"""
    world = a_world(database, sandbox, 1, 2, a_policy(**SILENT))
    locked = world.bots[0]
    create_accounts(sandbox.directory, {locked.address: "changed at the server"})
    for refused in (1, 2):
        (said,) = read(world).unreadable
        assert said.startswith(f"{locked.address}: imap_auth")
        assert read(world).mailboxes == 2, "the next try waits"
        assert world.value("select refused from ops.login_refusals") == refused
        assert world.value("select status from ops.bots where id = :id", id=locked.id) == "active"
        world.clock.advance(timedelta(minutes=10))
    read(world)
    bot = world.row("select status, status_reason, status_remedy from ops.bots where id = :id", id=locked.id)
    assert bot["status"] == "unverified"
    assert bot["status_reason"].startswith("3 logins in a row were refused over IMAP: ")
    assert f"emberflow bots check {locked.address}" in bot["status_remedy"]
    world.clock.advance(timedelta(hours=1))
    assert (read(world).mailboxes, world.plan().bots) == (2, 1)

    create_accounts(sandbox.directory, {locked.address: PASSWORD})
    mailboxes.check(database, OPERATOR, world.settings, ids=[locked.mailbox_id], reason="a new password")
    assert world.value("select status from ops.bots where id = :id", id=locked.id) == "active"
    assert read(world).mailboxes == 3


def test_a_mailbox_that_was_not_read_lately_answers_nobody_until_it_is_fresh(
    database: Engine, sandbox: Sandbox
) -> None:
    """Towards D-F6: first mails leave all the same, because nothing that came back could forbid them."""
    world = a_world(database, sandbox, 1, 2, a_policy(inbox={"shards": 1, "fresh_s": 120}))
    world.slot()
    assert world.dispatch() == {"sent": 1}
    assert world.read() == {"inbox": 1, "replies": 1}
    world.clock.advance(timedelta(minutes=10))
    world.slot(bot=world.bots[1], gap_s=0)
    assert world.dispatch() == {"sent": 1, "held": 1}
    held = world.row("select reason, status from ops.slots where task_type = 'reply'")
    assert held == {"reason": "mailbox_not_read_lately", "status": "planned"}

    world.read()
    world.change("update ops.slot_states set target_time = :now where status = 'planned'", now=world.clock.now())
    world.dispatch()
    assert world.value("select status from ops.slots where parent_slot_id = 1") == "sent"


def test_the_check_before_data_too_holds_what_a_stale_mailbox_would_answer(database: Engine, sandbox: Sandbox) -> None:
    """Towards D-F6: it becomes stale while its mail is under way."""
    world = a_world(database, sandbox, 1, 1)
    world.slot()
    world.talk(1)
    with patch.object(pre_send, "unfit", return_value={}):
        world.change("update ops.mailbox_readings set read_at = null")
        world.clock.advance(timedelta(minutes=10))
        assert world.dispatch() == {"held": 1}
    assert world.value("select reason from ops.slots where task_type = 'reply'") == "mailbox_not_read_lately"
