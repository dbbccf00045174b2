"""One round of a PostgreSQL queue, in a process of the peers' environment: ````python -m
benchmarks.queue_peers NAME OPTIONS``.

Each peer claims and finishes every job through its own library's functions, without its worker loop around them, which
could only add to the cost. Jobs carry a payload like a slot's. OPTIONS is a JSON object: count, batch, host (the
directory of PostgreSQL's socket), database, server_pid. The queue's schema is installed if it is missing. Filling the
queue is not measured. Prints {"seconds", "cpu_s", "server_cpu_s"}.

``procrastinate``
    ``fetch_job`` and ``finish_job``; it has no batches. The finished job stays, as ours do.
``pgqueuer``
    ``dequeue`` and ``log_jobs``, which moves the jobs to a log table.
``pgmq``
    ``read_batch`` and ``archive_batch``, which moves the messages to an archive table.
"""

# Runs in an environment that the type checker does not see; a round imports the one peer that it measures.
# mypy: ignore-errors
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from datetime import timedelta

from benchmarks.cpu import tree_cpu_s

_FILL = 5000


def _payload(number):
    return {"script": "soup-recipe", "thread": f"warmup:bench:{number}", "tier": "virgin", "sender": number % 1000}


class _Watch:
    """Seconds of a block: wall, CPU of this process, CPU of the PostgreSQL server."""

    def __init__(self, options):
        self._server = options["server_pid"]

    def __enter__(self):
        self._before = self._now()
        return self

    def __exit__(self, *_):
        names = ("seconds", "cpu_s", "server_cpu_s")
        self.found = {name: late - early for name, early, late in zip(names, self._before, self._now(), strict=True)}

    def _now(self):
        return time.perf_counter(), time.process_time(), tree_cpu_s(self._server)


def _require(done, count):
    if done != count:
        raise SystemExit(f"{done} jobs were done instead of {count}")


async def procrastinate(options):
    import procrastinate as library
    from procrastinate.jobs import Job, Status

    connector = library.PsycopgConnector(conninfo=f"host={options['host']} dbname={options['database']} user=postgres")
    async with library.App(connector=connector).open_async() as app:
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        manager = app.job_manager
        job = {"id": None, "queue": "mail", "lock": None, "queueing_lock": None, "task_name": "send"}
        for first in range(0, options["count"], _FILL):
            numbers = range(first, min(first + _FILL, options["count"]))
            await manager.batch_defer_jobs_async([Job(**job, task_kwargs=_payload(number)) for number in numbers])
        await connector.execute_query_async("analyze")
        row = await connector.execute_query_one_async("insert into procrastinate_workers default values returning id")
        done = 0
        with _Watch(options) as watch:
            while (fetched := await manager.fetch_job(queues=None, worker_id=row["id"])) is not None:
                await manager.finish_job(fetched, Status.SUCCEEDED, delete_job=False)
                done += 1
    _require(done, options["count"])
    return watch.found


async def pgqueuer(options):
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import EntrypointExecutionParameter, Queries

    connection = await asyncpg.connect(host=options["host"], database=options["database"], user="postgres")
    queries = Queries(AsyncpgDriver(connection))
    if not await queries.schema_is_installed():
        await queries.install()
    for first in range(0, options["count"], _FILL):
        payloads = [
            json.dumps(_payload(number)).encode() for number in range(first, min(first + _FILL, options["count"]))
        ]
        await queries.enqueue(["send"] * len(payloads), payloads, [0] * len(payloads))
    await connection.execute("analyze")
    entrypoints = {"send": EntrypointExecutionParameter(concurrency_limit=0)}
    worker, done = uuid.uuid4(), 0
    with _Watch(options) as watch:
        while jobs := await queries.dequeue(options["batch"], entrypoints, worker, None, timedelta(minutes=5)):
            await queries.log_jobs([(job, "successful", None) for job in jobs])
            done += len(jobs)
    await connection.close()
    _require(done, options["count"])
    return watch.found


async def pgmq(options):
    import psycopg
    from pgmq import PGMQueue
    from pgmq.install import get_embedded_install_sql, install_pgmq_sql

    dsn = f"host={options['host']} dbname={options['database']} user=postgres"
    with psycopg.connect(dsn) as connection:
        installed = connection.execute("select from pg_namespace where nspname = 'pgmq'").rowcount
        if not installed:
            install_pgmq_sql(get_embedded_install_sql(), conn=connection)
    with psycopg.connect(dsn) as connection:
        if not connection.execute("select from pgmq.list_queues()").rowcount:
            connection.execute("select pgmq.create('mail')")
    queue = PGMQueue(
        host=options["host"], port="5432", database=options["database"], username="postgres", password="-",  # noqa: S106
        init_extension=False,
    )  # fmt: skip
    for first in range(0, options["count"], _FILL):
        queue.send_batch("mail", [_payload(n) for n in range(first, min(first + _FILL, options["count"]))])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("analyze")
    done = 0
    with _Watch(options) as watch:
        while messages := queue.read_batch("mail", vt=600, batch_size=options["batch"]):
            done += len(queue.archive_batch("mail", [message.msg_id for message in messages]))
    queue.close()
    _require(done, options["count"])
    return watch.found


if __name__ == "__main__":
    name, given = sys.argv[1:]
    found = asyncio.run({"procrastinate": procrastinate, "pgqueuer": pgqueuer, "pgmq": pgmq}[name](json.loads(given)))
    sys.stdout.write(json.dumps(found) + "\n")
