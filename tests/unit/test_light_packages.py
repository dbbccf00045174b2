"""What people do and see is loaded without what plans and what sends: the pages and most commands need neither."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"pandas", "smtplib", "imaplib", "imap_tools", "dbt", "matplotlib"}

# Prints what is loaded by a package, with all that is in it.
_LOAD = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps({"modules": names, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def loaded_by(package: str) -> tuple[list[str], set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, package], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    return found["modules"], set(found["loaded"])


@pytest.mark.parametrize("package", ["emberflow.operations", "emberflow.reporting"])
def test_what_people_do_and_see_loads_neither_pandas_nor_smtp(package: str) -> None:
    modules, loaded = loaded_by(package)
    assert len(modules) > 8
    assert "sqlalchemy" in loaded
    assert loaded & HEAVY == set()


def test_what_plans_loads_pandas() -> None:
    """Otherwise the test above would show nothing."""
    assert "pandas" in loaded_by("emberflow.queue_manager.planning")[1]
