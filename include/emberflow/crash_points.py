"""Named places at which a process may die, so that a test can make it die exactly there.

``reach`` does nothing unless the environment names the place when the process begins:
``EMBERFLOW_CRASH_AT=after_dot`` ends the process at once, as SIGKILL would, the first time that it gets there. A test
in the same process may set ``on_reach`` instead. The idea is DBOS's debug triggers: a crash between a side effect and
its commit becomes an ordinary test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Literal, get_args

CrashPoint = Literal[
    "after_claim",  # slots are leased, nothing else happened
    "before_guard",  # MAIL and RCPT were accepted
    "after_guard",  # the slot is `submitting`, DATA was not written
    "after_data",  # the server answered 354
    "before_dot",  # the dot is not on the wire; content is if it is too long for one write with the dot
    "after_dot",  # the dot is on the wire, its answer was not read
    "after_reply",  # the answer was read, nothing was recorded
    "before_record_commit",  # everything was recorded, nothing was committed
    "after_record_commit",
]
CRASH_POINTS: tuple[CrashPoint, ...] = get_args(CrashPoint)
VARIABLE = "EMBERFLOW_CRASH_AT"
_crash_at = os.environ.get(VARIABLE)  # once: every mail reaches nine points, and looking it up is most of that


def _from_environment(point: CrashPoint) -> None:
    if point == _crash_at:
        os.kill(os.getpid(), signal.SIGKILL)


on_reach: Callable[[CrashPoint], None] = _from_environment


def reach(point: CrashPoint) -> None:
    """Say that ``point`` is reached."""
    on_reach(point)
