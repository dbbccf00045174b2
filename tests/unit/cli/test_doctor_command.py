"""What the doctor says about the processes of the local stack."""

from __future__ import annotations

import json
from pathlib import Path

from emberflow.cli.doctor_command import examine_stack
from emberflow.local_stack.airflow_health import examine
from emberflow.local_stack.stack import Stack


def test_a_stack_that_was_not_started_is_no_finding_and_an_unknown_airflow_is_not_looked_at(tmp_path: Path) -> None:
    assert examine_stack(Stack(tmp_path, attached=False)) == []
    (finding,) = examine(None)
    assert (finding.result.partition(":")[0], finding.remedy) == ("not looked at", None)


def test_an_airflow_whose_database_does_not_answer_is_one_finding(tmp_path: Path) -> None:
    (finding,) = examine(f"postgresql+psycopg2://a@/airflow?host={tmp_path}")
    assert "./emberflow up" in (finding.remedy or "")


def test_processes_that_are_down_or_given_up_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "stack.env").write_text("")
    (tmp_path / "run").mkdir()
    history = {"restarts": 2, "last": None, "gave_up": False}
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps({"airflow-scheduler": history}))

    (down,) = examine_stack(Stack(tmp_path, attached=False))
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps({"airflow-scheduler": history | {"gave_up": True}}))
    (given_up,) = examine_stack(Stack(tmp_path, attached=False))

    assert down.result.startswith("0 of 7 processes run; started again: airflow-scheduler 2; down: postgresql, ")
    assert down.remedy == "run `./emberflow up`"
    assert "its log" in (given_up.remedy or "")
