"""Imported by the server that workers are forked from, and by nothing else: it gets the product ready, and its end.

Workers hold the pipe by which that server would notice that its own parent is gone, so without this it and they would
outlive a parent that was killed.
"""

from __future__ import annotations

import tests.faults.kit.processes  # noqa: F401 - what a worker needs is imported once, here
from tests.faults.kit.parent_death import die_with_parent

die_with_parent()
