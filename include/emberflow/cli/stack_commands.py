"""``emberflow up``, ``down`` and ``status``: the local stack from the operator's side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import typer

from emberflow.console import Section, console, print_json, progress, records, show
from emberflow.local_stack.stack import STEPS, ServiceState, Stack
from emberflow.locations import home


def up(*, foreground: bool) -> None:
    """Start what does not run; a stack that ran before stays up when something new cannot be started."""
    from emberflow.local_stack.settings_check import require_usable_settings

    require_usable_settings()
    stack = Stack(home(), attached=False)
    with stack.alone(_say_who_is_waited_for):
        stack.require_same_settings()
        was_running = stack.is_running()
        try:
            with progress("starting", len(STEPS)) as advance:
                stack.start(advance)
            if not foreground:
                stack.supervise_in_background()
        except KeyboardInterrupt:
            if was_running:
                stack.supervise_in_background()
                _end("stopped: the stack that ran before is left as it is; `./emberflow status` shows it")
            _say("stopping what was started")
            _stop(stack)
            _end("stopped: nothing of the stack runs")
        except BaseException:
            if was_running:
                stack.supervise_in_background()
            else:
                stack.stop()
            raise
    address, user, password = stack.airflow_login()
    console.print(f"[bold green]up[/]  Airflow: [bold]{address}[/]  user [bold]{user}[/]  password [bold]{password}[/]")
    if foreground:
        from emberflow.local_stack.supervisor import in_the_foreground

        in_the_foreground(stack)
        try:
            with stack.alone(_leave_it_to_the_other):
                stack.stop()
        except _AnotherStopsItError:
            return
        console.print("down")
        return
    console.print(
        "Next: `./emberflow senders import FILE`, `./emberflow bots create --help`. Stop with `./emberflow down`."
    )


def down() -> None:
    """Stop every part."""
    stack = Stack(home(), attached=False)
    try:
        with stack.alone(_say_who_is_waited_for):
            _stop(stack)
    except KeyboardInterrupt:
        _end("stopped while waiting: nothing was done")
    console.print("down")


def _stop(stack: Stack) -> None:
    """Stop every part; after Ctrl-C say what still runs."""
    try:
        stack.stop()
    except KeyboardInterrupt:
        left = [part.name for part in stack.status() if part.pid is not None]
        _end(f"stopped: still running: {', '.join(left) or 'nothing'}; run `./emberflow down` again")


def _end(why: str) -> NoReturn:
    _say(why)
    raise typer.Exit(130)


def _say(what: str) -> None:
    typer.echo(what, err=True)


def status(*, as_json: bool) -> None:
    """Show each part, and how often it had to be started again."""
    from emberflow.local_stack.supervisor import histories

    stack = Stack(home(), attached=False)
    states = stack.status()
    recorded = histories(stack.home) if any(part.pid for part in states) else {}
    rows = [
        (part.name, _state(part, recorded.get(part.name, {})), part.pid,
         recorded.get(part.name, {}).get("restarts"), part.address if part.pid else None)
        for part in states
    ]  # fmt: skip
    columns = ("part", "state", "pid", "restarts", "address")
    section = Section("parts", f"Local stack in {stack.home}", columns, rows)
    is_whole = all(part.pid is not None and not part.is_suspended for part in states)
    login = dict(zip(("address", "user", "password"), stack.airflow_login(), strict=True)) if is_whole else None
    if as_json:
        print_json({"home": str(stack.home), "airflow": login} | records(section))
    else:
        show(section)
        if login:
            console.print("Airflow: {address}  user {user}  password {password}".format_map(login), markup=False)
    if not is_whole:
        raise typer.Exit(1)


def _state(part: ServiceState, history: Mapping[str, Any]) -> str:
    if part.is_suspended:
        return "suspended"
    if part.pid is not None:
        return "up"
    return "given up" if history.get("gave_up") else "down"


class _AnotherStopsItError(Exception):
    """A `down` told this process to end, and waits for that."""


def _leave_it_to_the_other() -> None:
    raise _AnotherStopsItError


def _say_who_is_waited_for() -> None:
    console.print("another command starts or stops this stack; waiting for it")
