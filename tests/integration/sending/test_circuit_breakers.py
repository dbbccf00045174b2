"""Circuit breakers in the database: who may connect, and what is learned from what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from emberflow.delivery.breakers import Blocked, BreakerPolicy, keys_of
from emberflow.delivery.reply_codes import Action, Disposition, Scope
from emberflow.queue_manager import host_breakers

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
POLICY = BreakerPolicy()
HOST = "host:smtp.a.test"
DOMAIN = "domain:a.test>google via smtp.a.test"
ADDRESS = "ip:192.0.2.1>google via smtp.a.test"
SCOPES: tuple[Scope, ...] = ("mailbox", "sender_domain", "egress_ip")


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def some_keys(mailbox_id: int = 1, egress_address: str | None = "192.0.2.1", provider: str = "google") -> Sequence[str]:
    return keys_of(
        smtp_host="smtp.a.test",
        mailbox_id=mailbox_id,
        sender_domain="a.test",
        egress_address=egress_address,
        recipient_provider=provider,
    )


def a_disposition(scope: Scope = "host", action: Action = "retry", wait_s: int | None = None) -> Disposition:
    return Disposition(False, wait_s, scope, action, "a_rule", "it failed")


class Breakers:
    """The breakers of one database, each question in a transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def record(
        self, disposition: Disposition | None, now: datetime = NOON, times: int = 1, keys: Sequence[str] = ()
    ) -> set[str]:
        with self.engine.begin() as connection:
            opened = host_breakers.record(connection, [(keys or some_keys(), disposition)] * times, now, POLICY)
        return set(opened)

    def blocked(self, now: datetime, wanted: dict[int, Sequence[str]] | None = None) -> dict[int, Blocked]:
        with self.engine.begin() as connection:
            return host_breakers.admit(connection, wanted or {1: some_keys()}, now, POLICY)

    def open_now(self, now: datetime, keys: Sequence[str] = ()) -> set[str]:
        with self.engine.begin() as connection:
            found = connection.execute(
                text("select key from ops.host_breakers where key = any(:keys) and open_until > :now"),
                {"keys": list(keys or some_keys()), "now": now},
            )
            return set(found.scalars())

    def rows(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text("select count(*) from ops.host_breakers")).scalar_one())


@pytest.fixture
def known(database: Engine) -> Breakers:
    return Breakers(database)


def test_five_failures_at_one_host_stop_it_for_everybody_for_five_minutes(known: Breakers) -> None:
    """Q-F8"""
    assert known.record(a_disposition(), times=4) == set()
    assert known.blocked(NOON) == {}
    assert known.record(a_disposition()) == {HOST}

    (blocked,) = known.blocked(after(299), {7: some_keys(mailbox_id=2, egress_address=None)}).values()

    assert blocked.retry_at == after(300)
    assert "a_rule: it failed" in blocked.reason
    assert known.open_now(after(299)) == {HOST}
    assert known.open_now(after(300)) == set()


@pytest.mark.parametrize("scope", ["host", "mailbox", "sender_domain", "egress_ip", "sender_domain_or_ip"])
def test_what_one_submission_server_says_stops_nobody_who_submits_elsewhere(known: Breakers, scope: Scope) -> None:
    """Q-F8: whether of a host, a domain or an address that others share, it is the word of one party."""
    for disposition in (a_disposition(scope, "throttle", 86_400), a_disposition(scope, "stop_and_alert", 86_400)):
        known.record(disposition, times=5)
    shared = {"sender_domain": "a.test", "egress_address": "192.0.2.1", "recipient_provider": "google"}
    elsewhere = keys_of(smtp_host="smtp.b.test", mailbox_id=2, **shared)

    assert set(known.blocked(NOON, {1: some_keys(), 2: elsewhere})) == {1}
    known.record(None, keys=elsewhere)
    assert set(known.blocked(NOON, {1: some_keys(), 2: elsewhere})) == {1}


def test_then_one_slot_probes_and_the_others_wait_for_it(known: Breakers) -> None:
    """Q-F8"""
    known.record(a_disposition(), times=5)

    blocked = known.blocked(after(300), {number: some_keys(mailbox_id=number) for number in range(1, 6)})

    assert set(blocked) == {2, 3, 4, 5}
    assert {found.retry_at for found in blocked.values()} == {after(420)}
    assert "probed" in blocked[2].reason
    assert set(known.blocked(after(301))) == {1}


def test_a_probe_that_works_closes_the_breaker_and_one_that_fails_doubles_its_time(known: Breakers) -> None:
    known.record(a_disposition(), times=5)
    known.blocked(after(300))
    assert known.record(a_disposition(), after(310)) == {HOST}
    assert known.open_now(after(909)) == {HOST}
    known.blocked(after(910))
    known.record(None, after(911))
    assert known.blocked(after(911), {number: some_keys() for number in range(9)}) == {}


def test_a_probe_that_never_reports_frees_itself(known: Breakers) -> None:
    known.record(a_disposition(), times=5)
    assert known.blocked(after(300)) == {}
    assert set(known.blocked(after(419))) == {1}
    assert known.blocked(after(420)) == {}


def test_a_slot_that_something_else_blocks_takes_no_probe(known: Breakers) -> None:
    """Otherwise the host would wait for a probe that nobody makes."""
    known.record(a_disposition(), times=5)
    known.record(a_disposition("mailbox", "throttle", 86_400))
    blocked = known.blocked(after(300), {1: some_keys(), 2: some_keys(mailbox_id=2)})
    assert set(blocked) == {1}
    assert blocked[1].retry_at == after(86_400)


@pytest.mark.parametrize(
    ("scope", "egress_address", "opened"),
    [
        ("host", "192.0.2.1", {HOST}),
        ("mailbox", "192.0.2.1", {"mailbox:1"}),
        ("sender_domain", "192.0.2.1", {DOMAIN}),
        ("egress_ip", "192.0.2.1", {ADDRESS}),
        ("egress_ip", None, {DOMAIN}),
        ("sender_domain_or_ip", "192.0.2.1", {DOMAIN, ADDRESS}),
        ("sender_domain_or_ip", None, {DOMAIN}),
    ],
)
def test_a_named_limit_stops_its_own_key_at_once_and_nothing_else(
    known: Breakers, scope: Scope, egress_address: str | None, opened: set[str]
) -> None:
    """Q-F8: Gmail's 4.7.28 and its like act per named key."""
    keys = some_keys(egress_address=egress_address)
    assert known.record(a_disposition(scope, "throttle", 600), keys=keys) == opened
    assert known.open_now(after(599), keys) == opened
    to_another_provider = some_keys(mailbox_id=2, egress_address=egress_address, provider="yahoo")
    assert bool(known.blocked(NOON, {2: to_another_provider})) == (scope == "host")


@pytest.mark.parametrize("scope", ["message", "recipient"])
def test_what_is_the_messages_own_fault_opens_nothing(known: Breakers, scope: Scope) -> None:
    known.record(a_disposition(scope, "retry", 3600), times=50)
    assert known.open_now(NOON) == set()


def test_a_host_that_answers_is_not_down_whatever_it_answers(known: Breakers) -> None:
    """Q-F8: five failures in a row, and a refused recipient is not one."""
    for _ in range(3):
        known.record(a_disposition(), times=4)
        known.record(a_disposition("recipient", "suppress"))
    assert known.open_now(NOON) == set()


def test_a_mail_that_was_sent_costs_no_row(known: Breakers) -> None:
    known.record(None, times=100)
    assert known.rows() == 0


def test_nothing_wanted_is_nothing_blocked(known: Breakers) -> None:
    with known.engine.begin() as connection:
        assert host_breakers.admit(connection, {}, NOON, POLICY) == {}
        assert host_breakers.record(connection, [], NOON, POLICY) == {}


def in_eight_threads(work: Callable[[int], object]) -> list[object]:
    """Run ``work`` in eight threads that start together; raise what one of them raises."""
    together = threading.Barrier(8)

    def run(number: int) -> object:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, range(8)))


def test_of_eight_workers_exactly_one_gets_the_probe(known: Breakers) -> None:
    """Q-F8: again and again, also when a slot needs the probes of two breakers."""

    def ask(now: datetime) -> Callable[[int], object]:
        return lambda number: known.blocked(now, {number: some_keys(mailbox_id=number)})

    for round_ in range(10):
        known.record(a_disposition(), after(300 * round_), times=5)
        known.record(a_disposition("egress_ip", "throttle", 300), after(300 * round_))
        over = after(300 * round_ + 300)
        assert in_eight_threads(ask(over)).count({}) == 1
        known.record(None, over)


def test_workers_that_record_at_once_neither_deadlock_nor_lose_a_failure(known: Breakers) -> None:
    """Q-F8: the keys come in every order and overlap; every failure counts."""
    patient = BreakerPolicy(failures=100)

    def work(number: int) -> None:
        keys = some_keys(mailbox_id=number)
        mine = tuple(reversed(keys)) if number % 2 else keys
        for _ in range(10):
            with known.engine.begin() as connection:
                host_breakers.admit(connection, {number: mine}, NOON, patient)
            for scope in SCOPES:
                with known.engine.begin() as connection:
                    host_breakers.record(connection, [(mine, a_disposition(scope))], NOON, patient)

    in_eight_threads(work)

    with known.engine.connect() as connection:
        rows = connection.execute(text("select key, failures from ops.host_breakers")).all()
    assert {row.key: row.failures for row in rows} == {
        **{f"mailbox:{number}": 10 for number in range(8)},
        DOMAIN: 80,
        ADDRESS: 80,
    }
