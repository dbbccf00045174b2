"""A stack that is interrupted, started twice at once, or loses its processes leaves nothing behind and mends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs

import pytest
from sqlalchemy import create_engine, text

from emberflow.cli.doctor_command import examine_stack
from emberflow.local_stack import airflow_health
from emberflow.local_stack.stack import DAG_IDS, Stack
from emberflow.local_stack.supervisor import histories
from tests.stacks import RUN_TIMEOUT_S, eventually, processes_of

pytestmark = [pytest.mark.stack, pytest.mark.long(seconds=150), pytest.mark.timeout(1200)]


@pytest.mark.parametrize("moment", ["Airflow's database", "Airflow"])
def test_an_interrupted_demo_leaves_nothing_behind(moment: str, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole foreground process group, as here."""
    environment = os.environ | {"EMBERFLOW_HOME": str(tmp_path)}
    # A suite that a script started in the background ignores SIGINT, and so would its children.
    in_the_foreground = ["env", "--default-signal=INT"]
    with subprocess.Popen(
        [*in_the_foreground, sys.executable, "-m", "emberflow.cli", "demo"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        try:
            said = read_until(demo.stdout, moment)
            assert len(list(tmp_path.glob("demo-*"))) == 1
            sockets = socket_directory(next(tmp_path.glob("demo-*")))
            assert sockets.is_dir()
            time.sleep(1.0)
            os.killpg(demo.pid, signal.SIGINT)
            said += demo.communicate(timeout=120)[0]
        finally:
            demo.kill()

    assert demo.returncode == 130, said
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("demo-*")) == []
    assert not sockets.exists()


def test_a_stack_that_was_started_twice_at_once_mends_itself_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its database and its scheduler are killed, the latter with tasks on its workers; `down` ends all."""
    environment = os.environ | {"EMBERFLOW_HOME": str(tmp_path)}

    def command(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "emberflow.cli", *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    stack = Stack(tmp_path, attached=False)
    try:
        with command("up") as first, command("up") as second:
            said = [first.communicate(timeout=400)[0], second.communicate(timeout=400)[0]]
        assert (first.returncode, second.returncode) == (0, 0), said
        assert sum("waiting for it" in text for text in said) == 1

        client = stack.airflow_client()
        # A task that waits for a lock is under way for certain; the lock goes with the database server.
        holder = create_engine(stack.database_url).connect()
        holder.execute(text("lock table ops.slot_states in access exclusive mode"))
        client.trigger("dispatch")

        def is_under_way() -> bool:
            runs = [run["dag_run_id"] for run in client.runs("dispatch") if run["state"] == "running"]
            return any(task["state"] == "running" for run in runs for task in client.task_instances("dispatch", run))

        eventually(is_under_way, 240, "a task of the run that will be interrupted")
        pids = {part.name: part.pid for part in stack.status()}
        assert None not in pids.values()
        for name in ("airflow-scheduler", "postgresql"):
            os.kill(int(pids[name] or 0), signal.SIGKILL)
        holder.invalidate()

        def is_mended() -> bool:
            now = {part.name: part.pid for part in stack.status()}
            recorded = histories(tmp_path)
            killed = [recorded.get(name, {}).get("restarts", 0) for name in ("airflow-scheduler", "postgresql")]
            return None not in now.values() and min(killed) >= 1 and now["postgresql"] != pids["postgresql"]

        eventually(is_mended, 240, "every part runs again")
        # A part runs before it answers, and the API server may have been started again with its database.
        client.wait_until_ready(DAG_IDS, RUN_TIMEOUT_S)
        # The run that was interrupted comes first: its task is missed, and tried again half a minute later.
        client.wait_for_run("dispatch", client.trigger("dispatch"), 2 * RUN_TIMEOUT_S)
        metadata = stack.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        eventually(lambda: airflow_health.examine(metadata)[0].remedy is None, 120, "the heartbeats of Airflow")
        finding, settings = examine_stack(stack)
        assert (finding.remedy, settings.remedy) == (None, None)
        assert "started again: " in finding.result
        with command("airflow", "dags", "list-runs", "dispatch") as asked:
            assert "manual__" in asked.communicate(timeout=300)[0]
    finally:
        with command("down") as down:
            down.communicate(timeout=300)

    assert processes_of(tmp_path) == []


def read_until(output: IO[str], line: str) -> str:
    """Read until ``line`` appears and return everything that was read."""
    said = ""
    for found in output:
        said += found
        if found.strip() == line:
            return said
    pytest.fail(f"the demo ended before it said {line!r}:\n{said}")


def socket_directory(home: Path) -> Path:
    """Return where the PostgreSQL of a running stack has its Unix socket."""
    variables = dict(line.split("=", 1) for line in (home / "stack.env").read_text().splitlines())
    query = variables["EMBERFLOW_DATABASE_URL"].strip("'").partition("?")[2]
    return Path(parse_qs(query)["host"][0])
