"""Is Airflow at work? Its processes, its DAGs and their last runs, read from its own database.

Nothing is written there. Airflow's REST API says the same, but needs a password and a process that answers; the
database is where both look. Tables and columns are those of Airflow 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from emberflow.local_stack.stack import DAG_IDS
from emberflow.reporting.doctor import Finding

# Twice what Airflow's own health page allows, because the machine may be busy.
_LONGEST_SILENCE_S = 60
_LONGEST_RUN_H = 2
_PROCESSES = {
    "SchedulerJob": ("scheduler", "airflow-scheduler"),
    "DagProcessorJob": ("dag processor", "airflow-dag-processor"),
    "TriggererJob": ("triggerer", "airflow-triggerer"),
}
_HEARTBEATS = text("""
    select job_type, extract(epoch from clock_timestamp() - max(latest_heartbeat))::bigint as silent_s
    from job
    where state = 'running'
    group by job_type
""")
_DAGS = text("select dag_id, is_paused from dag where not is_stale")
_IMPORT_ERRORS = text("select distinct filename from import_error order by filename")
# Of each DAG the failures since its last success, and what has been under way for too long.
_RUNS = text("""
    with recent as (
        select
            dag_id, state, end_date,
            row_number() over (partition by dag_id order by run_after desc, id desc) as place
        from dag_run
        where state in ('success', 'failed') and run_after >= clock_timestamp() - interval '2 days'
    ),

    last_successes as (
        select dag_id, min(place) as place
        from recent
        where state = 'success'
        group by dag_id
    )

    select recent.dag_id, 'failed' as what, count(*) as runs, min(recent.end_date) as since
    from recent
    left join last_successes on last_successes.dag_id = recent.dag_id
    where last_successes.place is null or recent.place < last_successes.place
    group by recent.dag_id
    union all
    select dag_id, 'running' as what, count(*) as runs, min(start_date) as since
    from dag_run
    where state = 'running' and start_date < clock_timestamp() - make_interval(hours => :longest_run_h)
    group by dag_id
    order by dag_id
""")


def examine(url: str | None) -> list[Finding]:
    """Run every check on the Airflow whose database is at ``url``, if one is known."""
    if url is None:
        return [Finding("Airflow", "not looked at: no Airflow is known here (AIRFLOW__DATABASE__SQL_ALCHEMY_CONN)")]
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return list(_checks(connection))
    except SQLAlchemyError as error:
        remedy = "start the stack with `./emberflow up`; in containers `docker compose up migrate`"
        return [Finding("Airflow", str(error).splitlines()[0], remedy)]
    finally:
        engine.dispose()


def _checks(connection: Connection) -> Iterator[Finding]:
    yield _processes(connection)
    yield _dags(connection)
    yield _runs(connection)


def _processes(connection: Connection) -> Finding:
    silent = {str(row.job_type): int(row.silent_s) for row in connection.execute(_HEARTBEATS)}
    ages: list[str] = []
    dead: list[str] = []
    for job, (name, process) in _PROCESSES.items():
        seconds = silent.get(job)
        ages.append(f"{name} {'does not run' if seconds is None else f'{seconds} s ago'}")
        if seconds is None or seconds > _LONGEST_SILENCE_S:
            dead.append(process)
    remedy = None
    if dead:
        logs = ", ".join(f"{process}.log" for process in dead)
        remedy = (
            f"run `./emberflow up`, and before it `down` if the process is there but silent; see {logs} in <home>/run"
        )
    return Finding("Airflow's heartbeats", ", ".join(ages), remedy)


def _dags(connection: Connection) -> Finding:
    present = {str(row.dag_id): bool(row.is_paused) for row in connection.execute(_DAGS)}
    broken: list[str] = list(connection.execute(_IMPORT_ERRORS).scalars())
    missing = sorted(DAG_IDS - present.keys())
    paused = [dag_id for dag_id in sorted(DAG_IDS) if present.get(dag_id)]
    notes = [f"{len(DAG_IDS) - len(missing)} of {len(DAG_IDS)} known"]
    remedies = []
    if broken:
        notes.append(f"cannot be imported: {', '.join(broken)}")
        remedies.append("run `./emberflow airflow dags list-import-errors`")
    elif missing:
        notes.append(f"missing: {', '.join(missing)}")
        remedies.append("look at airflow-dag-processor.log in `<home>/run`")
    if paused:
        notes.append(f"paused: {', '.join(paused)}")
        remedies.append(", ".join(f"`./emberflow airflow dags unpause {name}`" for name in paused))
    return Finding("DAGs", "; ".join(notes), "; ".join(remedies) or None)


def _runs(connection: Connection) -> Finding:
    troubles = connection.execute(_RUNS, {"longest_run_h": _LONGEST_RUN_H}).all()
    notes = [f"{row.dag_id} {row.what} since {row.since:%Y-%m-%d %H:%M} ({row.runs} in a row)" for row in troubles]
    if not notes:
        return Finding("DAG runs", "the last run of every DAG was good")
    names = list(dict.fromkeys(str(row.dag_id) for row in troubles))
    return Finding(
        "DAG runs",
        ", ".join(notes),
        f"open {', '.join(names)} in Airflow: the red task's log says why, the DAG's notes say what to do",
    )
