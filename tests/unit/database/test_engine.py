"""The engine of the configured database."""

from __future__ import annotations

from collections.abc import Callable

from emberflow.database.engine import open_engine


def test_a_process_has_one_engine_of_the_database_that_is_configured_now(configure: Callable[..., None]) -> None:
    """Whatever it was connected to before: a command must not change the database of another configuration."""
    found = []
    for name in ("one", "other", "one"):
        configure(EMBERFLOW_DATABASE_URL=f"postgresql+psycopg2://nobody@localhost/{name}")
        found.append(open_engine())
    assert [engine.url.database for engine in found] == ["one", "other", "one"]
    assert found[0] is found[2] is open_engine("postgresql+psycopg2://nobody@localhost/one")
