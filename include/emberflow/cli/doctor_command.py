"""``emberflow doctor``: every check of the library, of the local stack and of Airflow."""

from __future__ import annotations

import typer

from emberflow.console import Section, show
from emberflow.local_stack import airflow_health, airflow_pools
from emberflow.local_stack.stack import SUPERVISOR, Stack
from emberflow.local_stack.supervisor import histories
from emberflow.locations import home
from emberflow.reporting.doctor import Finding, examine
from emberflow.settings import settings


def doctor(*, as_json: bool) -> None:
    """Print every finding; exit with 1 if one has a remedy."""
    metadata = airflow_pools.metadata_url()
    findings = [
        *examine(settings()),
        *examine_stack(Stack(home(), attached=False)),
        *airflow_health.examine(metadata),
        airflow_pools.examine(metadata, airflow_pools.shards_in_force(settings())),
    ]
    rows = [(finding.check, finding.result, finding.remedy) for finding in findings]
    show(Section("findings", "Doctor", ("check", "result", "what to do"), rows), as_json=as_json)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)


def examine_stack(stack: Stack) -> list[Finding]:
    """Look whether every process of the local stack runs; there is nothing to look at where it was not started."""
    if not stack.was_started():
        return []
    recorded = histories(stack.home)
    parts = stack.status()
    down = [part.name for part in parts if part.pid is None]
    restarts = ", ".join(f"{name} {known['restarts']}" for name, known in recorded.items() if known["restarts"])
    result = f"{len(parts) - len(down)} of {len(parts)} processes run"
    if restarts:
        result += f"; started again: {restarts}"
    remedy = None
    if down:
        result += f"; down: {', '.join(down)}"
        remedy = "wait a minute: the supervisor starts it again" if SUPERVISOR not in down else "run `./emberflow up`"
    if any(known["gave_up"] for known in recorded.values()):
        remedy = "its log in `<home>/run` says why it dies; then run `./emberflow up`"
    return [Finding("local stack", result, remedy), _same_settings(stack)]


def _same_settings(stack: Stack) -> Finding:
    others = stack.with_other_settings(stack.recorded_settings())
    if not others:
        return Finding("settings of the processes", "those of `stack.env` and `keys.env`")
    told = "; ".join(f"{process} runs with another {', '.join(names)}" for process, names in others.items())
    return Finding("settings of the processes", told, "run `./emberflow down`, then `up`")
