"""Options that several commands share; it loads nothing that `--help` does not need."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the same as JSON.")]
