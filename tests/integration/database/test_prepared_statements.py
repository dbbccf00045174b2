"""What a session prepares, on a real one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError

from emberflow.database import prepared
from emberflow.queue_manager.sending.group_commit import GroupCommit

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

_REMAINDERS = text("""
    select number % cast(:divisor as integer) as remainder, cast(:moment as timestamptz) as moment, '50 %' as share
    from unnest(cast(:numbers as integer[])) as numbers (number)
    order by number
""")
_RATIO = text("select 1 / cast(:divisor as integer) as ratio")


def remainders(connection: Connection) -> list[tuple[int, datetime, str]]:
    values = {"divisor": 3, "numbers": [5, 3], "moment": NOON}
    return [tuple(row) for row in prepared.rows_of(connection, "remainders", _REMAINDERS, values)]


def prepared_statements(connection: Connection) -> int:
    number: int = connection.execute(text("select count(*) from pg_prepared_statements")).scalar_one()
    return number


@pytest.mark.parametrize("keeps", [False, True])
def test_a_statement_says_the_same_prepared_or_not(bare_database: Engine, keeps: bool) -> None:
    with bare_database.connect() as connection:
        connection.detach()
        if keeps:
            prepared.keep_plans(connection)
        for _ in range(8):  # more often than PostgreSQL makes a plan of its own for each
            assert remainders(connection) == [(0, NOON, "50 %"), (2, NOON, "50 %")]
        assert prepared_statements(connection) == int(keeps)


def test_a_statement_that_failed_is_still_prepared_in_the_next_transaction(bare_database: Engine) -> None:
    with bare_database.connect() as connection:
        connection.detach()
        prepared.keep_plans(connection)
        with pytest.raises(DataError), connection.begin():
            prepared.rows_of(connection, "ratio", _RATIO, {"divisor": 0})
        with connection.begin():
            [row] = prepared.rows_of(connection, "ratio", _RATIO, {"divisor": 1})
            assert row.ratio == 1


def test_a_name_that_another_statement_has_is_refused(bare_database: Engine) -> None:
    with bare_database.connect() as connection:
        connection.detach()
        prepared.keep_plans(connection)
        prepared.rows_of(connection, "ratio", _RATIO, {"divisor": 1})
        with pytest.raises(ValueError, match="two prepared statements have the name ratio"):
            prepared.rows_of(connection, "ratio", _REMAINDERS, {"divisor": 3, "numbers": [5], "moment": NOON})


def test_connections_of_the_pool_prepare_nothing_and_those_of_group_commits_do(bare_database: Engine) -> None:
    def work(connection: Connection, requests: Sequence[int]) -> list[int]:
        remainders(connection)
        return [prepared_statements(connection) for _ in requests]

    with GroupCommit(bare_database, "a test", work, crowd=lambda: 1) as group:
        assert group.ask(1).result(20) == 1
    with bare_database.connect() as connection:
        remainders(connection)
        assert prepared_statements(connection) == 0
