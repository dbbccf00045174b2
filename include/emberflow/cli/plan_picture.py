"""The picture of a plan: a row per sender, a bar where it may send, a mark per slot in the colour of its tier.

Drawn without a display and without any state outside the figure. Equal plans make equal files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from emberflow.domain.tiers import ACTIVE, PROBABILISTIC, VIRGIN
from emberflow.errors import ConfigurationError

MOST_ROWS = 60

# Okabe and Ito's palette, which colour-blind readers can tell apart; the shapes do the same for a printout in grey.
_MARKS = {VIRGIN: ("#0072B2", "o"), PROBABILISTIC: ("#E69F00", "s"), ACTIVE: ("#CC3311", "^")}
_SPAN_COLOUR = "#DCE6EE"
_ROW_IN = 0.24
_TICKS_S = (1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600)


def draw_plan(day: pd.DataFrame, slots: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Return the figure of one planned hour.

    Columns in: ``day``: ``sender_id`` int64, ``address`` and ``zone`` str, ``span_start``, ``span_end``, ``lunch_at``,
    ``lunch_ends_at`` datetime64[us, UTC] (half-open; no lunch is NaT or an empty one). ``slots``: ``sender_id`` int64,
    ``target_time`` datetime64[us, UTC], ``tier`` str or Categorical.

    Only senders with an open span have a row, ordered by zone, then by address. Of more than `MOST_ROWS` an even
    choice is drawn, and the figure says so; the legend always counts all slots.
    """
    able = day[day["span_end"] > day["span_start"]].sort_values(["zone", "address"], ignore_index=True)
    chosen = np.unique(np.linspace(0, len(able) - 1, min(len(able), MOST_ROWS)).round().astype(int))
    shown = able.iloc[chosen].reset_index(drop=True)
    if len(shown) < len(able):
        subtitle += f"\n{len(shown)} of {len(able)} senders are drawn, evenly chosen; the rest is left out"

    figure = Figure(figsize=(12, 2.2 + _ROW_IN * max(len(shown), 3)), layout="constrained")
    axes = figure.add_subplot()
    axes.annotate(
        subtitle, (0, 1), (0, 6), "axes fraction", "offset points", va="bottom", fontsize=9, color="#444444",
        parse_math=False,
    )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=12 * (subtitle.count("\n") + 1) + 12)
    if shown.empty:
        axes.text(0.5, 0.5, "no sender's window is open", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    _draw_spans(axes, shown)
    _draw_slots(axes, shown, slots)
    _label(axes, shown)
    figure.legend(handles=_legend(slots), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write the figure as PNG or SVG, as the file's name says.

    Raises:
        ConfigurationError: another suffix, or a place that cannot be written.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ConfigurationError(f"{file}: a picture's name ends in .png or .svg")
    # A date, or random names inside an SVG, would make equal plans unequal files.
    metadata = {"Date": None} if kind == "svg" else {}
    try:
        with rc_context({"svg.hashsalt": "emberflow"}):
            figure.savefig(file, format=kind, dpi=120, metadata=metadata)
    except OSError as error:
        raise ConfigurationError(f"cannot write the picture {file}: {error.strerror}") from error


def _draw_spans(axes: Axes, shown: pd.DataFrame) -> None:
    """Draw what is left of each span around the lunch."""
    start, end = shown["span_start"], shown["span_end"]
    lunch_at = shown["lunch_at"].fillna(end).clip(start, end)
    lunch_ends_at = shown["lunch_ends_at"].fillna(end).clip(start, end)
    for begins, ends in ((start, lunch_at), (lunch_ends_at, end)):
        left, right = _seconds(begins, shown), _seconds(ends, shown)
        axes.barh(shown.index, right - left, left=left, height=0.62, color=_SPAN_COLOUR, zorder=1)


def _draw_slots(axes: Axes, shown: pd.DataFrame, slots: pd.DataFrame) -> None:
    row_of = pd.Series(shown.index, index=shown["sender_id"])
    # A mail that was put off since it was planned may have left the picture.
    is_inside = slots["target_time"].between(shown["span_start"].min(), shown["span_end"].max())
    drawn = slots.assign(row=slots["sender_id"].map(row_of))[is_inside].dropna(subset="row")
    for tier, (colour, shape) in _MARKS.items():
        of_tier = drawn[drawn["tier"] == tier]
        axes.scatter(
            _seconds(of_tier["target_time"], shown), of_tier["row"], s=42, color=colour, marker=shape,
            edgecolors="white", linewidths=0.6, zorder=3, clip_on=False,
        )  # fmt: skip


def _label(axes: Axes, shown: pd.DataFrame) -> None:
    origin = _origin(shown)
    first_s, last_s = (
        float((edge - origin).total_seconds()) for edge in (shown["span_start"].min(), shown["span_end"].max())
    )
    step_s = next((step for step in _TICKS_S if (last_s - first_s) / step <= 13), _TICKS_S[-1])
    clock = "%H:%M:%S" if step_s < 60 else "%H:%M"
    axes.set_xlim(first_s, last_s)
    axes.xaxis.set_major_locator(MultipleLocator(step_s))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at_s, _: f"{origin + pd.Timedelta(seconds=at_s):{clock}}"))
    axes.set_xlabel("UTC", fontsize=9)
    axes.set_yticks(shown.index, shown["address"].astype("str"), parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="both", length=0, labelsize=8)
    axes.grid(axis="x", color="#BBBBBB", linewidth=0.5, zorder=0)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    zones = axes.secondary_yaxis("right")
    zones.set_yticks(shown.index, shown["zone"].astype("str"))
    zones.tick_params(length=0, labelsize=7, colors="#777777")
    zones.spines["right"].set_visible(False)


def _legend(slots: pd.DataFrame) -> list[Line2D | Patch]:
    counts = slots["tier"].astype("str").value_counts()
    marks: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=shape, linestyle="", label=f"{tier}: {counts.get(tier, 0)}")
        for tier, (colour, shape) in _MARKS.items()
    ]
    return [*marks, Patch(color=_SPAN_COLOUR, label="may send")]


def _origin(shown: pd.DataFrame) -> pd.Timestamp:
    return pd.Timestamp(shown["span_start"].min()).floor("h")


def _seconds(instants: pd.Series[pd.Timestamp], shown: pd.DataFrame) -> pd.Series[float]:
    return (instants - _origin(shown)).dt.total_seconds()
