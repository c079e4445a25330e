"""Figures: real PNGs that show the numbers they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres import CrossresError
from crossres.evaluation.figures import draw_curve, draw_evaluation

CURVE = [{"size": 4, "top1": 31.5, "top5": 70.0}, {"size": 8, "top1": 62.0, "top5": 91.0}]


def result(classes: int = 3, trained: Any = 8, curve: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "dataset": "digits & more_of_it $x$",
        "images": 12345,
        "hr_size": 28,
        "lr_size": trained,
        "degradation": None,
        "top1": 62.0,
        "top5": 91.0,
        "classes": [f"class_{i}" for i in range(classes)],
        "confusion": np.eye(classes, dtype=int).tolist(),
        "curve": CURVE if curve is None else curve,
    }


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    "document",
    [
        result(),
        result(classes=1),
        result(classes=26),
        result(classes=100, trained=[4, 8]),
        result(curve=[{"size": 8, "top1": 0.0, "top5": 0.0}]),
        {**result(classes=2), "confusion": [[0, 0], [3, 1]]},
        {**result(classes=2), "classes": ["$\\5$", "a_b^c"], "dataset": "cost in $ or $\\euro$"},
    ],
    ids=[
        "few classes",
        "one class",
        "names left out",
        "a range",
        "one size",
        "a class that never came",
        "names that are no formulas",
    ],
)
def test_an_evaluation_is_drawn_as_a_whole_png(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "figure.png"
    draw_evaluation(document, path)
    pixels = read_png(path)
    height, width = pixels.shape[:2]
    assert width > height > 400
    assert 0.02 < (pixels < 128).any(-1).mean() < 0.9  # something is drawn, and not all over
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_the_same_result_draws_the_same_picture_in_place_of_the_old(tmp_path: Path) -> None:
    draw_evaluation(result(), tmp_path / "a.png")
    draw_evaluation(result(classes=5), tmp_path / "b.png")
    assert not np.array_equal(read_png(tmp_path / "a.png"), read_png(tmp_path / "b.png"))
    draw_evaluation(result(), tmp_path / "b.png")
    assert np.array_equal(read_png(tmp_path / "a.png"), read_png(tmp_path / "b.png"))


def test_a_figure_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossresError, match=r"^cannot write [^\n]*file/figure\.png: [^\n]*$"):
        draw_evaluation(result(), tmp_path / "file" / "figure.png")


@pytest.mark.parametrize("trained", [8, [4, 8], (4, 8)])
def test_the_curve_shows_its_numbers(trained: Any) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    other = [{"size": 4, "top1": 20.0}, {"size": 16, "top1": 80.0}]
    draw_curve(axes, {"student": CURVE, "teacher": other}, trained)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"student": [[4, 31.5], [8, 62.0]], "teacher": [[4, 20.0], [16, 80.0]]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16"]
    assert axes.get_ylim()[0] == 0
    assert axes.get_xscale() == "log"
    low, high = (trained, trained) if isinstance(trained, int) else trained
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert band.x0 < low <= high < band.x1
    colours = {line.get_color() for line in axes.get_lines()}
    assert len(colours) == 2


def test_seven_curves_have_a_colour_each_or_again() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_curve(axes, {str(i): CURVE for i in range(7)}, 8)
    assert len(axes.get_lines()) == 7
