"""What reading a policy costs: pydantic, and no library that plans, sends or draws."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEVER = {"imaplib", "matplotlib", "numpy", "pandas", "smtplib"}


@pytest.mark.parametrize(
    ("module", "needs", "without"),
    [
        ("emberflow.policy.document", "pydantic", NEVER | {"sqlalchemy", "psycopg2"}),
        ("emberflow.policy.text", "pydantic", NEVER | {"sqlalchemy", "psycopg2"}),
        ("emberflow.policy.versions", "sqlalchemy", NEVER),
    ],
)
def test_reading_a_policy_loads_nothing_that_plans_or_sends(module: str, needs: str, without: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}

    assert needs in loaded
    assert loaded & without == set()
