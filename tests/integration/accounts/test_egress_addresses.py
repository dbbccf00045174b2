"""Egress addresses: caps on logins, holding an address, and who sends from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from emberflow.accounts import checks, egress
from emberflow.delivery.guard import Refusal
from emberflow.errors import ConfigurationError
from emberflow.queue_manager.egress_logins import may_log_in
from emberflow.reporting import egress as shown
from tests.worlds import Command, Sandbox, World, a_world

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=2, checks=False)


def an_address(engine: Engine, address: str = FIRST, *, logins: int | None = None) -> int:
    with engine.begin() as connection:
        return egress.add(connection, address, logins_per_hour=logins, actor="a test")


def log_in(engine: Engine, egress_id: int, now: datetime = NOON) -> Refusal | None:
    with engine.begin() as connection:
        return may_log_in(connection, egress_id, now)


def test_an_address_never_logs_in_more_often_than_its_hourly_cap(database: Engine) -> None:
    """B-F5: 40 logins wanted by 8 workers at once; every refusal names the cap and the next hour."""
    address = an_address(database, logins=7)

    with ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(lambda _: log_in(database, address, NOON + timedelta(minutes=30)), range(40)))

    assert refusals.count(None) == 7
    refused = Refusal("egress_ip_logins_cap", NOON + timedelta(hours=1), f"egress_ip_logins_hour:{FIRST} 7/7")
    assert refusals.count(refused) == 33


def test_the_next_hour_has_logins_of_its_own_and_so_has_another_address(database: Engine) -> None:
    """Towards B-F5"""
    first, second = an_address(database, FIRST, logins=1), an_address(database, SECOND, logins=1)
    assert [log_in(database, first) is None for _ in range(2)] == [True, False]
    assert [log_in(database, second) is None for _ in range(2)] == [True, False]
    assert [log_in(database, first, NOON + timedelta(hours=1)) is None for _ in range(2)] == [True, False]
    with database.connect() as connection:
        row = connection.execute(text("select hour, per_hour from ops.send_counters where key = :key"), {"key": FIRST})
        assert [(found.hour, found.per_hour[-2:]) for found in row] == [(NOON + timedelta(hours=1), [1, 1])]


def test_a_mailbox_whose_address_another_machine_has_is_not_judged_by_a_check_here(world: World) -> None:
    sender = world.senders[0]
    an_address(world.engine, "192.0.2.1")
    with world.engine.begin() as connection:
        egress.assign(connection, "192.0.2.1", [sender.address])
    (result,) = checks.run(world.engine, world.settings, ids=[sender.mailbox_id])
    with world.engine.begin() as connection:
        checks.store(connection, [result], world.settings, "a test")

    assert (result.stage, "192.0.2.1 is not this machine's" in (result.text or "")) == ("egress", True)
    assert world.value("select state from ops.senders where id = :id", id=sender.id) == "active"


def test_a_mailbox_that_was_never_checked_says_what_to_do_about_its_source_address(world: World) -> None:
    """Nothing is wrong with its server or password."""
    sender = world.senders[0]
    waits = "update ops.senders set state = 'unverified', state_reason = 'not checked' where id = :id"
    world.change(waits, id=sender.id)
    world.change("update ops.mailboxes set check_passed = null where id = :id", id=sender.mailbox_id)
    an_address(world.engine, "192.0.2.1")
    with world.engine.begin() as connection:
        egress.assign(connection, "192.0.2.1", [sender.address])
    results = checks.run(world.engine, world.settings, ids=[sender.mailbox_id])
    with world.engine.begin() as connection:
        checks.store(connection, results, world.settings, "a test")

    remedy = world.value("select state_remedy from ops.senders where id = :id", id=sender.id)
    assert "run `emberflow senders check` on a machine that has its source address" in remedy
    assert "correct the server" not in remedy


def test_an_address_without_a_cap_is_not_counted_and_an_unknown_one_is_an_error(database: Engine) -> None:
    address = an_address(database)
    assert [log_in(database, address) for _ in range(100)] == [None] * 100
    with pytest.raises(ConfigurationError, match="no egress address"):
        log_in(database, address + 1)


def test_a_mailbox_cannot_be_moved_away_from_an_address_that_is_held(world: World) -> None:
    """Towards S-F8 and C-F11: a listing is never routed around; and none of several mailboxes moves if one cannot."""
    an_address(world.engine, FIRST)
    an_address(world.engine, SECOND)
    first, second = (sender.address for sender in world.senders)
    with world.engine.begin() as connection:
        egress.assign(connection, FIRST, [first])
        egress.hold(connection, FIRST, "listed at Spamhaus CSS", "a test")
    for target in (SECOND, None):
        with (
            pytest.raises(ConfigurationError, match=rf"keeps its mailboxes: {first}"),
            world.engine.begin() as connection,
        ):
            egress.assign(connection, target, [first, second])
    with pytest.raises(ConfigurationError, match="is held"), world.engine.begin() as connection:
        egress.assign(connection, FIRST, [second])
    assert _assigned(world) == {first: FIRST}

    with world.engine.begin() as connection:
        egress.activate(connection, FIRST, "a test")
        egress.assign(connection, SECOND, [first, second])
    assert _assigned(world) == {first: SECOND, second: SECOND}
    with world.engine.begin() as connection:
        egress.assign(connection, None, [second])
    assert _assigned(world) == {first: SECOND}


@pytest.mark.parametrize(
    ("address", "mailbox", "reason"),
    [
        ("mail.example", None, "is not an IP address"),
        ("192.0.2.9", None, "emberflow egress add 192.0.2.9"),
        (FIRST, "nobody@nowhere.test", "no such mailbox: nobody@nowhere.test"),
    ],
)
def test_a_mistake_in_an_assignment_is_named(world: World, address: str, mailbox: str | None, reason: str) -> None:
    an_address(world.engine)
    wanted = [world.senders[0].address, *([mailbox] if mailbox else [])]
    with pytest.raises(ConfigurationError, match=reason), world.engine.begin() as connection:
        egress.assign(connection, address, wanted)
    assert _assigned(world) == {}


def test_an_address_is_registered_once_and_in_one_spelling(database: Engine) -> None:
    first = an_address(database, "2001:db8:0::1", logins=5)
    assert an_address(database, " 2001:DB8::1 ", logins=6) == first
    with database.connect() as connection:
        (row,) = shown.listed(connection)
    assert (row["address"], row["logins_per_hour"], row["mailboxes"]) == ("2001:db8::1", 6, 0)


def test_only_addresses_of_this_machine_can_be_sent_from() -> None:
    assert egress.is_of_this_machine("127.0.0.1")
    assert not egress.is_of_this_machine("192.0.2.1")


def test_the_operator_registers_assigns_holds_and_activates_an_address(run: Command, world: World) -> None:
    """Towards B-F5 and C-F11"""
    sender = world.senders[0].address
    assert run("egress", "add", FIRST, "--logins-per-hour", "30").exit_code == 0
    assert run("egress", "assign", FIRST, sender).exit_code == 0
    assert run("egress", "hold", FIRST, "--reason", "listed").exit_code == 0
    assert isinstance(run("egress", "assign", "none", sender).exception, ConfigurationError)

    shown = run("egress", "list").output

    assert all(word in shown for word in (FIRST, "held", "listed", "30"))
    assert run("egress", "activate", FIRST).exit_code == 0
    assert "held" not in run("egress", "list").output


def _assigned(world: World) -> dict[str, str]:
    rows = world.rows(
        "select mailboxes.address, egress_ips.address as egress from ops.mailboxes "
        "inner join ops.egress_ips on egress_ips.id = egress_ip_id"
    )
    return {row["address"]: row["egress"] for row in rows}
