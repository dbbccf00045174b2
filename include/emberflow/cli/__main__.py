"""``python -m emberflow.cli``: run one command; an expected problem is one clear text, not a traceback."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from emberflow.cli.main import app
from emberflow.errors import EmberflowError


def main() -> None:
    """Run the command line and exit with 1 on an expected problem, 130 on Ctrl-C."""
    errors = Console(stderr=True)
    try:
        app(prog_name="emberflow")
    except EmberflowError as error:
        errors.print(Text.assemble(("emberflow: ", "bold red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("\n[yellow]stopped[/]")
        sys.exit(130)


if __name__ == "__main__":
    main()
