"""``python -m emberflow.cli``: run one command; an expected problem is one clear text, not a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from emberflow.cli.main import app
from emberflow.errors import EmberflowError
from emberflow.locations import home

# PostgreSQL's error codes (its manual, appendix A) for a table, column or schema that does not exist.
_NOT_THIS_SCHEMA = ("42P01", "42703", "3F000")


def main() -> None:
    """Run the command line and exit with 1 on an expected problem, 130 on Ctrl-C."""
    errors = Console(stderr=True)
    try:
        app(prog_name="emberflow")
    except EmberflowError as error:
        errors.print(Text.assemble(("emberflow: ", "bold red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        text = _database_problem(error) or _home_problem(error)
        if text is None:
            raise
        errors.print(Text.assemble(("emberflow: ", "bold red"), text), highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("\n[yellow]stopped[/]")
        sys.exit(130)


def _database_problem(error: Exception) -> str | None:
    """Return what an operator should do about the database; None if something else is wrong."""
    exc = sys.modules.get("sqlalchemy.exc")
    if exc is None or not isinstance(error, exc.DBAPIError):
        return None
    said = " ".join(str(error.orig).split())
    code = getattr(error.orig, "pgcode", None)
    if code in _NOT_THIS_SCHEMA:
        return f"the database has another schema than this version: run `emberflow database migrate` ({said})"
    from emberflow.database.engine import is_away

    if is_away(error):
        return (
            f"the database does not answer: start it with `./emberflow up`, or look at EMBERFLOW_DATABASE_URL ({said})"
        )
    return None


def _home_problem(error: Exception) -> str | None:
    """Return what is wrong with the directory of all state; None if something else is wrong."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | os.PathLike):
        return None
    if not (file := Path(error.filename)).is_relative_to(home()) and file not in home().parents:
        return None
    return f"EMBERFLOW_HOME: {home()} cannot be used ({file}: {error.strerror}). Expected: a directory of your own."


if __name__ == "__main__":
    main()
