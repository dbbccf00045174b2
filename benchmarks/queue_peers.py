"""One round of a PostgreSQL queue, in the peers' environment: ``python -m benchmarks.queue_peers NAME OPTIONS``.

Each peer claims and finishes every job through its own library's functions, without its worker loop around them, which
could only add to the cost. Jobs carry a payload like a slot's. OPTIONS is a JSON object: count, batch, processes, host
(the directory of PostgreSQL's socket), database, server_pid. The queue's schema is installed if it is missing. The
process fills the queue and then lets so many others, which are connected already, drain it; only that is measured.
Prints {"seconds", "cpu_s", "server_cpu_s"}.

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
import subprocess
import sys
import time
import uuid
from contextlib import asynccontextmanager
from datetime import timedelta

from benchmarks.cpu import tree_cpu_s

_FILL = 5000


@asynccontextmanager
async def procrastinate(options):
    import procrastinate as library
    from procrastinate.jobs import Job, Status

    connector = library.PsycopgConnector(conninfo=f"host={options['host']} dbname={options['database']} user=postgres")
    async with library.App(connector=connector).open_async() as app:
        manager = app.job_manager

        async def fill():
            if not await app.check_connection_async():
                await app.schema_manager.apply_schema_async()
            job = {"id": None, "queue": "mail", "lock": None, "queueing_lock": None, "task_name": "send"}
            for numbers in _portions(options["count"]):
                await manager.batch_defer_jobs_async([Job(**job, task_kwargs=_payload(number)) for number in numbers])
            await connector.execute_query_async("analyze")

        async def prepare():
            new = "insert into procrastinate_workers default values returning id"
            worker = (await connector.execute_query_one_async(new))["id"]

            async def drain():
                done = 0
                while (fetched := await manager.fetch_job(queues=None, worker_id=worker)) is not None:
                    await manager.finish_job(fetched, Status.SUCCEEDED, delete_job=False)
                    done += 1
                return done

            return drain

        yield fill, prepare


@asynccontextmanager
async def pgqueuer(options):
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import EntrypointExecutionParameter, Queries

    connection = await asyncpg.connect(host=options["host"], database=options["database"], user="postgres")
    queries = Queries(AsyncpgDriver(connection))

    async def fill():
        if not await queries.schema_is_installed():
            await queries.install()
        for numbers in _portions(options["count"]):
            payloads = [json.dumps(_payload(number)).encode() for number in numbers]
            await queries.enqueue(["send"] * len(payloads), payloads, [0] * len(payloads))
        await connection.execute("analyze")

    async def prepare():
        entrypoints, worker = {"send": EntrypointExecutionParameter(concurrency_limit=0)}, uuid.uuid4()

        async def drain():
            done = 0
            while jobs := await queries.dequeue(options["batch"], entrypoints, worker, None, timedelta(minutes=5)):
                await queries.log_jobs([(job, "successful", None) for job in jobs])
                done += len(jobs)
            return done

        return drain

    yield fill, prepare
    await connection.close()


@asynccontextmanager
async def pgmq(options):
    import psycopg
    from pgmq import PGMQueue
    from pgmq.install import get_embedded_install_sql, install_pgmq_sql

    dsn = f"host={options['host']} dbname={options['database']} user=postgres"

    def queue():
        return PGMQueue(
            host=options["host"], port="5432", database=options["database"], username="postgres", password="-",  # noqa: S106
            init_extension=False,
        )  # fmt: skip

    async def fill():
        with psycopg.connect(dsn) as connection:
            if not connection.execute("select from pg_namespace where nspname = 'pgmq'").rowcount:
                install_pgmq_sql(get_embedded_install_sql(), conn=connection)
        with psycopg.connect(dsn) as connection:
            if not connection.execute("select from pgmq.list_queues()").rowcount:
                connection.execute("select pgmq.create('mail')")
        filled = queue()
        for numbers in _portions(options["count"]):
            filled.send_batch("mail", [_payload(number) for number in numbers])
        filled.close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("analyze")

    async def prepare():
        drained = queue()

        async def drain():
            done = 0
            while messages := drained.read_batch("mail", vt=600, batch_size=options["batch"]):
                done += len(drained.archive_batch("mail", [message.msg_id for message in messages]))
            drained.close()
            return done

        return drain

    yield fill, prepare


def _payload(number):
    return {"script": "soup-recipe", "thread": f"warmup:bench:{number}", "tier": "virgin", "sender": number % 1000}


def _portions(count):
    return [range(first, min(first + _FILL, count)) for first in range(0, count, _FILL)]


async def _round(peer, name, options):
    async with peer(options) as (fill, _):
        await fill()
    command = [sys.executable, "-m", "benchmarks.queue_peers", name, json.dumps(options | {"drains": True})]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(options["processes"])
    ]
    for worker in workers:
        worker.stdout.readline()
    server_cpu, started = tree_cpu_s(options["server_pid"]), time.perf_counter()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = [json.loads(worker.communicate()[0]) for worker in workers]
    seconds = time.perf_counter() - started
    done = sum(each["done"] for each in found)
    if done != options["count"]:
        raise SystemExit(f"{done} jobs were done instead of {options['count']}")
    cpu_s = sum(each["cpu_s"] for each in found)
    return {"seconds": seconds, "cpu_s": cpu_s, "server_cpu_s": tree_cpu_s(options["server_pid"]) - server_cpu}


async def _drain(peer, options):
    async with peer(options) as (_, prepare):
        drain = await prepare()
        print("ready", flush=True)
        sys.stdin.readline()
        cpu = time.process_time()
        return {"done": await drain(), "cpu_s": time.process_time() - cpu}


async def main(name, options):
    """Be the round, or one of its workers."""
    peer = {"procrastinate": procrastinate, "pgqueuer": pgqueuer, "pgmq": pgmq}[name]
    print(json.dumps(await (_drain(peer, options) if options.get("drains") else _round(peer, name, options))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
