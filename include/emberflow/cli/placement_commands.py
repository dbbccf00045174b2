"""The commands about placement tests: where does a sender's mail land?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberflow.cli.options import BY_COMMAND, AsJson, By, Reason

if TYPE_CHECKING:
    from emberflow.reporting.placement_tests import ShownTest

placement = typer.Typer(help="Where a sender's mail lands: probes to mailboxes of yours.", no_args_is_help=True)

_LOOK_AGAIN_S = 5.0


@placement.command("test")
def begin_test(
    sender: Annotated[str, typer.Argument(help="The sender's address, see `emberflow senders list`.")],
    per_provider: Annotated[int, typer.Option(min=1, max=50, help="Probes to so many mailboxes of each provider.")] = 2,
    text: Annotated[
        Path | None, typer.Option(help="A file with plain text of your own; default: one that says what it is.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="A subject of your own.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until every probe is found or the test is over.")] = False,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Send labelled probes to your bots' mailboxes, and report inbox, junk and missing for each provider."""
    from emberflow.clock import SystemClock
    from emberflow.console import console
    from emberflow.database.engine import open_engine
    from emberflow.operations import placement_tests as operations
    from emberflow.operations.actor import acting
    from emberflow.reporting import placement_tests as reporting
    from emberflow.settings import settings

    engine, clock = open_engine(), SystemClock()
    begun = operations.begin(
        engine, acting(by), settings(), sender, per_provider=per_provider, subject=subject, file=text, reason=reason
    )
    if not as_json:
        console.print(
            f"test {begun.id}: {begun.probes} probes, from {begun.first_at:%H:%M:%S} to {begun.last_at:%H:%M:%S} UTC; "
            f"over at {begun.ends_at:%H:%M:%S} UTC. `emberflow placement show {begun.id}` shows where they are.",
            markup=False,
        )
    while True:
        with engine.connect() as connection:
            test = reporting.shown(connection, str(begun.id), now=clock.now())
        if not wait or not test.is_open:
            break
        clock.sleep(_LOOK_AGAIN_S)
    if wait or as_json:
        _show(test, as_json=as_json)


@placement.command("show")
def show_test(
    which: Annotated[
        str | None, typer.Argument(help="A test's number, or a sender's address for its newest; default: the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the probes of a test were found, by provider and one by one."""
    from emberflow.clock import SystemClock
    from emberflow.database.engine import open_engine
    from emberflow.reporting import placement_tests as reporting

    with open_engine().connect() as connection:
        test = reporting.shown(connection, which, now=SystemClock().now())
    _show(test, as_json=as_json)


@placement.command("list")
def list_tests(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 25,
    as_json: AsJson = False,
) -> None:
    """List placement tests and what came of them, the newest first."""
    from emberflow.clock import SystemClock
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import placement_tests as reporting

    with open_engine().connect() as connection:
        tests = reporting.listed(connection, limit, now=SystemClock().now())
    rows = [
        (test.id, test.sender, test.started_at, len(test.probes), *test.counts().values(), test.started_by, test.reason)
        for test in tests
    ]
    columns = ("test", "sender", "started at (UTC)", "probes", *reporting.STATE_NAMES, "started by", "reason")
    least = ("reason", "started by")
    show(Section("tests", f"{len(rows)} placement tests", columns, rows, least=least), as_json=as_json)


def _show(test: ShownTest, *, as_json: bool) -> None:
    from emberflow.console import Section, print_json, records, show
    from emberflow.reporting.placement_tests import STATE_NAMES

    def left_out(provider: str) -> str | None:
        return ", ".join(f"{number} {why}" for why, number in test.left_out.get(provider, {}).items()) or None

    providers = Section(
        "providers",
        f"Test {test.id} of {test.sender}, {test.started_at:%Y-%m-%d %H:%M} UTC: "
        + ("still open" if test.is_open else "nothing is waited for any more"),
        ("provider", "probes", *STATE_NAMES, "left out"),
        [
            (provider, sum(test.counts(provider).values()), *test.counts(provider).values(), left_out(provider))
            for provider in test.providers
        ],
        "missing: not found by a reading at the end of the test. unknown: nobody could look, or it is in doubt whether "
        "it was sent.",
    )
    probes = Section(
        "probes",
        f"{len(test.probes)} probes: {test.subject}",
        ("slot", "provider", "mailbox", "state", "why", "due at (UTC)", "sent at (UTC)", "found at (UTC)"),
        [
            (one.slot_id, one.provider, one.address, one.state.replace("_", " "), one.why or None, one.due_at,
             one.sent_at, one.found_at)
            for one in test.probes
        ],
        least=("due at (UTC)", "provider"),
    )  # fmt: skip
    if not as_json:
        show(providers, probes)
        return
    own: dict[str, Any] = {
        "test": test.id,
        "sender": test.sender,
        "is_open": test.is_open,
        "subject": test.subject,
        "is_own_text": test.is_own_text,
        "started_by": test.started_by,
        "reason": test.reason,
        "started_at": test.started_at,
        "ends_at": test.ends_at,
    }
    print_json(own | records(providers, probes))
