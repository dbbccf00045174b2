"""Where the installation and its state lie. Nothing heavy is imported here: the quick commands need no more."""

from __future__ import annotations

import os
from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent / "project"
IS_INSTALLED = _INSTALLED.is_dir()
# The folder that holds `dags`, `dbt`, `deploy` and `plugins`: a clone, or what a wheel carries of it.
PROJECT_ROOT = _INSTALLED if IS_INSTALLED else Path(__file__).resolve().parents[2]


def home() -> Path:
    """Return the directory that holds all state of this instance.

    ``EMBERFLOW_HOME``, or else ``.emberflow`` in the clone; of an installed package, ``emberflow`` where the user's
    data lie (XDG Base Directory Specification).
    """
    if named := os.environ.get("EMBERFLOW_HOME"):
        return Path(named).absolute()  # processes that stay are told it, whatever their directory is
    if IS_INSTALLED:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "emberflow"
    return PROJECT_ROOT / ".emberflow"
