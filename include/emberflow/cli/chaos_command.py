"""``emberflow chaos``: break everything that can break while mail is sent, and judge at the receiving server.

The scenario is part of the test suite (``tests/faults/chaos.py``), so the command needs a checkout. It runs on a
PostgreSQL and a mail sandbox of its own, on loopback, in a temporary directory that is removed afterwards.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from emberflow.errors import ConfigurationError

_PROMISES = {
    "duplicates": "messages accepted more than once",
    "lost": "neither at the server nor honestly in doubt",
    "denied": "accepted but said not to be sent",
    "over_cap": "accepted beyond a cap",
    "after_stop": "DATA begun after the kill switch or a suppression",
    "undecided": "uncertain without saying where they were looked for",
    "overlooked": "in doubt although they lie in a mailbox",
    "miscounted": "between our day counters and the server's log",
    "kills_missed": "faults that did not happen",
}


def chaos(
    slots: Annotated[int, typer.Option(min=1, help="How many mails are planned.")] = 5000,
    kills: Annotated[int, typer.Option(min=0, help="How many faults happen meanwhile; 26 are one of every kind.")] = 50,
    seed: Annotated[int, typer.Option(help="Which faults happen in which order.")] = 1,
    limit: Annotated[float, typer.Option(min=1, help="Give up after so many seconds.")] = 900.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Send mail while workers, database and connections die; exit with 1 if one is lost, doubled or over a cap."""
    scenario = _scenario()
    if as_json:
        verdict = scenario.run(slots=slots, kills=kills, seed=seed, limit_s=limit)
        print(json.dumps(verdict.as_json()))
    else:
        verdict = _watched(scenario, slots=slots, kills=kills, seed=seed, limit_s=limit)
        _show(verdict)
    if not verdict.is_good:
        raise typer.Exit(1)


def _watched(scenario: Any, *, slots: int, **options: Any) -> Any:
    from emberflow.console import progress

    with progress("Slots that came to an end", slots) as advance:
        shown = 0

        def tell(done: int, just_done: str) -> None:
            nonlocal shown
            for left in range(done - shown, 0, -1):
                advance(just_done if left == 1 else None)
            shown = max(shown, done)

        return scenario.run(slots=slots, tell=tell, **options)


def _show(verdict: Any) -> None:
    from rich.text import Text

    from emberflow.console import console, table

    kills = [(kind.replace("_", " "), number) for kind, number in verdict.kills_by_kind.items()]
    table(f"{verdict.kills} faults", ("kind", "times"), kills)
    table(f"{verdict.slots} slots", ("came to be", "slots"), list(verdict.ends.items()))
    promises = [
        (meaning, figure, Text("NO", "bold red") if figure else "yes")
        for name, meaning in _PROMISES.items()
        for figure in [getattr(verdict, name)]
    ]
    table("Judged by what the mail server stored", ("must not be", "found", "kept"), promises)
    console.print(
        f"{verdict.accepted} messages accepted, {verdict.in_doubt} in doubt, "
        f"{verdict.refused_by_caps} refused by a cap, {verdict.suppressed} by a suppression, "
        f"{verdict.fenced_acks} acknowledgements fenced, {verdict.seconds:.0f} s"
    )
    if verdict.complaints:
        console.print(Text(f"Workers failed by themselves:\n{verdict.complaints}", "red"))
    console.print(Text("Every promise was kept.", "bold green") if verdict.is_good else Text("NOT kept.", "bold red"))


def _scenario() -> Any:
    from emberflow.settings import PROJECT_ROOT

    if not (PROJECT_ROOT / "tests" / "faults" / "chaos.py").exists():
        raise ConfigurationError(
            f"`emberflow chaos` runs a scenario of the test suite, and {PROJECT_ROOT} has no tests/faults: "
            "run it from a checkout of the repository"
        )
    if str(PROJECT_ROOT) not in sys.path:
        sys.path.insert(0, str(PROJECT_ROOT))
    return import_module("tests.faults.chaos")
