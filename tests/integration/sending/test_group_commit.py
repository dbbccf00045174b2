"""What threads ask of the database together, on a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, OperationalError

from emberflow.queue_manager.sending import group_commit
from emberflow.queue_manager.sending.group_commit import GroupCommit

WAIT_S = 20


@pytest.fixture
def numbers(bare_database: Engine) -> Engine:
    """A database with a table in which every number stands once."""
    with bare_database.begin() as connection:
        connection.execute(text("create table numbers (number integer primary key)"))
    return bare_database


def stored(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("select number from numbers order by number")).scalars())


def store(connection: Connection, numbers: Sequence[int]) -> list[int]:
    """Store numbers; the result of each is its transaction."""
    connection.execute(text("insert into numbers select unnest(cast(:numbers as integer[]))"), {"numbers": [*numbers]})
    transaction: int = connection.execute(text("select txid_current()")).scalar_one()
    return [transaction] * len(numbers)


def a_group(
    engine: Engine,
    work: Callable[[Connection, Sequence[int]], Sequence[int]] = store,
    crowd: int = 5,
    patience_s: float = 5.0,
) -> GroupCommit[int, int]:
    return GroupCommit(engine, "a test", work, crowd=lambda: crowd, patience_s=patience_s)


def test_what_is_asked_for_together_is_one_transaction(numbers: Engine) -> None:
    with a_group(numbers) as group:
        asked = [group.ask(number) for number in range(5)]
        transactions = {future.result(WAIT_S) for future in asked}
        later = group.ask(5).result(WAIT_S)
    assert len(transactions) == 1
    assert later not in transactions
    assert stored(numbers) == list(range(6))


def test_a_request_that_cannot_be_done_costs_no_other_its_result(numbers: Engine) -> None:
    with numbers.begin() as connection:
        store(connection, [2])
    with a_group(numbers) as group:
        asked = [group.ask(number) for number in range(5)]
        errors = [future.exception(WAIT_S) for future in asked]
    assert [error is not None for error in errors] == [False, False, True, False, False]
    assert isinstance(errors[2], IntegrityError)
    assert stored(numbers) == list(range(5))


def test_what_waits_when_it_is_closed_is_still_done(numbers: Engine) -> None:
    with a_group(numbers, crowd=100) as group:
        asked = [group.ask(number) for number in range(3)]
    assert all(future.done() for future in asked)
    assert stored(numbers) == [0, 1, 2]


def end_my_session(engine: Engine, connection: Connection) -> None:
    backend: int = connection.execute(text("select pg_backend_pid()")).scalar_one()
    with engine.connect() as other:
        other.execute(text("select pg_terminate_backend(:pid)"), {"pid": backend})


def test_a_session_that_is_lost_is_replaced_and_its_group_done_once(numbers: Engine) -> None:
    """Q-B6: a failover costs no result, and what the lost transaction had written is not there twice."""
    losses = iter([True, True, False])

    def work(connection: Connection, group: Sequence[int]) -> list[int]:
        done = store(connection, group)
        if next(losses, False):
            end_my_session(numbers, connection)
            connection.execute(text("select 1"))
        return done

    with a_group(numbers, work) as group:
        asked = [group.ask(number) for number in range(5)]
        assert len({future.result(WAIT_S) for future in asked}) == 1
    assert stored(numbers) == list(range(5))


def test_a_database_that_stays_away_is_everybodys_error(numbers: Engine) -> None:
    """Q-B6: after the patience is over, no caller learns that something was done."""

    def work(connection: Connection, _group: Sequence[int]) -> list[int]:
        end_my_session(numbers, connection)
        connection.execute(text("select 1"))
        raise AssertionError("the session was ended")

    with a_group(numbers, work, patience_s=0.3) as group:
        asked = [group.ask(number) for number in range(2)]
        assert all(isinstance(future.exception(WAIT_S), OperationalError) for future in asked)
    assert stored(numbers) == []


def test_a_process_that_stops_in_a_transaction_does_not_keep_its_locks(
    numbers: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q-B6, I2: others go on after a while, and when it goes on itself, its group is done once."""
    monkeypatch.setattr(group_commit, "_LONGEST_IDLE_S", 1)
    has_locked, may_go_on = threading.Event(), threading.Event()

    def work(connection: Connection, group: Sequence[int]) -> list[int]:
        done = store(connection, group)
        if not has_locked.is_set():
            has_locked.set()
            may_go_on.wait(WAIT_S)
        return done

    with a_group(numbers, work, crowd=1) as group:
        asked = group.ask(1)
        assert has_locked.wait(WAIT_S)
        with numbers.begin() as other:  # waits for the number that the stopped one has
            store(other, [1])
            other.execute(text("delete from numbers"))
        assert not asked.done()
        may_go_on.set()
        asked.result(WAIT_S)
    assert stored(numbers) == [1]


def test_a_result_that_need_not_be_durable_does_not_wait_for_the_disk(numbers: Engine) -> None:
    def work(connection: Connection, group: Sequence[int]) -> list[str]:
        return [connection.execute(text("show synchronous_commit")).scalar_one()] * len(group)

    said = []
    for is_durable in (True, False):
        with GroupCommit(numbers, "a test", work, crowd=lambda: 1, is_durable=is_durable) as group:
            said.append(group.ask(1).result(WAIT_S))
    assert said == ["on", "off"]
