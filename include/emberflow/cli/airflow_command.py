"""``emberflow airflow ARGUMENTS``: Airflow's own command line, on the Airflow of this installation.

Airflow is configured by variables that only the stack's processes have. Without them ``airflow`` makes itself an empty
SQLite database in the home directory of whoever calls it.
"""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperCommand

from emberflow.errors import ConfigurationError

_NO_GRAPHS = "ignore:Could not import graphviz:UserWarning"
_DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


class Untouched(TyperCommand):
    """A command whose arguments are somebody else's, ``--help`` and ``--`` included."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep every argument as it is."""
        ctx.args = list(args)
        return []


def airflow(context: typer.Context) -> None:
    """Run Airflow's own command line on this stack, with the arguments as they are and its exit code."""
    from emberflow.local_stack.stack import Stack, airflow_program
    from emberflow.locations import home

    environment = dict(os.environ)
    if _DATABASE not in environment:
        stack = Stack(home(), attached=False)
        if stack.was_started() and not stack.is_running():
            raise ConfigurationError(
                f"the database of the stack in {home()} is down, and with it Airflow's: run `./emberflow up`; "
                f"{home() / 'postgres' / 'postgres.log'} says why it ended"
            )
        if not stack.is_running():
            raise ConfigurationError(
                f"no Airflow is known here: nothing is running in {home()} and {_DATABASE} is not set. "
                "Start the local stack with `./emberflow up`, or set the variables of your own Airflow."
            )
        environment = stack.running_environment()
    # Airflow says at each start that it can draw no graphs.
    environment["PYTHONWARNINGS"] = ",".join(filter(None, (environment.get("PYTHONWARNINGS"), _NO_GRAPHS)))
    program = airflow_program()
    os.execve(program, [program, *context.args], environment)
