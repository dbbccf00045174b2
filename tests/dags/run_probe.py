"""Run one DAG to its end as ``airflow dags test`` does and print what became of it, as JSON.

Run in an interpreter of its own, for the reason that ``dag_probe.py`` gives. Retries come at once.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.utils import db
from airflow.utils.session import create_session
from sqlalchemy import select


class Kept(logging.Handler):
    """Keeps the records of the library's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def main(folder: Path, dag_id: str) -> None:
    """Print the report."""
    db.initdb()
    dag = DagBag(folder, bundle_path=folder, bundle_name="dags-folder").dags[dag_id]
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    kept = Kept()
    steps = logging.getLogger("emberflow.steps")
    steps.setLevel(logging.INFO)
    steps.addHandler(kept)
    run = dag.test(logical_date=None)
    with create_session() as session:
        events = session.scalars(select(AssetEvent)).all()
        report: dict[str, Any] = {
            "state": str(run.state.value),
            "tasks": [
                {
                    "task_id": task.task_id,
                    "name": task.rendered_map_index,
                    "state": None if task.state is None else str(task.state),
                    "tries": task.try_number,
                }
                for task in run.get_task_instances(session=session)
            ],
            "announced": sorted(event.asset.name for event in events),
            "said": kept.lines,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
