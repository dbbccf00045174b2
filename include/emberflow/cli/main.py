"""The commands of the whole: demo, test, the local stack, the doctor. The groups come from their own modules."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from emberflow.cli import (
    airflow_command,
    audit_commands,
    bench_command,
    bot_commands,
    campaign_commands,
    capacity_command,
    chaos_command,
    classify_command,
    docs_command,
    domain_commands,
    egress_commands,
    inbox_commands,
    lead_commands,
    placement_commands,
    plan_commands,
    queue_commands,
    sandbox_commands,
    script_commands,
    secret_commands,
    sender_commands,
    suppression_commands,
)
from emberflow.cli.options import AsJson

app = typer.Typer(
    help="Emberflow: sender warm-up and compliant cold outreach as a data pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(sender_commands.senders, name="senders")
app.add_typer(bot_commands.bots, name="bots")
app.add_typer(campaign_commands.campaigns, name="campaigns")
app.add_typer(sandbox_commands.sandbox, name="sandbox")
app.add_typer(secret_commands.secrets, name="secrets")
app.add_typer(plan_commands.plan, name="plan")
app.add_typer(plan_commands.policy, name="policy")
app.add_typer(plan_commands.mail, name="mail")
app.add_typer(plan_commands.database, name="database")
app.add_typer(queue_commands.queue, name="queue")
app.add_typer(inbox_commands.inbox, name="inbox")
app.add_typer(placement_commands.placement, name="placement")
app.add_typer(suppression_commands.suppressions, name="suppressions")
app.add_typer(lead_commands.leads, name="leads")
app.add_typer(egress_commands.egress, name="egress")
app.add_typer(domain_commands.domains, name="domains")
app.add_typer(audit_commands.audit, name="audit")
app.add_typer(script_commands.scripts, name="scripts")
app.command()(plan_commands.explain)
app.command()(capacity_command.capacity)
app.command()(bench_command.bench)
app.command()(chaos_command.chaos)
app.command()(classify_command.classify)
app.command()(docs_command.docs)
app.command("airflow", cls=airflow_command.Untouched)(airflow_command.airflow)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"emberflow {version('emberflow')}")
        raise typer.Exit


@app.callback()
def _stop_like_ctrl_c(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sender warm-up and compliant cold outreach as a data pipeline."""
    # SIGTERM ends a command as Ctrl-C does, so that everything is cleaned up.

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Keep the stack up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the whole loop on real servers on this machine, prove it, and clean up."""
    from emberflow.local_stack.demo import run

    raise typer.Exit(run(keep=keep))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the test suite in four processes; extra arguments go to pytest (``-n 0``: one process)."""
    from emberflow.errors import ConfigurationError
    from emberflow.locations import PROJECT_ROOT

    if not (PROJECT_ROOT / "tests").is_dir():
        raise ConfigurationError(f"there are no tests in {PROJECT_ROOT}: run this in a clone of the repository")
    os.chdir(PROJECT_ROOT)
    # Tests of one file share their servers, so a file is never shared out. Each process has a PostgreSQL of its own.
    # Four also on two cores: tests of a whole stack mostly wait for it.
    shared_out = ["-n", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *shared_out, *context.args])


@app.command()
def up(
    foreground: Annotated[
        bool, typer.Option(help="Stay, watch over the stack, and stop it at the end: for systemd.")
    ] = False,
) -> None:
    """Start the local stack and leave it running; what dies is started again."""
    from emberflow.cli import stack_commands

    stack_commands.up(foreground=foreground)


@app.command()
def down() -> None:
    """Stop the local stack; its data stays."""
    from emberflow.cli import stack_commands

    stack_commands.down()


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what of the local stack runs; exit with 1 if a part is missing."""
    from emberflow.cli import stack_commands

    stack_commands.status(as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the configuration and every part that a plan depends on; exit with 1 if something is wrong."""
    from emberflow.cli import doctor_command

    doctor_command.doctor(as_json=as_json)
