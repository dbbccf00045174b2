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
    stack = Stack(home(), attached=False)
    findings = [*examine(settings()), *examine_stack(stack), *examine_airflow(stack)]
    rows = [(finding.check, finding.result, finding.remedy) for finding in findings]
    show(Section("findings", "Doctor", ("check", "result", "what to do"), rows), as_json=as_json)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)


def examine_airflow(stack: Stack) -> list[Finding]:
    """Look at the Airflow of this installation, if one is known."""
    metadata = airflow_pools.metadata_url()
    if metadata is None and stack.was_started():
        remedy = f"run `./emberflow up`; {stack.home / 'postgres' / 'postgres.log'} says why it ended"
        return [Finding("Airflow", "not looked at: the database of the local stack is down", remedy)]
    pools = airflow_pools.examine(metadata, airflow_pools.shards_in_force(settings()))
    return [*airflow_health.examine(metadata), pools]


def examine_stack(stack: Stack) -> list[Finding]:
    """Look whether every process of the local stack runs; there is nothing to look at where it was not started."""
    if not stack.was_started():
        return []
    recorded = histories(stack.home)
    parts = stack.status()
    down = [part.name for part in parts if part.pid is None]
    suspended = [f"{part.name} (kill -CONT {part.pid})" for part in parts if part.is_suspended]
    restarts = ", ".join(f"{name} {known['restarts']}" for name, known in recorded.items() if known["restarts"])
    result = f"{len(parts) - len(down) - len(suspended)} of {len(parts)} processes run"
    if restarts:
        result += f"; started again: {restarts}"
    remedy = None
    if down:
        result += f"; down: {', '.join(down)}"
        remedy = "wait a minute: the supervisor starts it again" if SUPERVISOR not in down else "run `./emberflow up`"
    if suspended:
        result += f"; suspended: {', '.join(suspended)}"
        remedy = "let it go on with that command, or run `./emberflow down`, then `up`"
    if any(known["gave_up"] for known in recorded.values()):
        remedy = "its log in `<home>/run` says why it dies; then run `./emberflow up`"
    return [Finding("local stack", result, remedy), _same_settings(stack)]


def _same_settings(stack: Stack) -> Finding:
    others = stack.with_other_settings(stack.recorded_settings())
    if not others:
        return Finding("settings of the processes", "those of `stack.env` and `keys.env`")
    told = "; ".join(f"{process} runs with another {', '.join(names)}" for process, names in others.items())
    return Finding("settings of the processes", told, "run `./emberflow down`, then `up`")
