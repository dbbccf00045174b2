"""A small client of Airflow's REST API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from emberflow.errors import StackError
from emberflow.local_stack.airflow import ADMIN

_REQUEST_TIMEOUT_S = 30.0


class AirflowClient:
    """The few REST calls that the demo, the tests and ``emberflow up`` need (Airflow's stable API v2)."""

    def __init__(self, port: int, password: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._password = password
        self._token: str | None = None

    def wait_until_ready(self, dag_ids: set[str], timeout_s: float, check: Any = lambda: None) -> None:
        """Wait until the API answers and every DAG of ``dag_ids`` is known; ``check`` runs between attempts.

        Raises:
            StackError: it took longer than ``timeout_s``, or a DAG file cannot be imported.
        """
        deadline = time.monotonic() + timeout_s
        missing = dag_ids
        while time.monotonic() < deadline:
            check()
            try:
                self._call("GET", "/execution/health", authorised=False)  # the first call builds its routes: 5 s
                missing = dag_ids - {dag["dag_id"] for dag in self.get("/api/v2/dags")["dags"]}
                if not missing:
                    return
                errors = self.get("/api/v2/importErrors")["import_errors"]
                if errors:
                    raise StackError(f"{errors[0]['filename']} cannot be imported:\n{errors[0]['stack_trace']}")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.5)
        raise StackError(f"Airflow did not come up within {timeout_s:.0f} s (DAGs not seen: {sorted(missing)})")

    def get(self, path: str) -> Any:
        """GET ``path`` and return the decoded answer."""
        return self._call("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST ``body`` as JSON to ``path`` and return the decoded answer."""
        return self._call("POST", path, body)

    def trigger(self, dag_id: str, partition_key: str | None = None) -> str:
        """Start a run of ``dag_id`` for a partition (an hour) and return its run id."""
        body = {"logical_date": None} | ({"partition_key": partition_key} if partition_key else {})
        return str(self.post(f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def pause(self, dag_id: str, *, is_paused: bool = True) -> None:
        """Let no further run of a DAG begin, or let them begin again; those that run go on."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": is_paused})

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear every task instance of a run, whatever its state, so that Airflow runs all of them again."""
        body = {"dry_run": False, "only_failed": False, "reset_dag_runs": True, "dag_run_id": run_id}
        self.post(f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    def backfill(self, dag_id: str, first: datetime, last: datetime) -> None:
        """Start a backfill from ``first`` to ``last``, both included, that also repeats runs that succeeded."""
        body = {
            "dag_id": dag_id,
            "from_date": first.isoformat(),
            "to_date": last.isoformat(),
            "reprocess_behavior": "completed",
        }
        self.post("/api/v2/backfills", body)

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the latest 100 runs of a DAG, newest first."""
        found: list[dict[str, Any]] = self.get(f"/api/v2/dags/{dag_id}/dagRuns?limit=100&order_by=-run_after")[
            "dag_runs"
        ]
        return found

    def wait_for_run(self, dag_id: str, run_id: str, timeout_s: float) -> None:
        """Wait until a run ends.

        Raises:
            StackError: it failed, or it took longer than ``timeout_s``.
        """
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}"
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.get(path)["state"]
            if state == "success":
                return
            if state == "failed":
                raise StackError(f"run {run_id} of {dag_id} failed: {self._failures(path)}")
            time.sleep(0.3)
        raise StackError(f"run {run_id} of {dag_id} did not end within {timeout_s:.0f} s")

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?limit=100"
        found: list[dict[str, Any]] = self.get(path)["task_instances"]
        return found

    def _log(self, path: str, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        place = f"{path}/taskInstances/{task['task_id']}/logs/{task['try_number']}?map_index={task['map_index']}"
        lines: list[dict[str, Any]] = self.get(place)["content"]
        return lines

    def _failures(self, path: str) -> str:
        found = self.get(f"{path}/taskInstances?limit=100")["task_instances"]
        failed = [task for task in found if task["state"] == "failed"]
        if not failed:
            return "no task says why"
        task = failed[0]
        log = self._log(path, task)
        errors = [error for line in log for error in line.get("error_detail") or ()]
        if not errors:
            return f"task {task['task_id']}: " + "\n".join(str(line.get("event", line)) for line in log[-15:])
        return f"task {task['task_id']}: {errors[-1]['exc_type']}: {errors[-1]['exc_value']}"[:3000]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, authorised: bool = True) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if authorised:
            headers["Authorization"] = f"Bearer {self._token or self._log_in()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:  # noqa: S310 - loopback
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:1000]
            raise StackError(f"Airflow answered {error.code} to {method} {path}: {detail}") from None

    def _log_in(self) -> str:
        credentials = {"username": ADMIN, "password": self._password}
        self._token = str(self._call("POST", "/auth/token", credentials, authorised=False)["access_token"])
        return self._token
