"""What Airflow imports at its start, in every process; it finds this file through ``PYTHONPATH``.

The LocalExecutor forks its tasks from the scheduler: what the scheduler has imported costs them nothing. Without this a
task spends more CPU on imports than Airflow's own work on it takes, half a second for pandas alone.
"""

from __future__ import annotations

import sys

__all__ = ()  # Airflow would make everything else here a setting of its own

if "scheduler" in sys.argv:
    # What parsing any DAG file loads. `airflow.sdk` itself imports lazily.
    import airflow.dag_processing.bundles.local
    import airflow.sdk.definitions.decorators
    import airflow.sdk.execution_time.task_runner  # noqa: F401

    import emberflow.queue_manager.tasks
    import emberflow.reporting.tasks  # noqa: F401
    from emberflow.email_ops.content import load_scripts

    load_scripts()  # the built-in ones: kept for the life of a process anyway, and a good part of an empty shard
