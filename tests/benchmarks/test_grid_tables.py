"""Which weight of a rival stands beside crrcd in the README's table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossres.bench.comparison import Comparison, compare_methods

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import camera_tables
import grid_tables

#: Method and seed to accuracy on validation and on test images; ce has one weight, review none of the published one.
RUNS = {
    **{("ce", seed): (50, 50) for seed in (0, 1)},
    ("kd (fading)", 0): (60, 55),
    ("kd (fading, weight 4)", 0): (59, 58),
    ("kd (fading, weight 4)", 1): (70, 58),
    ("crd", 0): (61, 57),
    ("crd (weight 0.4)", 0): (62, 56),
    ("review (weight 20)", 0): (65, 60),
    ("fskd", 0): (63, 60),
    ("fskd (weight 320)", 1): (62, 60),
    ("crrcd", 0): (66, 61),
}


def result(method: str, seed: int, validation: float, top1: float) -> dict[str, Any]:
    return {
        **{"task": "distill", "grid": {"method": method}, "method": "ce", "losses": {"ce": {}}, "seed": seed},
        **{"student": {"name": "resnet8"}, "lr_size": 8, "top1_last": top1},
        **{"val_top1_last": validation, "images": {"test": 100}, "images_per_second": 100.0, "config": {}},
    }


def test_weights_of_one_method_have_rows_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only seeds make a ±; labels alone, the same run beside each teacher, has one row."""
    results = []
    for teacher in ("one", "two"):
        for method, top1 in (("labels", 50.0), ("crrcd-images", 60.0), ("crrcd-images (weight 1)", 70.0)):
            run = result(method, 0, 0, top1) | {"top1_best_val": top1, "natural": {"far": {"top1": top1}}}
            run |= {"teacher": None if method == "labels" else {}, "grid": {"method": method, "teacher": teacher}}
            results.append(run)
    grid = SimpleNamespace(methods=dict.fromkeys(r["grid"]["method"] for r in results), degradations={})
    monkeypatch.setattr(camera_tables, "comparison_of", lambda _: (grid, SimpleNamespace(results=results)))
    monkeypatch.setattr(camera_tables, "has_results", lambda _: True)
    text = camera_tables.signs_table(tmp_path)
    assert "±" not in text
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
        "| labels",
        "| crrcd-images of one",
        "| crrcd-images of two",
        "| crrcd-images (weight 1) of one",
        "| crrcd-images (weight 1) of two",
    ]


def test_validation_images_choose_a_rivals_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [result(*run, *accuracies) for run, accuracies in RUNS.items()]
    comparison = Comparison("ce", compare_methods(results, "ce"), results, [])
    monkeypatch.setattr(grid_tables, "comparison_of", lambda _: (None, comparison))
    chosen = {name: row.method for name, row in grid_tables.leading(Path("recipe.yaml"), 8).items()}
    assert chosen == {
        "ce": "ce",
        "kd (fading)": "kd (fading)",  # on the seed that both have, whatever the test images say
        "crd": "crd (weight 0.4)",
        "fskd": "fskd",  # no seed is common to both: the published weight
        "review": "review (weight 20)",
        "crrcd": "crrcd",
    }
