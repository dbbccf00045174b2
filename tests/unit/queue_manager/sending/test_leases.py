"""Which slots a run holds, and whose leases are renewed; the database is a list of calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from emberflow.domain.slot import Slot
from emberflow.queue_manager import slot_store
from emberflow.queue_manager.sending import leases
from emberflow.queue_manager.sending.leases import Leases, given_back, put_off
from tests.unit.delivery.mails import NOON, a_mail, a_policy

ONE, TWO, THREE = (a_mail(id=number) for number in (1, 2, 3))
MUCH_MORE_OFTEN = 100_000


class Database:
    """Claims what is ``due``, and remembers what it was asked; the first ``failures`` renewals fail."""

    def __init__(self) -> None:
        self.due: list[Slot] = []
        self.held: list[set[int]] = []
        self.failures = 0
        self.renewed: set[int] = set()
        self.was_renewed = threading.Event()

    def claim(self, _connection: Any, *, held: set[int], limit: int, **_: Any) -> list[Slot]:
        self.held.append(set(held))
        return self.due[:limit]

    def renew(self, _connection: Any, slots: Sequence[Slot], _lease_s: float) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        self.renewed = {slot.id for slot in slots}
        self.was_renewed.set()

    def next_renewal(self) -> set[int]:
        """The slots of a renewal that began after this call."""
        for _ in range(2):  # one may have begun before it
            self.was_renewed.clear()
            assert self.was_renewed.wait(10)
        return self.renewed


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()
    monkeypatch.setattr(slot_store, "claim", database.claim)
    monkeypatch.setattr(slot_store, "renew", database.renew)
    monkeypatch.setattr(leases, "_RENEWALS_PER_LEASE", MUCH_MORE_OFTEN)
    return database


@pytest.fixture
def engine() -> Engine:
    return create_engine("sqlite://")


@pytest.fixture
def held(engine: Engine) -> Leases:
    return Leases(engine, 0, a_policy())


def claim(held: Leases, engine: Engine, limit: int = 10) -> list[Slot]:
    with engine.begin() as connection:
        return held.claim(connection, NOON, limit)


def test_a_slot_that_is_held_is_claimed_no_second_time_until_it_has_ended(
    held: Leases, engine: Engine, database: Database
) -> None:
    """Q-B4: also if its lease lapsed meanwhile, because this process slept."""
    database.due = [ONE, TWO, THREE]
    held.hold(claim(held, engine, limit=2))
    assert len(held) == 2
    held.leave(ONE)
    claim(held, engine)
    held.end(ONE)
    claim(held, engine)
    assert database.held == [set(), {1, 2}, {2}]


def test_a_claim_that_was_not_committed_holds_nothing(held: Leases, engine: Engine, database: Database) -> None:
    database.due = [ONE]
    claim(held, engine)
    assert len(held) == 0


def test_leases_are_renewed_from_keep_until_leave(held: Leases, database: Database) -> None:
    """Q-B6: what is submitted has a lease of its own, which no renewal may shorten."""
    held.hold([ONE, TWO, THREE])
    held.keep(ONE)
    held.keep(TWO)
    with held.renewing():
        assert database.next_renewal() == {1, 2}
        held.leave(ONE)
        held.leave(ONE)
        assert database.next_renewal() == {2}
        held.end(TWO)
        assert database.next_renewal() == set()


def test_a_renewal_that_fails_is_followed_by_the_next(held: Leases, database: Database) -> None:
    """Q-B6: the database may be away for a moment; the slots stay held."""
    database.failures = 3
    held.hold([ONE])
    held.keep(ONE)
    with held.renewing():
        assert database.next_renewal() == {1}
    assert (database.failures, len(held)) == (0, 1)


def test_nothing_is_renewed_once_the_run_is_over(held: Leases, database: Database) -> None:
    held.keep(ONE)
    with held.renewing():
        database.next_renewal()
    database.was_renewed.clear()
    assert not [thread for thread in threading.enumerate() if thread.name == "renewal"]
    assert not database.was_renewed.is_set()


def test_a_slot_that_is_given_back_is_due_when_it_was_and_one_that_is_put_off_later() -> None:
    slot = a_mail(target_time=NOON - timedelta(minutes=3))
    refusal = given_back(slot, "run stopped").refusal
    assert refusal is not None
    assert (refusal.reason, refusal.retry_at) == ("run stopped", slot.target_time)
    assert put_off("egress_refused", NOON, 90).retry_at == NOON + timedelta(seconds=90)
