"""Figures: real PNGs that show the numbers they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres import CrossresError
from crossres.evaluation.figures import draw_evaluation, draw_faces, plot_bars, plot_curves, plot_resolution

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
def test_the_curve_shows_its_numbers_and_what_was_trained(trained: Any) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_resolution(axes, CURVE, trained)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"top-1": [[4, 31.5], [8, 62.0]]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]
    assert axes.get_ylim()[0] == 0
    assert axes.get_xscale() == "log"
    low, high = (trained, trained) if isinstance(trained, int) else trained
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert band.x0 < low <= high < band.x1


def test_curves_show_their_numbers_but_those_that_are_not_finite() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    curves = [("student", [4, 8], [31.5, 62.0]), ("teacher", [4, 8, 16], [20.0, float("nan"), 80.0])]
    plot_curves(axes, curves, sizes=True)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"student": [[4, 31.5], [8, 62.0]], "teacher": [[4, 20.0], [16, 80.0]]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16"]
    assert len({line.get_color() for line in axes.get_lines()}) == 2


def test_curves_have_a_colour_each_or_again_and_dashed() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_curves(axes, [(str(i), [4, 8], [1.0, 2.0]) for i in range(11)], sizes=True)
    styles = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()]
    assert len(set(styles)) == 11
    assert styles[10][1] == "--"  # matplotlib's own cycle has ten colours


def test_bars_have_their_mean_written_on_them_and_a_point_a_seed() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_bars(axes, [("teacher", [3.91], "#5b3a1e"), ("student", [52.0, 52.7, 52.5], "#0072b2")])
    assert [text.get_text() for text in axes.texts] == ["3.9", "52.4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["teacher", "student"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([3.91, 52.4])
    (points,) = axes.collections
    assert points.get_offsets()[:, 0].tolist() == [52.0, 52.7, 52.5]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_logarithmic_axes_have_plain_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    texts: list[str] = []
    save = Figure.savefig

    def saved(figure: Figure, *where: Any, **how: Any) -> None:
        save(figure, *where, **how)
        texts.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", saved)
    # few impostors: an axis of less than a decade, whose minor ticks matplotlib would name
    for impostors in (8, 5000):
        roc = {"far": [0.0, 1 / impostors, 1.0], "tar": [0.2, 0.6, 1.0]}
        verification = {"roc": roc, "pairs": {"genuine": 20, "impostor": impostors}}
        rows = [{"sides": "hr-hr", "size": None, "verification": verification}]
        draw_faces({"model": "a$b$", "dataset": "people", "rows": rows}, tmp_path / "faces.png")
    assert {"0.1", "1", "10", "100", "HR-HR", "a$b$ on people"} <= {*texts}
    assert [text for text in texts if "math" in text] == []
