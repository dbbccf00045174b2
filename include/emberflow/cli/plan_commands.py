"""The commands about what is sent: plans and their reasons, policies, the switches, the database behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason
from emberflow.errors import ConfigurationError, EmberflowError

if TYPE_CHECKING:
    from pandas import DataFrame
    from sqlalchemy import Connection

plan = typer.Typer(help="What will be sent, and why.", no_args_is_help=True)
policy = typer.Typer(help="The numbers behind every rule.", no_args_is_help=True)
mail = typer.Typer(help="The switches for real mail and for stopping all mail.", no_args_is_help=True)
database = typer.Typer(help="The database `emberflow`, wherever it runs.", no_args_is_help=True)

At = Annotated[
    str | None,
    typer.Option("--at", "--hour", help="An instant (UTC) of the hour, like 2026-01-31T09; default: the present one."),
]
Picture = Annotated[Path | None, typer.Option(help="Draw it as a timeline of slots per sender: a .png or .svg file.")]


def explain(
    slot: Annotated[int, typer.Argument(help="The slot's number, see `emberflow plan show`.")],
    as_json: AsJson = False,
) -> None:
    """Show why a slot chose its bot and what has happened to it."""
    from emberflow.cli.report import show_explanation
    from emberflow.database.engine import open_engine
    from emberflow.reporting.slot import explain as look_up

    with open_engine().connect() as connection:
        show_explanation(look_up(connection, slot), as_json=as_json)


@plan.command("show")
def show_plan(
    hour: Annotated[str | None, typer.Option(help="UTC hour, like 2026-01-31T09; default: the latest planned.")] = None,
    picture: Picture = None,
    as_json: AsJson = False,
) -> None:
    """Show the slots of a planned hour, or why it has none, and the hours planned before."""
    from emberflow.cli.report import hours_section, show_why_empty, slots_section
    from emberflow.console import print_json, records, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.plan import timeline
    from emberflow.reporting.slot import planned_hours, slots_of_hour

    with open_engine().connect() as connection:
        hours = planned_hours(connection)
        wanted = parse_hour(hour) if hour or not hours else hours[0]["hour"]
        slots = slots_of_hour(connection, wanted)
        # An hour that was taken back, perhaps years ahead, does not hide the hours before it.
        for planned in [known["hour"] for known in hours if known["slots"]] if hour is None else []:
            of_planned = slots_of_hour(connection, planned)
            if any(slot["status"] != "cancelled" for slot in of_planned):
                wanted, slots = planned, of_planned
                break
        why = None if slots else _why_empty(connection, wanted)
        sections = hours_section(hours), slots_section(wanted, slots)
        if as_json:
            print_json(records(*sections) | {"why": why})
        else:
            show(*sections)
            show_why_empty(wanted, why)
        if picture is not None:
            drawn = timeline(connection, wanted, slots)
            _draw(picture, wanted, drawn.day, drawn.slots, drawn.origin)


@plan.command("run")
def run_plan(
    at: At = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be planned, and write nothing.")] = False,
    picture: Picture = None,
    limit: Annotated[int, typer.Option(min=1, help="With --dry-run: list the first so many slots.")] = 40,
    force: Annotated[bool, typer.Option("--force", help="Plan an hour that is more than three days ahead.")] = False,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Plan an hour now, as the DAG `warmup_hourly` does; an hour that is planned stays as it is."""
    from emberflow.cli.report import show_why_empty
    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import plans
    from emberflow.operations.actor import acting
    from emberflow.reporting.slot import cancelled_slots

    if dry_run:
        _preview(parse_hour(at), picture, limit, as_json=as_json)
        return
    if picture is not None:
        raise ConfigurationError("--picture needs --dry-run; `emberflow plan show --picture FILE` draws a planned hour")
    wanted = parse_hour(at) if at else None
    report = plans.run(open_engine(), acting(by), wanted, far_ahead=force, reason=reason)
    planned = datetime.fromisoformat(report["hour"])
    with open_engine().connect() as connection:
        why = None if report["slots"] else _why_empty(connection, planned)
        cancelled = cancelled_slots(connection, planned) if report["was_planned_before"] else 0
    if as_json:
        print_json(report | {"cancelled": cancelled, "why": why})
        return
    before = " (it was planned before; nothing changed)" if report["was_planned_before"] else ""
    if cancelled:
        before = f" (it was planned before, {cancelled} of them are cancelled; a planned hour is not planned again)"
    console.print(
        f"{report['hour']}: {report['slots']} of {report['wanted']} wanted slots, {report['outcome']}{before}"
    )
    show_why_empty(planned, why)


@plan.command("cancel")
def cancel_plan(
    hour: Annotated[str, typer.Argument(help="The planned UTC hour, like 2026-01-31T09.")],
    reason: Annotated[str, typer.Option(help="Why; it is stored with each slot.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take the plan of an hour back: cancel what has not left. The hour is not planned again."""
    from dataclasses import asdict

    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import plans
    from emberflow.operations.actor import acting

    done = plans.cancel(open_engine(), acting(by), parse_hour(hour), reason=reason)
    if as_json:
        print_json(asdict(done))
        return
    others = ", ".join(f"{count} {status}" for status, count in done.others.items())
    console.print(
        f"{done.hour:%Y-%m-%dT%H}: {done.cancelled} slots cancelled, {done.left} had left already"
        f"{f'; the others stay as they were: {others}' if others else ''}"
    )


@plan.command("why-not")
def explain_missing_slots(
    sender: Annotated[str, typer.Argument(help="The sender's address.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say why a sender has no slot in an hour, or fewer than expected, with every number from its ramp to the slot."""
    from emberflow.cli.report import show_why_not
    from emberflow.clock import SystemClock
    from emberflow.database.engine import open_engine
    from emberflow.reporting.why_not import why_not

    with open_engine().connect() as connection:
        explanation = why_not(connection, sender, parse_hour(at), now=SystemClock().now())
    show_why_not(explanation, as_json=as_json)


@policy.command("apply")
def apply_policy(
    name: Annotated[str, typer.Argument(help="A YAML file, or `standard` or `demo`.")],
    reason: Reason = BY_COMMAND,
    by: By = None,
) -> None:
    """Put a policy in force from now on; slots that are planned keep the one they were planned under.

    The seed and the conversation scripts in force stay as they are (`emberflow scripts apply`).
    """
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import policies
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    applied = policies.apply(open_engine(), acting(by), settings(), name, reason=reason)
    console.print(f"policy {applied.name} ({applied.label}) is in force as version {applied.policy_id}")


@policy.command("show")
def show_policy(as_json: AsJson = False) -> None:
    """Print the policy in force, every number of it with its meaning; `policy apply` takes the text back."""
    from emberflow.console import print_json
    from emberflow.database.engine import open_engine
    from emberflow.reporting import policies

    with open_engine().connect() as connection:
        if as_json:
            print_json(policies.in_force_as_document(connection))
        else:
            typer.echo(policies.in_force_as_text(connection), nl=False)


@mail.command("live")
def live_mail(
    position: Annotated[str, typer.Argument(help="on or off")],
    reason: Annotated[str, typer.Option(help="Why; it is stored with your name.")],
    by: By = None,
) -> None:
    """The database's switch for real mail. The other one is EMBERFLOW_MAIL_MODE=live; both are needed."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import switches
    from emberflow.operations.actor import acting

    switches.live_mail(open_engine(), acting(by), on=_is_on("live_mail", position), reason=reason)
    console.print(f"live_mail is {position}")


@mail.command("stop")
def stop_mail(
    position: Annotated[str, typer.Argument(help="on or off")],
    reason: Annotated[str, typer.Option(help="Why; it is stored with your name.")],
    by: By = None,
) -> None:
    """The kill switch: while it is on, no message enters DATA."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import switches
    from emberflow.operations.actor import acting

    switches.stop_sending(open_engine(), acting(by), on=_is_on("stop_sending", position), reason=reason)
    console.print(f"stop_sending is {position}")


@database.command("migrate")
def migrate_database(reason: Reason = BY_COMMAND, by: By = None) -> None:
    """Bring EMBERFLOW_DATABASE_URL to the schema of this version; put the standard policy in force if there is none."""
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import database as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    operations.migrate(open_engine(), acting(by), settings(), reason=reason)
    console.print("the database is up to date")


@database.command("env")
def print_database_variables() -> None:
    """Print what PostgreSQL's own programs need to reach the database: `eval "$(emberflow database env)"`."""
    import shlex

    from sqlalchemy import make_url

    from emberflow.local_stack.postgres import program
    from emberflow.settings import settings

    url = make_url(settings().require_database_url())
    host = url.query.get("host") or url.host
    values = {
        "PGHOST": host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": url.query.get("sslmode"), "PGSSLROOTCERT": url.query.get("sslrootcert"),
    }  # fmt: skip
    typer.echo(f'export PATH={shlex.quote(str(Path(program("psql")).parent))}:"$PATH"')
    for name, value in values.items():
        typer.echo(f"unset {name}" if value is None else f"export {name}={shlex.quote(str(value))}")


@database.command("restored")
def settle_restore(
    declare: Annotated[bool, typer.Option("--declare", help="It was restored although nothing shows it.")] = False,
    despite_unread: Annotated[
        bool, typer.Option("--despite-unread", help="Go on although mailboxes cannot be read.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help="When the backup was made (UTC), like 2026-01-31T09:30; default: as the database tells."),
    ] = None,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Look for mail that left after the backup from which the database was restored; then let mail go on."""
    from dataclasses import asdict

    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import database as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    settled = operations.restored(
        open_engine(),
        acting(by),
        settings(),
        declare=declare,
        despite_unread=despite_unread,
        since=None if since is None else _instant(since, "an instant like 2026-01-31T09:30"),
        reason=reason,
    )
    if as_json:
        print_json(asdict(settled))
        return
    console.print(
        f"{settled.found} mails of the backup had left, {settled.rebuilt} that were planned after it, and "
        f"{settled.in_doubt} are in doubt (`emberflow queue list`); mail goes on"
    )


def _is_on(name: str, position: str) -> bool:
    if position not in ("on", "off"):
        raise ConfigurationError(f"{name} is either on or off, not {position!r}")
    return position == "on"


def parse_hour(value: str | None) -> datetime:
    """Return the start of the UTC hour that holds the instant ``value``, or of the present one.

    Raises:
        EmberflowError: ``value`` is not an instant.
    """
    from emberflow.clock import SystemClock, floor_hour

    if value is None:
        return floor_hour(SystemClock().now())
    return floor_hour(_instant(value, "an hour like 2026-01-31T09"))


def _instant(value: str, wanted: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise EmberflowError(f"{value!r} is not {wanted}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _why_empty(connection: Connection, hour: datetime) -> str | None:
    from emberflow.clock import SystemClock
    from emberflow.reporting.why_not import why_empty

    return why_empty(connection, hour, now=SystemClock().now())


def _preview(hour: datetime, picture: Path | None, limit: int, *, as_json: bool) -> None:
    from emberflow.cli.report import preview_section
    from emberflow.clock import SystemClock
    from emberflow.console import console, print_json, records, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting.plan import preview

    now = SystemClock().now()
    with open_engine().connect() as connection:
        found = preview(connection, hour, limit=limit, now=now)
    section = preview_section(found)
    if as_json:
        summary = {"hour": hour, "summary": found.summary, "origin": found.origin, "remark": found.remark}
        print_json(summary | records(section))
    else:
        show(section)
        console.print(f"{found.summary}. Nothing was written.")
        console.print(f"{found.origin}; {found.remark}.", style="dim", markup=False)
    if picture is not None:
        _draw(picture, hour, found.day, found.slots, f"{found.origin}\n{found.summary}; {found.remark}")


def _draw(picture: Path, hour: datetime, day: DataFrame, slots: DataFrame, subtitle: str) -> None:
    from emberflow.cli.plan_picture import draw_plan, save
    from emberflow.clock import HOUR
    from emberflow.console import console

    save(draw_plan(day, slots, f"Plan of {hour:%Y-%m-%d %H:%M}-{hour + HOUR:%H:%M} UTC", subtitle), picture)
    console.print(f"drawn: {picture}")
