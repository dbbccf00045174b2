"""The stack as containers: which service has which secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emberflow.local_stack.airflow import RECOVERY
from emberflow.settings import PROJECT_ROOT

MAILBOX_KEYS = {"EMBERFLOW_SECRET_KEYS", "EMBERFLOW_TOKEN_KEYS"}
AIRFLOW_SECRETS = {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"}


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    return dict(compose["services"])


def that_have(services: dict[str, dict[str, Any]], names: set[str]) -> set[str]:
    return {service for service, entry in services.items() if names & set(entry.get("environment", {}))}


def test_mailbox_keys_are_only_where_mail_is_sent_or_read(services: dict[str, dict[str, Any]]) -> None:
    """The scheduler's LocalExecutor runs dispatch, inbox and reconcile; the command line registers mailboxes."""
    assert that_have(services, MAILBOX_KEYS) == {"scheduler", "cli"}


def test_a_killed_schedulers_tasks_are_taken_up_as_soon_as_on_the_local_stack(
    services: dict[str, dict[str, Any]],
) -> None:
    assert RECOVERY.items() <= services["scheduler"]["environment"].items()


def test_the_mail_sandbox_has_no_secret(services: dict[str, dict[str, Any]]) -> None:
    """It meets strangers' mail, and needs nothing of ours."""
    assert "environment" not in services["mail-sandbox"]
    assert "mail-sandbox" not in that_have(services, AIRFLOW_SECRETS | {"EMBERFLOW_DATABASE_URL"})


def test_the_administrators_password_is_the_one_of_the_configuration(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Without the file Airflow would make up another password and print it to its log."""
    server = services["api-server"]
    assert server["environment"]["AIRFLOW_ADMIN_PASSWORD"] == "${AIRFLOW_ADMIN_PASSWORD:?see .env}"
    assert that_have(services, {"AIRFLOW_ADMIN_PASSWORD"}) == {"api-server"}
    shell, option, line = server["command"]
    file = tmp_path / "airflow" / "passwords.json"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    (programs / "airflow").write_text("#!/bin/sh\necho started airflow $*\n")
    (programs / "airflow").chmod(0o755)

    done = subprocess.run(
        [shell, option, line],
        cwd=PROJECT_ROOT,
        env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "AIRFLOW_ADMIN_PASSWORD": "chosen by me",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(file),
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "started airflow api-server\n"
    assert json.loads(file.read_text()) == {"admin": "chosen by me"}
    path = server["environment"]["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]
    assert path.startswith(server["environment"]["EMBERFLOW_HOME"])
