"""Where the installation and its state lie. Nothing heavy is imported here: the quick commands need no more."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """Return the directory that holds all state of this instance (``EMBERFLOW_HOME``)."""
    return Path(os.environ.get("EMBERFLOW_HOME") or PROJECT_ROOT / ".emberflow")
