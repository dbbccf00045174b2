"""The picture of a plan: what is drawn where, what is left out, and equal files for equal plans."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emberflow.cli.plan_picture import MOST_ROWS, draw_plan, save
from emberflow.errors import ConfigurationError
from tests.builders import MONDAY_NOON

HOUR_S = 3600


def at(minute: float) -> pd.Timestamp:
    return pd.Timestamp(MONDAY_NOON + timedelta(minutes=minute))


def a_day(*rows: dict[str, Any]) -> pd.DataFrame:
    """Senders whose span is the hour, without lunch."""
    usual = {
        "zone": "UTC", "span_start": at(0), "span_end": at(60), "lunch_at": None, "lunch_ends_at": None,
    }  # fmt: skip
    numbered = [
        usual | {"sender_id": number, "address": f"s{number:03}@a.test"} | row
        for number, row in enumerate(rows, start=1)
    ]
    instants = ["span_start", "span_end", "lunch_at", "lunch_ends_at"]
    return pd.DataFrame(numbered).astype(dict.fromkeys(instants, "datetime64[us, UTC]"))


def some_slots(*rows: tuple[int, float, str]) -> pd.DataFrame:
    columns = {"sender_id": [r[0] for r in rows], "target_time": [at(r[1]) for r in rows], "tier": [r[2] for r in rows]}
    return pd.DataFrame(columns).astype({"target_time": "datetime64[us, UTC]", "tier": "category"})


def draw(day: pd.DataFrame, slots: pd.DataFrame) -> Figure:
    return draw_plan(day, slots, "Plan of an hour", "a policy, a seed, counts")


def axes_of(figure: Figure) -> Axes:
    return figure.axes[0]


def labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in axes_of(figure).get_yticklabels()]


def bars(figure: Figure) -> list[tuple[int, float, float]]:
    """(row, first second, last second) of everything that is drawn as open."""
    pieces = [
        (round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_x() + bar.get_width())
        for bar in axes_of(figure).patches
        if isinstance(bar, Rectangle)
    ]
    return sorted(piece for piece in pieces if piece[2] > piece[1])


def marks(figure: Figure) -> list[tuple[float, float]]:
    """(row, second) of every slot that is drawn."""
    clouds = [each for each in axes_of(figure).collections if isinstance(each, PathCollection)]
    points = np.concatenate([np.asarray(cloud.get_offsets()) for cloud in clouds])
    return sorted((row, second) for second, row in points)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_sender_has_a_bar_where_it_may_send_and_a_mark_per_slot() -> None:
    figure = draw(
        a_day({}, {"span_start": at(30)}), some_slots((1, 10, "virgin"), (2, 40, "active"), (1, 50.5, "probabilistic"))
    )

    assert labels(figure) == ["s001@a.test", "s002@a.test"]
    assert bars(figure) == [(0, 0, HOUR_S), (1, 1800, HOUR_S)]
    assert marks(figure) == [(0, 600), (0, 3030), (1, 2400)]
    assert legend(figure) == ["virgin: 1", "probabilistic: 1", "active: 1", "may send"]


@pytest.mark.parametrize(
    ("lunch", "open_parts"),
    [
        ((20, 50), [(0, 0, 1200), (0, 3000, HOUR_S)]),
        ((-10, 15), [(0, 900, HOUR_S)]),
        ((45, 80), [(0, 0, 2700)]),
        ((-10, 80), []),
        ((-90, -60), [(0, 0, HOUR_S)]),
        ((90, 120), [(0, 0, HOUR_S)]),
    ],
)
def test_the_lunch_is_empty(lunch: tuple[int, int], open_parts: list[tuple[int, float, float]]) -> None:
    assert bars(draw(a_day({"lunch_at": at(lunch[0]), "lunch_ends_at": at(lunch[1])}), some_slots())) == open_parts


def test_senders_whose_window_is_closed_have_no_row() -> None:
    figure = draw(a_day({}, {"span_end": at(0)}), some_slots((1, 5, "virgin")))

    assert labels(figure) == ["s001@a.test"]


def test_of_many_senders_an_even_choice_is_drawn_and_the_picture_says_so() -> None:
    day = a_day(*[{}] * 200)
    figure = draw(day, some_slots(*[(sender, 5, "virgin") for sender in day["sender_id"]]))
    said = [text.get_text() for text in axes_of(figure).texts]

    assert len(labels(figure)) == len(marks(figure)) == MOST_ROWS
    assert labels(figure)[0] == "s001@a.test"
    assert labels(figure)[-1] == "s200@a.test"
    assert any(f"{MOST_ROWS} of 200 senders are drawn" in text for text in said)
    assert legend(figure)[0] == "virgin: 200"


def test_an_hour_without_open_windows_says_so() -> None:
    figure = draw(a_day({}).iloc[:0], some_slots())

    assert "no sender's window is open" in [text.get_text() for text in axes_of(figure).texts]


def test_a_slot_that_was_put_off_beyond_the_picture_is_not_drawn_outside_of_it() -> None:
    assert marks(draw(a_day({}), some_slots((1, 5, "virgin"), (1, 90, "virgin")))) == [(0, 300)]


def test_a_dollar_in_an_address_is_no_formula(tmp_path: Path) -> None:
    save(draw(a_day({"address": "a$x_1$b^@a.test"}), some_slots()), tmp_path / "plan.svg")


@pytest.mark.parametrize(("name", "begins"), [("plan.png", b"\x89PNG"), ("plan.SVG", b"<?xml")])
def test_equal_plans_make_equal_files(tmp_path: Path, name: str, begins: bytes) -> None:
    """Also when rows come in another order."""
    day, slots = a_day({}, {}), some_slots((1, 10, "virgin"), (2, 40, "active"))
    for folder, order in (("one", 1), ("two", -1)):
        (tmp_path / folder).mkdir()
        save(draw(day.iloc[::order], slots.iloc[::order]), tmp_path / folder / name)
    one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))

    assert one == two
    assert one.startswith(begins)


@pytest.mark.parametrize(
    ("file", "message"),
    [("plan.pdf", r"ends in \.png or \.svg"), ("missing/plan.png", "cannot write the picture")],
)
def test_a_file_that_cannot_be_a_picture_is_refused(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        save(draw(a_day({}), some_slots()), tmp_path / file)
