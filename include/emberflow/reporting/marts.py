"""The reputation marts: when they are due, and how they are built.

The figures themselves are SQL in ``dbt/``; the model is documented there, beside each table. What the planner
reads is ``marts.sender_scores``: one row per sender with ``sender_id`` bigint, ``score`` double precision
(0-100, null without the minimum evidence of S-B7), ``model_version`` text, ``as_of`` timestamptz.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, make_url, text

from emberflow.clock import require_utc
from emberflow.database.engine import open_engine
from emberflow.errors import EmberflowError
from emberflow.settings import home, settings

_BUILD_LOCK = text("select pg_advisory_lock(hashtext('emberflow.build_marts'))")
_BUILD_UNLOCK = text("select pg_advisory_unlock(hashtext('emberflow.build_marts'))")
_OTHER_MODEL = text("""
    select exists (
        select
        from marts.sender_scores as scores
        inner join ops.policies as policies on policies.valid_to is null
        where scores.model_version is distinct from policies.document #>> '{reputation,model}'
    )
""")
_FAILED = frozenset({"error", "fail", "runtime error", "partial success"})


class MartBuildError(EmberflowError):
    """A model could not be built or a test of the data failed.

    ``failures`` maps the name of each failed node to what the database or the test said; it is empty when dbt
    did not get as far as running one.
    """

    def __init__(self, problem: str, failures: dict[str, str] | None = None) -> None:
        self.failures = dict(failures or {})
        super().__init__("\n".join([problem, *(f"  {node}: {said}" for node, said in self.failures.items())]))


@dataclass(frozen=True)
class MartBuild:
    """What one build did: models built, data tests passed, and the wall seconds of it all."""

    models: int
    tests: int
    seconds: float


def build_marts(as_of: datetime) -> MartBuild:
    """Build and test the marts so that they describe the instant ``as_of``.

    Events that occurred before ``as_of`` count; dbt knows whole seconds, so ``as_of`` is rounded up to one.
    Marts never go back in time: for an instant before the last build they are built as of that one again,
    which makes a retried or cleared run harmless. One build runs at a time on a database; a second one waits.

    Raises:
        MartBuildError: a model could not be built, or a test is red; it names each of them. Scores are up to
            date all the same if only invariants (``assert_...``) are red.
    """
    started = time.perf_counter()
    with open_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_BUILD_LOCK)
        try:
            last = _last_as_of(connection)
            results = _dbt_build(max(_whole_second(as_of), last) if last else _whole_second(as_of))
        finally:
            connection.execute(_BUILD_UNLOCK)
    kinds = [str(result.node.resource_type) for result in results]
    return MartBuild(models=kinds.count("model"), tests=kinds.count("test"), seconds=time.perf_counter() - started)


def is_due(connection: Connection, now: datetime, refresh_s: int) -> bool:
    """Return whether the marts are out of date: ``refresh_s`` seconds old, and events came in since.

    Marts that were never built are due, and so are those of another model than the policy in force names.
    """
    if not _marts_exist(connection):
        return True
    if connection.execute(_OTHER_MODEL).scalar_one():
        return True
    last = _last_as_of(connection)
    if last is not None and require_utc(now) - last < timedelta(seconds=refresh_s):
        return False
    newer = text("""
        select exists (
            select from ops.mail_events
            where recorded_at >= coalesce(cast(:last as timestamptz), '-infinity')
        )
    """)
    return bool(connection.execute(newer, {"last": last}).scalar_one())


def _marts_exist(connection: Connection) -> bool:
    found = connection.execute(text("select to_regclass('marts.sender_scores') is not null"))
    return bool(found.scalar_one())


def _last_as_of(connection: Connection) -> datetime | None:
    if not _marts_exist(connection):
        return None
    last: datetime | None = connection.execute(text("select max(as_of) from marts.sender_scores")).scalar_one()
    return last


def _whole_second(moment: datetime) -> datetime:
    moment = require_utc(moment)
    return moment if moment.microsecond == 0 else moment.replace(microsecond=0) + timedelta(seconds=1)


def _dbt_build(as_of: datetime) -> list[Any]:
    """Run ``dbt build`` without unit tests and return its results, all of them good."""
    # dbt takes two seconds to import, and most processes only ask whether a build is due.
    from dbt.adapters.factory import reset_adapters
    from dbt.cli.main import dbtRunner

    project = str(settings().dbt_dir)
    artefacts = home() / "dbt"
    arguments = [
        "--no-use-colors", "--no-send-anonymous-usage-stats", "--log-format", "text",
        "--log-level", "none", "--log-level-file", "info", "--log-path", str(artefacts / "logs"),
        "build", "--exclude-resource-type", "unit_test",
        "--project-dir", project, "--profiles-dir", project, "--target-path", str(artefacts / "target"),
        "--event-time-start", "1970-01-01", "--event-time-end", f"{as_of:%Y-%m-%dT%H:%M:%S}",
    ]  # fmt: skip
    with _connection_variables():
        try:
            outcome = dbtRunner().invoke(arguments)
        finally:
            # dbt's adapters hold named semaphores. A task's process ends without Python's clean-up, and would be told
            # in red that it leaked them.
            reset_adapters()  # type: ignore[no-untyped-call]
            gc.collect()
    if outcome.exception is not None:
        if not isinstance(outcome.exception, Exception):
            raise outcome.exception  # dbtRunner returns even KeyboardInterrupt and Airflow's task timeout
        raise MartBuildError(f"dbt could not build the marts: {outcome.exception}") from outcome.exception
    results: list[Any] = list(getattr(outcome.result, "results", []))
    failures = {result.node.name: str(result.message).strip() for result in results if str(result.status) in _FAILED}
    if failures or not outcome.success:
        raise MartBuildError(f"dbt build as of {as_of.isoformat()}: {len(failures)} node(s) failed", failures)
    return results


@contextmanager
def _connection_variables() -> Iterator[None]:
    """Hand the configured database to ``dbt/profiles.yml``, for one invocation."""
    url = make_url(settings().require_database_url())
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    variables = {
        "EMBERFLOW_PG_HOST": query.get("host") or url.host or "localhost",
        "EMBERFLOW_PG_PORT": query.get("port") or str(url.port or 5432),
        "EMBERFLOW_PG_USER": url.username or "postgres",
        "EMBERFLOW_PG_PASSWORD": str(url.password or ""),
        "EMBERFLOW_PG_DATABASE": url.database or "emberflow",
        "EMBERFLOW_PG_SSLMODE": query.get("sslmode", "prefer"),
        "EMBERFLOW_PG_SSLROOTCERT": query.get("sslrootcert", ""),
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
