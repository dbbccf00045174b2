"""What a run of a DAG comes to: green when its work was done, red when it was not, in words that say which hour.

Airflow runs the real DAG file on a real database and mail server, in a process of its own and without a scheduler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from emberflow.local_stack import airflow_health
from emberflow.reporting.doctor import Finding
from emberflow.settings import PROJECT_ROOT
from tests.name_server import running_name_server
from tests.worlds import Sandbox, World, a_policy, a_world

FOLDER = PROJECT_ROOT / "dags"
RunDag = Callable[..., dict[str, Any]]
A_DEAD_PORT = 1


@pytest.fixture
def world(database: Engine, sandbox: Sandbox) -> World:
    return a_world(database, sandbox, senders=2, bots=2, policy=a_policy(inbox={"shards": 2}), checks=False)


@pytest.fixture
def run_dag(world: World, bare_database: Engine, tmp_path: Path) -> RunDag:
    """Run a DAG against the test's world, with an Airflow of its own, and return what ``run_probe.py`` found."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EMBERFLOW_"))}
    configured = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(FOLDER),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url_of(bare_database),
        "EMBERFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(FOLDER),
    }

    def run(dag_id: str, **variables: str) -> dict[str, Any]:
        probe = Path(__file__).with_name("run_probe.py")
        done = subprocess.run(
            [sys.executable, str(probe), str(FOLDER), dag_id],
            env=inherited | configured | world.variables() | variables,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def url_of(database: Engine) -> str:
    return database.url.render_as_string(hide_password=False)


def states(report: dict[str, Any], task_id: str) -> list[str]:
    return [task["state"] for task in report["tasks"] if task["task_id"] == task_id]


def test_a_run_of_inbox_fails_when_no_mail_server_answers_although_it_announces(
    run_dag: RunDag, world: World, bare_database: Engine
) -> None:
    """The marts are due, so events are announced; the shards have failed all the same, and so has the run.

    The doctor says so.
    """
    world.change("update ops.mailboxes set imap_port = :port", port=A_DEAD_PORT)

    report = run_dag("inbox")

    assert states(report, "read_shard") == ["failed", "failed"]
    assert {task["tries"] for task in report["tasks"] if task["task_id"] == "read_shard"} == {3}
    assert states(report, "announce_events") == ["success"]
    assert report["announced"] == ["ops.mail_events.for_marts"]
    assert report["state"] == "failed"
    findings = {finding.check: finding for finding in airflow_health.examine(url_of(bare_database))}
    assert findings["DAG runs"].result.startswith("inbox failed since 20")
    assert findings["DAG runs"].result.endswith("(1 in a row)")
    assert "inbox" in (findings["DAG runs"].remedy or "")


def test_a_run_of_inbox_is_green_when_mailboxes_are_read_and_says_what_it_did(
    run_dag: RunDag, bare_database: Engine
) -> None:
    """Its mapped tasks are named by their shards, and each step says its hour and its counts in one line."""
    report = run_dag("inbox")

    assert report["state"] == "success"
    assert states(report, "judge_run") == ["success"]
    names = [task["name"] for task in report["tasks"] if task["task_id"] == "read_shard"]
    assert sorted(names) == ["shard 0", "shard 1"]
    assert report["announced"].count("ops.mail_events.for_marts") == 1
    hour = r"INFO \d{4}-\d\d-\d\d \d\d:00 UTC: "
    assert [line for line in report["said"] if not re.match(hour, line)] == []
    assert sorted(re.sub(hour, "", line) for line in report["said"]) == [
        "shard 0: mailboxes 2, unreadable 0",
        "shard 1: mailboxes 2, unreadable 0",
        "shards to read: 0, 1",
        "the marts are due",
    ]

    examine_airflow(bare_database)


def test_a_run_of_domain_checks_asks_the_name_server_that_is_named(run_dag: RunDag, world: World) -> None:
    """Towards S-B9"""
    domain = world.senders[0].address.partition("@")[2]
    with running_name_server({(domain, "TXT"): ['"v=spf1 -all"']}) as server:
        report = run_dag("domain_checks", EMBERFLOW_DNS_SERVERS=server.setting)

    assert report["state"] == "success"
    assert report["said"][0].endswith(
        "domains and egress addresses: subjects 1, not_reached 0, pass 2, fail 2, unknown 1"
    )
    stored = world.rows("select check_name, status from ops.domain_checks where subject = :domain", domain=domain)
    assert {row["check_name"]: row["status"] for row in stored} == {
        "spf": "pass", "dkim": "unknown", "dmarc": "fail", "mx": "fail", "tls": "pass",
    }  # fmt: skip


def examine_airflow(metadata: Engine) -> None:
    """Ask the doctor about an Airflow whose last run was good and which has no processes, and again after changes."""

    def found() -> dict[str, Finding]:
        return {finding.check: finding for finding in airflow_health.examine(url_of(metadata))}

    def change(statement: str, **values: object) -> None:
        with metadata.begin() as connection:
            connection.execute(text(statement), values)

    before = found()
    assert (before["DAG runs"].remedy, before["DAGs"]) == (None, Finding("DAGs", "6 of 6 known"))
    assert "scheduler does not run" in before["Airflow's heartbeats"].result
    assert "airflow-scheduler.log" in (before["Airflow's heartbeats"].remedy or "")

    for job, silent_s in (("SchedulerJob", 1), ("DagProcessorJob", 2), ("TriggererJob", 600)):
        change(
            "insert into job (state, job_type, latest_heartbeat) "
            "values ('running', :job, clock_timestamp() - make_interval(secs => :silent_s))",
            job=job, silent_s=silent_s,
        )  # fmt: skip
    change("update dag set is_paused = true where dag_id = 'dispatch'")
    change("update dag set is_stale = true where dag_id = 'inbox'")
    change("update dag_run set state = 'running', start_date = clock_timestamp() - interval '3 hours'")
    after = found()

    assert re.fullmatch(
        r"scheduler \d+ s ago, dag processor \d+ s ago, triggerer 60\d s ago", after["Airflow's heartbeats"].result
    )
    assert "airflow-triggerer.log" in (after["Airflow's heartbeats"].remedy or "")
    assert "airflow-scheduler.log" not in (after["Airflow's heartbeats"].remedy or "")
    assert after["DAGs"].result == "5 of 6 known; missing: inbox; paused: dispatch"
    assert "emberflow airflow dags unpause dispatch" in (after["DAGs"].remedy or "")
    assert after["DAG runs"].result.startswith("inbox running since 20")
