"""``emberflow bench NAME``: run one of the benchmarks of ``benchmarks/``, side by side with its peers."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Annotated

import typer

from emberflow.errors import ConfigurationError


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="Which one: claim, classify, dispatch, planner, sweep. benchmarks/README.md explains them."
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="planner: small, middle, large, or all of them; sweep: small or full.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Measure a part of the product beside its peers, on servers of its own on this machine."""
    from emberflow.locations import PROJECT_ROOT

    if not (PROJECT_ROOT / "benchmarks" / "__init__.py").exists():
        raise ConfigurationError(f"there are no benchmarks in {PROJECT_ROOT}: run this in a clone of the repository")
    # Last in the path, so that no folder of the clone can take the place of an installed package.
    sys.path.append(str(PROJECT_ROOT))
    known = importlib.import_module("benchmarks").NAMES
    if name not in known:
        raise ConfigurationError(f"there is no benchmark {name!r}; there are: {', '.join(known)}")
    run = importlib.import_module(f"benchmarks.{name}").run
    options = {} if size is None else {"size": size}
    if options.keys() - inspect.signature(run).parameters.keys():
        raise ConfigurationError(f"the benchmark {name} has no --size")
    result = run(lambda step: typer.echo(f"  {step}", err=True), **options)
    if as_json:
        typer.echo(json.dumps(result.as_json(), ensure_ascii=False))
    else:
        result.show()
