"""Policies in the database: one in force, the earlier ones kept with the time in which they were."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from emberflow.database.migrate import downgrade, upgrade
from emberflow.email_ops.content import Scripts, load_scripts
from emberflow.errors import ConfigurationError
from emberflow.policy import script_sets
from emberflow.policy.document import shipped
from emberflow.policy.versions import ensure_in_force, in_force, put_in_force
from emberflow.settings import Settings


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


def some_scripts(*names: str) -> Scripts:
    built_in = load_scripts().by_id
    return Scripts({name: built_in[name] for name in names})


def test_the_first_version_takes_its_seed_from_the_settings_and_every_later_one_keeps_it(database: Engine) -> None:
    """Q-F1"""
    with database.begin() as connection:
        put_in_force(connection, shipped("standard"), settings=Settings(seed=7))
        put_in_force(connection, shipped("demo"), settings=Settings(seed=8))
        assert in_force(connection).seed == 7


def test_where_no_seed_is_set_one_is_drawn(database: Engine) -> None:
    drawn = []
    for _ in range(2):
        with database.connect() as connection:  # rolled back: a new database each time
            put_in_force(connection, shipped("standard"), settings=Settings())
            drawn.append(in_force(connection).seed)
    assert drawn[0] != drawn[1]


def test_other_scripts_are_another_version_and_other_numbers_keep_the_scripts(database: Engine) -> None:
    """D-F1"""
    with database.begin() as connection:
        first = put_in_force(connection, shipped("standard"))
        second = put_in_force(connection, shipped("standard"), scripts=some_scripts("book-club"))
        assert put_in_force(connection, shipped("standard"), scripts=some_scripts("book-club")) == second > first
        third = put_in_force(connection, shipped("demo"))
        force = in_force(connection)
        assert force.policy_id == third > second
        assert list(script_sets.load(connection, force.script_set_id).scripts.by_id) == ["book-club"]


def test_stored_scripts_say_what_their_files_say(database: Engine) -> None:
    """B-B7: also what the files leave to defaults."""
    with database.begin() as connection:
        put_in_force(connection, shipped("standard"))
        assert script_sets.load(connection, in_force(connection).script_set_id).scripts == load_scripts()


@pytest.mark.parametrize("change", ["update ops.script_sets set sha256 = 'x'", "delete from ops.script_sets"])
def test_stored_scripts_never_change(database: Engine, change: str) -> None:
    with database.begin() as connection:
        script_sets.store(connection, some_scripts("book-club"))
    with pytest.raises(DBAPIError, match="script_sets is append-only"), database.begin() as connection:
        connection.execute(text(change))


def test_a_database_from_before_scripts_were_stored_adopts_those_of_the_machine_that_migrates_it(
    database: Engine,
) -> None:
    """D-B5"""
    with database.begin() as connection:
        put_in_force(connection, shipped("standard"))
        put_in_force(connection, shipped("demo"))
    downgrade(database, "0018")
    upgrade(database)
    with database.begin() as connection:
        with pytest.raises(ConfigurationError, match="no conversation scripts are in force"):
            in_force(connection)
        ensure_in_force(connection, shipped("standard"), Settings(seed=9))
        force = in_force(connection)
        assert (force.policy.name, force.seed) == (shipped("demo").name, 1)
        assert script_sets.load(connection, force.script_set_id).scripts == load_scripts()
