"""The commands about what is sent: plans and their reasons, policies, the switches, the database behind them."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from emberflow.errors import ConfigurationError, EmberflowError

plan = typer.Typer(help="What will be sent, and why.", no_args_is_help=True)
policy = typer.Typer(help="The numbers behind every rule.", no_args_is_help=True)
mail = typer.Typer(help="The switches for real mail and for stopping all mail.", no_args_is_help=True)
database = typer.Typer(help="The database `emberflow`, wherever it runs.", no_args_is_help=True)


def explain(
    slot: Annotated[int, typer.Argument(help="The slot's number, see `emberflow plan show`.")],
) -> None:
    """Show why a slot chose its bot and what has happened to it."""
    from emberflow.cli.report import show_explanation
    from emberflow.database.engine import connect
    from emberflow.queue_manager.explain import explain as look_up

    with connect().connect() as connection:
        show_explanation(look_up(connection, slot))


@plan.command("show")
def show_plan(
    hour: Annotated[str | None, typer.Option(help="UTC hour, like 2026-01-31T09; default: the latest planned.")] = None,
) -> None:
    """Show the slots of a planned hour, and the hours planned before."""
    from emberflow.cli.report import show_hours, show_slots
    from emberflow.database.engine import connect
    from emberflow.queue_manager.explain import planned_hours, slots_of_hour

    with connect().connect() as connection:
        hours = planned_hours(connection)
        show_hours(hours)
        if hours:
            wanted = _hour(hour) if hour else next((h["hour"] for h in hours if h["slots"]), hours[0]["hour"])
            show_slots(wanted, slots_of_hour(connection, wanted))


@plan.command("run")
def run_plan(
    hour: Annotated[str | None, typer.Option(help="UTC hour, like 2026-01-31T09; default: the present one.")] = None,
) -> None:
    """Plan an hour now, as the DAG `warmup_hourly` does; an hour that is planned stays as it is."""
    from emberflow.cli.console import console
    from emberflow.queue_manager import steps

    report = steps.plan_hour(_hour(hour).isoformat() if hour else None)
    before = " (it was planned before; nothing changed)" if report["was_planned_before"] else ""
    console.print(
        f"{report['hour']}: {report['slots']} of {report['wanted']} wanted slots, {report['outcome']}{before}"
    )


@policy.command("apply")
def apply_policy(
    name: Annotated[str, typer.Argument(help="A YAML file, or `standard` or `demo`.")],
) -> None:
    """Put a policy in force from now on; slots that are planned keep the one they were planned under."""
    from emberflow.cli.console import console
    from emberflow.database.engine import connect
    from emberflow.queue_manager import policies

    document = policies.load(Path(name)) if name.endswith((".yaml", ".yml")) else policies.shipped(name)
    with connect().begin() as connection:
        policy_id = policies.put_in_force(connection, document)
    console.print(f"policy {document.name} ({document.label}) is in force as version {policy_id}")


@policy.command("show")
def show_policy() -> None:
    """Print the policy in force, every number of it."""
    import yaml

    from emberflow.cli.console import console
    from emberflow.database.engine import connect
    from emberflow.queue_manager.policies import in_force

    with connect().connect() as connection:
        force = in_force(connection)
    console.print(f"# version {force.policy_id}")
    console.print(yaml.safe_dump(force.policy.model_dump(mode="json"), sort_keys=False), markup=False)


@mail.command("live")
def live_mail(
    position: Annotated[str, typer.Argument(help="on or off")],
    reason: Annotated[str, typer.Option(help="Why; it is stored with your name.")],
) -> None:
    """The database's switch for real mail. The other one is EMBERFLOW_MAIL_MODE=live; both are needed."""
    from emberflow.queue_manager.switches import LIVE_MAIL

    _switch(LIVE_MAIL, position, reason)


@mail.command("stop")
def stop_mail(
    position: Annotated[str, typer.Argument(help="on or off")],
    reason: Annotated[str, typer.Option(help="Why; it is stored with your name.")],
) -> None:
    """The kill switch: while it is on, no message enters DATA."""
    from emberflow.queue_manager.switches import STOP_SENDING

    _switch(STOP_SENDING, position, reason)


@database.command("migrate")
def migrate_database() -> None:
    """Bring EMBERFLOW_DATABASE_URL to the schema of this version; put the standard policy in force if there is none."""
    from emberflow.cli.console import console
    from emberflow.database.engine import connect
    from emberflow.database.migrate import upgrade
    from emberflow.queue_manager.policies import ensure_in_force, shipped

    upgrade(connect())
    with connect().begin() as connection:
        ensure_in_force(connection, shipped("standard"))
    console.print("the database is up to date")


def _switch(name: str, position: str, reason: str) -> None:
    from emberflow.cli.console import console
    from emberflow.database.engine import connect
    from emberflow.queue_manager.switches import turn

    if position not in ("on", "off"):
        raise ConfigurationError(f"{name} is either on or off, not {position!r}")
    with connect().begin() as connection:
        turn(connection, name, on=position == "on", who=getpass.getuser(), reason=reason)
    console.print(f"{name} is {position}")


def _hour(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise EmberflowError(f"{value!r} is not an hour like 2026-01-31T09") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
