"""Policies in the database: one in force, the earlier ones kept with the time in which they were."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from emberflow.errors import ConfigurationError
from emberflow.policy.document import shipped
from emberflow.policy.versions import in_force, put_in_force


def test_one_policy_is_in_force_and_every_earlier_one_is_kept(database: Engine) -> None:
    """D-F1"""
    with database.begin() as connection:
        with pytest.raises(ConfigurationError, match="no policy is in force: run `emberflow policy apply standard`"):
            in_force(connection)
        first = put_in_force(connection, shipped("standard"))
        assert put_in_force(connection, shipped("standard")) == first
        second = put_in_force(connection, shipped("demo"))
        assert (in_force(connection).policy_id, in_force(connection).policy) == (second, shipped("demo"))
        third = put_in_force(connection, shipped("standard"))
        rows = connection.execute(text("select id, valid_from, valid_to from ops.policies order by id")).all()
    assert [row.id for row in rows] == [first, second, third]
    assert [earlier.valid_to for earlier in rows[:-1]] == [later.valid_from for later in rows[1:]]
    assert rows[-1].valid_to is None


def test_which_policy_was_in_force_at_an_instant_can_be_asked(database: Engine) -> None:
    """D-F1: exactly one from the first on, and the later one at the instant of the change."""
    as_of = text("select id from ops.policies where valid_from <= :at and :at < coalesce(valid_to, 'infinity')")
    with database.begin() as connection:
        ids = [put_in_force(connection, shipped(name)) for name in ("standard", "demo", "standard")]
        starts: list[datetime] = list(
            connection.execute(text("select valid_from from ops.policies order by id")).scalars()
        )

        def in_force_at(at: datetime) -> list[int]:
            return list(connection.execute(as_of, {"at": at}).scalars())

        assert [in_force_at(start) for start in starts] == [[policy_id] for policy_id in ids]
        just_before = [in_force_at(start - timedelta(microseconds=1)) for start in starts]
        assert just_before == [[], *([policy_id] for policy_id in ids[:-1])]
        assert in_force_at(starts[-1] + timedelta(days=9999)) == [ids[-1]]
