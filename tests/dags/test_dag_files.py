"""The DAG files as the DAG processor sees them, and as text.

What the DAGs *do* is judged under a running Airflow: see ``tests/integration/stack/test_stack.py``.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emberflow.local_stack import airflow_pools
from emberflow.local_stack.airflow import PARALLELISM
from emberflow.policy.document import shipped
from emberflow.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "dags"
FILES = sorted(FOLDER.glob("**/*.py"))
DAG_IDS = {"warmup_hourly", "dispatch", "inbox", "reconcile", "reputation", "domain_checks"}
LONGEST_FILE = 110
LONGEST_PARSE_S = 1.0
LONGEST_DESCRIPTION = 100
LONGEST_TASK_S = 3600
# Under these a task fails with the tasks before it; under any other it may be green after them.
FAILS_WITH_ITS_UPSTREAM = {"all_success", "none_failed"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``dag_probe.py`` found, in an Airflow of its own that has no database and no server."""
    directory = tmp_path_factory.mktemp("airflow")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "EMBERFLOW_"))}
    configured = {
        "AIRFLOW_HOME": str(directory),
        "AIRFLOW__CORE__DAGS_FOLDER": str(FOLDER),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{directory}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(FOLDER),
    }
    probe = Path(__file__).with_name("dag_probe.py")
    done = subprocess.run(
        [sys.executable, str(probe), str(FOLDER)],
        env=inherited | configured, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def dags(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The DAGs by id; a test that loops over them cannot pass on an empty folder."""
    found: dict[str, dict[str, Any]] = report["dags"]
    assert set(found) == DAG_IDS
    return found


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules that import statements among ``nodes`` name; ``from a import b`` names ``a``."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_folder_holds_exactly_the_dags_of_the_project_and_each_can_be_imported(report: dict[str, Any]) -> None:
    assert report["import_errors"] == {}
    assert set(report["dags"]) == DAG_IDS


def test_every_file_parses_in_less_than_a_second(report: dict[str, Any]) -> None:
    slow = {file: seconds for file, seconds in report["parse_s"].items() if seconds >= LONGEST_PARSE_S}

    assert len(report["parse_s"]) >= len(DAG_IDS)
    assert slow == {}


def test_parsing_loads_neither_the_library_nor_pandas_nor_dbt(report: dict[str, Any]) -> None:
    assert report["heavy"] == []


def test_every_dag_carries_its_runbook_with_triage_notes(report: dict[str, Any]) -> None:
    without = [dag_id for dag_id, dag in dags(report).items() if "### Triage notes" not in (dag["doc_md"] or "")]

    assert without == []


def test_every_dag_is_described_by_the_first_line_of_its_runbook(report: dict[str, Any]) -> None:
    for dag_id, dag in dags(report).items():
        assert dag["description"], dag_id
        assert dag["description"] == dag["doc_md"].strip().splitlines()[0], dag_id
        assert len(dag["description"]) <= LONGEST_DESCRIPTION, dag_id


def test_a_failed_task_fails_its_run(report: dict[str, Any]) -> None:
    """A run is as green as its last tasks: from each task a failure must reach one of them."""

    def reaches_the_end(tasks: dict[str, dict[str, Any]], task_id: str) -> bool:
        after = tasks[task_id]["downstream"]
        return not after or any(
            tasks[next_id]["trigger_rule"] in FAILS_WITH_ITS_UPSTREAM and reaches_the_end(tasks, next_id)
            for next_id in after
        )

    silent = [
        (dag_id, task_id)
        for dag_id, dag in dags(report).items()
        for task_id in dag["tasks"]
        if not reaches_the_end(dag["tasks"], task_id)
    ]

    assert silent == []


def test_no_task_runs_longer_than_it_may(report: dict[str, Any]) -> None:
    """One run at a time: a task that hangs would hold up every run after it."""
    for dag_id, dag in dags(report).items():
        for task_id, task in dag["tasks"].items():
            assert task["timeout_s"] is not None, (dag_id, task_id)
            assert 0 < task["timeout_s"] <= LONGEST_TASK_S, (dag_id, task_id)


def test_mapped_tasks_are_named_by_their_shard(report: dict[str, Any]) -> None:
    mapped = {
        (dag_id, task_id): task["map_index_template"]
        for dag_id, dag in dags(report).items()
        for task_id, task in dag["tasks"].items()
        if task["is_mapped"]
    }

    assert mapped == {
        ("dispatch", "send_shard"): "shard {{ task.op_kwargs['shard'] }}",
        ("inbox", "read_shard"): "shard {{ task.op_kwargs['shard'] }}",
        ("reconcile", "reconcile_shard"): "shard {{ task.op_kwargs['shard'] }}",
    }


def test_every_dag_has_the_projects_owner_and_only_known_tags(report: dict[str, Any]) -> None:
    known = set(report["tags"])

    for dag_id, dag in dags(report).items():
        assert dag["owner"] == "emberflow", dag_id
        assert dag["tags"], dag_id
        assert set(dag["tags"]) <= known, dag_id


def test_a_dag_runs_once_at_a_time_and_never_catches_up_on_its_own(report: dict[str, Any]) -> None:
    for dag_id, dag in dags(report).items():
        assert dag["max_active_runs"] == 1, dag_id
        assert dag["catchup"] is False, dag_id


def test_hours_are_partitions_and_no_schedule_is_a_bare_cron_string(report: dict[str, Any]) -> None:
    """A cron string gives an interval of length zero: the hour of a run could not be read from its record."""
    timetables = {dag_id: dag["timetable"] for dag_id, dag in dags(report).items()}
    bare = [
        f"{file.name}:{keyword.value.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "schedule" and isinstance(keyword.value, ast.Constant)
    ]

    assert bare == []
    assert timetables == {
        "warmup_hourly": "CronPartitionTimetable",
        "dispatch": "CronTriggerTimetable",
        "inbox": "CronPartitionTimetable",
        "reconcile": "CronTriggerTimetable",
        "reputation": "PartitionedAssetTimetable",
        "domain_checks": "CronTriggerTimetable",
    }


def test_every_task_names_its_pool_and_a_priority_of_its_own(report: dict[str, Any]) -> None:
    """Among DAGs: who sends never waits for who reads, and who reads never for who plans or builds.

    A task that names a missing pool is never scheduled; under Airflow's own rule a weight would count what follows.
    """
    found = {
        dag_id: {(task["pool"], task["priority_weight"], task["weight_rule"]) for task in dag["tasks"].values()}
        for dag_id, dag in dags(report).items()
    }

    assert found == {
        "dispatch": {("mail_sending", 50, "absolute")},
        "inbox": {("mail_reading", 40, "absolute")},
        "reconcile": {("mail_reading", 30, "absolute")},
        "warmup_hourly": {("building", 20, "absolute")},
        "reputation": {("building", 10, "absolute")},
        "domain_checks": {("mail_reading", 5, "absolute")},
    }
    assert {weight for tasks in found.values() for _, weight, _ in tasks} == set(report["priorities"])


def test_the_pools_are_those_that_the_stack_creates_and_share_what_airflow_runs_at_once(report: dict[str, Any]) -> None:
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    sizes = airflow_pools.declared()

    assert set(report["pools"]) == set(sizes)
    assert all(slots > 0 for slots in sizes.values())
    assert sum(sizes.values()) == PARALLELISM == int(compose["x-environment"]["AIRFLOW__CORE__PARALLELISM"])
    assert shipped("standard").dispatch.shards <= sizes["mail_sending"]
    assert shipped("demo").dispatch.shards <= sizes["mail_sending"]


def test_sending_is_not_retried_by_airflow_and_events_are_announced_whatever_a_shard_did(
    report: dict[str, Any],
) -> None:
    """Q-B3: the queue decides about another attempt, not a task's retry; one dead shard does not stop the marts."""
    found = dags(report)

    assert found["dispatch"]["tasks"]["send_shard"]["retries"] == 0
    assert found["inbox"]["tasks"]["announce_events"]["trigger_rule"] == "all_done"


def test_a_report_is_one_xcom(report: dict[str, Any]) -> None:
    """Airflow would push each key of an annotated dict on its own as well: one more request and row per key."""
    split = [
        (dag_id, task_id)
        for dag_id, dag in dags(report).items()
        for task_id, task in dag["tasks"].items()
        if task["multiple_outputs"]
    ]

    assert split == []


def test_assets_say_what_each_task_reads_and_writes(report: dict[str, Any]) -> None:
    """Only what `reputation` waits for starts a DAG; the tables' own assets are lineage."""
    slots, events, news = "ops.scheduled_tasks", "ops.mail_events", "ops.mail_events.for_marts"
    scores, placements = "marts.sender_scores", "marts.provider_placements"
    found = {
        (dag_id, task_id): (set(task["inlets"]), set(task["outlets"]))
        for dag_id, dag in dags(report).items()
        for task_id, task in dag["tasks"].items()
        if task["inlets"] or task["outlets"]
    }

    assert found == {
        ("warmup_hourly", "plan_hour"): ({scores, placements}, {slots}),
        ("dispatch", "due_shards"): ({slots}, set()),
        ("dispatch", "send_shard"): ({slots}, {slots, events}),
        ("inbox", "read_shard"): ({slots}, {slots, events}),
        ("inbox", "announce_events"): ({events}, {news}),
        ("reconcile", "uncertain_shards"): ({slots}, set()),
        ("reconcile", "reconcile_shard"): ({slots}, {slots, events}),
        ("reputation", "build_marts"): ({events}, {scores, placements}),
    }


def test_a_dag_survives_serialisation(report: dict[str, Any]) -> None:
    for dag_id, dag in dags(report).items():
        assert dag["restored_tasks"] == sorted(dag["tasks"]), dag_id
        assert dag["restored_timetable"] == dag["timetable"], dag_id


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_is_wiring(file: Path) -> None:
    """One screen; Airflow and the standard library at the top, the library only inside tasks."""
    source = file.read_text()
    tree = ast.parse(source)
    everywhere = list(ast.walk(tree))
    inside = [node for node in everywhere if isinstance(node, ast.Import | ast.ImportFrom) and node not in tree.body]
    top = {name.partition(".")[0] for name in imports(tree.body)}

    assert len(source.splitlines()) <= LONGEST_FILE
    assert top <= {"airflow", "pendulum", "shared"} | set(sys.stdlib_module_names)
    assert imports(inside) <= {"emberflow.queue_manager", "emberflow.reporting"}
