"""Parse the DAG folder as Airflow's DAG processor does and print what it found, as JSON.

Run in an interpreter of its own (see ``test_dag_files.py``): Airflow reads its configuration when it is imported,
and the tests of this process must neither see Airflow nor be seen by it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

HEAVY = {"dbt", "emberflow", "numpy", "pandas", "psycopg2"}


def describe(dag: DAG) -> dict[str, Any]:
    """Return what the tests judge about one DAG."""
    serialised = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    restored = DagSerialization.from_dict(serialised)
    return {
        "doc_md": dag.doc_md,
        "description": dag.description,
        "owner": dag.owner,
        "tags": sorted(dag.tags),
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "timetable": type(dag.timetable).__name__,
        "restored_tasks": sorted(restored.task_dict),
        "restored_timetable": type(restored.timetable).__name__,
        "tasks": {
            task.task_id: {
                "pool": task.pool,
                "priority_weight": task.priority_weight,
                "weight_rule": str(getattr(task.weight_rule, "value", task.weight_rule)),
                "retries": task.retries,
                "multiple_outputs": getattr(task, "multiple_outputs", False),
                "trigger_rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
                "inlets": [asset.name for asset in task.inlets],
                "outlets": [asset.name for asset in task.outlets],
                "downstream": sorted(task.downstream_task_ids),
                "timeout_s": task.execution_timeout.total_seconds() if task.execution_timeout else None,
                "is_mapped": task.is_mapped,
                "map_index_template": getattr(task, "map_index_template", None),
            }
            for task in dag.tasks
        },
    }


def main(folder: Path) -> None:
    """Print the report."""
    before = set(sys.modules)
    bag = DagBag(folder, bundle_path=folder, bundle_name="dags")
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    from shared import Pool, Priority, Tag

    report = {
        "import_errors": bag.import_errors,
        "parse_s": {stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats},
        "heavy": sorted(loaded & HEAVY),
        "tags": [str(tag) for tag in Tag],
        "pools": [str(pool) for pool in Pool],
        "priorities": [int(priority) for priority in Priority],
        "dags": {dag_id: describe(dag) for dag_id, dag in bag.dags.items()},
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
