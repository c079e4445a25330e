"""A comparison as figures: what is drawn, in which colours, and that names can be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from crossres.bench.comparison import compare_methods
from crossres.bench.figures import NAMED, draw_comparison
from crossres.evaluation.figures import GREY, METHOD_COLOURS, method_colour

#: As many as a table has, close together and one far below.
SCORES = {
    **{"ce": 49.4, "crrcd": 52.2, "review (weight 20)": 52.0, "crrcd-images": 51.7, "crd": 51.0, "fskd": 50.9},
    **{"crrcd-paper": 50.8, "kd (fading)": 50.4, "kd": 48.6, "octuplet": 18.2},
    **{name: 50.0 + number / 10 for number, name in enumerate(("fitnet", "sp", "at", "pkt", "cc", "rkd", "dist"))},
}


def result(method: str, size: int, top1: float, seed: int = 0, degradation: str | None = None) -> dict[str, Any]:
    return {
        "name": f"{method}-{size}-{seed}",
        "student": {"name": "resnet8"},
        "lr_size": size,
        "grid": {"method": method, "degradation": degradation},
        "seed": seed,
        "images": {"test": 10_000},
        "top1_last": top1,
        "images_per_second": 1000.0,
        "val_top1_by_epoch": [top1 / 2, top1 * 0.9, top1],
    }


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is saved, in this order."""
    saved: list[Figure] = []
    save = Figure.savefig

    def saving(figure: Figure, *where: Any, **how: Any) -> None:
        save(figure, *where, **how)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", saving)
    return saved


def draw(scores: dict[str, float], folder: Path, seeds: int = 3) -> list[Path]:
    documents = [result(m, 8, score + 0.1 * seed, seed) for m, score in scores.items() for seed in range(seeds)]
    costs = {("resnet8", 8, method): 1 + 0.02 * number for number, method in enumerate(scores)}
    return draw_comparison(compare_methods(documents, costs=costs), "ce", folder)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def names(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def overlaps(shown: Sequence[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in shown]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def test_a_figure_for_each_question(tmp_path: Path) -> None:
    results = [
        result(method, size, top1, degradation=kind)
        for size, kind, scores in (
            (8, "clean", (50, 55, 60)),
            (16, "clean", (75, 85, 80)),
            (16, "hard", (20, 20, 30)),
        )
        for method, top1 in zip(("ce", "a", "b"), scores, strict=True)
    ]
    files = draw_comparison(compare_methods(results, costs={("resnet8", 8, "a"): 1.5}), "ce", tmp_path)
    assert [path.name for path in files] == ["accuracy.png", "cost.png", "curves.png"]
    for path in files:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200
        assert (pixels < 128).mean() > 0.002
    draw_comparison(compare_methods(results, costs={}), "ce", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy.png", "curves.png"}  # costs of no row: none drawn
    assert draw_comparison([], "ce", tmp_path) == []


def test_accuracy_has_a_row_a_method_with_its_number(tmp_path: Path, figures: list[Figure]) -> None:
    draw(SCORES, tmp_path)
    (axes,) = figures[0].axes
    best_last = sorted(SCORES, key=lambda method: SCORES[method])
    assert [label.get_text() for label in axes.get_yticklabels()] == best_last
    assert [text.get_text() for text in sorted(names(figures[0]), key=lambda text: text.xy[1])] == [
        f"{SCORES[method] + 0.1:.1f}" for method in best_last
    ]
    assert axes.get_xlim()[0] > 40  # octuplet's number is beside it
    assert "triangle" in axes.figure.get_supxlabel()


def test_settings_share_their_scales(tmp_path: Path, figures: list[Figure]) -> None:
    results = [result(m, size, top1 + size) for size in (8, 16) for m, top1 in SCORES.items() if m != "octuplet"]
    draw_comparison(compare_methods(results), "ce", tmp_path)
    for figure in figures:
        one, other = figure.axes
        assert (one.get_xlim(), one.get_ylim()) == (other.get_xlim(), other.get_ylim())
        assert [one.get_title(), other.get_title()] == ["resnet8 8x8", "resnet8 16x16"]


def test_a_setting_far_below_the_others_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    results = [
        result(method, 8, top1 + number, degradation=kind)
        for kind, top1 in (("a", 90), ("b", 91), ("c", 92), ("d", 20))
        for number, method in enumerate(("ce", "kd", "crd"))
    ]
    draw_comparison(compare_methods(results), "ce", tmp_path)
    assert figures[0].axes[0].get_xlim()[0] < 20


def test_curves_colour_and_name_a_few_at_their_ends(tmp_path: Path, figures: list[Figure]) -> None:
    draw(SCORES, tmp_path)
    (axes,) = figures[2].axes
    coloured = [line.get_color() for line in axes.get_lines() if line.get_color() != GREY]
    shown = ["crrcd", "review (weight 20)", "ce", "kd (fading)", "crrcd-images"]
    assert sorted(coloured) == sorted(method_colour(method) for method in shown)
    assert len(axes.get_lines()) == len(SCORES) - 1  # but octuplet, which is noted
    assert "Not drawn, far below: octuplet (18.3)." in texts(figures[2])
    assert {text.get_text() for text in names(figures[2])} == {f"{m}  {SCORES[m] + 0.1:.1f}" for m in shown}
    assert overlaps(names(figures[2])) == []


def test_methods_without_a_colour_differ_in_their_lines(tmp_path: Path, figures: list[Figure]) -> None:
    draw({"ce": 50.0, "mine": 52.0, "yours": 51.9, "a very long name of a method, with an option": 51.8}, tmp_path)
    thick = [line for line in figures[2].axes[0].get_lines() if line.get_linewidth() > 1]
    assert len(thick) == len({(line.get_color(), line.get_linestyle()) for line in thick}) == 4 <= NAMED
    assert overlaps(names(figures[2])) == []


def test_names_beside_points_do_not_overlap(tmp_path: Path, figures: list[Figure]) -> None:
    draw(SCORES, tmp_path)
    shown = {text.get_text() for text in names(figures[1])}
    assert shown >= {"crrcd", "review (weight 20)", "crrcd-images", "crd", "fskd"}
    assert overlaps(names(figures[1])) == []
    assert "octuplet (-31.2)" in shown
    assert len(shown) == len(SCORES) - 1 or any("without a name" in text for text in texts(figures[1]))


def test_a_method_has_one_colour() -> None:
    for one, other in (
        ("ce", "labels"),
        ("kd", "kd (fading, weight 4)"),
        ("crd", "ce+crd"),
        ("review", "review, live"),
    ):
        assert method_colour(one) == method_colour(other) != GREY
    forms = ("crrcd-images", "crrcd, inside an image", "cosine + crrcd-paper + cosface")
    assert {method_colour(form) for form in forms} == {METHOD_COLOURS["a form of crrcd"]}
    assert method_colour("crrcd") == METHOD_COLOURS["crrcd"]
    assert {method_colour(other) for other in ("fitnet", "crcd", "kdx", "cosine + cosface", "")} == {GREY}
    assert len({*METHOD_COLOURS.values(), GREY}) == 10
