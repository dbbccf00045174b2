"""`emberflow capacity`: are there enough bots, and what limits today's plan."""

from __future__ import annotations

from emberflow.cli.options import AsJson
from emberflow.cli.plan_commands import At, parse_hour


def capacity(at: At = None, as_json: AsJson = False) -> None:
    """Show how many bots the senders need, what the bots can take, and what limits the plan of an hour."""
    from emberflow.cli.report import show_capacity
    from emberflow.clock import SystemClock
    from emberflow.database.engine import open_engine
    from emberflow.reporting.capacity import of_hour

    hour, now = parse_hour(at), SystemClock().now()
    with open_engine().connect() as connection:
        found = of_hour(connection, hour, now)
    show_capacity(found, as_json=as_json)
