"""Airflow as the local stack runs it: its environment and its four processes.

Measured reasons for the choices stand in the comments; separate processes instead of ``airflow standalone``
because the latter leaves orphans behind when it is stopped and opens its log servers on every interface.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from emberflow import private_files
from emberflow.locations import PROJECT_ROOT

ADMIN = "admin"
API_SERVER = "airflow-api-server"
SCHEDULER = "airflow-scheduler"
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    API_SERVER: ("api-server",),
    SCHEDULER: ("scheduler", "--skip-serve-logs"),  # the log server would listen on all interfaces
    "airflow-dag-processor": ("dag-processor",),
    "airflow-triggerer": ("triggerer", "--skip-serve-logs"),
}
PREPARE = PROJECT_ROOT / "deploy" / "prepare_airflow.py"  # its schema and our pools; to be run before the scheduler
# How soon the tasks of a scheduler that was killed are taken up again. With Airflow's 300 s each, a run that it left
# behind keeps the next one of its DAG waiting for ten minutes. Tasks report every 5 s.
RECOVERY: Mapping[str, str] = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
}
PARALLELISM = 8  # scheduler loops hand out at most this many tasks: with less, small tasks crawl


def environment(
    directory: Path, database_url: str, port: int, keys: Mapping[str, str], password: str
) -> dict[str, str]:
    """Return Airflow's configuration as environment variables, and write its password file."""
    passwords = directory / "passwords.json"
    write_admin_password(passwords, password)
    base = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(directory),
        "PYTHONPATH": str(PROJECT_ROOT / "deploy" / "airflow_config"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
        **RECOVERY,
        "AIRFLOW__CORE__FERNET_KEY": keys["AIRFLOW_FERNET_KEY"],
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": base,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": keys["AIRFLOW_API_SECRET_KEY"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["AIRFLOW_JWT_SECRET"],
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(directory / "logs"),
        # Airflow gives its logs these modes whatever the umask is.
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        # A file that has changed is parsed at once all the same; the others took 0.7 CPU seconds every half a minute.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DO_NOT_TRACK": "1",
        "SCARF_NO_ANALYTICS": "true",
    }


def write_admin_password(file: Path, password: str) -> None:
    """Write the file from which Airflow's simple auth manager reads the administrator's password."""
    private_files.make_directory(file.parent)
    private_files.write_text(file, json.dumps({ADMIN: password}))
