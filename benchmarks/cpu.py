"""CPU seconds of process trees, from /proc alone: peers' own environments measure with it too."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(root: int) -> float:
    """Return the CPU seconds, user and system, of a process and all its descendants, the ended ones included.

    In steps of 10 ms. An ended child counts once its parent has waited for it; one that was inherited by another
    process, or whose parent ignores SIGCHLD, is lost (proc_pid_stat(5): cutime, cstime).
    """
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            # The command's name, in brackets, may hold anything.
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(directory.name)
        children.setdefault(int(fields[1]), []).append(pid)
        seconds[pid] = sum(map(int, fields[11:15])) / _TICKS_PER_S
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        total += seconds.get(pid, 0.0)
        waiting += children.get(pid, [])
    return total
