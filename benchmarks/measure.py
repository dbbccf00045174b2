"""What every benchmark shares: figures over rounds, targets, the table and the JSON object.

Walls on a shared machine scatter by a factor of two, so contenders take turns (round 1 of each, then round 2 of
each), a figure is the median over the rounds, and a ratio is taken within each round before its median.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from emberflow.console import spell, table

Report = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """One measured quantity over ``n`` rounds."""

    median: float
    minimum: float
    maximum: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise the rounds' values.

        Raises:
            ValueError: there is none.
        """
        if not values:
            raise ValueError("a figure needs at least one round")
        return cls(statistics.median(values), min(values), max(values), len(values))

    def as_json(self) -> dict[str, float | int]:
        """Return the figure with its numbers rounded to five significant digits, whole ones as they are."""
        return {
            "median": _rounded(self.median),
            "min": _rounded(self.minimum),
            "max": _rounded(self.maximum),
            "n": self.n,
        }


@dataclass(frozen=True)
class Target:
    """What the median of ``figure`` must reach."""

    figure: str
    bound: Literal["at_least", "at_most"]
    value: float

    def is_met(self, figure: Figure | None) -> bool | None:
        """Return whether the figure reaches the target; None when it was not measured."""
        if figure is None:
            return None
        return figure.median >= self.value if self.bound == "at_least" else figure.median <= self.value


@dataclass
class Result:
    """What a benchmark found.

    ``figures`` are ours, ``peers`` those measured beside us in the same run. None stands for what could not be
    measured; ``unmeasured`` then says why, under the figure's or the peer's name. ``sizes`` are plain counts of what
    was measured, ``parts`` what a figure is made of.
    """

    name: str
    settings: Mapping[str, Any]
    targets: Sequence[Target]
    figures: dict[str, Figure | None] = field(default_factory=dict)
    parts: dict[str, dict[str, Figure]] = field(default_factory=dict)
    peers: dict[str, dict[str, Figure] | None] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return one JSON object: sizes and our figures by name, then peers, targets, settings and the machine."""
        return {
            "benchmark": self.name,
            **self.sizes,
            **{name: figure and figure.as_json() for name, figure in self.figures.items()},
            **{name: _all_as_json(figures) for name, figures in self.parts.items()},
            "peers": {name: figures and _all_as_json(figures) for name, figures in self.peers.items()},
            "unmeasured": self.unmeasured,
            "targets": {
                target.figure: {target.bound: target.value, "met": target.is_met(self.figures.get(target.figure))}
                for target in self.targets
            },
            "settings": dict(self.settings),
            "machine": machine(),
        }

    def show(self) -> None:
        """Print the tables."""
        targets = {target.figure: target for target in self.targets}
        rows: list[tuple[Any, ...]] = []
        for name, figure in self.figures.items():
            rows.append(("emberflow", name, *_cells(figure), *_verdict(targets.get(name), figure)))
        for name, parts in self.parts.items():
            rows += [("emberflow", f"{name}: {part}", *_cells(figure), None, None) for part, figure in parts.items()]
        for peer, figures in self.peers.items():
            if figures is None:
                rows.append((peer, "not measured", None, None, None, None, None, None))
            else:
                rows += [(peer, name, *_cells(figure), None, None) for name, figure in figures.items()]
        columns = ("contender", "figure", "median", "min", "max", "rounds", "target", "met")
        notes = [f"{name}: {reason}" for name, reason in self.unmeasured.items()]
        notes.append(", ".join(f"{name} {spell(value)}" for name, value in {**self.sizes, **self.settings}.items()))
        notes.append(", ".join(str(value) for value in machine().values()))
        table(f"Benchmark: {self.name}", columns, rows, caption="\n".join(notes))


def _all_as_json(figures: Mapping[str, Figure]) -> dict[str, dict[str, float | int]]:
    return {name: figure.as_json() for name, figure in figures.items()}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(psutil.getloadavg()[0], 1),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cells(figure: Figure | None) -> tuple[Any, ...]:
    if figure is None:
        return ("not measured", None, None, None)
    return (*(_readable(value) for value in (figure.median, figure.minimum, figure.maximum)), figure.n)


def _verdict(target: Target | None, figure: Figure | None) -> tuple[str | None, str | None]:
    if target is None:
        return None, None
    sign = "≥" if target.bound == "at_least" else "≤"
    met = {True: "yes", False: "NO", None: None}[target.is_met(figure)]
    return f"{sign} {_readable(target.value)}", met


def _readable(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _rounded(value: float) -> float:
    return value if float(value).is_integer() else float(f"{value:.5g}")
